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
from cascade.types import NOTHING, Json


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
    """The recording of a line. InputError when it is none, e.g. an ordinary row of `cascade run`."""
    outcome = records.from_line(line)
    row = orjson.loads(line)
    if outcome.mode not in ("record", "shadow") or not isinstance(row.get("digests"), dict):
        raise InputError("not a recording: it holds only what the ladder needed to ask; make one with cascade record, or with shadow: in the policy")
    return Recording(outcome, row.get("inputs") or {}, row.get("gold", UNKNOWN), row["digests"])
