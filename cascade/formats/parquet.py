"""Parquet, by pyarrow (extra `parquet`): a few hundred rows of a file are in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from itertools import islice

import pyarrow
from pyarrow import parquet

from cascade.errors import InputError
from cascade.formats import Column, Record
from cascade.types import Json

ROWS = 500
KINDS = {"text": pyarrow.string(), "whole": pyarrow.int64(), "number": pyarrow.float64(), "yes/no": pyarrow.bool_()}


def read(path: str) -> Iterator[Record]:
    """Dates and times become ISO text. A row with a value that JSON has no word for (bytes, decimals, NaN) has a problem. Raises InputError."""
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield _record(value, number)
    except pyarrow.ArrowException as err:
        raise InputError(f"{path}: not a Parquet file that can be read: {err}") from err


def _record(value: dict[str, object], number: int) -> Record:
    found: dict[str, Json] = {}
    for name, item in value.items():
        try:
            found[name] = _plain(item)
        except ValueError as err:
            return Record(number, {}, f"column {name!r}: {err}")
    return Record(number, found)


def _plain(value: object) -> Json:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no JSON value")
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{type(value).__name__} is no JSON value")


def write(path: str, columns: list[Column], rows: Iterable[list[Json]]) -> None:
    """A row group holds ROWS rows × 20."""
    schema = pyarrow.schema([(column.name, KINDS[column.kind]) for column in columns])
    todo = iter(rows)
    with parquet.ParquetWriter(path, schema) as file:
        while some := list(islice(todo, ROWS * 20)):
            values = [pyarrow.array(column, field.type) for column, field in zip(zip(*some, strict=True), schema, strict=True)]
            file.write_table(pyarrow.Table.from_arrays(values, schema=schema))
