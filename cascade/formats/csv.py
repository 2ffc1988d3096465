"""CSV: a header, then a row a line (or lines, within quotes); UTF-8. Every cell is text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import BinaryIO

from cascade.errors import InputError
from cascade.formats import Column, Record
from cascade.formats.lines import MAX_LINE, lines
from cascade.types import Json


def read(path: str) -> Iterator[Record]:
    """A row with more or fewer cells than the header, or whose text is not UTF-8, has a problem. Raises InputError for a header that names
    no columns or one twice, and for quotes out of place, behind which no row can be trusted."""
    with open(path, "rb") as file:
        csv.field_size_limit(MAX_LINE)
        reader = csv.reader(_decoded(file, path), strict=True)
        header: list[str] | None = None
        number = 1
        try:
            for cells in reader:
                if header is None:
                    header = _header(cells, path) if cells else None
                elif cells:
                    yield _record(header, cells, number)
                number = reader.line_num + 1
        except csv.Error as err:
            raise InputError(f"{path}:{number}: {err}: the rows from here on cannot be told apart") from err


def _decoded(file: BinaryIO, path: str) -> Iterator[str]:
    for number, (line, size) in enumerate(lines(file, MAX_LINE), 1):
        if size > MAX_LINE:
            raise InputError(f"{path}:{number}: the line has {size} bytes, at most {MAX_LINE} are read")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")


def _header(cells: list[str], path: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if twice := [name for name in names if names.count(name) > 1 or not name]:
        what = f"column {twice[0]!r} stands twice" if twice[0] else "a column has no name"
        raise InputError(f"{path}:1: {what}: the first line names the columns")
    if not _sound("".join(names)):
        raise InputError(f"{path}:1: not UTF-8 text")
    return names


def _record(header: list[str], cells: list[str], number: int) -> Record:
    if len(cells) != len(header):
        return Record(number, {}, f"{len(cells)} cells, where the header has {len(header)}")
    for name, cell in zip(header, cells, strict=True):
        if not _sound(cell):
            return Record(number, {}, f"column {name!r}: not UTF-8 text")
    value: dict[str, Json] = dict(zip(header, cells, strict=True))
    value["id"] = value.get("id") or None
    if "gold" in value:
        value["gold"] = _gold(value["gold"])
    return Record(number, value)


def _gold(cell: str) -> Json:
    """JSON where it is JSON, else text; an empty cell is no gold."""
    try:
        return json.loads(cell) if cell else None
    except ValueError:
        return cell


def _sound(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def write(path: str, columns: list[Column], rows: Iterable[list[Json]]) -> None:
    """None is an empty cell."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(column.name for column in columns)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Json) -> Json:
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")  # 0.000007, not 7e-06
    return str(value).lower() if isinstance(value, bool) else value
