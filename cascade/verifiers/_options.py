"""Types of options that several verifiers share: a model's name, a template."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import InstanceOf, WithJsonSchema

from cascade.types import Template

_SAYS = "A path relative to the policy file, or the text itself; Jinja2."

Prompt: TypeAlias = Annotated[InstanceOf[Template] | str | None, WithJsonSchema({"type": ["string", "null"], "description": _SAYS})]
"""A path or text in the policy file; the loader makes it a Template before the verifier is built."""

PromptForm: TypeAlias = Annotated[InstanceOf[Template] | str, WithJsonSchema({"type": "string", "description": _SAYS})]
"""One of several prompts, read as a Prompt is."""


def models(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """One or several models as `provider/model`. ValueError when one is not of that form or is named twice."""
    names = tuple(_model(name) for name in ((given,) if isinstance(given, str) else given))
    if len(set(names)) < len(names):
        raise ValueError(f"a model is named twice: {', '.join(names)}")
    return names


def _model(name: str) -> str:
    """`provider:model` is written `provider/model`."""
    if "/" not in name and ":" in name:
        name = name.replace(":", "/", 1)
    provider, slash, model = name.partition("/")
    if not (provider and slash and model):
        raise ValueError(f"{name!r} is not of the form provider/model")
    return name
