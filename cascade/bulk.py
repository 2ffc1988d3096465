"""Many requests: JSONL rows in, JSONL rows out, each written whole or not at all; the same command again goes on where it stopped."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cascade import binding, recording, records
from cascade.decide import latest
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.recording import UNKNOWN, Recording
from cascade.rows import Row
from cascade.types import Failed

Answerer = Callable[[Row], Awaitable[Outcome]]
OUTAGE = 20
"""So many failed requests in a row stop a run: the provider is down, and the rest would fail as well."""


@dataclass
class Run:
    """How a run is going. `stopped` says why it ended early; None when every row was asked."""

    policy: str
    total: int
    done: list[Outcome] = field(default_factory=list)
    before: int = 0
    stopped: str | None = None
    configuration: bool = False
    failed_in_a_row: int = 0

    def add(self, outcome: Outcome) -> None:
        self.done.append(outcome)


class Output:
    """The rows file of a run: locked while it is open, appended to by whole lines. Raises InputError when it cannot be ours.

    With `digests` (see `binding`) the rows of shadows are written as recordings. `policies` are the labels that its rows may carry beside
    `policy`: those of the steps that it falls back to.
    """

    command = "cascade run"

    def __init__(self, path: str, policy: str, digests: Mapping[str, str] | None = None, policies: Collection[str] = ()) -> None:
        self.path = Path(path)
        self.digests = digests
        self.policies = {policy, *policies}
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as err:
            raise InputError(f"{path}: cannot be written: {err.strerror}") from err
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(self._file)
            raise InputError(f"{path}: another run is writing this file") from err
        try:
            self.finished = self._read(policy)
        except InputError:
            self.close()
            raise

    def _read(self, policy: str) -> dict[str, Outcome]:
        """The rows that are there. A torn last line is cut off; failed rows are dropped, to be asked again."""
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        finished: dict[str, Outcome] = {}
        kept: list[bytes] = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                outcome = self._outcome(line)
            except InputError as err:
                raise InputError(f"{self.path}:{number}: not written by {self.command} ({err}); choose another output file") from err
            if why := self._of_another(line, outcome, policy):
                raise InputError(f"{self.path}:{number}: written by {outcome.policy}, this is {policy}: {why}. "
                                 "Choose another output file, or remove this one to ask all rows anew")
            if not self.again(outcome):
                finished[str(outcome.id)] = outcome
                kept.append(line + b"\n")
        new = b"".join(kept)
        if new != text:
            self._replace(new)
        return finished

    def _outcome(self, line: bytes) -> Outcome:
        return records.from_line(line)

    def _of_another(self, line: bytes, outcome: Outcome, policy: str) -> str | None:
        """Why a row that is there does not belong to this policy."""
        return None if outcome.policy in self.policies else "the policy has changed"

    def again(self, outcome: Outcome) -> bool:
        """Whether a row that is there is to be asked again."""
        return outcome.status == "failed"

    def _line(self, outcome: Outcome, row: Row | None) -> bytes:
        if row is None or self.digests is None or outcome.mode not in ("record", "shadow"):
            return records.to_line(outcome)
        return recording.to_line(Recording(outcome, row.inputs, UNKNOWN if row.gold is None else row.gold, self.digests))

    def _replace(self, text: bytes) -> None:
        """Put `text` in the file's place at once; the lock moves to the new file before the old one goes."""
        beside = self.path.with_name(self.path.name + ".new")
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_all(file, text)
        os.fsync(file)
        beside.rename(self.path)
        os.close(self._file)
        self._file = file

    def write(self, outcome: Outcome, row: Row | None = None) -> None:
        """Append one row; `row` is the request it answers. Raises InputError when the disk does not take it; then the file ends with a whole row."""
        size = os.fstat(self._file).st_size
        try:
            _write_all(self._file, self._line(outcome, row) + b"\n")
        except OSError as err:
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise InputError(f"{self.path}: cannot be written: {err.strerror}") from err

    def close(self) -> None:
        os.close(self._file)


class Trails(Output):
    """The rows file of `cascade record`: it belongs to a policy as long as its parts are the same, thresholds and prices aside."""

    command = "cascade record"

    def _outcome(self, line: bytes) -> Outcome:
        outcome = records.from_line(line)
        if outcome.mode is None and outcome.status != "invalid":
            recording.from_line(line)  # says what is missing
        return outcome

    def _of_another(self, line: bytes, outcome: Outcome, policy: str) -> str | None:
        assert self.digests is not None, "recordings are bound"
        if outcome.mode is None:
            return None
        then = recording.from_line(line).digests
        return "; ".join(binding.changed(then, self.digests)) or None

    def again(self, outcome: Outcome) -> bool:
        """A recording without the last tier's answer, because its provider failed, holds nothing to compare with."""
        return outcome.status == "failed" or isinstance(latest(outcome.trail), Failed)


def _write_all(file: int, text: bytes) -> None:
    while text:
        text = text[os.write(file, text) :]


async def run(rows: Sequence[Row], answer: Answerer, output: Output, policy: str, *, concurrency: int,
              stop: asyncio.Event, told: Callable[[Run], object] = lambda _: None) -> Run:
    """Answer the rows that `output` does not hold yet, `concurrency` at a time, and write each as it is done.

    Set `stop` to end early: what is in flight is finished and written. `told` hears after each row.
    Raises InputError when the output cannot be written; MissingRecording ends the run.
    """
    state = Run(policy, len(rows))
    todo = []
    for row in rows:
        if row.id in output.finished:
            state.before += 1
            state.add(output.finished[row.id])
        else:
            todo.append(row)
    told(state)
    queue = iter(todo)

    async def work() -> None:
        for row in queue:
            if stop.is_set() or state.stopped:
                state.stopped = state.stopped or "interrupted"
                return
            outcome = await _one(row, answer, policy)
            if not _ends_the_run(state, outcome, output.again(outcome)):
                output.write(outcome, row)
                state.add(outcome)
                told(state)

    await gather(work() for _ in range(max(1, min(concurrency, len(todo)))))
    return state


async def gather(jobs: Iterable[Awaitable[None]]) -> None:
    """Run all; the first error cancels the others and is raised as itself, not in a group."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _one(row: Row, answer: Answerer, policy: str) -> Outcome:
    if row.problem:
        return Outcome(policy, "invalid", error=row.problem, id=row.id)
    try:
        return replace(await answer(row), id=row.id)
    except InputError as err:
        return Outcome(policy, "invalid", error=str(err), id=row.id)


def _ends_the_run(state: Run, outcome: Outcome, failed: bool) -> bool:
    """Whether this outcome is about the run and not about its row: then the row stays to be done."""
    kind = (outcome.error or "").partition(":")[0]
    if outcome.status in ("failed", "flagged") and kind in ("configuration", "run_budget"):
        state.stopped = state.stopped or outcome.error
        state.configuration = state.configuration or kind == "configuration"
        return True
    state.failed_in_a_row = state.failed_in_a_row + 1 if failed else 0
    if state.failed_in_a_row >= OUTAGE:
        state.stopped = state.stopped or f"{OUTAGE} requests in a row failed, the last one so: {outcome.error}"
    return False
