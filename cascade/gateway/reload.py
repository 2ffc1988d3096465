"""Policies that are loaded anew when a file of theirs has changed; one that is spoilt leaves the old one serving.

The files are those that the loader has read. They are looked at once a second by what `stat` says, which sees editors' renames, mounted
folders and symbolic links that are turned, and costs some microseconds a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cascade.app import Cascade
from cascade.errors import CascadeError, InputError
from cascade.policy import load
from cascade.types import Policy

log = logging.getLogger("cascade.gateway")
LOOK = 1.0
"""Seconds between two looks."""
RETRY = 5.0
"""Seconds until a spoilt policy is read again though no file has changed: what it lacks is perhaps a file that it could not name yet."""


@dataclass
class Source:
    """A policy file that is served, with what `stat` said of all that was read for it. `problem`: why it could not be loaded the last time."""

    path: str
    problem: str | None = None
    _stamps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _next: float = 0.0

    def load(self) -> Policy:
        """The policy as it is now. Raises PolicyError."""
        before, files = {file: stamp(file) for file in (self.path, *self._stamps)}, set[str]()
        self._next = time.monotonic() + RETRY
        try:
            return load(self.path, files=files)
        finally:
            self._stamps = {file: before[file] if file in before else stamp(file) for file in files}

    def changed(self) -> bool:
        """Whether it is to be loaded anew."""
        spoilt = self.problem is not None and time.monotonic() >= self._next
        return spoilt or any(stamp(file) != seen for file, seen in self._stamps.items())


def stamp(file: str) -> tuple[int, ...]:
    """Another one when the file is another one, or gone."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


class Reload:
    """Watches the `sources` of the policies by name. `make` builds what serves a policy, `swap` puts it in the place of the old one, `told` is
    called with the name and whether it went well."""

    def __init__(self, sources: Mapping[str, Source], make: Callable[[Policy], Cascade] = Cascade) -> None:
        self.sources, self._make = sources, make
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Load all of them at once, whether they have changed or not."""
        self._asked.set()

    async def run(self, swap: Callable[[str, Cascade], None], told: Callable[[str, bool], None]) -> None:
        """Until it is cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LOOK)
            asked = self._asked.is_set()
            self._asked.clear()
            for name, source in self.sources.items():
                if asked or await asyncio.to_thread(source.changed):
                    told(name, await self._again(name, source, swap))

    async def _again(self, name: str, source: Source, swap: Callable[[str, Cascade], None]) -> bool:
        try:
            made = await asyncio.to_thread(self._load, name, source)
        except CascadeError as err:
            problem = "; ".join(str(err).splitlines())
            if problem != source.problem:
                log.warning("%s; %s is served as it was", problem, name)
            source.problem = problem
            return False
        source.problem = None
        swap(name, made)
        log.warning("loaded %s anew: %s", name, made.label)
        return True

    def _load(self, name: str, source: Source) -> Cascade:
        policy = source.load()
        if policy.name != name:
            raise InputError(f"{source.path}: its name was {name} and is now {policy.name}: start the gateway anew for that")
        return self._make(policy)
