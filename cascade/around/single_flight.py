"""Equal work in flight is done once: the others wait for the first and share what it got."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from decimal import Decimal
from typing import Generic, TypeVar

from cascade.types import Answer, Ask, Call

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Shares one run of `make` among all who ask for the same key while it runs. One event loop.

    The work belongs to nobody: a caller that is cancelled leaves it to the others; when the last one has gone it is cancelled.
    """

    def __init__(self) -> None:
        self._flights: dict[K, tuple[asyncio.Task[V], list[int]]] = {}

    async def share(self, key: K, make: Callable[[], Awaitable[V]]) -> tuple[V, bool]:
        """What `make` gave, and whether another caller had started it."""
        flight = self._flights.get(key)
        joined = flight is not None
        if flight is None:
            flight = (asyncio.ensure_future(_run(make)), [0])
            self._flights[key] = flight
            flight[0].add_done_callback(lambda _: self._flights.pop(key, None))
        task, waiting = flight
        waiting[0] += 1
        try:
            return await asyncio.shield(task), joined
        finally:
            waiting[0] -= 1
            if not waiting[0] and not task.done():
                self._flights.pop(key, None)
                task.cancel()


async def _run(make: Callable[[], Awaitable[V]]) -> V:
    return await make()


def single_flight(ask: Ask) -> Ask:
    """An Ask in which equal calls in flight make one call upstream; the answers of those who joined are `cached` (paid once)."""
    flights: SingleFlight[Call, Answer] = SingleFlight()

    async def shared(call: Call) -> Answer:
        answer, joined = await flights.share(call, lambda: ask(call))
        return replace(answer, cached=True, cost_usd=Decimal(0)) if joined else answer

    return shared
