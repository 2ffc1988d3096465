"""Says whether two answers are the same, leaf by leaf, with the comparators of the policy's `compare:`; knows no models.

A field without a comparator is compared by its JSON type: numbers as numbers (1 is 1.0, true is not 1), strings exactly after NFC
and strip, arrays in order, objects by key. A missing member and null are the same: providers differ in how they leave a field out.
"""

from __future__ import annotations

import ast
import importlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cascade.types import Json

MAX_PAIRED = 500
"""Longer sets whose items are compared pairwise are sorted and compared in order instead, so that time stays linear."""

MAX_LITERAL = 4_000
"""Characters of a Python literal that are read; longer text is compared as text."""


def resolve(path: str) -> Callable[..., Any]:
    """The function named by `package.module:function`. ValueError when there is none."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"{path!r} is not of the form package.module:function")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as err:  # a user's module can raise anything while it is imported
        raise ValueError(f"cannot import {path!r}: {type(err).__name__}: {err}") from err
    if not callable(found):
        raise ValueError(f"{path!r} is not a function")
    return found  # type: ignore[no-any-return]


# ---------------------------------------------------------------- comparators: options, and what they do


class Comparator(BaseModel):
    """A way to compare two JSON values that are both there. `whole`: it takes arrays and objects too, not only their leaves."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    whole: ClassVar[bool] = False

    @property
    def exact(self) -> bool:
        """True when two values are the same just if their canonical forms are equal."""
        return True

    def canonical(self, value: Json) -> Hashable:
        """A hashable form that equal values share."""
        raise NotImplementedError

    def same(self, a: Json, b: Json) -> bool:
        """Whether a and b are the same answer."""
        return self.canonical(a) == self.canonical(b)


class Plain(Comparator):
    """By JSON type; what a field without a comparator gets."""

    def canonical(self, value: Json) -> Hashable:
        return _plain(value)


_NUMBER = re.compile(r"(?<![\d.,])[-+\u2212]?(?:\d{1,3}(?:[,' \u00a0\u202f]\d{3})+|\d+|(?=\.\d))(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?![.,]?\d)")


class Number(Comparator):
    """As numbers, within a tolerance."""

    tolerance: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="The largest difference that is still the same.")
    relative: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="The same, as a share of the larger of the two.")
    parse: bool = Field(default=False, description='Read the number in "$1,018.00" or "18 dollars".')

    @property
    def exact(self) -> bool:
        return not (self.tolerance or self.relative)

    def read(self, value: Json) -> Json:
        if not self.parse or not isinstance(value, str) or len(value) > 200:
            return value
        found = _NUMBER.findall(value)
        if len(found) != 1 or sum(map(str.isdigit, found[0])) != sum(map(str.isdigit, value)):
            return value
        negative = re.fullmatch(r"\s*\(.*\)\s*", value) is not None
        number = float(re.sub("[,' \u00a0\u202f]", "", found[0]).replace("\u2212", "-"))
        return -abs(number) if negative else number

    def canonical(self, value: Json) -> Hashable:
        return _plain(self.read(value))

    def same(self, a: Json, b: Json) -> bool:
        a, b = self.read(a), self.read(b)
        if self.exact or not (_is_number(a) and _is_number(b)):
            return _plain(a) == _plain(b)
        try:
            # the last term is float noise: 0.1 + 0.2 is within 0.0 of 0.3 for a person
            size = max(abs(a), abs(b))
            return bool(abs(a - b) <= max(self.tolerance, self.relative * size) + 1e-12 * size)
        except OverflowError:
            return bool(a == b)


class Text(Comparator):
    """As text, folded."""

    casefold: bool = Field(default=False, description="Upper and lower case are the same.")
    strip: bool = Field(default=True, description="White space at the ends does not count.")
    collapse: bool = Field(default=True, description="Any run of white space counts as one space.")
    punctuation: bool = Field(default=True, description="false: punctuation does not count.")

    def canonical(self, value: Json) -> Hashable:
        if not isinstance(value, str):
            return _plain(value)
        text = unicodedata.normalize("NFC", value)
        if self.casefold:
            text = unicodedata.normalize("NFC", text.casefold())
        if not self.punctuation:
            text = "".join(" " if unicodedata.category(c)[0] == "P" else c for c in text)
        if self.collapse or not self.punctuation:
            text = re.sub(r"\s+", " ", text)
        return text.strip() if self.strip or not self.punctuation else text


