"""Many requests under a progress bar; Ctrl-C finishes what is in flight, twice stops at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from cascade.cli import STOPPED, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cascade.app import Cascade
    from cascade.bulk import Answerer, Run
    from cascade.bulk.batched import Batcher
    from cascade.bulk.runner import Rows
    from cascade.rows import Row


def run_with_progress(cascade: Cascade, requests: Iterable[Row], out: Rows, concurrency: int, answer: Answerer,
                      so_far: Callable[[Run], str], state: Run, batcher: Batcher | None = None) -> Run:
    """Answer the rows under a progress bar that says `so_far`; Ctrl-C finishes what is in flight, twice stops at once."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=show.console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=state.total)
        shown = -1.0

        def told(state: Run) -> None:
            nonlocal shown
            if (now := time.monotonic()) - shown > 0.1 and not bar.disable:
                shown = now
                bar.update(task, completed=state.tally.requests, description=so_far(state))

        with _seldom_collected():
            asyncio.run(_run(cascade, requests, out, concurrency, answer, state, told, batcher))
        bar.update(task, completed=state.tally.requests, description=so_far(state))
        return state


@contextlib.contextmanager
def _seldom_collected() -> Iterator[None]:
    """What is imported and loaded stays anyway: the collector need not walk it for every few rows, a tenth of the time of a run."""
    often = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(5000)
    try:
        yield
    finally:
        gc.set_threshold(*often)
        gc.unfreeze()


async def _run(cascade: Cascade, requests: Iterable[Row], out: Rows, concurrency: int, answer: Answerer, state: Run, told: Any,
               batcher: Batcher | None) -> Run:
    from cascade import bulk

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None

    def interrupt() -> None:
        if stop.is_set():
            this.cancel()
        else:
            show.note("finishing what is in flight; once more stops at once")
            stop.set()
            if batcher is not None:
                batcher.suspend()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, interrupt)
    try:
        return await bulk.run(requests, answer, out, cascade.label, concurrency=concurrency, stop=stop, told=told, state=state)
    except asyncio.CancelledError:
        show.note("stopped at once; run the same command again to go on")
        raise typer.Exit(STOPPED) from None
    finally:
        if batcher is not None:
            await batcher.aclose()
        await cascade.aclose()


def dollars_so_far(state: Run) -> str:
    """What the done rows cost, for the progress bar."""
    return show.money(state.tally.dollars or None if state.tally.dollars is not None else None) if state.tally.requests else "$0"
