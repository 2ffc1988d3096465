"""The table of verifiers: what each kind is called, takes, costs, and how it is made. A kind's file is imported when it is used.

An outside package adds a kind with an entry point in the group `cascade.verifiers`: name = "package.module:SPEC".
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from cascade.types import NOTHING, Document, Json, Verifier

GROUP = "cascade.verifiers"

_FILES = {
    "schema": "cascade.verifiers.schema:SPEC",
    "check": "cascade.verifiers.check:SPEC",
    "consistency": "cascade.verifiers.consistency:SPEC",
    "agreement": "cascade.verifiers.agreement:SPEC",
    "judge": "cascade.verifiers.judge:SPEC",
    "decision": "cascade.verifiers.decision:SPEC",
    "python": "cascade.verifiers.python:SPEC",
    "tools": "cascade.verifiers.tools:SPEC",
    "calibrated": "cascade.verifiers.calibrated:SPEC",
}


def _no_models(options: Any) -> tuple[str, ...]:
    return ()


def _no_calls(options: Any) -> int:
    return 0


def _no_max_tokens(options: Any) -> int | None:
    return None


@dataclass(frozen=True)
class Spec:
    """A kind of verifier. `options` is the model of its settings in the policy, without the gate's own `name` and `threshold`.

    `make(options, schema, compare)` gives the verifier, ValueError says what is wrong. `positional` is the option that
    `- check: "…"` fills. `templates` are the options that hold a template: a path or text in the file, a `Template` when built;
    `default_prompt` is the shipped one for `prompt`. `decides`: its models answer questions and write no text. `repairable`: its
    reasons help the same model to mend its answer.

    For cost bounds: `models` it asks beside the tier's own, `calls` it makes at most (each model is asked calls/len(models) times;
    with calls but no models, the tier's own is asked), `max_tokens` of such a call, None for the tier's.
    """

    name: str
    options: type[BaseModel]
    make: Callable[[Any, Document | None, Mapping[str, Json]], Verifier]
    threshold: float = 1.0
    repairable: bool = False
    positional: str | None = None
    templates: tuple[str, ...] = ()
    default_prompt: str | None = None
    decides: bool = False
    models_of: Callable[[Any], tuple[str, ...]] = _no_models
    calls_of: Callable[[Any], int] = _no_calls
    max_tokens_of: Callable[[Any], int | None] = _no_max_tokens

    @property
    def asks(self) -> bool:
        """Whether it asks models: then its threshold is learned from data, and is not a rule of the task."""
        return self.calls_of is not _no_calls

    def read(self, options: Json) -> BaseModel:
        """The options, checked; a bare value is the positional one. ValueError with a line for each mistake."""
        if options is None:
            options = NOTHING
        if not isinstance(options, Mapping):
            if self.positional is None:
                raise ValueError(f"{self.name} takes options such as {{{', '.join(self.options.model_fields) or 'none'}}}")
            options = {self.positional: options}
        try:
            return self.options.model_validate(dict(options))
        except ValidationError as err:
            raise ValueError("\n".join(_mistake(self, problem) for problem in err.errors())) from None

    def build(self, options: Json, schema: Document | None, compare: Mapping[str, Json] = NOTHING) -> Verifier:
        """The verifier. ValueError says what is wrong with the options or with what they name."""
        return self.make(self.read(options), schema, compare)

    def models(self, options: Json) -> tuple[str, ...]:
        """The models it asks, `provider/model`, beside the tier's own."""
        return self.models_of(self.read(options))

    def calls(self, options: Json) -> int:
        """How many calls it makes at most for one answer."""
        return self.calls_of(self.read(options))

    def max_tokens(self, options: Json) -> int | None:
        """The `max_tokens` of its calls, None for the tier's."""
        return self.max_tokens_of(self.read(options))


class _Kinds(Mapping[str, Spec]):
    """The kinds by name. To list the names imports nothing."""

    def __getitem__(self, name: str) -> Spec:
        return _spec(name)

    def __contains__(self, name: object) -> bool:
        return name in _places()

    def __iter__(self) -> Iterator[str]:
        return iter(_places())

    def __len__(self) -> int:
        return len(_places())


KINDS: Mapping[str, Spec] = _Kinds()
"""Every kind of verifier, built in or from an outside package. KeyError for an unknown one."""


@cache
def _places() -> Mapping[str, str]:
    """Where each kind is defined. Built-in names cannot be taken over."""
    outside = {point.name: point.value for point in entry_points(group=GROUP)}
    return MappingProxyType({**outside, **_FILES})


@cache
def _spec(name: str) -> Spec:
    module, _, attribute = _places()[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, Spec):
        raise TypeError(f"{_places()[name]} is not a cascade.verifiers.Spec")
    return found


def spec(kind: str) -> Spec:
    """The kind of that name. ValueError, with the nearest name, when there is none."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1)
        raise ValueError(f"unknown verifier {kind!r}" + (f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(KINDS)}"))
    return KINDS[kind]


def build(kind: str, options: Json, schema: Document | None, compare: Mapping[str, Json] = NOTHING) -> Verifier:
    """A verifier of that kind. ValueError says what is wrong."""
    return spec(kind).build(options, schema, compare)


def models(kind: str, options: Json) -> tuple[str, ...]:
    """The models such a gate asks, beside the tier's own."""
    return spec(kind).models(options)


def calls(kind: str, options: Json) -> int:
    """How many calls such a gate makes at most for one answer."""
    return spec(kind).calls(options)


def max_tokens(kind: str, options: Json) -> int | None:
    """The `max_tokens` of such a gate's calls, None for the tier's."""
    return spec(kind).max_tokens(options)


def _mistake(spec: Spec, problem: Any) -> str:
    where = ".".join(
        str(part) for part in problem["loc"] if isinstance(part, int) or part in spec.options.model_json_schema()["properties"]
    )
    if problem["type"] == "extra_forbidden":
        unknown = str(problem["loc"][-1])
        names = [field.alias or name for name, field in spec.options.model_fields.items()]
        near = difflib.get_close_matches(unknown, names, 1)
        return f"{unknown}: unknown key" + (
            f", did you mean {near[0]!r}?" if near else f"; {spec.name} has {', '.join(names) or 'no options'}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}" if where else message
