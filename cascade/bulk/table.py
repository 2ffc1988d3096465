"""A CSV or Parquet file as the output of a run: a table of what its journal knows, written as a whole when the run ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from cascade import formats
from cascade.bulk.durable import Durable, InDoubt
from cascade.bulk.journal import SUFFIX
from cascade.errors import InputError
from cascade.formats import Column, Kind
from cascade.rows import Row
from cascade.types import Json

FRONT = (Column("id", "text"), Column("status", "text"))
BACK = (Column("tier", "text"), Column("cost_usd", "number"), Column("seconds", "number"), Column("cached", "yes/no"), Column("error", "text"))
_KINDS: dict[type, Kind] = {str: "text", bool: "yes/no", int: "whole", float: "number"}
_LARGEST = 2**63


class Table(Durable):
    """As `Durable`; beside its journal nothing is written before `conclude`. An output of an object has a column for each of its keys, any other
    one is the column `output`; what is no text, number, or yes or no stands there as JSON. The trails are in the journal only."""

    def __init__(self, path: str, policy: str, rows: Callable[[], Iterable[Row]], *, digests: Mapping[str, str] | None = None,
                 policies: Collection[str] = (), in_doubt: InDoubt = "hold", force: bool = False, total: int = 0) -> None:
        formats.available(path)
        if Path(path).exists() and not Path(path + SUFFIX).exists():
            raise InputError(f"{path}: is there already, without a journal of cascade run beside it; choose another output file")
        self._rows = rows
        super().__init__(path, policy, rows, digests=digests, policies=policies, in_doubt=in_doubt, force=force, total=total)

    def _open(self) -> int | None:
        return None

    def _project(self) -> None:
        self._pending.clear()

    def conclude(self) -> None:
        """The whole table in the place of the one before."""
        self.journal.flush()
        kinds: dict[str, Kind | None] = {}
        for row in self._known():
            for name, value in _outputs(row["output"]):
                kinds[name] = _both(kinds.get(name), value)
        middle = [Column(name, kind or "text") for name, kind in kinds.items()]
        formats.write(str(self.path), [*FRONT, *middle, *BACK], (_cells(row, middle) for row in self._known()))

    def _known(self) -> Iterator[dict[str, Any]]:
        for row in self._rows():
            entry = self.journal.entries.get(row.id)
            if entry is not None:
                yield orjson.loads(self.journal.line(entry) if entry.size else self._held(row))


def _outputs(output: Json) -> Iterator[tuple[str, Json]]:
    if isinstance(output, dict):
        yield from ((f"output.{key}", value) for key, value in output.items())
    elif output is not None:
        yield "output", output


def _both(kind: Kind | None, value: Json) -> Kind | None:
    """The kind of a column of that kind so far, that is to hold the value too."""
    if value is None:
        return kind
    found = _KINDS.get(type(value), "text")
    if found == "whole" and not -_LARGEST <= value < _LARGEST:
        found = "text"
    if kind in (None, found):
        return found
    return "number" if {kind, found} == {"whole", "number"} else "text"


def _cells(row: Mapping[str, Any], middle: Iterable[Column]) -> list[Json]:
    outputs = dict(_outputs(row["output"]))
    return [*(row.get(column.name) for column in FRONT), *(_cell(outputs.get(column.name), column.kind) for column in middle),
            *(row.get(column.name) for column in BACK)]


def _cell(value: Json, kind: Kind) -> Json:
    if value is None or isinstance(value, str) or kind in ("whole", "yes/no"):
        return value
    return float(value) if kind == "number" else orjson.dumps(value).decode()
