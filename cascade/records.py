"""Outcome <-> one JSON line with a format number. The only place that knows the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any

import orjson

from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.types import Checked, Compared, Event, Failed, Json, Retry, Skipped, Tried, Usage

FORMAT = 1
CACHED = b"1:"
"""The format of cache entries, part of their key: entries of another version are not found instead of misread."""
_ZERO = Decimal(0)

_EVENTS: dict[str, type[Tried] | type[Failed] | type[Checked] | type[Skipped] | type[Compared]] = {
    kind.event: kind for kind in (Tried, Failed, Checked, Skipped, Compared)
}
_FIELDS = {kind: frozenset(f.name for f in fields(kind)) for kind in _EVENTS.values()}
_ORDERED = {kind: tuple(f.name for f in fields(kind)) for kind in _EVENTS.values()}


def to_line(outcome: Outcome) -> bytes:
    """The row of an outcome as UTF-8 JSON without the newline. Dollars are exact decimal literals."""
    return dumps(to_row(outcome))


def to_row(outcome: Outcome) -> dict[str, Json]:
    """The row of an outcome as a dict; dollars are Decimals."""
    row: dict[str, Json] = {
        "format": FORMAT,
        "id": outcome.id,
        "policy": outcome.policy,
        "status": outcome.status,
        "tier": outcome.tier,
        "output": outcome.output,
        "cost_usd": outcome.cost_usd,
        "unpriced": outcome.unpriced,
        "seconds": _seconds(outcome.seconds),
        "cached": outcome.cached,
        "trail": [event_to_row(event) for event in outcome.trail],
    }
    if outcome.error is not None:
        row["error"] = outcome.error
    if outcome.mode is not None:
        row["mode"] = outcome.mode
    if outcome.alarm is not None:
        row["alarm"] = outcome.alarm
    return row


def event_to_row(event: Event) -> dict[str, Json]:
    """One event as a dict."""
    row: dict[str, Json] = {"event": event.event}
    for name in _ORDERED[type(event)]:
        row[name] = getattr(event, name)
    if "seconds" in row:
        row["seconds"] = _seconds(row["seconds"])
    if not row.get("part", True):
        del row["part"]  # nearly every answer is a whole one
    if row.get("retries"):
        row["retries"] = [retry._asdict() for retry in row["retries"]]
    return row


def from_line(line: bytes | str) -> Outcome:
    """The outcome of a row. Raises InputError when the line is not a row of this format."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as err:
        raise InputError(f"not a JSON line: {err}") from err
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        found = row.get("format") if isinstance(row, dict) else type(row).__name__
        raise InputError(f'not a row of cascade: "format" is {found!r}, this version reads {FORMAT}')
    try:
        return Outcome(
            policy=row["policy"],
            status=row["status"],
            output=row["output"],
            tier=row["tier"],
            cost_usd=_dollars(row["cost_usd"]),
            unpriced=tuple(row["unpriced"]),
            seconds=row["seconds"],
            trail=tuple(event_from_row(event) for event in row["trail"]),
            error=row.get("error"),
            id=row["id"],
            cached=row.get("cached", False),
            mode=row.get("mode"),
            alarm=_text(row.get("alarm")),
        )
    except (KeyError, TypeError, AttributeError, ArithmeticError) as err:
        raise InputError(f"a row of cascade that is not whole: {type(err).__name__}: {err}") from err


def event_from_row(row: Mapping[str, Json]) -> Event:
    """The event of a dict; keys of later formats are passed over. KeyError or TypeError when it is not whole."""
    kind = _EVENTS[row["event"]]
    given = {name: value for name, value in row.items() if name in _FIELDS[kind]}
    for name, read in _READ:
        if name in given:
            given[name] = read(given[name])
    return kind(**given)


def to_cached(outcome: Outcome) -> str:
    """A served answer and its verdicts as compact JSON for the cache, which is read far more often than written."""
    served, *checks = outcome.trail
    assert isinstance(served, Tried)
    answer = [served.tier, served.model, served.text, served.finish, served.usage, served.sample, served.repair]
    verdicts = [[c.tier, c.gate, c.score, c.threshold, c.passed, c.reason, c.fields, c.signals] for c in checks if isinstance(c, Checked)]
    return dumps([outcome.status, outcome.output, outcome.tier, outcome.error, answer, verdicts]).decode()


def from_cached(text: str, policy: str, id: str | None) -> Outcome:
    """The outcome of a cache entry: nothing was paid. ValueError or TypeError when it is none of ours."""
    status, output, tier, error, answer, verdicts = orjson.loads(text)
    asked, model, said, finish, usage, sample, repair = answer
    served = Tried(asked, model, said, finish, usage and Usage(**usage), _ZERO, 0.0, sample, None, repair, True)
    checks = [Checked(t, g, score, at, ok, why, tuple(places), signals) for t, g, score, at, ok, why, places, signals in verdicts]
    return Outcome(policy, status, output, tier, _ZERO, (), 0.0, (served, *checks), error, id, True)


def dumps(value: Json) -> bytes:
    """JSON bytes; Decimals as exact number literals, dataclasses as objects."""
    return orjson.dumps(value, default=_default)


def _default(value: object) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(format(value, "f"))
    raise TypeError(f"{type(value).__name__} does not go into a row")


def _text(value: Json) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"text is {type(value).__name__}")


def _seconds(value: float) -> float:
    return round(value, 6)


def _dollars(value: float | int | None) -> Decimal | None:
    # repr of a float is the shortest text that reads back as it: for up to 15 digits the very literal that was written
    if value == 0:
        return _ZERO
    return None if value is None else Decimal(repr(value))


_READ: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("cost_usd", _dollars),
    ("usage", lambda value: None if value is None else Usage(**value)),
    ("retries", lambda value: tuple(Retry(**retry) for retry in value)),
    ("fields", tuple),
    ("part", tuple),
)
