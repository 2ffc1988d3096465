"""Equal work in several processes is done once: one holds a lease and works, the others look whether it has left its result."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

V = TypeVar("V")
FIRST_LOOK, LONGEST_LOOK = 0.02, 0.25
"""Seconds between two looks of one who waits; they double."""


class Leases(Protocol):
    """Leases that end by themselves `lease` seconds after they were last extended. Nothing here raises."""

    lease: float

    async def away(self, do: Callable[..., V], *args: object) -> V | None: ...

    def acquire(self, key: str, token: str) -> bool | None: ...

    def extend(self, key: str, token: str) -> bool: ...

    def release(self, key: str, token: str) -> None: ...

    def end(self, key: str, token: str) -> None: ...


async def once(leases: Leases, key: str, look: Callable[[], Awaitable[V | None]], make: Callable[[float], Awaitable[V]],
               left: Callable[[V], bool], patience: Callable[[], float]) -> V:
    """What another process leaves for `look` to find, or what `make` gives, who is told how many seconds were waited; `left` says
    whether that can be found by the others.

    A lease saves money and promises nothing: who has waited for `patience()` seconds, or cannot ask for the lease, makes it too. When
    the holder dies the next one has the lease after `lease` seconds; when the holder ends with nothing to find, all who wait make
    their own at once.
    """
    token = secrets.token_hex(16)
    began, pause = time.monotonic(), FIRST_LOOK
    while not (ours := await leases.away(leases.acquire, key, token)):
        waited = time.monotonic() - began
        if ours is None or waited >= patience():
            return await make(waited)
        await asyncio.sleep(min(pause, patience() - waited))
        pause = min(2 * pause, LONGEST_LOOK)
        found = await look()
        if found is not None:
            return found
    renewal = asyncio.ensure_future(_renew(leases, key, token))
    give_back = leases.end
    try:
        found = await look()  # it may have been left between the last look and the lease
        made = found if found is not None else await make(time.monotonic() - began)
        if left(made):
            give_back = leases.release
        return made
    except asyncio.CancelledError:
        give_back = leases.release  # the next in line takes over
        raise
    finally:
        renewal.cancel()
        give_back(key, token)


async def _renew(leases: Leases, key: str, token: str) -> None:
    held: bool | None = True
    while held is not False:  # None: Redis is away for a while, and may come back in time
        await asyncio.sleep(leases.lease / 3)
        held = await leases.away(leases.extend, key, token)
