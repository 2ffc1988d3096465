"""Cascading LLM-as-judge escalation: the cheapest model answers first, verifiers look at the answer, only failures climb.

`import cascade` loads nothing but this page: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade.app import Cascade, task
    from cascade.errors import CascadeError, ConfigurationError, InputError, MissingRecording, NotAccepted, PolicyError, ProviderError
    from cascade.gateway.inside import wrap
    from cascade.outcome import Outcome
    from cascade.types import Answer, Ask, Call, Case, Verdict, Verifier

__version__ = "0.1.0"

_HOMES = {
    "Cascade": "app", "task": "app", "Outcome": "outcome", "wrap": "gateway.inside",
    "Answer": "types", "Ask": "types", "Call": "types", "Case": "types", "Verdict": "types", "Verifier": "types",
    "CascadeError": "errors", "ConfigurationError": "errors", "InputError": "errors", "MissingRecording": "errors",
    "NotAccepted": "errors", "PolicyError": "errors", "ProviderError": "errors",
}

__all__ = [
    "Answer", "Ask", "Call", "Cascade", "CascadeError", "Case", "ConfigurationError", "InputError", "MissingRecording", "NotAccepted",
    "Outcome", "PolicyError", "ProviderError", "Verdict", "Verifier", "__version__", "task", "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"cascade.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'cascade' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
