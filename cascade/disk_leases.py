"""Leases of processes that share a cache on disk, so that equal requests are paid once: locks on bytes of a file beside the cache.

The kernel gives a lock back however its holder ends, so nothing is renewed and nothing is left behind by a crash.
"""

from __future__ import annotations

import fcntl
import functools
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cascade.cache import DiskStore

V = TypeVar("V")
OVER_SECONDS = 2.0
"""So long those who wait for a key are told that its last holder got nothing that can be shared."""
MARKS = 4096
"""Places for that; two keys that share one are not told apart, and may be paid twice."""
_TIME = struct.Struct("<d")


class DiskLeases:
    """Leases by `around.lease.Leases` for the entries of a store."""

    lease = 10.0

    def __init__(self, store: DiskStore) -> None:
        self._store = store
        self._file, self._held = _opened(str(store.folder / "leases"))

    async def away(self, do: Callable[..., V], *args: object) -> V:
        """At once: these are calls of some microseconds."""
        return do(*args)

    def acquire(self, key: str, token: str) -> bool | None:
        """Whether the lease is this token's now; None when there is none to wait for."""
        at = _place(key)
        if at in self._held:
            return self._held[at] == token
        try:
            (over,) = _TIME.unpack(os.pread(self._file, _TIME.size, _mark(at)).ljust(_TIME.size, b"\0"))
            if abs(time.time() - over) < OVER_SECONDS:
                return None
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        except (BlockingIOError, PermissionError):  # another process has it
            return False
        except OSError:
            return None
        self._held[at] = token
        return True

    def extend(self, key: str, token: str) -> bool:
        """It does not end by itself."""
        return True

    def release(self, key: str, token: str) -> None:
        """Give the lease back, when what was set before is on disk."""
        self._store.after(functools.partial(self._release, _place(key), token))

    def end(self, key: str, token: str) -> None:
        """Give the lease back, telling those who wait that there is nothing to share."""
        at = _place(key)
        os.pwrite(self._file, _TIME.pack(time.time()), _mark(at))
        self._release(at, token)

    def _release(self, at: int, token: str) -> None:
        if self._held.get(at) == token:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, at)
            del self._held[at]


@functools.cache
def _opened(path: str) -> tuple[int, dict[int, str]]:
    """The file, and who in this process holds what: the kernel tells processes apart, and frees all when one of them closes the file once."""
    Path(path).touch(0o600)
    return os.open(path, os.O_RDWR), {}


def _place(key: str) -> int:
    """The byte of a key, which is a sha256 in hex, far behind the marks."""
    return 2**60 + int(key[:14], 16)


def _mark(at: int) -> int:
    return at % MARKS * _TIME.size
