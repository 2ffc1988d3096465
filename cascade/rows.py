"""Input rows: one request a line of JSONL, or a row of a table. Every mistake is found, with file and line, before anything is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jiter

from cascade import formats
from cascade.errors import InputError
from cascade.formats.lines import MAX_LINE, lines
from cascade.types import Json


@dataclass(frozen=True, slots=True)
class Row:
    """One request: `id` as text, the template's `inputs`, the right answer `gold` if known; `problem` for a line that is no request."""

    id: str
    line: int
    inputs: dict[str, Json]
    gold: Json = None
    problem: str | None = None


def read(path: str) -> list[Row]:
    """All rows of a file; bad ones come back with a `problem`.

    Raises InputError where no row can be trusted: the file cannot be read or is empty, or an id stands twice.
    """
    rows = list(stream(path))
    if not rows:
        raise InputError(f"{path}: there are no rows in it")
    seen: dict[str, int] = {}
    for row in rows:
        if row.id in seen:
            raise InputError(f"{path}:{row.line}: id {row.id!r} stands already in line {seen[row.id]}; ids must be unique")
        seen[row.id] = row.line
    return rows


def count(path: str) -> int:
    """How many rows a file has. Raises InputError as `read` does; only a short digest of each id is kept."""
    seen: dict[bytes, int] = {}
    for row in stream(path):
        key = hashlib.blake2b(row.id.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if key in seen:
            raise InputError(f"{path}:{row.line}: id {row.id!r} stands already in line {seen[key]}; ids must be unique")
        seen[key] = row.line
    if not seen:
        raise InputError(f"{path}: there are no rows in it")
    return len(seen)


def stream(path: str) -> Iterator[Row]:
    """The rows of a file, one at a time; ids are not compared. JSONL, or by its suffix one of `cascade.formats`."""
    try:
        if formats.is_table(path):
            for record in formats.read(path):
                yield of(record.value, record.number, path) if record.problem is None else _no_row(record.number, path, record.problem)
            return
        with Path(path).open("rb") as file:
            for number, (line, size) in enumerate(lines(file, MAX_LINE), 1):
                if size > MAX_LINE:
                    yield _no_row(number, path, f"the line has {size} bytes, at most {MAX_LINE} are read")
                elif line.strip():
                    yield parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, number, path)
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}") from err


def _no_row(number: int, path: str, problem: str, id: str | None = None) -> Row:
    return Row(id or f"line-{number}", number, {}, problem=f"{path}:{number}: {problem}")


def parse(line: bytes, number: int, path: str) -> Row:
    """The row of one line. A row without an id is called by its line number."""
    problem, value = _object(line)
    if problem:
        return _no_row(number, path, problem)
    assert isinstance(value, dict)
    return of(value, number, path)


def of(value: Mapping[str, Json], number: int, path: str) -> Row:
    """The row of an object: `id`, `gold` and `inputs`, or the inputs beside the two."""
    nested = isinstance(value.get("inputs"), dict)
    id = value.get("id")
    if (id is not None and not isinstance(id, str | int)) or isinstance(id, bool):
        return _no_row(number, path, '"id" must be text or a whole number')
    inputs = value["inputs"] if nested else {k: v for k, v in value.items() if k not in ("id", "gold")}
    extra = sorted(value.keys() - {"id", "inputs", "gold"}) if nested else []
    if extra:
        return _no_row(number, path, f'unknown key {extra[0]!r} beside "inputs"', None if id is None else str(id))
    return Row(str(number) if id is None else str(id), number, inputs, value.get("gold"))


def _object(line: bytes) -> tuple[str | None, Json]:
    if len(line) > MAX_LINE:
        return f"the line has {len(line)} bytes, at most {MAX_LINE} are read", None
    try:
        value = jiter.from_json(line, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as err:
        return f"not JSON: {err}", None
    if not isinstance(value, dict):
        return f"a row is a JSON object, this is {type(value).__name__}", None
    return None, value