_MONTHS = tuple(
    "january february march april may june july august september october november december".split()  # noqa: SIM905
)
_YMD = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})")
_XXY = re.compile(r"(\d{1,2})([-/.])(\d{1,2})[-/.](\d{4})")
_DAY_MONTH = re.compile(r"(\d{1,2})(?:st|nd|rd|th|\.)?\s+(?:of\s+)?([a-z]{3,9})\.?,?\s+(\d{4})")
_MONTH_DAY = re.compile(r"([a-z]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})")


class Date(Comparator):
    """As dates: 2026-11-03, 3 Nov 2026, November 3, 2026 and 03.11.2026 are the same. A time counts, save midnight."""

    day_first: bool | None = Field(default=None, description="03/11/2026 is 3 November (true), 11 March (false), or no date (unset).")

    def canonical(self, value: Json) -> Hashable:
        if not isinstance(value, str) or len(value) > 64:
            return _plain(value)
        return self._read(value.strip().lower()) or _plain(value)

    def _read(self, text: str) -> Hashable:
        try:
            if match := _YMD.fullmatch(text):
                return date(int(match[1]), int(match[2]), int(match[3]))
            if match := _DAY_MONTH.fullmatch(text):
                return date(int(match[3]), _month(match[2]), int(match[1]))
            if match := _MONTH_DAY.fullmatch(text):
                return date(int(match[3]), _month(match[1]), int(match[2]))
            if match := _XXY.fullmatch(text):
                return self._ordered(int(match[1]), int(match[3]), int(match[4]), match[2])
            moment = datetime.fromisoformat(text.upper())
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
            return moment if moment.time() != time.min else moment.date()
        except (ValueError, OverflowError):
            return None

    def _ordered(self, a: int, b: int, year: int, sign: str) -> date | None:
        day_first = self.day_first if self.day_first is not None else (True if sign == "." or a > 12 else False if b > 12 else None)
        if day_first is None:
            return None
        return date(year, b, a) if day_first else date(year, a, b)


def _month(name: str) -> int:
    """1 to 12 for a name or its first letters. ValueError when it is none."""
    for n, full in enumerate(_MONTHS, 1):
        if full.startswith(name) or name == "sept" == full[:4]:
            return n
    raise ValueError(name)


class Set(Comparator):
    """As sets: neither order nor repeats count."""

    whole: ClassVar[bool] = True
    item: dict[str, Any] | str | None = Field(default=None, description="The comparator of the items, e.g. {text: {casefold: true}}.")

    @cached_property
    def inner(self) -> Comparator:
        return _load(self.item) if self.item is not None else PLAIN

    @property
    def exact(self) -> bool:
        return self.inner.exact

    def canonical(self, value: Json) -> Hashable:
        if not isinstance(value, list):
            return _plain(value)
        if not self.exact:
            return "set"
        return frozenset(_canonical_item(self.inner, item) for item in value)

    def same(self, a: Json, b: Json) -> bool:
        if self.exact or not (isinstance(a, list) and isinstance(b, list)):
            return self.canonical(a) == self.canonical(b)
        inner = self.inner
        if len(a) > MAX_PAIRED or len(b) > MAX_PAIRED:
            if len(a) != len(b):
                return False
            return all(_item_same(inner, x, y) for x, y in zip(sorted(a, key=_order), sorted(b, key=_order), strict=True))
        return all(any(_item_same(inner, x, y) for y in b) for x in a) and all(any(_item_same(inner, x, y) for x in a) for y in b)


