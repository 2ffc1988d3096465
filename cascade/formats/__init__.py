"""Files of rows in other formats than JSONL, chosen by suffix: reading gives a dict a row, writing takes columns and rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from cascade.errors import InputError
from cascade.types import Json

Kind = Literal["text", "whole", "number", "yes/no"]


class Column(NamedTuple):
    """A column of a table that is written; its values are of the kind, or None."""

    name: str
    kind: Kind


class Record(NamedTuple):
    """A row that was read: its number (of a CSV: of its first line), and its values, or what is wrong with it."""

    number: int
    value: dict[str, Json]
    problem: str | None = None


Read = Callable[[str], Iterator[Record]]
Write = Callable[[str, list[Column], Iterable[list[Json]]], None]
SUFFIXES = (".csv", ".parquet")


def is_table(path: str) -> bool:
    """Whether the path's suffix names one of the formats."""
    return Path(path).suffix.lower() in SUFFIXES


def read(path: str) -> Iterator[Record]:
    """The rows of a file. Raises InputError where they cannot be told apart."""
    return _module(path)[0](path)


def write(path: str, columns: list[Column], rows: Iterable[list[Json]]) -> None:
    """Put a whole file in the path's place at once. Raises InputError when the disk does not take it."""
    beside = f"{path}.new"
    try:
        _module(path)[1](beside, columns, rows)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as err:
        raise InputError(f"{path}: cannot be written: {err.strerror or err}") from err


def available(path: str) -> None:
    """Raises InputError when what the format needs is not installed."""
    _module(path)


def _module(path: str) -> tuple[Read, Write]:
    if Path(path).suffix.lower() == ".csv":
        from cascade.formats import csv

        return csv.read, csv.write
    try:
        from cascade.formats import parquet
    except ModuleNotFoundError as err:
        raise InputError(f"{path}: Parquet needs an extra: pip install 'cascade-judge[parquet]'") from err
    return parquet.read, parquet.write
