"""The journal of a run: what was asked, on disk before the call leaves, and what came of it. A line is a crc, a space and JSON.

Records: `head` (policy and digests of its parts) · `run` (pid, number of rows) · `intent` (a row is about to be asked) · `result` (the whole
row) · `left` (asked, but the row stays to be done: the run's money or configuration ended it). A row with an intent and no result is in doubt:
it may have been paid. One after another, appended; a torn tail is cut off, damage before it is refused.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import orjson

from cascade import records
from cascade.bulk.output import write_all
from cascade.errors import InputError
from cascade.summary import plus
from cascade.types import Json

FORMAT = 1
SUFFIX = ".journal"
_ROW = b',"row":'
"""Begins a result's row; the keys before it hold plain values, and within a JSON text the quotes would be escaped."""


class Locked(InputError):
    """Another run has the journal."""


@dataclass(slots=True)
class Entry:
    """What the journal knows of a row: `digest` of its inputs ("" for a row taken over), and where its result stands (`size` 0: in doubt)."""

    digest: str
    at: int = 0
    size: int = 0
    status: str = ""


@dataclass
class Standing:
    """How a run stands. `spent_usd` is all that was paid for rows whose cost is known, failed ones and those asked again too (None as soon as
    one had no price); what rows in doubt cost nobody knows. `asked_again` counts rows that were in doubt and asked once more."""

    policy: str = ""
    total: int = 0
    done: int = 0
    failed: int = 0
    in_doubt: tuple[str, ...] = ()
    spent_usd: Decimal | None = Decimal(0)
    asked_again: int = 0
    pid: int | None = None

    @property
    def to_do(self) -> int:
        """Rows without an answer: not asked yet, or failed."""
        return max(0, self.total - self.done - len(self.in_doubt))


