"""What keys may spend: the worst case of a request is set aside before it is asked, what it cost is paid before it is answered.

The sums are whole units in the state that all workers share. What a worker that died had set aside was perhaps spent: it is counted so.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from cascade.budget import Purse
from cascade.errors import Unpaid
from cascade.gateway.keys import Key
from cascade.gateway.rows import UNIT, units
from cascade.gateway.state import State
from cascade.gateway.wire import Refused


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` units of `account` in `period`, which ends at `ends` (None: never). `kind`: the error's, when it is reached."""

    account: str
    period: str
    most: int
    kind: str = "budget"
    ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class Short:
    """Which limit a request does not fit into, and what of it is spent and held by requests in flight."""

    limit: Limit
    spent: int
    held: int
    workers: frozenset[str]


class NotPaid(Refused, Unpaid):
    """A request that its caller's budget does not cover."""


def limit(key: Key, now: datetime) -> Limit | None:
    """What the key may spend at that time (UTC)."""
    if key.budget is None:
        return None
    period, ends = {
        "day": (now.strftime("%Y-%m-%d"), now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)),
        "month": (now.strftime("%Y-%m"), (now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)),
        "total": ("total", None),
    }[key.period]
    return Limit(f"key:{key.name}", period, units(key.budget), ends=ends)


class Spending:
    """The accounts of all keys, and of policies with a budget for the whole run of the gateway."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def collect(self) -> None:
        """Count what dead workers had set aside as spent."""
        held = await self._state.read(lambda db: {worker for (worker,) in db.execute("SELECT DISTINCT worker FROM held")})
        for worker in self._state.dead(held):
            await self._state.do(lambda db, worker=worker: _pay(db, "worker", worker, None))  # type: ignore[misc]

    async def reserve(self, id: str, limits: tuple[Limit, ...], worst: int) -> Short | None:
        """Set `worst` units aside under that id within all limits, or in none of them and say which is too small."""
        short = await self._state.do(lambda db: _reserve(db, id, limits, worst, self._state.worker))
        if short is not None and self._state.dead(set(short.workers)):
            await self.collect()
            short = await self._state.do(lambda db: _reserve(db, id, limits, worst, self._state.worker))
        return short

    def owe(self, id: str, cost: int) -> None:
        """`settle` for one who cannot wait, or whose state cannot be written now."""
        self._state.soon(lambda db: _pay(db, "id", id, cost), "owed")

    async def settle(self, id: str, cost: int) -> None:
        """What was set aside is given back, and the cost is paid, for good when this returns. While the state cannot be written the
        reservation stands for it."""
        try:
            await self._state.do(lambda db: _pay(db, "id", id, cost))
        except sqlite3.Error:
            self.owe(id, cost)

    async def spent(self) -> dict[tuple[str, str], Decimal]:
        """Dollars by account and period."""
        found = await self._state.read(lambda db: db.execute("SELECT account, period, cost FROM spent").fetchall())
        return {(account, period): cost * UNIT for account, period, cost in found}


class Payer:
    """The account of one request: its key's, and its policy's. `asks` is the policy, for people. `asked`: the money is set aside."""

    def __init__(self, spending: Spending, limits: tuple[Limit, ...], asks: str) -> None:
        self._spending, self._limits, self._asks = spending, limits, asks
        self.asked = asyncio.Event()

    @asynccontextmanager
    async def paying(self, worst: Decimal | None) -> AsyncIterator[Purse]:
        """As `budget.Account`. Raises NotPaid."""
        if worst is None:
            raise NotPaid(500, "configuration", f"the policy {self._asks} asks a model that has no price, and what it spends is limited: "
                                                "give it one under pricing:")
        id = secrets.token_hex(8)
        try:
            short = await self._spending.reserve(id, self._limits, units(worst))
        except sqlite3.Error as err:
            raise NotPaid(503, "state", "what this key may spend cannot be counted now", retry=True) from err
        except BaseException:
            self._spending.owe(id, 0)  # it may be set aside already
            raise
        if short is not None:
            raise _told(short, worst)
        self.asked.set()
        purse = Purse(worst, "key")
        try:
            yield purse
        except BaseException:
            self._spending.owe(id, units(purse.spent + purse.reserved))  # what is in flight is cancelled, and may be billed
            raise
        await self._spending.settle(id, units(purse.spent + purse.reserved))


def _told(short: Short, worst: Decimal) -> NotPaid:
    most, spent, held = (one * UNIT for one in (short.limit.most, short.spent, short.held))
    whose = "this key's budget" if short.limit.kind == "budget" else "the policy's budget.per_run"
    has = f"{whose} of ${most.normalize():f} has ${spent:.6f} spent and ${held:.6f} set aside, and this request could cost ${worst:.6f}"
    if spent + worst <= most:
        again = NotPaid(429, short.limit.kind, f"{has}: try again when those in flight have ended", retry=True)
        again.headers = {"retry-after": "1"}
        return again
    if worst > most:
        return NotPaid(402, short.limit.kind, f"{has}, which is more than all of it: allow more, or let the policy's max_tokens or "
                                              "budget.per_request be less")
    ends = short.limit.ends
    when = f"; it begins anew on {ends:%Y-%m-%d at %H:%M} UTC" if ends else ""
    return NotPaid(402, short.limit.kind, has + when)


def _reserve(db: sqlite3.Connection, id: str, limits: tuple[Limit, ...], worst: int, worker: str) -> Short | None:
    for one in limits:
        where = (one.account, one.period)
        spent = (db.execute("SELECT cost FROM spent WHERE account = ? AND period = ?", where).fetchone() or (0,))[0]
        held = db.execute("SELECT cost, worker FROM held WHERE account = ? AND period = ?", where).fetchall()
        aside = sum(cost for cost, _ in held)
        if spent + aside + worst > one.most:
            return Short(one, spent, aside, frozenset(name for _, name in held))
    db.executemany("INSERT INTO held VALUES (?, ?, ?, ?, ?)", [(id, one.account, one.period, worst, worker) for one in limits])
    return None


def _pay(db: sqlite3.Connection, which: str, value: str, cost: int | None) -> None:
    """Turn what is held into what was spent; `cost` None: all of it."""
    for account, period, held in db.execute(f"SELECT account, period, cost FROM held WHERE {which} = ?", (value,)).fetchall():
        db.execute("INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET cost = cost + excluded.cost",
                   (account, period, held if cost is None else cost))
    db.execute(f"DELETE FROM held WHERE {which} = ?", (value,))


def now() -> datetime:
    """The time in UTC."""
    return datetime.fromtimestamp(time.time(), UTC)
