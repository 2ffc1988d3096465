"""Requests that are sent again with the same Idempotency-Key get the answer that was given: kept for a day, over crashes and restarts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import orjson

from cascade.gateway.state import State
from cascade.gateway.wire import Refused
from cascade.types import Json

DAY = 86400.0
"""Seconds that a record is kept."""
LONGEST = 255
"""Characters of a key."""
FIRST_LOOK, LONGEST_LOOK = 0.02, 0.25
"""Seconds between two looks of one who waits; they double."""
KEPT = (200, 402, 422)
"""The statuses of answers that are kept: those that asking again cannot make better."""


@dataclass(frozen=True)
class Saved:
    """An answer that was given."""

    status: int
    headers: dict[str, str]
    body: bytes


class Record:
    """A request that is answered for the first time. `keep` or `drop` ends it."""

    def __init__(self, repeats: Repeats, key: tuple[str, str], holder: str) -> None:
        self._repeats, self._key, self._holder = repeats, key, holder
        self._open = True

    async def keep(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """The answer, on the disk when this returns. One that cannot be kept is given nevertheless, and asked anew when it is asked again."""
        if status not in KEPT:
            return self.drop()
        told = orjson.dumps(dict(headers)).decode()
        try:
            await self._repeats.state.do(lambda db: db.execute(_KEEP, (status, told, body, *self._key, self._holder)).rowcount)
        except sqlite3.Error:
            return self.drop()
        self._end()

    def drop(self) -> None:
        """There is nothing to keep: the next one asks anew."""
        if self._open:
            self._end()
            self._repeats.state.soon(lambda db: db.execute(_DROP, (*self._key, self._holder)), "owed")

    def _end(self) -> None:
        self._open = False
        del self._repeats.running[self._key]

    async def stream(self, events: AsyncIterator[bytes], alive: bytes, headers: Mapping[str, str],
                     ended: Callable[[], Awaitable[int]]) -> AsyncIterator[bytes]:
        """The events, kept before the stream ends; `ended` tells the status that they come to."""
        kept = bytearray()
        try:
            async for event in events:
                yield event
                if event != alive:
                    kept += event
            status = await ended()
            await self.keep(200 if status in KEPT else status, headers, bytes(kept))  # as it was sent: what went wrong is an event
        finally:
            self.drop()


class Repeats:
    """The records of all callers. `running` are those that this process answers, with the digests of their bodies."""

    def __init__(self, state: State, patience: float = 60.0) -> None:
        self.state = state
        self.running: dict[tuple[str, str], bytes] = {}
        self._patience = patience

    async def begin(self, caller: str | None, name: str, path: str, body: Mapping[str, Json]) -> Record | Saved:
        """The answer that this caller's request of that name was given; a record, where there is none yet. One that is being answered is waited
        for. Raises Refused: 422 for another request of the same name, 409 when the wait is too long, 503 when no record can be kept."""
        if not 1 <= len(name) <= LONGEST or not name.isprintable():
            raise Refused(400, "invalid_request_error", f"Idempotency-Key: must have 1 to {LONGEST} printable characters")
        key = (caller or "", name)
        digest = hashlib.sha256(path.encode() + b"\0" + json.dumps(body, sort_keys=True).encode()).digest()  # orjson has no numbers beyond 64 bits
        began, pause = time.monotonic(), FIRST_LOOK
        while (found := await self._try(key, digest)) is None:
            if time.monotonic() - began > self._patience:
                problem = Refused(409, "idempotency_key_in_use", "a request with this Idempotency-Key is still being answered", retry=True)
                problem.headers = {"retry-after": "1"}
                raise problem
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_LOOK)
        return found

    async def _try(self, key: tuple[str, str], digest: bytes) -> Record | Saved | None:
        """None while another one is answering it."""
        if (same := self.running.get(key)) is not None:
            return None if same == digest else _other()
        self.running[key] = digest
        record = Record(self, key, f"{self.state.worker}:{secrets.token_hex(8)}")
        try:
            found = await self._claim(key, digest, record._holder)
        except sqlite3.Error as err:
            record._end()
            raise Refused(503, "state", "Idempotency-Key: no record can be kept now, and nothing was asked", retry=True) from err
        except BaseException:
            record.drop()  # it may be claimed already
            raise
        if found is True:
            return record
        record._end()
        return _other() if found is False else found

    async def _claim(self, key: tuple[str, str], digest: bytes, holder: str) -> bool | Saved | None:
        """True: it is the holder's to answer; False: it is another request's; the answer; or None while another worker is answering."""
        found = await self.state.do(lambda db: _begin(db, key, digest, holder, time.time()))
        if not isinstance(found, str):
            return found
        worker = found.partition(":")[0]
        if worker != self.state.worker and not self.state.dead({worker}):
            return None
        return await self.state.do(lambda db: _take_over(db, key, found, holder))


def _other() -> NoReturn:
    raise Refused(422, "idempotency_key_reused", "this Idempotency-Key was sent with another request; each needs a key of its own")


_KEEP = "UPDATE idempotent SET status = ?, headers = ?, reply = ? WHERE key = ? AND name = ? AND holder = ?"
_DROP = "DELETE FROM idempotent WHERE key = ? AND name = ? AND holder = ? AND status IS NULL"


def _begin(db: sqlite3.Connection, key: tuple[str, str], digest: bytes, holder: str, now: float) -> bool | str | Saved:
    """As `_claim`, but for who is answering it."""
    db.execute("DELETE FROM idempotent WHERE at < ?", (now - DAY,))
    found = db.execute("SELECT body, holder, status, headers, reply FROM idempotent WHERE key = ? AND name = ?", key).fetchone()
    if found is None:
        db.execute("INSERT INTO idempotent (key, name, body, holder, at) VALUES (?, ?, ?, ?, ?)", (*key, digest, holder, now))
        return True
    body, by, status, headers, reply = found
    if body != digest:
        return False
    return str(by) if status is None else Saved(status, orjson.loads(headers), reply)


def _take_over(db: sqlite3.Connection, key: tuple[str, str], gone: str, holder: str) -> bool | None:
    taken = db.execute("UPDATE idempotent SET holder = ? WHERE key = ? AND name = ? AND holder = ? AND status IS NULL", (holder, *key, gone))
    return True if taken.rowcount else None
