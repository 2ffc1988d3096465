"""What a run does while a provider is down: it waits and asks one row now and then, instead of failing all, or sending it up the ladder."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Set
from dataclasses import dataclass, field

from cascade.errors import CircuitOpen, Overloaded, TimedOut, Unreachable
from cascade.outcome import Outcome
from cascade.rows import Row
from cascade.types import Failed, Tried

log = logging.getLogger("cascade")

KINDS = frozenset(error.kind for error in (Overloaded, Unreachable, TimedOut, CircuitOpen))
PATIENCE = 1800.0
"""Seconds an outage is waited for; after that rows go up the ladder or fail, as the policy says."""
PROBE = 2.0
"""Seconds from the end of one row that is asked during an outage to the next; no less than a breaker rests."""
LOOK = 0.25
"""Seconds between two looks of a worker that waits."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A row that failed, and the models that were the reason."""

    number: int
    row: Row
    outcome: Outcome
    models: Set[str]


@dataclass
class Outage:
    """Whether a model is down, as the rows of a run tell it. `stop` says whether waiting is to end; `most` rows are held back at most.

    A model is down when the circuit breaker says so (`circuit_open` in a trail) and it has answered in this run: one that never has is more
    likely set up wrong, and nobody waits for it. While it is down `turn` lets through one row at a time. A row that failed (or is
    flagged, as nobody was there to do better) for such a reason is held back: when the outage is over it is to be asked `again`; when a later
    row is answered by that model without there having been an outage, it has `failed`.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    stop: Callable[[], bool] = lambda: False
    most: int = 64
    again: deque[Row] = field(default_factory=deque)
    failed: list[tuple[Row, Outcome]] = field(default_factory=list)
    down: str | None = None
    _since: float = 0.0
    _asked: int = 0
    _asked_before: int = 0
    _probe: int | None = None
    _retried: bool = False
    _next_probe: float = 0.0
    _given_up: set[str] = field(default_factory=set)
    _answered: set[str] = field(default_factory=set)
    _held: deque[_Held] = field(default_factory=deque)

    async def turn(self, row: Row) -> tuple[int, Row]:
        """Returns when a row may be asked: its number, for `heard`, and the row. In an outage that is one which failed by it, rather than a new
        one that may not even come to the model that is down; `row` is then asked later."""
        while self.down is not None and not self.stop():
            if self.clock() - self._since > PATIENCE:
                log.warning("%s is still down after %.0f minutes, and no longer waited for", self.down, PATIENCE / 60)
                self._given_up.add(self.down)
                self._over()
            elif self._probe is None and self.clock() >= self._next_probe:
                self._probe = self._asked + 1
                if self._held:
                    self.again.append(row)
                    row = self._held.popleft().row
                    self._retried = True
                else:
                    self._retried = False
                break
            else:
                await self.sleep(LOOK)
        self._asked += 1
        return self._asked, row

    def heard(self, number: int, row: Row, outcome: Outcome, failed: bool) -> bool:
        """Take note of how a row ended; `failed` when another run would ask it again. True: it is held back, not to be written yet."""
        answered = {event.model for event in outcome.trail if isinstance(event, Tried) and not event.cached}
        self._answered |= answered
        self._given_up -= answered
        failures = [event for event in outcome.trail if isinstance(event, Failed) and event.error in KINDS]
        troubled = {event.model: event.error for event in failures if event.model not in self._given_up}
        if number == self._probe:
            self._probe, self._next_probe = None, self.clock() + PROBE
        if answered and not troubled:
            self._well(number, answered)
        else:
            open = [model for model, error in troubled.items() if error == CircuitOpen.kind and model in self._answered]
            if open and self.down is None:
                log.warning("%s is down and waited for, at most %.0f minutes", open[0], PATIENCE / 60)
                self.down, self._since, self._asked_before, self._next_probe = open[0], self.clock(), self._asked, self.clock() + PROBE
            if (failed or outcome.status == "flagged") and self._answered & troubled.keys():
                self._held.append(_Held(number, row, outcome, troubled.keys()))
                if self.down is None and len(self._held) > self.most:
                    self._settle()
                return True
        return False

    def _well(self, number: int, answered: set[str]) -> None:
        if self.down is None:
            past = [held for held in self._held if held.number < number and held.models & answered]
            for held in past:
                self._held.remove(held)
                self.failed.append((held.row, held.outcome))
        elif number > self._asked_before and (self.down in answered or self._retried):
            log.warning("%s is back after %.0f s", self.down, self.clock() - self._since)
            self._over()

    def _over(self) -> None:
        self.down = self._probe = None
        self.again += [held.row for held in self._held]
        self._held.clear()

    def _settle(self) -> None:
        self.failed += [(held.row, held.outcome) for held in self._held]
        self._held.clear()

    def to_ask(self) -> Iterator[Row]:
        """The rows that are to be asked again."""
        while self.again:
            yield self.again.popleft()

    def pending(self) -> bool:
        """When all other rows have been asked: whether some are to be asked again, or have failed as nothing more will tell."""
        if self.down is None:
            self._settle()
        else:
            self.again += [held.row for held in self._held]
            self._held.clear()
        return bool(self.again or self.failed)
