"""The journal of a run by batches: which calls are in which batch, and what came of each. The file is a `log`; calls go by their key.

Records: `head` · `run` (pid) · `wave` (these calls are about to become a batch) · `batch` (its id) · `reply` (the body of one) · `fault` (a
call without an answer) · `end` (all that the batch gave is here) · `void` (a wave that the provider never took) · `asked` (a call is about
to be made live) · `answer` (of a live one) · `left` (a live one that cost nothing and may be made again) · `forget` (calls of rows that
are asked anew). An answer here is never asked for again; `row` is the one that pays for the call, others have it for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import orjson

from cascade import records
from cascade.bulk.journal import SUFFIX as ROWS
from cascade.bulk.journal import Standing, standing
from cascade.bulk.log import Log, framed, sealed, sound
from cascade.errors import InputError
from cascade.summary import plus
from cascade.types import Json, Retry

SUFFIX = ".batches"
_VALUE = b',"value":'
"""Begins what a reply or an answer says; the keys before it hold plain values."""


class Kept(NamedTuple):
    """An answer: the row that paid for it, and where it stands. `bad`: a reply that cannot be read as one."""

    row: str
    live: bool
    bad: bool
    at: int
    size: int


class Fault(NamedTuple):
    """A call without an answer: an error's kind and reason. `final`: it is not asked again. `wave` is empty for a live call, whose
    attempts before this one are `retries`."""

    row: str
    wave: str
    error: str
    reason: str
    final: bool
    billed: bool
    cost_usd: Decimal | None
    retries: tuple[Retry, ...] = ()


@dataclass(slots=True)
class Wave:
    """Calls that are a batch, or about to become one (`id` None). `keys` -> rows. `since`: the newest batch there was before it."""

    name: str
    provider: str
    model: str
    keys: Mapping[str, str]
    since: str | None
    id: str | None = None


@dataclass
class Flights:
    """How a run by batches stands: waves that have not ended, rows with a live call in doubt, what was spent (None: something had no
    price), how many calls in doubt were made again, and whether anything was asked at all."""

    waves: tuple[Wave, ...] = ()
    doubtful: frozenset[str] = frozenset()
    spent_usd: Decimal | None = Decimal(0)
    asked_again: int = 0
    begun: bool = False

    def added_to(self, rows: Standing) -> Standing:
        """How the whole run stands: what was spent is known here, call by call."""
        doubtful = tuple(dict.fromkeys((*rows.in_doubt, *sorted(self.doubtful))))
        return replace(rows, in_doubt=doubtful, spent_usd=self.spent_usd, asked_again=rows.asked_again + self.asked_again)


class BatchJournal(Log):
    """The batches of one output, locked while it is open. Raises InputError when it is locked, damaged or cannot be written."""

    def __init__(self, output: str) -> None:
        """What a run of another engine spent on this output is carried over."""
        self._begin_anew()
        path, rows = Path(output + SUFFIX), Path(output + ROWS)
        before = standing(rows).spent_usd if rows.exists() and not path.exists() else Decimal(0)
        super().__init__(path, output, {"spent_usd": _text(before)})

    def _begin_anew(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.waves: dict[str, Wave] = {}
        self.asked: dict[str, str] = {}
        self.count = self.asked_again = 0
        self.spent: Decimal | None = Decimal(0)

    def take(self, at: int, record: bytes) -> None:
        value, start = _value(record)
        kind = value["kind"]
        if kind == "head":
            self.spent = _dollars(value["spent_usd"])
        elif kind == "wave":
            self.count += 1
            self.waves[value["wave"]] = Wave(value["wave"], value["provider"], value["model"], value["keys"], value["since"])
        elif kind == "batch":
            self.waves[value["wave"]].id = value["id"]
        elif kind in ("end", "void"):
            self.waves.pop(value["wave"], None)
        elif kind in ("reply", "answer"):
            self.asked.pop(value["key"], None)
            self.kept[value["key"]] = Kept(value["row"], kind == "answer", value["bad"], at + start, len(record) - start - 2)
            self._paid(value)
        elif kind == "fault":
            self.asked.pop(value["key"], None)
            fault = Fault(value["row"], value["wave"], value["error"], value["reason"], value["final"], value["billed"],
                          _dollars(value["cost_usd"]), tuple(Retry(*retry) for retry in value["retries"]))  # fmt: skip
            self.faults.setdefault(value["key"], []).append(fault)
            self._paid(value)
        elif kind == "asked":
            self.asked_again += value["key"] in self.asked
            self.asked[value["key"]] = value["row"]
        elif kind == "left":
            self.asked.pop(value["key"], None)
        elif kind == "forget":
            for key in value["keys"]:
                self.faults.pop(key, None)
                self.kept.pop(key, None)

    def _paid(self, value: Mapping[str, Json]) -> None:
        self.spent = plus(self.spent, _dollars(value["cost_usd"]))

    # ------------------------------------------------------------ writing

    def wave(self, wave: Wave) -> None:
        """These calls are about to become a batch; on disk when it returns. Raises InputError when it is not: then it must not be begun."""
        self.note({"kind": "wave", "wave": wave.name, "provider": wave.provider, "model": wave.model, "keys": dict(wave.keys), "since": wave.since})

    def batch(self, wave: Wave, id: str) -> None:
        """The wave is this batch."""
        self.note({"kind": "batch", "wave": wave.name, "id": id})

    def end(self, wave: Wave) -> None:
        """All that the batch gave is here."""
        self.note({"kind": "end", "wave": wave.name})

    def void(self, wave: Wave) -> None:
        """The provider never took the wave."""
        self.note({"kind": "void", "wave": wave.name})

    async def ask(self, key: str, row: str) -> None:
        """A call is about to be made live; on disk when it returns. Raises InputError when it is not: then it must not be made."""
        record = framed({"kind": "asked", "key": key, "row": row})
        await self.on_disk(record)
        self.take(0, record)

    def left(self, key: str) -> None:
        """The live call cost nothing and may be made again."""
        self._add(framed({"kind": "left", "key": key}))

    def reply(self, key: str, row: str, body: Json, cost: Decimal | None, bad: bool) -> None:
        """A reply that came in a batch."""
        self._add(_with_value({"kind": "reply", "key": key, "row": row, "cost_usd": _text(cost), "bad": bad}, body))

    def answer(self, key: str, row: str, answer: Json, cost: Decimal | None) -> None:
        """The answer to a live call."""
        self._add(_with_value({"kind": "answer", "key": key, "row": row, "cost_usd": _text(cost), "bad": False}, answer))

    def fault(self, key: str, fault: Fault) -> None:
        """A call without an answer."""
        self._add(framed({"kind": "fault", "key": key, **fault._asdict(), "cost_usd": _text(fault.cost_usd)}))

    def forget(self, rows: Collection[str]) -> None:
        """What failed for these rows may be tried again; answers that can be read are kept."""
        keys = [key for key, faults in self.faults.items() if any(fault.row in rows for fault in faults)]
        keys += [key for key, kept in self.kept.items() if kept.bad and kept.row in rows]
        if keys:
            self.note({"kind": "forget", "keys": keys})

    def _add(self, record: bytes) -> None:
        self.take(self.append(record), record)

    # ------------------------------------------------------------ reading

    def value(self, kept: Kept) -> Json:
        """What a reply or an answer says."""
        return orjson.loads(self.read(kept.at, kept.size))

    def flights(self) -> Flights:
        """How the run stands."""
        begun = bool(self.count or self.asked or self.kept)
        return Flights(tuple(self.waves.values()), frozenset(self.asked.values()), self.spent, self.asked_again, begun)


def flights(output: str) -> Flights | None:
    """How the batches of an output stand, running or not; None when it was never written by batches. Raises InputError when that is damaged."""
    path = Path(output + SUFFIX)
    reader = BatchJournal.__new__(BatchJournal)
    reader.path = path
    reader._begin_anew()
    try:
        for at, record in sound(path):
            reader._take(at, record)
        return reader.flights()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise InputError(f"{path}: {err.strerror}") from err


def _with_value(front: Mapping[str, Json], value: Json) -> bytes:
    return sealed(records.dumps(dict(front))[:-1] + _VALUE + records.dumps(value) + b"}")


def _value(record: bytes) -> tuple[dict[str, Json], int]:
    """A record's values, and where what a reply or an answer says begins; that is not among them."""
    text = record[9:-1]
    start = text.find(_VALUE) if text.startswith((b'{"kind":"reply"', b'{"kind":"answer"')) else -1
    value: dict[str, Json] = orjson.loads(text if start < 0 else text[:start] + b"}")
    return value, start + 9 + len(_VALUE)


def _text(cost: Decimal | None) -> str | None:
    return None if cost is None else format(cost, "f")


def _dollars(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
