"""A file of records, appended to and locked while it is open: what the journals stand on. A line is a crc, a space and JSON.

One record after another; what follows the last sound record is a torn tail and cut off, damage before it is refused. Knows no record but
`head`, which begins the file, and `run`, which tells the pid.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import orjson

from cascade import records
from cascade.bulk.output import write_all
from cascade.errors import InputError
from cascade.types import Json

FORMAT = 1


class Locked(InputError):
    """Another run has the file."""


class Log:
    """The file at `path`; `output` is what messages call it. Raises InputError when it is locked, damaged or cannot be written.

    `head` begins a new file, with the `first` records. Each record that is there is given to `take`.
    """

    def __init__(self, path: Path, output: str, head: Mapping[str, Json], first: Iterable[bytes] = ()) -> None:
        self.path, self.output = path, output
        self.head: dict[str, Json] = {}
        self._text = bytearray()  # records that the next write takes
        self._waiting: list[asyncio.Future[None]] = []
        self._group: asyncio.Task[None] | None = None
        self.file = self._open(head, first)
        try:
            self._end = os.fstat(self.file).st_size
            end = 0
            for at, record in sound(self.path):
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

    def take(self, at: int, record: bytes) -> None:
        """Learn from a record that stands at that offset."""
        raise NotImplementedError

    def _take(self, at: int, record: bytes) -> None:
        if record.startswith(b'{"kind":"head"', 9):
            self.head = orjson.loads(record[9:-1])
            if self.head.get("format") != FORMAT:
                raise InputError(f"{self.path}: written by another version of cascade (format {self.head.get('format')!r})")
        self.take(at, record)

    def _open(self, head: Mapping[str, Json], first: Iterable[bytes]) -> int:
        try:
            if not self.path.exists():
                self._begin(head, first)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND)
        except OSError as err:
            raise InputError(f"{self.output}: cannot be written: {err.strerror}") from err
        try:
            self._lock(file)
        except InputError:
            os.close(file)
            raise
        return file

    def _begin(self, head: Mapping[str, Json], first: Iterable[bytes]) -> None:
        """A log comes into being whole: a crash in between leaves none, and the output as it was."""
        beside = self.path.with_name(self.path.name + ".new")
        file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(file)
            if self.path.exists():
                return  # another run was faster
            os.ftruncate(file, 0)
            write_all(file, framed({"kind": "head", "format": FORMAT, **head}))
            for record in first:
                write_all(file, record)
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
            pid = running(self.path) if self.path.exists() else None
            raise Locked(f"{self.output}: locked by pid {pid or 'unknown'}: another run is writing it") from err

    # ------------------------------------------------------------ writing

    def note(self, record: Mapping[str, Json]) -> None:
        """Append a record and have it on disk."""
        line = framed(record)
        at = self.append(line)
        self.sync()
        self._take(at, line)

    async def on_disk(self, record: bytes) -> None:
        """Append a record; on disk when it returns, and those that come at once share one sync. Raises InputError when the disk does not take it."""
        self._text += record
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._group is None:
            self._group = asyncio.ensure_future(self._groups())
        await turn

    async def _groups(self) -> None:
        """One write and sync after another, each for all that came while the one before it was on its way."""
        await asyncio.sleep(0)
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            failed: InputError | None = None
            try:
                self.flush()
                await asyncio.get_running_loop().run_in_executor(None, self.sync)
            except InputError as err:
                failed = err
            for turn in waiting:
                if not turn.done():
                    turn.set_exception(failed) if failed else turn.set_result(None)
        self._group = None

    def sync(self) -> None:
        """All that was appended is on disk."""
        try:
            os.fdatasync(self.file)
        except OSError as err:
            raise InputError(f"{self.path}: cannot be written: {err.strerror}") from err

    def add(self, record: bytes) -> int:
        """Append a record at once, or with those that wait for their sync. The offset where it will stand."""
        if not self._waiting:
            return self.append(record)
        at = self._end + len(self._text)
        self._text += record
        return at

    def append(self, record: bytes) -> int:
        """Now, with all that waits, or not at all; the next sync has it on disk. The offset where it stands."""
        before = len(self._text)
        at = self._end + before
        self._text += record
        try:
            self.flush()
        except InputError:
            del self._text[before:]
            raise
        return at

    def later(self, record: bytes) -> None:
        """Append a record with the next write that succeeds; one is tried now."""
        self._text += record
        with suppress(InputError):
            self.flush()

    @property
    def flushed(self) -> bool:
        """Whether all records are in the file."""
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

    def read(self, at: int, size: int) -> bytes:
        """So many bytes from that offset."""
        return os.pread(self.file, size, at)

    def close(self) -> None:
        """All that was appended on disk, as far as it takes it."""
        with suppress(OSError, InputError):
            self.flush()
            os.fdatasync(self.file)
        os.close(self.file)


def framed(record: Mapping[str, Json]) -> bytes:
    """A record as it stands in the file."""
    return sealed(records.dumps(dict(record)))


def sealed(text: bytes) -> bytes:
    """JSON as a record."""
    return b"%08x %s\n" % (zlib.crc32(text), text)


def sound(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, record) of each sound record; what follows the last of them is a torn tail. Raises InputError for damage before that."""
    at, torn = 0, 0
    with path.open("rb") as file:
        for number, record in enumerate(file, 1):
            if not _is_sound(record):
                torn = torn or number
            elif torn:
                raise InputError(f"{path}:{torn}: damaged: rows may be lost or paid twice. Choose another output, or move this journal away")
            else:
                yield at, record
            at += len(record)
    if torn == 1:
        raise InputError(f"{path}:1: not written by cascade run; choose another output file")


def running(path: Path) -> int | None:
    """The pid of the run that wrote last."""
    pid: int | None = None
    for _, record in sound(path):
        if record.startswith(b'{"kind":"run"', 9):
            pid = orjson.loads(record[9:-1])["pid"]
    return pid


def _is_sound(record: bytes) -> bool:
    return record.endswith(b"\n") and record[8:9] == b" " and record[:8] == b"%08x" % zlib.crc32(record[9:-1])
