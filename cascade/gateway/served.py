"""The policies by name, as they are now: one is put in the place of another between two requests, and closed after its last one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cascade.app import Cascade


class Served(Mapping[str, Cascade]):
    """What requests are answered with. What a policy may spend in a run is counted by the gateway, for all its workers, not by its Cascade."""

    def __init__(self, policies: Mapping[str, Cascade]) -> None:
        self._now: dict[str, Cascade] = {}
        self._used: Counter[Cascade] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        for name, cascade in policies.items():
            cascade.purse = None
            self._now[name] = cascade

    def __getitem__(self, name: str) -> Cascade:
        return self._now[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    @contextmanager
    def using(self, cascade: Cascade) -> Iterator[None]:
        """A request is being answered by it."""
        self._used[cascade] += 1
        try:
            yield
        finally:
            self._used[cascade] -= 1
            self._sweep(cascade)

    def swap(self, name: str, cascade: Cascade) -> None:
        """Requests from now on are answered by this one."""
        cascade.purse = None
        old, self._now[name] = self._now[name], cascade
        self._sweep(old)

    def _sweep(self, cascade: Cascade) -> None:
        if not self._used[cascade] and cascade not in self._now.values():
            del self._used[cascade]
            closing = asyncio.ensure_future(cascade.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all of them."""
        await asyncio.gather(*self._closing)
        for cascade in self._now.values():
            await cascade.aclose()
