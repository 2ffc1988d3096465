"""Whether served answers are right, and the same as the last tier's: each text is read and graded once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import orjson

from cascade.errors import InputError
from cascade.extract import Extracted
from cascade.grade import Grader
from cascade.reading import reader
from cascade.types import Json, Policy

K = TypeVar("K")
V = TypeVar("V")
MOST_KEPT = 1 << 12
"""Texts and verdicts that are remembered, of each sort."""


class Grading:
    """One policy's comparators over texts. An answer that cannot be read is never right and never the same."""

    def __init__(self, policy: Policy) -> None:
        self.grader = Grader.of(policy)
        self.read: Callable[[str], Extracted] = reader(policy)
        self.reflexive = not _asks_a_function(policy.compare)
        self._values: dict[str, Extracted] = {}
        self._right: dict[tuple[str, bytes], bool] = {}
        self._same: dict[tuple[str, str], bool] = {}

    def problem(self, gold: Json) -> str | None:
        """What is wrong with the shape of a gold."""
        return self.grader.problem(gold)

    def right(self, text: str | None, gold: Json) -> bool:
        """Whether the answer is right by its gold. InputError when a user's comparator raises."""
        if text is None:
            return False
        key = (text, orjson.dumps(gold))
        found = self._right.get(key)
        if found is None:
            read = self.value(text)
            found = _room(self._right)[key] = read.problem is None and self._is_right(read.value, gold)
        return found

    def same(self, text: str | None, other: str) -> bool | None:
        """Whether two answers are the same; None when the other cannot be read. InputError as in `right`."""
        if self.value(other).problem is not None:
            return None
        if text is None:
            return False
        key = (text, other)
        found = self._same.get(key)
        if found is None:
            read = self.value(text)
            a, b = read.value, self.value(other).value
            found = _room(self._same)[key] = read.problem is None and ((self.reflexive and _identical(a, b)) or _asked(self.grader.same, a, b))
        return found

    def _is_right(self, value: Json, gold: Json) -> bool:
        """As the grader says; an answer that says the very same needs no comparator, unless that is a user's function."""
        if self.reflexive and isinstance(gold, dict) and isinstance(value, dict):
            value = {key: value[key] for key in gold if key in value}
        return (self.reflexive and _identical(value, gold)) or _asked(self.grader.right, value, gold)

    def value(self, text: str) -> Extracted:
        """What the text says."""
        found = self._values.get(text)
        if found is None:
            found = _room(self._values)[text] = self.read(text)
        return found


def _asks_a_function(spec: Json) -> bool:
    """Whether a user's function is among the comparators, at any depth."""
    if isinstance(spec, Mapping):
        return any(key == "python" or _asks_a_function(value) for key, value in spec.items())
    return bool(spec == "python")


def _identical(a: Json, b: Json) -> bool:
    """Whether two JSON values are written alike; False may be said of equal ones (1 and 1.0)."""
    try:
        return bool(a == b) and orjson.dumps(a, option=orjson.OPT_SORT_KEYS) == orjson.dumps(b, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer past 64 bits
        return False


def _room(kept: dict[K, V]) -> dict[K, V]:
    if len(kept) >= MOST_KEPT:
        kept.clear()
    return kept


def _asked(compare: Callable[[Json, Json], bool], a: Json, b: Json) -> bool:
    try:
        return compare(a, b)
    except ValueError as err:  # a user's comparator raised
        raise InputError(str(err)) from err
