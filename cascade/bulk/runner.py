"""Rows answered, some at a time, each written as it is done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from cascade.bulk.outage import Outage
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.rows import Row
from cascade.summary import Tally

Answerer = Callable[[Row], Awaitable[Outcome]]
OUTAGE = 20
"""So many failed requests in a row stop a run: the provider is down, and the rest would fail as well."""
SUSPENDED = "suspended"
"""The kind of error of a row that was let go of, and stays to be done."""
TOLD = 10
"""So many invalid rows are told; of the rest only how many there are."""


class Rows(Protocol):
    """Where the rows of a run go: an `Output`, or a `Durable` one."""

    def before(self, row: Row) -> Outcome | None: ...
    async def begin(self, row: Row) -> None: ...
    def write(self, outcome: Outcome, row: Row) -> None: ...
    def leave(self, row: Row, outcome: Outcome) -> None: ...
    def again(self, outcome: Outcome) -> bool: ...
    def conclude(self) -> None: ...


@dataclass
class Run:
    """How a run is going. `stopped` says why it ended early; None when every row was asked. `done` is empty unless it is to `keep` them."""

    policy: str
    total: int
    keep: bool = True
    done: list[Outcome] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    invalid: list[str] = field(default_factory=list)
    alarms: int = 0
    before: int = 0
    stopped: str | None = None
    configuration: bool = False
    failed_in_a_row: int = 0

    def add(self, outcome: Outcome) -> None:
        self.tally.add(outcome)
        self.alarms += outcome.alarm is not None
        if outcome.status == "invalid" and len(self.invalid) < TOLD:
            self.invalid.append(str(outcome.error))
        if self.keep:
            self.done.append(outcome)


async def run(rows: Iterable[Row], answer: Answerer, output: Rows, policy: str, *, concurrency: int, stop: asyncio.Event | threading.Event,
              told: Callable[[Run], object] = lambda _: None, state: Run | None = None, outage: Outage | None = None) -> Run:
    """Answer the rows that `output` does not hold yet, `concurrency` at a time, and write each as it is done.

    Set `stop` to end early: what is in flight is finished and written. `told` hears after each row. A provider that goes down is waited for,
    see `Outage`; without one to wait for, OUTAGE failed rows in a row stop the run.
    A disk that does not take a row stops the run in the same way; it is tried once more at the end. Raises InputError when that fails too;
    MissingRecording ends the run.
    """
    state = state or Run(policy, len(list(rows)))
    unsaved: list[tuple[Outcome, Row]] = []
    outage = outage or Outage()
    outage.most, outage.stop = concurrency + OUTAGE, lambda: stop.is_set() or state.stopped is not None

    def to_do() -> Iterator[Row]:
        for row in rows:
            yield from outage.to_ask()
            outcome = output.before(row)
            if outcome is None:
                yield row
            else:
                state.before += 1
                state.add(outcome)
                told(state)


    def add(row: Row, outcome: Outcome, held: bool = False) -> None:
        try:
            if held or _ends_the_run(state, outcome, output.again(outcome)):
                output.leave(row, outcome)
            else:
                output.write(outcome, row)
                state.add(outcome)
                told(state)
        except InputError as err:
            state.stopped = state.stopped or str(err)
            unsaved.append((outcome, row))

    async def work(queue: Iterator[Row]) -> None:
        for row in queue:
            number = 0
            if not row.problem:
                number, row = await outage.turn(row)
            if stop.is_set() or state.stopped:
                state.stopped = state.stopped or "interrupted"
                return
            try:
                if not row.problem:
                    await output.begin(row)
                if stop.is_set() or state.stopped:  # while the disk worked
                    state.stopped = state.stopped or "interrupted"
                    output.leave(row, Outcome(policy, "failed"))
                    return
            except InputError as err:
                state.stopped = state.stopped or str(err)
                return
            outcome = await _one(row, answer, policy)
            add(row, outcome, held=not row.problem and outage.heard(number, row, outcome, output.again(outcome)))
            while outage.failed:
                add(*outage.failed.pop())

    queue = to_do()
    await gather(work(queue) for _ in range(concurrency))
    while not state.stopped and outage.pending():
        await gather(work(outage.to_ask()) for _ in range(concurrency))
        while outage.failed:
            add(*outage.failed.pop())
    for _ in queue:
        state.stopped = state.stopped or "interrupted"
    for outcome, row in unsaved:
        output.write(outcome, row)
        state.add(outcome)
    output.conclude()
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
        outcome = await answer(row)
        return outcome if outcome.id == row.id else replace(outcome, id=row.id)
    except InputError as err:
        return Outcome(policy, "invalid", error=str(err), id=row.id)


def _ends_the_run(state: Run, outcome: Outcome, failed: bool) -> bool:
    """Whether this outcome is about the run and not about its row: then the row stays to be done."""
    kind = (outcome.error or "").partition(":")[0]
    if outcome.status in ("failed", "flagged") and kind in ("configuration", "run_budget", SUSPENDED):
        state.stopped = state.stopped or outcome.error
        state.configuration = state.configuration or kind == "configuration"
        return True
    state.failed_in_a_row = state.failed_in_a_row + 1 if failed else 0
    if state.failed_in_a_row >= OUTAGE:
        state.stopped = state.stopped or f"{OUTAGE} requests in a row failed, the last one so: {outcome.error}"
    return False
