"""`cascade run --engine ray`: the shards of a run under a progress bar, and then the output that they come to."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from cascade.bulk import Run, Standing, on_ray, shards
from cascade.cli import STOPPED, show
from cascade.errors import InputError
from cascade.summary import Tally
from cascade.types import Policy

if TYPE_CHECKING:
    from cascade.app import Cascade
    from cascade.bulk.durable import InDoubt
    from cascade.rows import Row


def run(cascade: Cascade, policy: Policy, rows: Iterable[Row], output: str, *, there: int, asked: int, workers: int, concurrency: int,
        in_doubt: InDoubt, force: bool) -> tuple[Run, Standing]:
    """Answer the first `asked` of the `there` rows by workers of a Ray cluster: how it went, and how the run stands."""
    most, limit = on_ray.share(policy, concurrency, workers)
    if limit:
        show.note(f"{most} workers, not {workers}: {limit} is {most}")
    folder = shards.Shards(output, there, most, force)
    try:
        most = min(most, folder.count)
        with contextlib.redirect_stdout(io.StringIO()), on_ray.cluster() as ray:  # Ray says there that a worker died, at the end at the latest
            went = _under_a_bar(ray, on_ray.job(policy, concurrency, most, in_doubt, force), most, folder, rows, asked)
        if went.error:
            raise InputError(went.error)
        state = Run(cascade.label, asked, keep=False, tally=Tally([tier.name for tier in policy.tiers]), before=went.before,
                    stopped=went.stopped, configuration=went.configuration)
        for outcome in folder.merge():
            state.add(outcome)
        return state, shards.standing(output)
    finally:
        folder.close()


def _under_a_bar(ray: object, job: on_ray.Job, workers: int, folder: shards.Shards, rows: Iterable[Row], asked: int) -> on_ray.Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(f"{workers} workers"), TimeRemainingColumn())
    shown = sys.stderr.isatty()
    with Progress(*columns, console=show.console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("", total=asked)
        try:
            return on_ray.run(ray, job, workers, folder.split(rows, asked), show.note,
                              (lambda done: bar.update(task, completed=done)) if shown else None)
        except KeyboardInterrupt:
            show.note("stopped at once; run the same command again to go on")
            raise typer.Exit(STOPPED) from None
