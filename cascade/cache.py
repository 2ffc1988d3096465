"""Remembers how requests ended, in diskcache without pickle or in memory. Cache, never ledger: anything odd is a miss, never an answer.

An entry is JSON text behind its own sha256. The disk holds nothing but text: a planted pickle, a file name from outside, a flipped
byte or a cut-off entry reads as absent, with one warning.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import diskcache
from diskcache.core import MODE_RAW, MODE_TEXT

log = logging.getLogger("cascade.cache")

_DIGEST = 64


def sealed(text: str) -> str:
    """The text behind its digest, as stores keep it."""
    return hashlib.sha256(text.encode()).hexdigest() + text


def unsealed(stored: str) -> str:
    """The text of an entry; ValueError when it is not what was sealed."""
    text = stored[_DIGEST:]
    if hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() != stored[:_DIGEST]:
        raise ValueError("it does not match its digest")
    return text


class Store(Protocol):
    """Text by key, for a time. Nothing here raises: what cannot be read is absent, what cannot be written is lost."""

    def get(self, key: str) -> str | None: ...

    def set(self, key: str, text: str, ttl: float | None) -> None: ...

    def delete(self, key: str) -> None: ...

    def close(self) -> None: ...


class MemoryStore:
    """The newest `most` entries of one process."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[float | None, str]] = OrderedDict()

    def get(self, key: str) -> str | None:
        entry = self._kept.get(key)
        if entry is None:
            return None
        ends, text = entry
        if ends is not None and ends <= time.time():
            del self._kept[key]
            return None
        return text

    def set(self, key: str, text: str, ttl: float | None) -> None:
        self._kept[key] = (None if ttl is None else time.time() + ttl, text)
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def delete(self, key: str) -> None:
        self._kept.pop(key, None)

    def close(self) -> None:
        self._kept.clear()


class _TextDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """A diskcache Disk that writes text and reads nothing else: pickled values and foreign file names are refused."""

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> tuple[int, int, str | None, Any]:
        if not isinstance(value, str) or read:
            raise TypeError("only text goes into the cache")
        size: tuple[int, int, str | None, Any] = super().store(value, read, key)
        return size

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if filename is not None:
            inside = os.path.realpath(os.path.join(self._directory, filename))
            if mode != MODE_TEXT or not inside.startswith(os.path.realpath(self._directory) + os.sep):
                raise ValueError(f"refused: mode {mode}, file {filename!r}")
        elif mode != MODE_RAW or not isinstance(value, str):
            raise ValueError(f"refused: mode {mode}")
        return super().fetch(mode, filename, value, read)

    def put(self, key: Any) -> tuple[Any, bool]:
        if not isinstance(key, str):
            raise TypeError("cache keys are text")
        return key, True

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise ValueError("refused: a pickled key")
        return key


class DiskStore:
    """diskcache in a folder of mode 0700. Writes go through one thread behind the caller; `get` sees them at once."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        self._cache = diskcache.Cache(str(self.folder), disk=_TextDisk, eviction_policy="none", size_limit=2**62, statistics=0)
        self._pending: dict[str, str] = {}
        self._queue: queue.SimpleQueue[tuple[str, str, float | None] | Callable[[], object] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._warned: set[str] = set()

    def get(self, key: str) -> str | None:
        text = self._pending.get(key)
        if text is not None:
            return text
        try:
            stored = self._cache.get(key)
        except (ValueError, TypeError, OSError, sqlite3.Error, UnicodeError) as err:
            self._warn("read", err)
            return None
        if stored is None:
            return None
        try:
            return unsealed(stored)
        except ValueError as err:
            self._warn("read", ValueError(f"the entry {key[:12]}: {err}"))
            return None

    def set(self, key: str, text: str, ttl: float | None) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="cascade-cache", daemon=True)
            self._writer.start()
        self._pending[key] = text
        self._queue.put((key, text, ttl))

    def after(self, do: Callable[[], object]) -> None:
        """Call it when all that was set is on disk, from any thread; it must not raise."""
        if self._writer is None:
            do()
        else:
            self._queue.put(do)

    def delete(self, key: str) -> None:
        self.flush()
        self._cache.delete(key)

    def flush(self) -> None:
        """Wait until all that was set is on disk."""
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join()
            self._writer = None

    def close(self) -> None:
        self.flush()
        self._cache.close()

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if callable(item):
                item()
                continue
            key, text, ttl = item
            try:
                self._cache.set(key, sealed(text), expire=ttl)
            except (OSError, sqlite3.Error, ValueError, TypeError) as err:
                self._warn("write", err)
            finally:
                if self._pending.get(key) is text:
                    del self._pending[key]
        self._cache.close()  # this thread's connection; diskcache keeps one a thread

    def _warn(self, what: str, err: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("cannot %s the cache in %s (%s: %s); going on without", what, self.folder, type(err).__name__, err)

    # ------------------------------------------------------------ for `cascade cache`

    def stats(self) -> dict[str, int]:
        """Entries, and bytes on disk."""
        self.flush()
        return {"entries": len(self._cache), "bytes": self._cache.volume()}

    def clear(self) -> int:
        """Drop everything; how many entries that were."""
        self.flush()
        return int(self._cache.clear())

    def verify(self) -> tuple[int, int]:
        """Read every entry: how many are sound, and how many unreadable ones were dropped."""
        self.flush()
        sound = dropped = 0
        for key in self._keys():
            if isinstance(key, str) and self.get(key) is not None:
                sound += 1
            else:
                self._drop(key)
                dropped += 1
        return sound, dropped

    def _keys(self) -> list[Any]:
        with sqlite3.connect(self.folder / diskcache.core.DBNAME) as db:
            return [key for (key,) in db.execute("SELECT key FROM Cache").fetchall()]

    def _drop(self, key: Any) -> None:
        with sqlite3.connect(self.folder / diskcache.core.DBNAME) as db:
            db.execute("DELETE FROM Cache WHERE key = ?", (key,))
