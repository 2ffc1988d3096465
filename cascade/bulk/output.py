"""A rows file without a journal, as `cascade record` writes it: appended to by whole lines, gone on with from what stands in it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from cascade import binding, recording, records
from cascade.decide import latest
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.recording import UNKNOWN, Recording
from cascade.rows import Row
from cascade.types import Failed


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

    def before(self, row: Row) -> Outcome | None:
        """What stands there for this row; None when it is to be asked."""
        return self.finished.get(row.id)

    async def begin(self, row: Row) -> None:
        """A recording is data, and asked again where it was cut off: nothing is kept before the call."""

    def leave(self, row: Row, outcome: Outcome) -> None:
        """The row stays to be done, and is not in the file."""

    def conclude(self) -> None:
        """Every row is written as it is done."""

    def _replace(self, text: bytes) -> None:
        """Put `text` in the file's place at once; the lock moves to the new file before the old one goes."""
        beside = self.path.with_name(self.path.name + ".new")
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(file, text)
        os.fsync(file)
        beside.rename(self.path)
        os.close(self._file)
        self._file = file

    def write(self, outcome: Outcome, row: Row | None = None) -> None:
        """Append one row; `row` is the request it answers. Raises InputError when the disk does not take it; then the file ends with a whole row."""
        size = os.fstat(self._file).st_size
        try:
            write_all(self._file, line_of(outcome, row, self.digests) + b"\n")
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


def line_of(outcome: Outcome, row: Row | None, digests: Mapping[str, str] | None) -> bytes:
    """The row of an outcome; with `digests` that of a recording or shadow holds its inputs and gold too."""
    if row is None or digests is None or outcome.mode not in ("record", "shadow"):
        return records.to_line(outcome)
    return recording.to_line(Recording(outcome, row.inputs, UNKNOWN if row.gold is None else row.gold, digests))


def write_all(file: int, text: bytes | bytearray) -> None:
    """Every byte of it."""
    written = os.write(file, text)
    while written < len(text):
        written += os.write(file, text[written:])
