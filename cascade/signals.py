"""The named numbers of an answer and of the gates that looked at it: what calibration learns from, and what a calibrated gate weighs.

Names are `answer.NAME` and `GATE.NAME`. Pure; the same function serves the engine, calibration and replay, so that a score means the
same in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from cascade.types import Checked, Json, Tried

MOST_FIELDS = 8
"""So many fields get numbers of their own; a fit on a hundred rows could not weigh more."""


class Looked(Protocol):
    """What a gate said: a `Checked`, or what replay keeps of one."""

    @property
    def gate(self) -> str: ...
    @property
    def score(self) -> float | None: ...
    @property
    def signals(self) -> Mapping[str, float]: ...


def fields(schema: Json) -> Sequence[str]:
    """The top-level fields that get numbers of their own: the schema's, where it names two to MOST_FIELDS. Those in an answer are the
    model's words, and may be anything."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return list(properties) if isinstance(properties, Mapping) and 2 <= len(properties) <= MOST_FIELDS else ()


def of_answer(tried: Tried, notes: Iterable[str], size: int) -> dict[str, float]:
    """The answer's own numbers: its length, tokens and `size`, the characters of what is compared in it (natural logarithms of 1 + n), how
    it had to be extracted, repairs, and what the provider gave (log-probabilities). A number that is not known is left out."""
    found = {"answer.chars": math.log1p(len(tried.text)), "answer.size": math.log1p(size), "answer.repairs": float(tried.repair)}
    if tried.usage is not None:
        found["answer.tokens"] = math.log1p(tried.usage.output)
        found["answer.prompt_tokens"] = math.log1p(tried.usage.input)
    for note in ("fence", "prose", "control", "ambiguous"):
        found[f"answer.{note}"] = float(note in notes)
    for name, value in tried.signals.items():
        found[f"answer.{name}"] = value
    return found


def of_check(checked: Looked | Checked) -> dict[str, float]:
    """A gate's numbers: `GATE.score` (absent when it could not tell) and its own signals."""
    found = {} if checked.score is None else {f"{checked.gate}.score": checked.score}
    for name, value in checked.signals.items():
        found[f"{checked.gate}.{name}"] = value
    return found


def gather(tried: Tried, notes: Iterable[str], size: int, checks: Iterable[Looked | Checked]) -> dict[str, float]:
    """All of them; finite numbers only."""
    found = of_answer(tried, notes, size)
    for checked in checks:
        found.update(of_check(checked))
    return {name: value for name, value in found.items() if math.isfinite(value)}
