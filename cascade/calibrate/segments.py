"""Segments: requests divided by the value of one input, so that a promise holds in each part and not only on average. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import orjson
from numpy.typing import NDArray

from cascade.calibrate.evidence import Evidence
from cascade.errors import InputError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
REST = "the rest"


def of(evidence: Evidence, by: str | None, rows: Ints, needed: int) -> dict[str, Bools]:
    """Which of `rows` belong to each segment. Those with fewer than `needed` rows in all are one, and no promise is made of it if it is too
    small as well. {} without `by`; InputError when a row has no such input."""
    if by is None:
        return {}
    names = _names(evidence, by, needed)
    return {name: np.array([names[i] == name for i in rows], dtype=bool) for name, size in sorted(Counter(names).items()) if size >= needed}


def sizes(evidence: Evidence, by: str | None, needed: int) -> dict[str, dict[str, int]] | None:
    """How many rows each segment has that is promised for, and each that is not."""
    if by is None:
        return None
    counts = sorted(Counter(_names(evidence, by, needed)).items())
    return {"promised": {name: n for name, n in counts if n >= needed}, "too_few": {name: n for name, n in counts if n < needed}}


def told(sizes: Mapping[str, Mapping[str, int]]) -> str:
    """In words."""
    found = ", ".join(f"{name}: {n} rows" for name, n in sizes["promised"].items()) or "none has rows enough"
    few = ", ".join(f"{name}: {n} rows" for name, n in sizes["too_few"].items())
    return found + (f"; nothing is promised for {few}" if few else "")


def _names(evidence: Evidence, by: str, needed: int) -> list[str]:
    found = []
    for id, inputs in zip(evidence.ids, evidence.inputs, strict=True):
        if by not in inputs:
            raise InputError(f"--by {by}: the row with id {id!r} has no such input; it has {', '.join(inputs) or 'none'}")
        value = inputs[by]
        found.append(value if isinstance(value, str) else orjson.dumps(value).decode())
    counts = Counter(found)
    return [name if counts[name] >= needed else REST for name in found]
