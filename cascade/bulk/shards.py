"""A run's rows in blocks that follow one another, each a durable output of its own in OUT.shards/, and what they come to. Knows no Ray."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cascade import records
from cascade.bulk import journal
from cascade.bulk.journal import Standing
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.rows import Row
from cascade.summary import plus

SUFFIX = ".shards"
FORMAT = 1
MOST = 1000
"""Rows of a block, at most: as many as a worker gets at a time."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A block of rows, the first of them number `first` of the input, and the file of its output. Of the rows from `asked` on only those are
    wanted that have an answer already."""

    path: str
    first: int
    rows: tuple[Row, ...]
    asked: int

    @property
    def name(self) -> str:
        """Which rows these are, for people: the first is row 1."""
        return f"rows {self.first + 1} to {self.first + len(self.rows)}"


class Shards:
    """The folder of the shards of `output`, locked while it is open, for an input of `total` rows.

    A row's block follows from its number: blocks are as long as the first run made them, so that one with another number of workers goes on in the
    same files. Raises InputError when the output is no run's of this kind, or another one writes it.
    """

    def __init__(self, output: str, total: int, workers: int, force: bool = False) -> None:
        self.output, self.total = Path(output), total
        self.folder = Path(output + SUFFIX)
        if not self.folder.exists() and (self.output.exists() or os.path.exists(output + journal.SUFFIX)):
            raise InputError(f"{output}: begun without --engine ray; go on without it, or choose another output")
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY)
        except OSError as err:
            raise InputError(f"{output}: cannot be written: {err.strerror}") from err
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            plan = _plan(self.folder)
            self.rows: int = plan["rows"] if plan else min(MOST, -(-total // workers))
            self._note({"format": FORMAT, "rows": self.rows, "total": total, "pid": os.getpid()})
            self._no_more_than(force)
        except BaseException as err:
            os.close(self._lock)
            if isinstance(err, BlockingIOError):
                pid = (_plan(self.folder) or {}).get("pid", "unknown")
                raise InputError(f"{output}: locked by pid {pid}: another run is writing it") from err
            if isinstance(err, OSError):
                raise InputError(f"{output}: cannot be written: {err.strerror}") from err
            raise

    def _note(self, plan: dict[str, int]) -> None:
        beside = self.folder / "plan.new"
        with beside.open("w") as file:
            json.dump(plan, file)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self.folder / "plan.json")
        os.fsync(self._lock)

    def _no_more_than(self, force: bool) -> None:
        """Refuse an input that has lost whole blocks."""
        beyond = [path for path in _journals(self.folder) if int(path.name.partition(".")[0]) * self.rows >= self.total]
        if beyond and not force:
            raise InputError(f"{self.output}: rows from number {self.total + 1} on were asked, and are not in the input any more. "
                             "Choose another output file, or go on without them by --force")

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return -(-self.total // self.rows)

    def path(self, number: int) -> Path:
        """The output of a block."""
        return self.folder / f"{number:06d}.jsonl"

    def split(self, rows: Iterable[Row], asked: int) -> Iterator[Shard]:
        """The blocks of the input; of those after its first `asked` rows only what was begun."""
        there = iter(rows)
        for number in range(self.count):
            first = number * self.rows
            block = tuple(islice(there, self.rows))
            if first < asked or os.path.exists(f"{self.path(number)}{journal.SUFFIX}"):
                yield Shard(os.path.abspath(self.path(number)), first, block, max(0, min(asked - first, len(block))))

    def merge(self) -> Iterator[Outcome]:
        """The outcomes of all blocks, one after the other; when the last was taken, they are in the output, all at once."""
        beside = self.output.with_name(self.output.name + ".new")
        try:
            with beside.open("wb") as out:
                for number in range(self.count):
                    for line in self._lines(number):
                        out.write(line)
                        yield records.from_line(line)
                out.flush()
                os.fsync(out.fileno())
            beside.rename(self.output)
        except OSError as err:
            raise InputError(f"{self.output}: cannot be written: {err.strerror}") from err

    def _lines(self, number: int) -> Iterator[bytes]:
        """The whole lines of a block; the last may be torn, when its worker died and no other took its place."""
        if self.path(number).exists():
            with self.path(number).open("rb") as file:
                yield from (line for line in file if line.endswith(b"\n"))

    def close(self) -> None:
        """Give the lock back. A folder in which nothing was begun goes."""
        if not _journals(self.folder):
            with suppress(OSError):
                (self.folder / "plan.json").unlink()
                self.folder.rmdir()
        os.close(self._lock)


def are_there(output: str) -> bool:
    """Whether this output was begun in shards."""
    return os.path.isdir(output + SUFFIX)


def standing(output: str) -> Standing:
    """How the run stands, running or not."""
    folder = Path(output + SUFFIX)
    plan = _plan(folder) or {}
    found = Standing(total=plan.get("total", 0), pid=plan.get("pid"))
    for path in _journals(folder):
        one = journal.standing(path)
        found.policy = found.policy or one.policy
        found.done, found.failed, found.asked_again = found.done + one.done, found.failed + one.failed, found.asked_again + one.asked_again
        found.in_doubt += one.in_doubt
        found.spent_usd = plus(found.spent_usd, one.spent_usd)
    return found


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*.jsonl{journal.SUFFIX}"))


def _plan(folder: Path) -> dict[str, int] | None:
    """What the first run laid down; None before it did."""
    path = folder / "plan.json"
    try:
        plan: dict[str, int] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise InputError(f"{path}: cannot be read: {err}") from err
    if plan.get("format") != FORMAT:
        raise InputError(f"{path}: written by another version of cascade (format {plan.get('format')!r})")
    return plan
