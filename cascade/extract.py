"""Reads the JSON value out of a model's text, strictly, and says what it had to do; knows nothing of schemas.

Truncated JSON is never completed and prose never becomes a value: what cannot be read has a `problem`. One pass over the text,
so hostile text costs no more than long text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import jiter
import orjson

from cascade.types import Json

MAX_CHARACTERS = 1 << 20
"""Longer answers are refused unread."""

MAX_DEPTH = 64
"""Objects and arrays inside each other, at most."""

MAX_BRACKETS = 20_000
"""In text that is not JSON as a whole; a bound on the work of looking for JSON in it."""


class Extracted(NamedTuple):
    """The JSON `value`, or None with `problem` set (one line). `notes` say how it was found: "fence", "prose", "ambiguous", and "control"
    when strings held raw line breaks or tabs, which many models write for \\n and \\t."""

    value: Json
    problem: str | None = None
    notes: tuple[str, ...] = ()


def extract(text: str) -> Extracted:
    """The JSON value in `text`: the whole, else the last code fence that holds JSON, else the last object (or array) in the prose.

    Whichever of these is found decides: when it is broken there is no value, an older draft above it is not taken instead.
    Several different candidates of a sort are noted as "ambiguous". Never raises.
    """
    if len(text) > MAX_CHARACTERS:
        return Extracted(None, f"the answer has {len(text)} characters, more than {MAX_CHARACTERS}")
    try:
        return _read(text)
    except ValueError as err:
        return _search(text, str(err))


def _read(text: str) -> Extracted:
    """The value of a text that is JSON as a whole, but for raw control characters inside strings: there they mean only themselves.
    ValueError when it is not."""
    try:
        return Extracted(parse(text))
    except ValueError as err:
        if not str(err).startswith("control character"):
            raise
    return Extracted(parse(_STRING.sub(_escaped, text)), None, ("control",))


_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")


def _escaped(string: re.Match[str]) -> str:
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", string[0])


def parse(text: str) -> Json:
    """Strict JSON of a whole text. ValueError for NaN, infinity, duplicate keys, lone surrogates, too deep a nest."""
    try:
        raw = text.encode()
    except UnicodeEncodeError as err:
        raise ValueError(f"lone surrogate at character {err.start}") from None
    value = jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False)
    _require_sound(value, MAX_DEPTH)
    return value


def _require_sound(value: Json, depth: int) -> None:
    """What the parser lets through: 1e400, which it reads as infinity, and depth."""
    kind = value.__class__
    if kind is dict or kind is list:
        if not depth:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        for item in value.values() if kind is dict else value:
            inner = item.__class__
            if inner is float:
                if item - item != 0.0:
                    raise ValueError("number out of range")
            elif inner is dict or inner is list:
                _require_sound(item, depth - 1)
    elif kind is float and value - value != 0.0:
        raise ValueError("number out of range")


# ---------------------------------------------------------------- text that is not JSON as a whole


def _search(text: str, problem: str) -> Extracted:
    if not text.strip("\ufeff \t\r\n"):
        return Extracted(None, "the answer is empty")
    if text.count("{") + text.count("[") > MAX_BRACKETS:
        return Extracted(None, f"not JSON ({problem}), and too many brackets to look for JSON inside")
    fenced = [block for block in _fences(text) if block and (block[0] in "{[" or _is_json(block))]
    if fenced:
        return _decide(fenced, "fence")
    whole = text.strip("\ufeff \t\r\n")
    try:
        found, notes = _found(text)
    except ValueError as err:
        if whole[0] not in "{[" or problem.startswith("trailing"):
            return Extracted(None, f"not JSON: {err}")
        return Extracted(None, f"not JSON: {'cut off: ' if problem.startswith('EOF') else ''}{problem}")
    if not found:
        return Extracted(None, f"not JSON: {problem}" if whole[0] in '{["' else "no JSON in the answer")
    if found == [whole] and whole == text.strip():
        return Extracted(None, f"not JSON: {problem}")
    return _decide([span for span in found if span[0] == "{"] or found, "prose", notes)


def _found(text: str) -> tuple[list[str], tuple[str, ...]]:
    """The spans of a text; where they do not close because strings go over line ends, those of the text with its strings made whole."""
    try:
        return list(_spans(text)), ()
    except ValueError:
        opener = _OPENER.search(text)
        assert opener is not None, "a bracket was open"
        whole = _STRING.sub(_escaped, text[opener.start() :])
        if whole == text[opener.start() :]:
            raise
        return list(_spans(whole)), ("control",)


def _decide(candidates: list[str], where: str, before: tuple[str, ...] = ()) -> Extracted:
    """The last candidate, and whether the others say the same."""
    last = candidates[-1]
    try:
        value, _, notes = _read(last)
    except ValueError as err:
        return Extracted(None, f"not JSON ({where}): {err}")
    for other in candidates[:-1]:
        if other != last and not _same(other, value):
            return Extracted(value, None, (where, *before, *notes, "ambiguous"))
    return Extracted(value, None, (where, *before, *notes))


def _same(text: str, value: Json) -> bool:
    try:
        return _canonical(_read(text).value) == _canonical(value)
    except ValueError:
        return False


def _canonical(value: Json) -> bytes:
    """Sorted bytes. Integers past 64 bits are read as text by the caller's comparison, so they are told apart."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return repr(value).encode()


def _is_json(text: str) -> bool:
    try:
        _read(text)
    except ValueError:
        return False
    return True


_FENCE = re.compile(r"^[ \t>]*(```+|~~~+)([^\n]*)$", re.MULTILINE)


def _fences(text: str) -> Iterator[str]:
    """The contents of code fences, in order. A fence whose end is missing reaches to the end of the text."""
    start = -1
    mark = ""
    for line in _FENCE.finditer(text):
        if start < 0:
            rest = line[2].rstrip()
            if rest.endswith(line[1]):  # opened and closed on one line
                yield _untagged(rest[: -len(line[1])])
            elif "`" not in rest:
                start, mark = line.end(), line[1]
        elif line[1].startswith(mark) and not line[2].strip():
            yield text[start : line.start()].strip()
            start = -1
    if start >= 0:
        yield text[start:].strip()


def _untagged(text: str) -> str:
    """The content of a one-line fence, without its language word."""
    text = text.strip()
    word, _, rest = text.partition(" ")
    return rest.strip() if word.isalnum() and rest.strip() else text


_OPENER = re.compile(r"""\{(?=\s{0,64}["'}])|\[(?=\s{0,64}(?:[\[{"\]0-9-]|true|false|null))""")
"""What may open JSON in prose: `{name}` and `[see below]` do not."""

_INSIDE = re.compile(r"""[{}\[\]]|"(?:[^"\\\n]|\\.)*+"?""")
"""What counts inside JSON: brackets, and strings to be passed over. A string without an end stops at the end of its line."""

_CLOSES = {"}": "{", "]": "["}


def _spans(text: str) -> Iterator[str]:
    """The outermost balanced objects and arrays of a text, in order. ValueError when one is never closed: truncated."""
    at = 0
    while (opener := _OPENER.search(text, at)) is not None:
        start = opener.start()
        stack: list[str] = []
        for token in _INSIDE.finditer(text, start):
            sign = token[0][0]
            if sign in "{[":
                stack.append(sign)
            elif sign != '"':
                if stack.pop() != _CLOSES[sign]:
                    raise ValueError(f"brackets do not match at character {token.start()}")
                if not stack:
                    at = token.end()
                    yield text[start:at]
                    break
        else:
            raise ValueError(f"cut off: the bracket at character {start} is never closed")