class Journal:
    """The journal of one output, locked while it is open. Raises InputError when it is locked, damaged or cannot be written."""

    def __init__(self, path: str, head: Mapping[str, Json], rows: Iterable[tuple[str, bytes]] = ()) -> None:
        """`head` begins a new journal, with the (id, line) of `rows` that stand in the output already."""
        self.path = Path(path)
        self.file = self._open(head, rows)
        self.head: dict[str, Json] = {}
        self.entries: dict[str, Entry] = {}
        self.spent: Decimal | None = Decimal(0)
        self.asked_again = self.total = 0
        self._text = bytearray()  # records that the next write takes
        self._waiting: list[asyncio.Future[None]] = []
        self._group: asyncio.Task[None] | None = None
        try:
            self._end = os.fstat(self.file).st_size
            end = 0
            for at, record in _records(self.path):
                self._take(at, record)
                end = at + len(record)
            if end != self._end:
                os.ftruncate(self.file, end)
                self._end = end
        except OSError as err:
            self.close()
            raise InputError(f"{self.path}: cannot be read: {err.strerror}") from err
        except InputError:
            self.close()
            raise

    def _open(self, head: Mapping[str, Json], rows: Iterable[tuple[str, bytes]]) -> int:
        try:
            if not self.path.exists():
                self._begin(head, rows)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND)
        except OSError as err:
            raise InputError(f"{str(self.path).removesuffix(SUFFIX)}: cannot be written: {err.strerror}") from err
        try:
            self._lock(file)
        except InputError:
            os.close(file)
            raise
        return file

    def _begin(self, head: Mapping[str, Json], rows: Iterable[tuple[str, bytes]]) -> None:
        """A journal comes into being whole: a crash in between leaves none, and the output as it was."""
        beside = self.path.with_name(self.path.name + ".new")
        file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(file)
            if self.path.exists():
                return  # another run was faster
            os.ftruncate(file, 0)
            write_all(file, _framed({"kind": "head", "format": FORMAT, **head}))
            for id, line in rows:
                outcome = records.from_line(line)
                write_all(file, _result(id, "", outcome.status, outcome.cost_usd, line))
            os.fsync(file)
            beside.rename(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            os.close(file)

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            pid = standing(self.path).pid if self.path.exists() else None
            raise Locked(f"{str(self.path).removesuffix(SUFFIX)}: locked by pid {pid or 'unknown'}: another run is writing it") from err

    def _take(self, at: int, record: bytes) -> None:
        value = _value(record)
        kind, id = value["kind"], value.get("id", "")
        if kind == "head":
            if value.get("format") != FORMAT:
                raise InputError(f"{self.path}: written by another version of cascade (format {value.get('format')!r})")
            self.head, self.entries = value, {}
        elif kind == "run":
            self.total = value["total"]
        elif kind == "intent":
            self.asked_again += id in self.entries and not self.entries[id].size
            self.entries[id] = Entry(value["digest"])
        elif kind == "left":
            self.entries.pop(id, None)
            self._paid(value)
        elif kind == "result":
            start = record.index(_ROW) + len(_ROW)
            self.entries[id] = Entry(value["digest"], at + start, len(record) - start - 2, value["status"])
            self._paid(value)

    def _paid(self, value: Mapping[str, Json]) -> None:
        self.spent = plus(self.spent, None if value["cost_usd"] is None else Decimal(value["cost_usd"]))

    # ------------------------------------------------------------ writing

    def note(self, record: Mapping[str, Json]) -> None:
        """Append a record and have it on disk."""
        line = _framed(record)
        self._append(line)
        self._synced()
        self._take(0, line)

    async def intend(self, id: str, digest: str) -> None:
        """On disk when it returns; rows that come at once share one sync. Raises InputError when the disk does not take it: then do not call."""
        self._text += _framed({"kind": "intent", "id": id, "digest": digest})
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._group is None:
            self._group = asyncio.ensure_future(self._groups())
        try:
            await turn
        except InputError:
            self._text += _framed({"kind": "left", "id": id, "cost_usd": "0"})  # it may be on disk all the same, and no call was made
            with suppress(InputError):
                self.flush()
            raise
        self.entries[id] = Entry(digest)

    async def _groups(self) -> None:
        """One write and sync after another, each for all that came while the one before it was on its way."""
        await asyncio.sleep(0)
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            failed: InputError | None = None
            try:
                self.flush()
                await asyncio.get_running_loop().run_in_executor(None, self._synced)
            except InputError as err:
                failed = err
            for turn in waiting:
                if not turn.done():
                    turn.set_exception(failed) if failed else turn.set_result(None)
        self._group = None

    def _synced(self) -> None:
        try:
            os.fdatasync(self.file)
        except OSError as err:
            raise InputError(f"{self.path}: cannot be written: {err.strerror}") from err

    def result(self, id: str, digest: str, status: str, cost: Decimal | None, line: bytes) -> Entry:
        """A row's result: written at once, or with the intents that wait (its asker's next one too, so that no more rows can be in doubt than
        are in flight). The next sync, or the end of the run, has it on disk. Raises InputError when the disk does not take it."""
        record = _result(id, digest, status, cost, line)
        at = self._end + len(self._text)
        self._add(record)
        entry = self.entries[id] = Entry(digest, at + len(record) - len(line) - 2, len(line), status)
        self.spent = plus(self.spent, cost)
        return entry

    def left(self, id: str, cost: Decimal | None) -> None:
        """The row stays to be done; what it cost is kept."""
        self._add(_framed({"kind": "left", "id": id, "cost_usd": _text(cost)}))
        self.entries.pop(id, None)
        self.spent = plus(self.spent, cost)

    def _add(self, record: bytes) -> None:
        if self._waiting:
            self._text += record
        else:
            self._append(record)

    def _append(self, record: bytes) -> None:
        """Now, or not at all."""
        before = len(self._text)
        self._text += record
        try:
            self.flush()
        except InputError:
            del self._text[before:]
            raise

    @property
    def flushed(self) -> bool:
        """Whether all results are in the file."""
        return not self._text

    def flush(self) -> None:
        """Write all that waits, or nothing of it: then it waits on, and InputError is raised."""
        if not self._text:
            return
        try:
            if os.fstat(self.file).st_size != self._end:
                os.ftruncate(self.file, self._end)  # what an earlier failure could not take back
            write_all(self.file, self._text)
        except OSError as err:
            with suppress(OSError):
                os.ftruncate(self.file, self._end)
            raise InputError(f"{self.path}: cannot be written: {err.strerror}") from err
        self._end += len(self._text)
        self._text.clear()

    # ------------------------------------------------------------ reading

    def line(self, entry: Entry) -> bytes:
        """The row of a result, as it goes into the output, without the newline."""
        return os.pread(self.file, entry.size, entry.at)

    def in_doubt(self) -> tuple[str, ...]:
        """The ids of rows with an intent and no result."""
        return tuple(id for id, entry in self.entries.items() if not entry.size)

    def standing(self) -> Standing:
        """How the run stands."""
        return _standing(self, None)

    def close(self) -> None:
        """All results on disk, as far as it takes them."""
        with suppress(OSError, InputError):
            self.flush()
            os.fdatasync(self.file)
        os.close(self.file)


def standing(path: Path) -> Standing:
    """How the run of a journal stands, running or not: read without its lock. Raises InputError when there is none."""
    reader = Journal.__new__(Journal)
    reader.path, reader.head, reader.entries, reader.spent, reader.asked_again, reader.total = path, {}, {}, Decimal(0), 0, 0
    pid = None
    try:
        for at, record in _records(path):
            reader._take(at, record)
            if b'"kind":"run"' in record[:24]:
                pid = _value(record)["pid"]
    except OSError as err:
        raise InputError(f"{path}: {err.strerror}: no run of cascade has written here") from err
    return _standing(reader, pid)


def _standing(journal: Journal, pid: int | None) -> Standing:
    failed = sum(entry.status == "failed" for entry in journal.entries.values())
    done = sum(bool(entry.size) for entry in journal.entries.values()) - failed
    return Standing(journal.head.get("policy", ""), journal.total, done, failed, journal.in_doubt(), journal.spent, journal.asked_again, pid)


def _framed(record: Mapping[str, Json]) -> bytes:
    return _sealed(records.dumps(dict(record)))


def _sealed(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _result(id: str, digest: str, status: str, cost: Decimal | None, line: bytes) -> bytes:
    front = records.dumps({"kind": "result", "id": id, "digest": digest, "status": status, "cost_usd": _text(cost)})
    return _sealed(front[:-1] + _ROW + line + b"}")


def _text(cost: Decimal | None) -> str | None:
    return None if cost is None else format(cost, "f")


def _sound(record: bytes) -> bool:
    return record.endswith(b"\n") and record[8:9] == b" " and record[:8] == b"%08x" % zlib.crc32(record[9:-1])


def _value(record: bytes) -> dict[str, Json]:
    """A record's values; of a result those before its row."""
    text = record[9:-1]
    start = text.find(_ROW) if text.startswith(b'{"kind":"result"') else -1
    value: dict[str, Json] = orjson.loads(text if start < 0 else text[:start] + b"}")
    return value


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, record) of each sound record; what follows the last of them is a torn tail. Raises InputError for damage before that."""
    at, torn = 0, 0
    with path.open("rb") as file:
        for number, record in enumerate(file, 1):
            if not _sound(record):
                torn = torn or number
            elif torn:
                raise InputError(f"{path}:{torn}: damaged: rows may be lost or paid twice. Choose another output, or move this journal away")
            else:
                yield at, record
            at += len(record)
    if torn == 1:
        raise InputError(f"{path}:1: not written by cascade run; choose another output file")
