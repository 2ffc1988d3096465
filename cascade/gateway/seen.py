"""What the live page has to show: the kept rows, what they sum up to, and each policy's numbers of the newest trails."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cascade import records
from cascade.app import Cascade
from cascade.errors import InputError
from cascade.gateway.rows import MOST_TRAILS, Row, Rows, Sum
from cascade.monitor.live import Line
from cascade.outcome import Outcome
from cascade.report.numbers import Counting, Numbers
from cascade.story import one_line
from cascade.types import Checked, Event, Failed, Tried


@dataclass(frozen=True)
class Ladder:
    """One policy: `numbers` of its newest trails, `lines` of its monitor, the `alarm` that sounds."""

    label: str
    numbers: Numbers
    lines: Sequence[Line]
    alarm: str | None


@dataclass(frozen=True)
class Seen:
    """`sums` of all kept rows, the newest `rows` of all keys, their trails without texts by `n`, and the policies by name."""

    sums: Sequence[Sum]
    rows: Sequence[Row]
    trails: Mapping[int, Outcome]
    ladders: Mapping[str, Ladder]


class Eyes:
    """Looks at the store and keeps what it has read. One caller at a time."""

    def __init__(self, policies: Mapping[str, Cascade], rows: Rows) -> None:
        self._policies, self._rows = policies, rows
        self._trails: OrderedDict[int, Outcome] = OrderedDict()
        self._read = 0

    async def mark(self) -> object:
        """Another value when there is something new to see."""
        return await self._rows.last(), [(cascade.label, cascade.alarm) for cascade in self._policies.values()]

    async def look(self) -> Seen:
        """All there is to see. Raises sqlite3.Error."""
        await self._follow()
        lines = {name: (cascade, [] if cascade.monitor is None else cascade.monitor.lines()) for name, cascade in self._policies.items()}
        sums, rows = await self._rows.sums(), await self._rows.latest(MOST_TRAILS)
        return await asyncio.to_thread(_count, sums, rows, dict(self._trails), lines)

    async def _follow(self) -> None:
        """Read the trails that are new, in portions: they may be large."""
        while found := await self._rows.trails(self._read):
            for n, outcome in await asyncio.to_thread(_parsed, found):
                self._trails[n] = outcome
            self._read = found[-1][0]
            while len(self._trails) > MOST_TRAILS:
                self._trails.popitem(last=False)


def _parsed(found: Sequence[tuple[int, str | None, bytes]]) -> list[tuple[int, Outcome]]:
    trails = []
    for n, _, line in found:
        try:
            trails.append((n, _textless(records.from_line(line))))
        except InputError:  # of another version
            continue
    return trails


def _textless(outcome: Outcome) -> Outcome:
    """Without what models said, which may be megabytes and is not needed to count and to tell the story."""
    return replace(outcome, output=None, trail=tuple(map(_shortened, outcome.trail)))


def _shortened(event: Event) -> Event:
    if isinstance(event, Tried):
        return replace(event, text="")
    if isinstance(event, Checked | Failed):
        return replace(event, reason=one_line(event.reason or ""))
    return event


def _count(sums: Sequence[Sum], rows: Sequence[Row], trails: Mapping[int, Outcome], lines: Mapping[str, tuple[Cascade, Sequence[Line]]]) -> Seen:
    counting = {name: Counting(cascade.policy) for name, (cascade, _) in lines.items()}
    for outcome in trails.values():
        name = outcome.policy.rpartition("@")[0]
        if name in counting:
            counting[name].add(outcome)
    ladders = {name: Ladder(cascade.label, counting[name].numbers(), found, cascade.alarm) for name, (cascade, found) in lines.items()}
    return Seen(sums, rows, trails, ladders)
