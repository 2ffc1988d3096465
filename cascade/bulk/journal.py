"""The journal of a run: what was asked, on disk before the call leaves, and what came of it. The file is a `log`.

Records: `head` (policy and digests of its parts) · `run` (pid, number of rows) · `intent` (a row is about to be asked) · `result` (the whole
row) · `left` (asked, but the row stays to be done: the run's money or configuration ended it). A row with an intent and no result is in doubt:
it may have been paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import orjson

from cascade import records
from cascade.bulk.log import Log, framed, sealed, sound
from cascade.errors import InputError
from cascade.summary import plus
from cascade.types import Json

SUFFIX = ".journal"
_ROW = b',"row":'
"""Begins a result's row; the keys before it hold plain values, and within a JSON text the quotes would be escaped."""


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


class Journal(Log):
    """The journal of one output, locked while it is open. Raises InputError when it is locked, damaged or cannot be written."""

    def __init__(self, path: str, head: Mapping[str, Json], rows: Iterable[tuple[str, bytes]] = ()) -> None:
        """`head` begins a new journal, with the (id, line) of `rows` that stand in the output already."""
        self.entries: dict[str, Entry] = {}
        self.spent: Decimal | None = Decimal(0)
        self.asked_again = self.total = 0
        there = (_taken_over(id, line) for id, line in rows)
        super().__init__(Path(path), path.removesuffix(SUFFIX), head, there)

    def take(self, at: int, record: bytes) -> None:
        value = _value(record)
        kind, id = value["kind"], value.get("id", "")
        if kind == "head":
            self.entries = {}
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

    async def intend(self, id: str, digest: str) -> None:
        """On disk when it returns; rows that come at once share one sync. Raises InputError when the disk does not take it: then do not call."""
        try:
            await self.on_disk(framed({"kind": "intent", "id": id, "digest": digest}))
        except InputError:
            self.later(framed({"kind": "left", "id": id, "cost_usd": "0"}))  # it may be on disk all the same, and no call was made
            raise
        self.entries[id] = Entry(digest)

    def result(self, id: str, digest: str, status: str, cost: Decimal | None, line: bytes) -> Entry:
        """A row's result: written at once, or with the intents that wait (its asker's next one too, so that no more rows can be in doubt than
        are in flight). The next sync, or the end of the run, has it on disk. Raises InputError when the disk does not take it."""
        record = _result(id, digest, status, cost, line)
        at = self.add(record)
        entry = self.entries[id] = Entry(digest, at + len(record) - len(line) - 2, len(line), status)
        self.spent = plus(self.spent, cost)
        return entry

    def left(self, id: str, cost: Decimal | None) -> None:
        """The row stays to be done; what it cost is kept."""
        self.add(framed({"kind": "left", "id": id, "cost_usd": _text(cost)}))
        self.entries.pop(id, None)
        self.spent = plus(self.spent, cost)

    # ------------------------------------------------------------ reading

    def line(self, entry: Entry) -> bytes:
        """The row of a result, as it goes into the output, without the newline."""
        return self.read(entry.at, entry.size)

    def in_doubt(self) -> tuple[str, ...]:
        """The ids of rows with an intent and no result."""
        return tuple(id for id, entry in self.entries.items() if not entry.size)

    def standing(self) -> Standing:
        """How the run stands."""
        return _standing(self, None)


def standing(path: Path) -> Standing:
    """How the run of a journal stands, running or not: read without its lock. Raises InputError when there is none."""
    reader = Journal.__new__(Journal)
    reader.path, reader.head, reader.entries, reader.spent, reader.asked_again, reader.total = path, {}, {}, Decimal(0), 0, 0
    pid = None
    try:
        for at, record in sound(path):
            reader._take(at, record)
            if record.startswith(b'{"kind":"run"', 9):
                pid = _value(record)["pid"]
    except OSError as err:
        raise InputError(f"{path}: {err.strerror}: no run of cascade has written here") from err
    return _standing(reader, pid)


def _standing(journal: Journal, pid: int | None) -> Standing:
    failed = sum(entry.status == "failed" for entry in journal.entries.values())
    done = sum(bool(entry.size) for entry in journal.entries.values()) - failed
    return Standing(journal.head.get("policy", ""), journal.total, done, failed, journal.in_doubt(), journal.spent, journal.asked_again, pid)


def _taken_over(id: str, line: bytes) -> bytes:
    outcome = records.from_line(line)
    return _result(id, "", outcome.status, outcome.cost_usd, line)


def _result(id: str, digest: str, status: str, cost: Decimal | None, line: bytes) -> bytes:
    front = records.dumps({"kind": "result", "id": id, "digest": digest, "status": status, "cost_usd": _text(cost)})
    return sealed(front[:-1] + _ROW + line + b"}")


def _text(cost: Decimal | None) -> str | None:
    return None if cost is None else format(cost, "f")


def _value(record: bytes) -> dict[str, Json]:
    """A record's values; of a result those before its row."""
    text = record[9:-1]
    start = text.find(_ROW) if text.startswith(b'{"kind":"result"') else -1
    value: dict[str, Json] = orjson.loads(text if start < 0 else text[:start] + b"}")
    return value
