"""`cascade run --engine batch`: what the command needs of the batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cascade.cli import show
from cascade.errors import InputError
from cascade.types import Json

if TYPE_CHECKING:
    from cascade.app import Cascade
    from cascade.bulk import Answerer, Durable, Standing
    from cascade.bulk.batched import Batcher

ROWS = 10_000
"""Rows on their way at a time. A row waits in memory, with its prompt, until its batch has ended."""


@contextmanager
def opened(policy: str, output: str, retry: bool) -> Iterator[Batcher]:
    """The batches of this output, locked; progress is told on stderr."""
    from cascade import policy as policies
    from cascade.bulk.batched import Batcher, unhurried

    batcher = Batcher(unhurried(policies.load(policy)), output, told=show.note, retry=retry)
    try:
        yield batcher
    finally:
        batcher.close()


def rows_of(batcher: Batcher) -> Callable[..., Durable]:
    """The output of the run, which knows of the rows whose live calls are in doubt."""
    from cascade.bulk.batched import Waved

    return functools.partial(Waved, batcher)


def answerer(batcher: Batcher, cascade: Cascade) -> Answerer:
    """What answers a row: its calls wait for the batches."""
    return lambda row: batcher.answer(row, lambda row: cascade.arun(row.inputs, id=row.id), cascade.label)


def refuse(output: str) -> None:
    """Raises InputError where batches hold what another engine would pay again."""
    from cascade.bulk.batch_journal import flights

    found = flights(output)
    if found is not None and found.begun:
        raise InputError(f"{output}: begun with --engine batch; go on with it, or calls that are paid would be paid again")


def standing(output: str, stands: Standing) -> tuple[Standing, list[dict[str, Json]]]:
    """How a run stands with its batches, and those in flight."""
    from cascade.bulk.batch_journal import flights

    found = flights(output)
    if found is None:
        return stands, []
    return found.added_to(stands), [{"batch": wave.id, "model": wave.model, "requests": len(wave.keys)} for wave in found.waves]
