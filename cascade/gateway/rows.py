"""The newest requests and their trails, and what they sum up to: a row a request, bounded, for the log's readers and the page."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from cascade import records
from cascade.gateway.state import State
from cascade.gateway.writer import LATER
from cascade.outcome import Outcome
from cascade.types import Failed, Tried

UNIT = Decimal("1e-12")
"""Dollars; sums are of whole ones. A token of $0.000001 a million is one."""
MOST_ROWS = 10_000
MOST_TRAILS = 1_000
EVERY = 100
"""So many rows are added before old ones are dropped."""
COLUMNS = "n, at, id, policy, label, status, tier, cached, cost, seconds, key, calls, error, alarm"


def units(dollars: Decimal) -> int:
    """Dollars in whole units, rounded up."""
    return int((dollars / UNIT).to_integral_value(ROUND_CEILING))


@dataclass(frozen=True, slots=True)
class Row:
    """One request that was answered or failed. `n` counts up, over all workers and restarts. `at`: when it ended, in seconds since 1970; `id`
    names its trail; `label` is `policy@digest`; `cost_usd` None when a model has no price; `key` None where none is needed."""

    n: int
    at: float
    id: str
    policy: str
    label: str
    status: str
    tier: str | None
    cached: bool
    cost_usd: Decimal | None
    seconds: float
    key: str | None
    calls: int
    error: str | None
    alarm: str | None


@dataclass(frozen=True, slots=True)
class Sum:
    """Requests of one policy, status and tier: how many, how many of them from the cache, dollars where they are known, requests where they
    are not, seconds of all of them together, and of the slowest."""

    policy: str
    status: str
    tier: str | None
    requests: int
    cached: int
    cost_usd: Decimal
    unpriced: int
    seconds: float
    slowest: float


class Rows:
    """The requests of all workers. `trails` False: no trail is kept, they hold what models said."""

    def __init__(self, state: State, trails: bool = True) -> None:
        self._state, self._trails = state, trails
        self._added = 0

    def add(self, outcome: Outcome, id: str, key: str | None, seconds: float) -> None:
        """One more, written behind the caller, who waited so many seconds for it."""
        self._added += 1
        at, trail, prune = time.time(), self._trails, self._added % EVERY == 0
        self._state.soon(lambda db: _add(db, outcome, (at, id, key, seconds), trail, prune))

    async def latest(self, most: int = 100, after: int = 0) -> list[Row]:
        """The newest rows, the newest first; `after`: only those with a greater `n`."""
        where = f"SELECT {COLUMNS} FROM request WHERE n > ? ORDER BY n DESC LIMIT ?"
        found = await self._state.read(lambda db: db.execute(where, (after, most)).fetchall())
        return [_row(*columns) for columns in found]

    async def last(self) -> int:
        """The greatest `n`; 0 when there is no row. Costs next to nothing."""
        found: int = await self._state.read(lambda db: db.execute("SELECT coalesce(max(n), 0) FROM request").fetchone()[0])
        return found

    async def sums(self, since: float = 0.0) -> list[Sum]:
        """What the kept rows that ended since then sum up to, `since` in seconds since 1970."""
        found = await self._state.read(lambda db: db.execute(_SUMS, (since,)).fetchall())
        return [Sum(policy, status, tier, n, cached, cost * UNIT, unpriced, seconds, slowest)
                for policy, status, tier, n, cached, cost, unpriced, seconds, slowest in found]

    async def trails(self, after: int = 0, most: int = 50) -> list[tuple[int, str | None, bytes]]:
        """`n`, key and line of the oldest kept trails with a greater `n`."""
        where = "SELECT n, key, line FROM trail WHERE n > ? ORDER BY n LIMIT ?"
        found: list[tuple[int, str | None, bytes]] = await self._state.read(lambda db: db.execute(where, (after, most)).fetchall())
        return found

    async def trail(self, id: str, key: str | None) -> bytes | None:
        """The line of a request that this key asked; None when it is not kept, or another's. Waits for one that is just being written."""
        found = await self._state.read(lambda db: _trail(db, id, key))
        if found is None and self._trails:
            await asyncio.sleep(2 * LATER)
            found = await self._state.read(lambda db: _trail(db, id, key))
        return found


_INSERT = f"INSERT INTO request ({COLUMNS[3:]}) VALUES ({', '.join('?' * len(COLUMNS[3:].split(',')))})"
_SUMS = """
SELECT policy, status, tier, count(*), sum(cached), coalesce(sum(cost), 0), sum(cost IS NULL), sum(seconds), max(seconds)
FROM request WHERE at >= ? GROUP BY policy, status, tier ORDER BY policy, status, tier"""


def _add(db: sqlite3.Connection, outcome: Outcome, more: tuple[float, str, str | None, float], trail: bool, prune: bool) -> None:
    at, id, key, seconds = more
    row = (at, id, outcome.policy.rpartition("@")[0], outcome.policy, outcome.status, outcome.tier, outcome.cached,
           None if outcome.cost_usd is None else units(outcome.cost_usd), seconds, key,
           sum(isinstance(event, Tried | Failed) for event in outcome.trail), (outcome.error or "").partition(":")[0] or None, outcome.alarm)
    n = db.execute(_INSERT, row).lastrowid
    assert n is not None
    if trail:
        db.execute("INSERT INTO trail VALUES (?, ?, ?, ?)", (n, id, key, records.to_line(outcome)))
    if prune:
        db.execute("DELETE FROM request WHERE n <= ?", (n - MOST_ROWS,))
        db.execute("DELETE FROM trail WHERE n <= ?", (n - MOST_TRAILS,))


def _row(n: int, at: float, id: str, policy: str, label: str, status: str, tier: str | None, cached: int, cost: int | None, seconds: float,
         key: str | None, calls: int, error: str | None, alarm: str | None) -> Row:
    return Row(n, at, id, policy, label, status, tier, bool(cached), None if cost is None else cost * UNIT, seconds, key, calls, error, alarm)


def _trail(db: sqlite3.Connection, id: str, key: str | None) -> bytes | None:
    found = db.execute("SELECT line FROM trail WHERE id = ? AND key IS ?", (id, key)).fetchone()
    return None if found is None else bytes(found[0])
