"""Rows into a pipe, each as it is done: nothing is kept, so nothing can be gone on with."""

from __future__ import annotations

import asyncio
import os
import select

from cascade import records
from cascade.bulk.journal import Standing
from cascade.outcome import Outcome
from cascade.rows import Row
from cascade.summary import plus

PIECE = 4096
"""Bytes that a pipe takes without blocking when it can be written to (POSIX: PIPE_BUF)."""
LOOK = 0.02
"""Seconds between two looks at a pipe that is full."""


class Stream:
    """The rows of a run, written to `file`. A reader that is slow holds up what is asked next; one that is gone is a BrokenPipeError, at the
    latest before the next row is asked."""

    def __init__(self, file: int, policy: str, total: int) -> None:
        self.file = file
        self._standing = Standing(policy, total)
        self._text = bytearray()
        self._state = select.poll()
        self._state.register(file, select.POLLOUT)

    def before(self, row: Row) -> Outcome | None:
        """Every row is to be asked."""
        return None

    def holds(self, row: Row) -> bool:
        """None is held."""
        return False

    async def begin(self, row: Row) -> None:
        """Returns when what was answered is on its way to the reader."""
        self._drain()
        while self._text:
            await asyncio.sleep(LOOK)
            self._drain()

    def again(self, outcome: Outcome) -> bool:
        """Whether the row has failed."""
        return outcome.status == "failed"

    def leave(self, row: Row, outcome: Outcome) -> None:
        """The row stays to be done; what was paid for it is kept."""
        self._standing.spent_usd = plus(self._standing.spent_usd, outcome.cost_usd)

    def write(self, outcome: Outcome, row: Row) -> None:
        """The row, as soon as the reader takes it."""
        self._text += records.to_line(outcome) + b"\n"
        self._standing.spent_usd = plus(self._standing.spent_usd, outcome.cost_usd)
        self._drain()

    def conclude(self) -> None:
        """All that is left, however long the reader takes."""
        while self._text:
            del self._text[: os.write(self.file, self._text[:PIECE])]

    def _drain(self) -> None:
        """What the reader takes now."""
        while found := self._state.poll(0):
            if found[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                raise BrokenPipeError
            if not self._text:
                return
            del self._text[: os.write(self.file, self._text[:PIECE])]

    def standing(self) -> Standing:
        """What was spent."""
        return self._standing

    def close(self) -> None:
        """The pipe is not ours to close."""
