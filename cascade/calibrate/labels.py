"""to_label.csv: the few requests where two answers differ and nobody has said which is right; blinded, in an order that tells nothing.

Which of the two columns holds the ladder's answer is drawn from a digest of the id, so no key has to be kept.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import orjson

from cascade.calibrate.evidence import Evidence
from cascade.errors import InputError
from cascade.types import Json

COLUMNS = ("id", "inputs", "answer_a", "answer_b", "right")
ANSWERS = {"a": (1, 0), "b": (0, 1), "both": (1, 1), "neither": (0, 0)}
"""What may stand in the column `right`: whether answer_a and answer_b are right."""


def write(evidence: Evidence, rows: Sequence[int], tiers: Sequence[int]) -> str:
    """The CSV's text for these rows; `tiers` says whose answer is held against the last tier's. UTF-8, a header, "right" left empty."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    for row, tier in sorted(zip(rows, tiers, strict=True), key=lambda pair: _digest("order", evidence.ids[pair[0]])):
        pair = [_text(evidence.value[tier][row]), _text(evidence.value[-1][row])]
        a, b = reversed(pair) if _swapped(evidence.ids[row]) else pair
        table.writerow((evidence.ids[row], _text(dict(evidence.inputs[row])), a, b, ""))
    return out.getvalue()


def read(text: str, path: str) -> dict[str, tuple[str, str, str]]:
    """id -> (answer_a, answer_b, right) of the rows that have a label. InputError with file:line for anything else in that column."""
    try:
        table = list(csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True))
    except csv.Error as err:
        raise InputError(f"{path}: not CSV: {err}") from err
    if not table or tuple(table[0]) != COLUMNS:
        raise InputError(f"{path}:1: the columns must be {', '.join(COLUMNS)}, as cascade calibrate wrote them")
    found = {}
    for number, row in enumerate(table[1:], 2):
        if len(row) != len(COLUMNS):
            raise InputError(f"{path}:{number}: {len(row)} columns, and there should be {len(COLUMNS)}")
        right = row[4].strip().lower()
        if right and right not in ANSWERS:
            raise InputError(f"{path}:{number}: right is {row[4]!r}; write a, b, both or neither")
        if right:
            found[row[0]] = (row[2], row[3], right)
    return found


def apply(evidence: Evidence, labels: Mapping[str, tuple[str, str, str]]) -> Evidence:
    """The evidence with what people said. A label of answers that are not those recorded is refused with InputError."""
    right = evidence.right.copy()
    at = {id: i for i, id in enumerate(evidence.ids)}
    for id, (a, b, said) in labels.items():
        if id not in at:
            raise InputError(f"a label is for id {id!r}, which is not in these recordings")
        i = at[id]
        cheap, last = (b, a) if _swapped(id) else (a, b)
        cheap_right, last_right = reversed(ANSWERS[said]) if _swapped(id) else ANSWERS[said]
        if last != _text(evidence.value[-1][i]):
            raise InputError(f"the label of id {id!r} is for other answers than those recorded: label the new file")
        right[-1, i] = last_right
        for k in range(len(right) - 1):
            if evidence.same[k, i]:
                right[k, i] = last_right
            elif _text(evidence.value[k][i]) == cheap:
                right[k, i] = cheap_right
    return replace(evidence, right=np.asarray(right, dtype=np.int8))


def _digest(what: str, id: str) -> bytes:
    return hashlib.sha256(f"label {what} {id}".encode()).digest()


def _swapped(id: str) -> bool:
    return bool(_digest("side", id)[0] & 1)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