_LETTER = re.compile(r"\W*([a-zA-Z])(?:\W*|[).:\]](?:\s.*)?)", re.DOTALL)
_NAMED_LETTER = re.compile(r"(?:answer|option|choice)(?:\s+is)?[\s:*_(\[]{1,8}([a-zA-Z])(?![\w'])", re.IGNORECASE)


MAX_CHOICE = 200
"""Characters of an answer that may be a letter with the text of its choice; what is longer argues, and names its letter."""
MAX_LETTER_TEXT = 20_000


class Letter(Comparator):
    """As the letter of a choice: "B", "(b)", "B. Paris" and "the answer is B" are the same; a long text means the letter it names last."""

    def canonical(self, value: Json) -> Hashable:
        if not isinstance(value, str) or len(value) > MAX_LETTER_TEXT:
            return _plain(value)
        text = value.strip()
        named: list[str] = _NAMED_LETTER.findall(text)
        if named and len(text) > MAX_CHOICE:
            return named[-1].upper()
        if match := _LETTER.fullmatch(text):
            return match[1].upper()
        return named[-1].upper() if named else Text(casefold=True).canonical(value)


class PythonLiteral(Comparator):
    """As Python literals: "[1, 2]" and "[1,2]" are the same, and "'a'" and '"a"'."""

    whole: ClassVar[bool] = True

    def canonical(self, value: Json) -> Hashable:
        if not isinstance(value, str) or len(value) > MAX_LITERAL:
            return _plain(value)
        try:
            return _python(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what ast says of text that is no literal
            return _plain(value)


class Python(Comparator):
    """By a user's function of two values that returns true when they are the same."""

    whole: ClassVar[bool] = True
    function: str = Field(description="package.module:function, called with the two values.")

    @property
    def exact(self) -> bool:
        return False

    def canonical(self, value: Json) -> Hashable:
        return "python"

    def same(self, a: Json, b: Json) -> bool:
        try:
            return bool(_resolved(self.function)(a, b))
        except Exception as err:  # a user's function can raise anything
            raise ValueError(f"compare: {self.function} raised {type(err).__name__}: {err}") from err


class Ignore(Comparator):
    """Not at all: any two values are the same."""

    whole: ClassVar[bool] = True

    @property
    def exact(self) -> bool:
        return False

    def canonical(self, value: Json) -> Hashable:
        return "ignore"

    def same(self, a: Json, b: Json) -> bool:
        return True


COMPARATORS: Mapping[str, type[Comparator]] = MappingProxyType(
    {
        "number": Number,
        "text": Text,
        "date": Date,
        "set": Set,
        "letter": Letter,
        "literal": PythonLiteral,
        "python": Python,
        "ignore": Ignore,
    }
)
"""The names `compare:` knows, and their options."""

PLAIN = Plain()
_resolved = lru_cache(maxsize=256)(resolve)


def _load(spec: Json) -> Comparator:
    """`{number: {tolerance: 0.01}}`, or just `number`, as a comparator. ValueError says what is wrong."""
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ValueError(f"wants one comparator such as {{number: {{tolerance: 0.01}}}}; there are {', '.join(COMPARATORS)}")
    [(name, options)] = spec.items()
    if name not in COMPARATORS:
        raise ValueError(f"unknown comparator {name!r}; there are {', '.join(COMPARATORS)}")
    kind = COMPARATORS[name]
    if name == "python" and isinstance(options, str):
        options = {"function": options}
    try:
        loaded = kind.model_validate({} if options is None else options, strict=True)
    except ValidationError as err:
        raise ValueError("; ".join(_explain(name, kind, problem) for problem in err.errors())) from None
    if isinstance(loaded, Set):
        loaded.inner  # noqa: B018  an unknown item comparator is found here, at load
    if isinstance(loaded, Python):
        resolve(loaded.function)
    return loaded


def _explain(name: str, kind: type[Comparator], problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "options"
    if problem["type"] == "extra_forbidden":
        return f"{name} has no option {where!r}; it has {', '.join(kind.model_fields) or 'none'}"
    return f"{name}: {where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


# ---------------------------------------------------------------- values


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Json) -> Hashable:
    """The canonical form by JSON type. Types are told apart, so that true is not 1 and "1" is not 1."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value).strip()
    if value is None or isinstance(value, bool):
        return (value,)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return ("array", *(_plain(item) for item in value))
    if isinstance(value, Mapping):
        return ("object", frozenset((str(key), _plain(item)) for key, item in value.items() if item is not None))
    return ("other", repr(value))


def _number(value: float) -> Hashable:
    """1 and 1.0 are one number. Large ones go as text: hashes of integers can be made to collide."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return repr(value)
        if not value.is_integer():
            return value
        value = int(value)
    return value if value.bit_length() < 60 else ("integer", hex(value))


def _python(value: Any) -> Hashable:
    """The canonical form of a Python literal: tuples and lists are one, sets have no order."""
    if isinstance(value, set | frozenset):
        return ("set", frozenset(_python(item) for item in value))
    if isinstance(value, list | tuple):
        return ("array", *(_python(item) for item in value))
    if isinstance(value, dict):
        return ("object", frozenset((_python(key), _python(item)) for key, item in value.items()))
    if isinstance(value, bytes | complex) or value is Ellipsis:
        return ("other", repr(value))
    return _plain(value)


def _canonical_item(comparator: Comparator, item: Json) -> Hashable:
    return comparator.canonical(item) if comparator.whole or not isinstance(item, list | Mapping) else _plain(item)


def _item_same(comparator: Comparator, a: Json, b: Json) -> bool:
    if not comparator.whole and (isinstance(a, list | Mapping) or isinstance(b, list | Mapping)):
        return _plain(a) == _plain(b)
    return comparator.same(a, b)


def _order(value: Json) -> tuple[int, Any]:
    return (0, value) if _is_number(value) else (1, repr(value))


# ---------------------------------------------------------------- paths

Part = str | int
_PART = re.compile(r'(?:^|\.)([^.\[\]"]+)|\[(\d*)\]|\[("(?:[^"\\]|\\.)*")\]')


def parse_field(path: str) -> tuple[Part, ...]:
    """The parts of `vendor.name`, `lines.amount` (in each line), `lines[0].amount`, `["odd.key"]`; none for `$`, the answer as a whole.

    ValueError for anything else.
    """
    if path == "$":
        return ()
    parts: list[Part] = []
    at = 0
    while at < len(path):
        match = _PART.match(path, at)
        if match is None:
            break
        if match[1] is not None:
            parts.append(match[1].strip())
        elif match[3] is not None:
            parts.append(str(json.loads(match[3])))
        elif match[2]:
            parts.append(int(match[2]))
        at = match.end()
    if at < len(path) or not parts or "" in parts:
        raise ValueError(f"{path!r} is not a field such as total, vendor.name, lines.amount or lines[0].amount; the whole answer is $")
    return tuple(parts)


@dataclass(slots=True)
class _Node:
    """A step of the paths named in a policy: what is below, and what is said of the value here."""

    below: dict[Part, _Node] = field(default_factory=dict)
    comparator: Comparator | None = None
    named: bool = False

    def at(self, path: Sequence[Part]) -> _Node:
        node = self
        for part in path:
            node = node.below.setdefault(part, _Node())
        return node


_Nodes = tuple[_Node, ...]


def _down(nodes: _Nodes, part: Part) -> _Nodes:
    """The nodes below. Arrays are passed through: `lines.amount` is the amount of each line, and an index says more than none."""
    if not nodes:
        return ()
    found = tuple(node.below[part] for node in nodes if part in node.below)
    return found + nodes if isinstance(part, int) else found


def _comparator(nodes: _Nodes) -> Comparator | None:
    for node in nodes:
        if node.comparator is not None:
            return node.comparator
    return None


@lru_cache(maxsize=512)
def _fields(fields: tuple[str, ...]) -> _Node:
    root = _Node()
    for path in fields:
        root.at(parse_field(path)).named = True
    return root


def pointer(path: Iterable[Part]) -> str:
    """The JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


# ---------------------------------------------------------------- the comparison


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far some answers agree. `share` (0 to 1) of them are the `majority`, the answer most gave (the first, in a tie).

    `by_field` is the same share for each field on its own (each top-level member when no fields were named); `disputed` holds the
    JSON pointers of the leaves on which others differ from the majority.
    """

    share: float
    by_field: Mapping[str, float]
    disputed: tuple[str, ...]
    majority: Json


class Comparators:
    """The comparators of a policy, by field. Without any, values are compared by their JSON type."""

    __slots__ = ("_exact", "_root")

    def __init__(self, by_field: Mapping[str, Comparator] = MappingProxyType({})) -> None:
        self._root = _Node()
        self._exact = all(comparator.exact for comparator in by_field.values())
        for path, comparator in by_field.items():
            self._root.at(parse_field(path)).comparator = comparator

    @classmethod
    def load(cls, compare: Mapping[str, Json]) -> Self:
        """From a policy's `compare:`. ValueError `FIELD: what is wrong` for a bad field, an unknown comparator or option."""
        loaded: dict[str, Comparator] = {}
        for path, spec in compare.items():
            try:
                parse_field(path)
                loaded[path] = _load(spec)
            except ValueError as err:
                raise ValueError(f"{path}: {err}") from None
        return cls(loaded)

    @property
    def exact(self) -> bool:
        """True when `canonical` decides alone; False with a tolerance, a user's function or an ignored field."""
        return self._exact

    def same(self, a: Json, b: Json, fields: Sequence[str] | None = None) -> bool:
        """Whether two answers are the same, on `fields` (default: all)."""
        return not self.differing(a, b, fields, most=1)

    def differing(self, a: Json, b: Json, fields: Sequence[str] | None = None, *, most: int = 1_000) -> tuple[str, ...]:
        """The JSON pointers of the leaves on which a and b differ, in order, at most `most`. "" is the answer as a whole.

        ValueError when a user's comparator raises.
        """
        found: list[str] = []
        wanted = (_fields(tuple(fields)),) if fields else None
        self._differ(a, b, (self._root,), wanted, [], found, most)
        return tuple(found)

    def _differ(self, a: Json, b: Json, nodes: _Nodes, wanted: _Nodes | None, path: list[Part], found: list[str], most: int) -> None:
        """`wanted` None: everything from here on is compared; else only what is named below those nodes."""
        if len(found) >= most:
            return
        if a is _MISSING or b is _MISSING:
            found.append(pointer(path))
            return
        if wanted is not None and any(node.named for node in wanted):
            wanted = None
        comparator = _comparator(nodes)
        leaf = not _nested(a) and not _nested(b)
        if leaf and wanted is not None:  # the named field would be below, and there is nothing
            if _plain(a) != _plain(b):
                found.append(pointer(path))
            return
        if wanted is None and (leaf or (comparator is not None and comparator.whole) or type(a) is not type(b)):
            if not _leaf_same(comparator, a, b):
                found.append(pointer(path))
            return
        if _shape(a) != _shape(b) and a is not None and b is not None:
            found.append(pointer(path))
            return
        for part, x, y in _members(a, b):
            below = None if wanted is None else _down(wanted, part)
            if below is None or below:
                path.append(part)
                self._differ(x, y, _down(nodes, part), below, path, found, most)
                path.pop()

    def canonical(self, value: Json, fields: Sequence[str] | None = None) -> Hashable:
        """A hashable form: the same answers have equal forms. The reverse holds too when `exact`; else `same` has the last word."""
        return self._canonical(value, (self._root,), (_fields(tuple(fields)),) if fields else None)

    def _canonical(self, value: Json, nodes: _Nodes, wanted: _Nodes | None) -> Hashable:
        if wanted is not None and any(node.named for node in wanted):
            wanted = None
        comparator = _comparator(nodes)
        if value is None:
            return None
        if wanted is None and comparator is not None and (comparator.whole or not _nested(value)):
            return comparator.canonical(value) if comparator.exact else None
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        forms: list[tuple[Part, Hashable]] = []
        for part, item in items:
            below = None if wanted is None else _down(wanted, part)
            if below is None or below:
                forms.append((part, self._canonical(item, _down(nodes, part), below)))
        if isinstance(value, list):
            return ("array", *(form for _, form in forms))
        if isinstance(value, Mapping):
            return ("object", frozenset(pair for pair in forms if pair[1] is not None))
        return _plain(value) if wanted is None else None

    def size(self, value: Json) -> int:
        """How many characters the compared leaves have in canonical form: what is ignored counts nothing, nor do names and brackets."""
        return self._size(value, (self._root,))

    def _size(self, value: Json, nodes: _Nodes) -> int:
        comparator = _comparator(nodes)
        if isinstance(comparator, Ignore) or value is None:
            return 0
        if comparator is not None and not isinstance(comparator, Python) and (comparator.whole or not _nested(value)):
            return len(str(comparator.canonical(value)))
        if not _nested(value):
            return len(str(_plain(value)))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return sum(self._size(item, _down(nodes, part)) for part, item in items)

    def agreement(self, values: Sequence[Json], fields: Sequence[str] | None = None) -> Agreement:
        """How far `values` (at least one) agree on `fields` (default: all)."""
        count, majority = self._majority(values, fields)
        keys = dict.fromkeys(key for value in values if isinstance(value, Mapping) for key in value)
        paths = {name: name for name in fields} if fields else {key: f"[{json.dumps(key)}]" for key in keys}
        each = {name: self._majority(values, (path,))[0] / len(values) for name, path in paths.items()}
        disputed = dict.fromkeys(at for value in values for at in self.differing(majority, value, fields))
        return Agreement(count / len(values), MappingProxyType(each), tuple(disputed), majority)

    def _majority(self, values: Sequence[Json], fields: Sequence[str] | None) -> tuple[int, Json]:
        """How many give the answer that most give, and that answer."""
        counts = [sum(self.same(value, other, fields) for other in values) for value in values]
        best = max(range(len(values)), key=counts.__getitem__)
        return counts[best], values[best]


_MISSING = object()


_LEAVES = frozenset({str, int, float, bool, type(None)})


def _nested(value: Json) -> bool:
    return type(value) not in _LEAVES and isinstance(value, Mapping | list)  # to ask for a Mapping is slow, and most values are leaves


def _shape(value: Json) -> str:
    return "object" if isinstance(value, Mapping) else "array" if isinstance(value, list) else "leaf"


def _leaf_same(comparator: Comparator | None, a: Json, b: Json) -> bool:
    if isinstance(comparator, Ignore):
        return True
    if a is None or b is None:
        return a is b or (_plain(a) == _plain(b))
    if comparator is None or (not comparator.whole and (_nested(a) or _nested(b))):
        return _plain(a) == _plain(b)
    return comparator.same(a, b)


def _members(a: Json, b: Json) -> Iterable[tuple[Part, Json, Json]]:
    """The members of two objects by key, the items of two arrays by place. A missing member is null; a missing item is not."""
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        x, y = (side if isinstance(side, Mapping) else {} for side in (a, b))
        return [(key, x.get(key), y.get(key)) for key in dict.fromkeys([*x, *y])]
    if isinstance(a, list) or isinstance(b, list):
        p, q = (side if isinstance(side, list) else [] for side in (a, b))
        return [(i, p[i] if i < len(p) else _MISSING, q[i] if i < len(q) else _MISSING) for i in range(max(len(p), len(q)))]
    return []


def read_comparator(spec: Json) -> Comparator:
    """One comparator from its options, e.g. `{number: {tolerance: 0.01}}`. ValueError says what is wrong."""
    return _load(spec)


def compare_schema() -> dict[str, Json]:
    """The JSON Schema of one value of `compare:`, for the policy file's schema and the docs."""
    options = {name: TypeAdapter(kind).json_schema() for name, kind in COMPARATORS.items()}
    one = {"type": "object", "properties": options, "additionalProperties": False, "minProperties": 1, "maxProperties": 1}
    return {"anyOf": [{"enum": list(COMPARATORS)}, one]}
