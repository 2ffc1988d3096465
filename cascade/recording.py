"""A recording: one request with every tier and gate asked, its inputs, its gold if known, and what it was recorded with. Pure.

A recording is a row as `records` writes it, with `inputs`, `gold` and `digests` beside. Rows of a shadow are recordings too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from cascade import records
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.types import NOTHING, Checked, Failed, Json, Tried


class _Unknown:
    """No gold was given; None is a gold of its own."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()


@dataclass(frozen=True, slots=True)
class Recording:
    """`digests` are `binding.digests` of the policy it was recorded with; `gold` is UNKNOWN when the row had none."""

    outcome: Outcome
    inputs: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    gold: Json | _Unknown = UNKNOWN
    digests: Mapping[str, str] = field(default_factory=lambda: NOTHING)


def to_line(recording: Recording) -> bytes:
    """The recording as UTF-8 JSON without the newline."""
    row = records.to_row(recording.outcome)
    row["inputs"] = recording.inputs
    if recording.gold is not UNKNOWN:
        row["gold"] = recording.gold
    row["digests"] = recording.digests
    return records.dumps(row)


def from_line(line: bytes | str) -> Recording:
    """The recording of a line. InputError when it is none, e.g. an ordinary row of `cascade run`, or not whole."""
    outcome = records.from_line(line)
    row = orjson.loads(line)
    if outcome.mode not in ("record", "shadow") or not isinstance(row.get("digests"), dict):
        raise InputError("not a recording: it holds only what the ladder needed to ask; make one with cascade record, or with shadow: in the policy")
    made = Recording(outcome, row.get("inputs") or {}, row.get("gold", UNKNOWN), row["digests"])
    _require_sound(made)
    return made


def _require_sound(made: Recording) -> None:
    """What `records` takes on trust, and who learns from it would stumble over."""
    for event in made.outcome.trail:
        if isinstance(event, Tried | Failed) and not (isinstance(event.tier, str) and isinstance(event.model, str) and isinstance(event.repair, int)):
            raise InputError("a recording that is not whole: tier and model are texts, repair is a number")
        if isinstance(event, Tried) and not isinstance(event.text, str):
            raise InputError(f"a recording that is not whole: the text of an answer of tier {event.tier} is {type(event.text).__name__}")
        if isinstance(event, Checked) and not (event.score is None or _number(event.score)):
            raise InputError(f"the score of gate {event.gate} is {event.score!r}; a score is a number from 0 to 1, or null")
        if isinstance(event, Tried | Checked) and not all(_number(value) for value in event.signals.values()):
            raise InputError(f"a recording that is not whole: a signal of tier {event.tier} is no number")
    if not all(isinstance(part, str) for part in made.digests.values()):
        raise InputError('a recording that is not whole: "digests" are texts')


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
