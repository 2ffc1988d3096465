"""Batches of a data frame answered, for Ray Data, Spark and whoever else hands rows out in batches. Knows none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from cascade.app import Cascade, anywhere
from cascade.bulk.runner import gather
from cascade.divide import divided, limits
from cascade.errors import InputError, TemplateError
from cascade.outcome import Outcome
from cascade.policy import load
from cascade.reading import written
from cascade.redis_purse import SharedPurse
from cascade.types import Json, Policy

COLUMNS = ("status", "output", "tier", "cost_usd", "error")
"""What comes back beside the columns that went in: the outcome's status, its output as JSON text, tier, dollars (nan
or null when not known) and error."""


class Answers:
    """Call it with a batch of rows: a pandas DataFrame, a pyarrow Table or RecordBatch, or a dict of columns. What comes back is of the same
    kind, with the columns of COLUMNS. One of it, and so one engine, in each process; what it opens is closed at exit, or by `close`.

    A row that is no input of the policy has status "invalid". Raises InputError for a batch that has one of these columns already, or lacks one
    of the inputs, and ConfigurationError where nothing can be asked (a key is missing).
    """

    def __init__(self, policy: Policy, purse: SharedPurse | None, concurrency: int, inputs: Sequence[str] | None) -> None:
        self._cascade = Cascade(policy, purse=purse)
        self._concurrency, self._inputs = concurrency, inputs

    def __call__(self, batch: Any) -> Any:
        columns = _columns(batch)
        if twice := sorted(columns.keys() & set(COLUMNS)):
            raise InputError(f"the batch has a column {twice[0]!r} already; rename it, the answers' column is called so")
        names = list(columns if self._inputs is None else self._inputs)
        if missing := [name for name in names if name not in columns]:
            raise InputError(f"the batch has no column {missing[0]!r}; it has: {', '.join(columns)}")
        rows = [dict(zip(names, values, strict=True)) for values in zip(*(columns[name] for name in names), strict=True)]
        outcomes = self._cascade.call(lambda: self._all(rows))
        return _beside(batch, {
            "status": [one.status for one in outcomes], "output": [None if one.output is None else written(one.output) for one in outcomes],
            "tier": [one.tier for one in outcomes], "cost_usd": [float("nan" if one.cost_usd is None else one.cost_usd) for one in outcomes],
            "error": [one.error for one in outcomes]})

    async def _all(self, rows: Sequence[Mapping[str, Json]]) -> list[Outcome]:
        found: dict[int, Outcome] = {}
        queue = iter(enumerate(rows))

        async def work() -> None:
            for at, inputs in queue:
                try:
                    found[at] = await self._cascade.arun(inputs)
                except (InputError, TemplateError) as err:
                    found[at] = Outcome(self._cascade.label, "invalid", error=str(err))

        await gather(work() for _ in range(self._concurrency))
        return [found[at] for at in range(len(rows))]

    def close(self) -> None:
        """Close connections, cache and monitor now."""
        self._cascade.close()


def map_batches(policy: str | os.PathLike[str], *, workers: int | None = None, concurrency: int = 16,
                inputs: Sequence[str] | None = None) -> type[Answers]:
    """A class whose objects answer batches by the policy in that file, `concurrency` requests at a time: for `ray.data.Dataset.map_batches`, or
    to be made once a partition in Spark's `mapInPandas`. `inputs` are the columns that are the template's variables, by default all of them.

    The policy is read here, with every file of it, and needs none where the batches are; keys are read from the environment there.
    `workers` is how many processes do so at most: each keeps to its share of the providers' limits and of the run's budget, rounded down. A budget
    is shared instead of divided where the policy's cache is in Redis. Raises PolicyError, InputError and ConfigurationError, before any batch is
    sent: for `workers` left out where there is something to divide, too.
    """
    loaded = load(os.fspath(policy))
    per_run, cache = loaded.budget_per_run, loaded.cache
    shared = per_run is not None and cache.backend.startswith("redis")
    to_divide = [*limits(loaded), *([] if per_run is None or shared else ["budget.per_run"])]
    if workers is None and to_divide:
        raise InputError(f"{policy}: {to_divide[0]} is divided among the processes that answer batches; say how many: map_batches(…, workers=N)")
    of_one = anywhere(divided(loaded, workers or 1, budget=not shared))
    Cascade(of_one).close()  # raises what is wrong with it here
    purse = SharedPurse.begin(cache, per_run) if shared and per_run is not None else None

    class Batches(Answers):
        def __init__(self) -> None:
            super().__init__(of_one, purse, concurrency, inputs)

    return Batches


# ---------------------------------------------------------------- the kinds of batches


def _columns(batch: Any) -> dict[str, list[Json]]:
    """A batch's columns as plain values."""
    if hasattr(batch, "to_pydict"):
        columns: Mapping[str, Any] = batch.to_pydict()
    else:
        columns = batch if isinstance(batch, Mapping) else {str(name): batch[name] for name in batch.columns}
    return {name: [_plain(value) for value in column] for name, column in columns.items()}


def _plain(value: Any) -> Json:
    """numpy's numbers and arrays as Python's; what is missing as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _beside(batch: Any, found: Mapping[str, list[Any]]) -> Any:
    """The batch with more columns."""
    if isinstance(batch, Mapping):
        return {**batch, **found}
    if hasattr(batch, "assign"):
        return batch.assign(**found)
    import pyarrow

    for name, column in found.items():
        kind = pyarrow.float64() if name == "cost_usd" else pyarrow.string()
        batch = batch.append_column(name, pyarrow.array(column, kind, from_pandas=True))  # nan is null
    return batch
