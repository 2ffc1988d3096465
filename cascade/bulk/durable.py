"""The output of `cascade run`: a projection of its journal, in the order of the input, growing as rows finish."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Literal

import orjson

from cascade import binding, records
from cascade.bulk.journal import SUFFIX, Entry, Journal, Standing
from cascade.bulk.output import line_of, write_all
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.rows import Row

InDoubt = Literal["hold", "retry"]


class Durable:
    """The rows file of a run with its journal, see `cascade.bulk.journal`; locked while it is open.

    `rows` gives the input anew at each call; `digests` are those of the policy (`binding.digests`), `policies` the labels of those it may fall
    back to. Rows in doubt are held, or asked again with `in_doubt` "retry"; `doubtful` rows are so for what another journal says of them. An
    input or policy that was edited since is refused, or with `force` what it concerns is asked anew. Raises InputError when the files cannot
    be ours or were written for something else.
    """

    def __init__(self, path: str, policy: str, rows: Callable[[], Iterable[Row]], *, digests: Mapping[str, str] | None = None,
                 policies: Collection[str] = (), in_doubt: InDoubt = "hold", force: bool = False, total: int = 0,
                 doubtful: Collection[str] = ()) -> None:
        self.path = Path(path)
        self.policy, self.digests, self.policies, self.retry = policy, digests, {policy, *policies}, in_doubt == "retry"
        self._pending: dict[int, Entry | bytes | None] = {}
        self._at: dict[str, int] = {}
        self._left: set[str] = set()  # rows of this run whose cost the journal has, though no result
        self._seen = self._next = 0
        self._position = 0  # bytes of the projection so far; up to `_size` of them stand in the output already
        journal = path + SUFFIX
        head = {"policy": policy, "digests": dict(digests or {})}
        self._file = self._open()
        try:
            there = [] if self._file is None or os.path.exists(journal) else list(self._taken_over())
            self.journal = Journal(journal, head, there)
        except BaseException:
            self._shut()
            raise
        for id in doubtful:
            entry = self.journal.entries.get(id)
            if entry is None or entry.status == "failed":
                self.journal.entries[id] = Entry("")
        try:
            self._match(rows, force, head)
            self.journal.note({"kind": "run", "pid": os.getpid(), "total": total})
            if self._file is not None:
                self._size = self._kept(rows)
                os.ftruncate(self._file, self._size)
        except OSError as err:
            self.close()
            raise InputError(f"{path}: cannot be written: {err.strerror}") from err
        except BaseException:
            self.close()
            raise

    def _open(self) -> int | None:
        """The output, which grows with the run; None when it does not."""
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as err:
            raise InputError(f"{self.path}: cannot be written: {err.strerror}") from err

    # ------------------------------------------------------------ what is there

    def _taken_over(self) -> Iterator[tuple[str, bytes]]:
        """The rows of an output that has no journal. A torn last line is passed over, and failed rows are, to be asked again."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                outcome = self._ours(number, line)
                if outcome.policy not in self.policies:
                    raise self._of_another(f"{self.path}:{number}", outcome.policy, "the policy has changed")
                if outcome.status not in ("failed", "in_doubt"):
                    yield str(outcome.id), line[:-1]

    def _ours(self, number: int, line: bytes) -> Outcome:
        try:
            return records.from_line(line)
        except InputError as err:
            raise InputError(f"{self.path}:{number}: not written by cascade run ({err}); choose another output file") from err

    def _of_another(self, where: str, then: str, why: str) -> InputError:
        return InputError(f"{where}: written by {then}, this is {self.policy}: {why}. Choose another output file, or ask all rows anew by --force")

    def _match(self, rows: Callable[[], Iterable[Row]], force: bool, head: Mapping[str, object]) -> None:
        """Refuse what was edited since; with `force` forget what it concerns."""
        journal = self.journal
        then = str(journal.head.get("policy"))
        if then not in self.policies:
            if journal.entries and not force:
                why = "; ".join(binding.changed(journal.head.get("digests", {}), self.digests or {})) or "the policy has changed"
                raise self._of_another(str(self.path), then, why)
            journal.note({"kind": "head", "format": 1, **head})
        if not journal.entries:
            return
        gone = {id for id, entry in journal.entries.items() if entry.status != "invalid"}
        for row in rows():
            entry = journal.entries.get(row.id)
            gone.discard(row.id)
            if entry is None or entry.digest in ("", digest_of(row)):
                continue
            if not force and entry.status != "invalid":
                raise InputError(f"input line {row.line}: row {row.id!r} has changed since it was asked. "
                                 "Choose another output file, or ask the changed rows anew by --force")
            del journal.entries[row.id]
        if gone and not force:
            raise InputError(f"row {min(gone)!r} was asked, and is not in the input any more ({len(gone)} such). "
                             "Choose another output file, or go on without them by --force")

    def _kept(self, rows: Callable[[], Iterable[Row]]) -> int:
        """The bytes of the output that stay: its lines as far as they are what the journal says."""
        size = 0
        with self.path.open("rb") as file:
            expected = (self._line(row) for row in rows())
            for number, line in enumerate(file, 1):
                if line != next(expected, None):
                    if line.endswith(b"\n"):
                        self._ours(number, line)
                    break
                size += len(line)
        return size

    def _line(self, row: Row) -> bytes | None:
        entry = self.journal.entries.get(row.id)
        if entry is None or entry.status == "failed":
            return None
        if not entry.size:
            return None if self.retry else self._held(row)
        return self.journal.line(entry) + b"\n"

    def _held(self, row: Row) -> bytes:
        return records.to_line(self._doubt(row)) + b"\n"

    def _doubt(self, row: Row) -> Outcome:
        return Outcome(self.policy, "in_doubt", cost_usd=None, id=row.id,
                       error="asked when the run was cut off, so it may have been paid; --in-doubt retry asks it again")

    def holds(self, row: Row) -> bool:
        """Whether the row needs no call."""
        return self._line(row) is not None

    def standing(self) -> Standing:
        """How the run stands."""
        return self.journal.standing()

    # ------------------------------------------------------------ the run

    def before(self, row: Row) -> Outcome | None:
        """What the journal has for this row, in the order of the input; None when it is to be asked."""
        at, self._seen = self._seen, self._seen + 1
        entry = self.journal.entries.get(row.id)
        line = self._line(row)
        if line is None:
            self._at[row.id] = at
            return None
        self._pending[at] = entry if entry is not None and entry.size else line
        self._project()
        return records.from_line(line)

    async def begin(self, row: Row) -> None:
        """The intent is on disk when this returns. Raises InputError when it is not: then the row must not be asked."""
        await self.journal.intend(row.id, digest_of(row))
        self._left.discard(row.id)

    def again(self, outcome: Outcome) -> bool:
        """Whether a row that is there is to be asked again."""
        return outcome.status == "failed"

    def leave(self, row: Row, outcome: Outcome) -> None:
        """The row stays to be done; what was paid for it is kept."""
        self.journal.left(row.id, outcome.cost_usd)
        self._left.add(row.id)

    def write(self, outcome: Outcome, row: Row) -> None:
        """The result goes into the journal, and into the output when all rows before it have theirs. Raises InputError when a disk is full."""
        if row.id in self._at:
            asked = self.journal.entries.get(row.id)
            digest = digest_of(row) if asked is None else asked.digest
            cost = Decimal(0) if row.id in self._left else outcome.cost_usd
            entry = self.journal.result(row.id, digest, outcome.status, cost, line_of(outcome, row, self.digests))
            self._pending[self._at.pop(row.id)] = entry
        self._project()

    def conclude(self) -> None:
        """Rows that stay to be done hold up no others: all that is known goes into the output."""
        for at in self._at.values():
            self._pending[at] = None
        self.journal.flush()
        self._project()

    def _project(self) -> None:
        """What the journal's file holds goes into the output, as far as no row before it is awaited."""
        if not self.journal.flushed:
            return
        lines = []
        upto = self._next
        while upto in self._pending:
            item = self._pending[upto]
            if item is not None:
                lines.append(item if isinstance(item, bytes) else self.journal.line(item) + b"\n")
            upto += 1
        text = b"".join(lines)
        fresh = text[max(0, self._size - self._position) :]
        assert self._file is not None
        try:
            write_all(self._file, fresh)
        except OSError as err:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise InputError(f"{self.path}: cannot be written: {err.strerror}") from err
        self._position += len(text)
        self._size = max(self._size, self._position)
        for at in range(self._next, upto):
            del self._pending[at]
        self._next = upto

    def close(self) -> None:
        """Both files, and the lock."""
        self._shut()
        self.journal.close()

    def _shut(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.fdatasync(self._file)
            os.close(self._file)


def digest_of(row: Row) -> str:
    """What a row asks, in short: 16 hexadecimal digits of its inputs, or of what is wrong with it."""
    text = row.problem.encode() if row.problem else orjson.dumps(row.inputs, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]
