"""Token log-probabilities to a few named numbers: how sure a model was of the values it wrote. Pure; knows no wire.

Of a JSON answer only the tokens of values count. Braces, keys and commas are nearly certain, under a grammar wholly so, and would hide
the one word that was not. Whatever does not add up (tokens that are not the text, a number that is no log-probability) gives no signals:
none is better than a wrong one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from cascade.extract import extract
from cascade.signals import fields
from cascade.types import Json

LEAST = -1000.0
"""Servers write -9999 or the lowest float for "not among the likeliest": that is no log-probability."""

NOISE = 1e-3
"""A log-probability is at most 0, but for rounding."""

TRIES = 50
"""Brackets that are tried as the start of the JSON in a text that has prose around it."""


class Span(NamedTuple):
    """Where a value stands, `start` up to `end`; `field` is the top-level member it belongs to, None outside of an object."""

    start: int
    end: int
    field: str | None


def signals(tokens: Any, text: str, schema: Json = None) -> dict[str, float]:
    """Of the tokens of an answer's values: `logprob_mean`, `logprob_min`, `logprob_sum`, and `logprob_min:FIELD` for each of
    `signals.fields`. {} when they cannot be told.

    `tokens` are as the OpenAI wires give them: [{"token", "bytes", "logprob"}, …], natural logarithms; `schema` is None for an answer
    that is text, all of which counts. A token that is value in part counts whole; a string's closing quote, which says that the value
    ends there, belongs to it.
    """
    parts = _pieces(tokens)
    spans = [Span(0, len(text), None)] if schema is None else values(text)
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return {}
    at = -1 if parts is None or not raw else _only_place(raw, b"".join(parts))
    if at < 0 or parts is None:
        return {}
    every: dict[int, float] = {}
    by_field: dict[str | None, float] = {}
    ends = list(accumulate(map(len, parts)))
    token = 0
    for start, end, field in _in_bytes(spans, text):
        while ends[token] <= at + start:
            token += 1
        for i in range(token, len(parts)):
            if ends[i] - len(parts[i]) >= at + end:
                break
            value = _logprob(tokens[i]) if parts[i] else 0.0
            if value is None:
                return {}
            if parts[i]:
                every[i] = value
                by_field[field] = min(value, by_field.get(field, 0.0))
    if not every:
        return {}
    total = sum(every.values())
    found = {"logprob_mean": total / len(every), "logprob_min": min(every.values()), "logprob_sum": total}
    found |= {f"logprob_min:{name}": by_field[name] for name in fields(schema) if name in by_field}
    return {name: round(value, 6) for name, value in found.items()}


# ---------------------------------------------------------------- the tokens


def _pieces(tokens: Any) -> list[bytes] | None:
    """The bytes of each token: a character may be split between several, so their texts do not do where bytes are given."""
    if not isinstance(tokens, list):
        return None
    try:
        return [_bytes(token) for token in tokens]
    except (KeyError, TypeError, ValueError, AttributeError):  # no text, bytes that are none, a lone surrogate
        return None


def _bytes(token: dict[str, Any]) -> bytes:
    given = token.get("bytes")
    if given is None:
        text: str = token["token"]
        return text.encode()
    if not isinstance(given, list):
        raise TypeError(type(given).__name__)
    return bytes(given)


def _only_place(text: bytes, written: bytes) -> int:
    """Where the text stands in what was written (servers cut off white space, thoughts and end marks); -1 for nowhere, or several places."""
    at = written.find(text)
    return -1 if written.find(text, at + 1) >= 0 else at


def _logprob(token: dict[str, Any]) -> float | None:
    value = token.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or not LEAST < value <= NOISE:  # NaN is neither
        return None
    return min(float(value), 0.0)


# ---------------------------------------------------------------- the values


def values(text: str) -> list[Span]:
    """The places, in characters, of the values in the JSON that `extract` reads in the text; [] when it reads none, or may mean several.

    Values are strings without their opening quote, numbers, true, false, null, and empty arrays and objects.
    """
    read = extract(text)
    if read.problem is not None or "ambiguous" in read.notes:
        return []
    decoder = json.JSONDecoder(strict=False)
    starts = [len(text) - len(text.lstrip()), *(found.start() for found in re.finditer(r"[{\[]", text))]
    for start in starts[:TRIES]:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if value == read.value:
            return list(_leaves(text, start, end))
    return []


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)


def _leaves(text: str, start: int, end: int) -> Iterator[Span]:
    """The values of valid JSON between `start` and `end`."""
    opened: list[str] = []
    field: str | None = None
    before, began = "", start
    for token in _TOKEN.finditer(text, start, end):
        sign = token[0][0]
        if sign in "}]":
            if before == opened.pop():
                yield Span(began, token.end(), field)
        elif sign in "{[":
            opened.append(sign)
        elif sign == '"' and opened[-1:] == ["{"] and before in "{,":
            if len(opened) == 1:
                field = json.loads(token[0], strict=False)
        elif sign not in ",:":
            yield Span(token.start() + (sign == '"'), token.end(), field)
        before, began = sign, token.start()


def _in_bytes(spans: Sequence[Span], text: str) -> Sequence[Span]:
    if text.isascii():
        return spans
    places = list(accumulate((len(character.encode()) for character in text), initial=0))
    return [Span(places[start], places[end], field) for start, end, field in spans]
