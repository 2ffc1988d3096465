"""Text of a policy file to plain values, and where each of them stands. Knows YAML, JSON and TOML, not policies.

YAML is read with the scalars of YAML 1.2 (`no` and `on` are text, `1e3` is a number); duplicate keys and aliases are refused.
"""

from __future__ import annotations

import math
import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import yaml

from cascade.types import Json

MAX_BYTES = 1 << 20
MAX_DEPTH = 64

Loc = tuple[str | int, ...]
"""A place in the tree: the keys and indices that lead there."""


class SourceError(Exception):
    """Text that cannot be read; `line` and `column` count from 1."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass
class Source:
    """A file's value. `keys` and `values` give (line, column), from 1; `blocks` the line on which a text begins."""

    value: Json = None
    keys: dict[Loc, tuple[int, int]] = field(default_factory=dict)
    values: dict[Loc, tuple[int, int]] = field(default_factory=dict)
    blocks: dict[Loc, int] = field(default_factory=dict)

    def at(self, loc: Loc, key: bool = False) -> tuple[int, int]:
        """Where that place is; where it is not, the nearest place around it."""
        for end in range(len(loc), -1, -1):
            part = loc[:end]
            first, second = (self.keys, self.values) if key or end < len(loc) else (self.values, self.keys)
            if part in first or part in second:
                return first[part] if part in first else second[part]
        return 1, 1


def parse(text: str, path: str) -> Source:
    """The value of a policy text; `path` tells the language by its ending (.json, .toml, else YAML). Raises SourceError."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise SourceError(f"the file has more than {MAX_BYTES} bytes")
    if path.endswith(".toml"):
        return _toml(text)
    return _json(text) if path.endswith(".json") else _yaml(text)


def _sound(value: Json, loc: Loc, place: tuple[int, int]) -> Json:
    """A scalar that JSON can hold too; digests, rows and caches are made of JSON."""
    problem = _unsound(value)
    if problem:
        raise SourceError(f"{name(loc)}: {problem}" if loc else problem, *place)
    if isinstance(value, str) and not value.isascii():  # YAML writes emoji as two surrogates, as JSON does; PyYAML leaves them so
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    return value


def _unsound(value: Json) -> str | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "the number is too large"
    if isinstance(value, float) and not math.isfinite(value):
        return "the number is not finite, or too large"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            return "half a surrogate pair is no character"
    if value is not None and not isinstance(value, bool | int | float | str):
        return f"a {type(value).__name__} is not used in policies: write it as text"
    return None


# ---------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases: they save nothing in a policy, and a few lines of them fill the memory."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.AliasEvent):
            raise SourceError("aliases (*name) are not used in policies: write the value out", line, column)
        if getattr(event, "tag", None) is not None:
            raise SourceError(f"tags ({event.tag}) are not used in policies", line, column)
        if self.depth > MAX_DEPTH:
            raise SourceError(f"nested more than {MAX_DEPTH} deep", line, column)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _yaml(text: str) -> Source:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        message = " ".join(str(part) for part in (err.context, err.problem) if part)
        raise SourceError(f"not YAML: {message}", mark.line + 1 if mark else 1, mark.column + 1 if mark else 1) from err
    except yaml.reader.ReaderError as err:
        line = text.count("\n", 0, err.position) + 1
        column = err.position - text.rfind("\n", 0, err.position)
        raise SourceError(f"not YAML: the character U+{_code(err.character):04X} is not allowed", line, column) from err
    except (yaml.YAMLError, RecursionError, ValueError) as err:
        raise SourceError(f"not YAML: {str(err).splitlines()[0]}") from err
    if node is None:
        raise SourceError("the file is empty")
    source = Source()
    source.value = _value(node, (), source)
    return source


def _code(character: str | int) -> int:
    """PyYAML gives a character or its number."""
    return character if isinstance(character, int) else ord(character)


def _value(node: yaml.Node, loc: Loc, source: Source) -> Json:
    mark = node.start_mark
    source.values[loc] = (mark.line + 1, mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*loc, i), source) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, loc, source)
    assert isinstance(node, yaml.ScalarNode)
    if node.style in ("|", ">"):
        source.blocks[loc] = mark.line + 2
    return _sound(_scalar(node.value) if node.style is None else node.value, loc, source.values[loc])


def _mapping(node: yaml.MappingNode, loc: Loc, source: Source) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key_node, value_node in node.value:
        line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise SourceError("a key must be plain text", line, column)
        key = str(_sound(key_node.value, loc, (line, column)))
        if key in found:
            raise _twice((*loc, key), source, line, column)
        source.keys[(*loc, key)] = (line, column)
        found[key] = _value(value_node, (*loc, key), source)
    return found


def _twice(loc: Loc, source: Source, line: int, column: int) -> SourceError:
    return SourceError(f"{name(loc)}: the key stands already in line {source.keys[loc][0]}", line, column)


_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
          "false": False, "False": False, "FALSE": False}  # fmt: skip


def _scalar(text: str) -> Json:
    """A plain scalar by YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text) if len(text) < 40 else math.inf  # refused by _sound, where its place is known
    return float(text) if _FLOAT.match(text) else text


# ---------------------------------------------------------------- JSON


def _json(text: str) -> Source:
    """orjson reads the value, and refuses what is no JSON; the tokens of sound JSON then tell the places."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as err:
        raise SourceError(f"not JSON: {err.msg}", err.lineno, err.colno) from err
    source = Source(value)
    _JsonPlaces(text, source).walk(())
    return source


_TOKEN = re.compile(r'[\s:,]*("[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]|[^\s:,\[\]{}"]+)')


class _JsonPlaces:
    """Walks the tokens of a text that is known to be JSON, and notes where each value stands. Refuses duplicate keys and depth."""

    def __init__(self, text: str, source: Source) -> None:
        self.source = source
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.tokens = ((match[1], match.start(1)) for match in _TOKEN.finditer(text))

    def walk(self, loc: Loc) -> None:
        self._value(loc, *next(self.tokens))

    def _at(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def _value(self, loc: Loc, token: str, offset: int) -> None:
        place = self.source.values[loc] = self._at(offset)
        if len(loc) > MAX_DEPTH:
            raise SourceError(f"nested more than {MAX_DEPTH} deep", *place)
        if token == "[":
            for i, (item, at) in enumerate(self.tokens):
                if item == "]":
                    return
                self._value((*loc, i), item, at)
        elif token == "{":
            self._members(loc)

    def _members(self, loc: Loc) -> None:
        for token, offset in self.tokens:
            if token == "}":
                return
            inner = (*loc, orjson.loads(token))
            place = self._at(offset)
            if inner in self.source.keys:
                raise _twice(inner, self.source, *place)
            self.source.keys[inner] = place
            self._value(inner, *next(self.tokens))


# ---------------------------------------------------------------- TOML


def _toml(text: str) -> Source:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        at = re.search(r"\(at line (\d+), column (\d+)\)", str(err))
        line, column = (int(at[1]), int(at[2])) if at else (1, 1)
        raise SourceError(f"not TOML: {str(err).partition(' (at ')[0]}", line, column) from err
    except RecursionError as err:
        raise SourceError("not TOML: nested too deeply") from err
    if not value:
        raise SourceError("the file is empty")
    source = Source(value)
    lines = text.splitlines()
    for loc, part in _locs(value, ()):
        place = source.keys[loc] = source.values[loc] = _toml_place(loc, lines)
        if len(loc) > MAX_DEPTH:
            raise SourceError(f"nested more than {MAX_DEPTH} deep", *place)
        if not isinstance(part, dict | list):
            _sound(part, loc, place)
        if isinstance(part, str) and lines[place[0] - 1].rstrip().endswith(('"""', "'''")):
            source.blocks[loc] = place[0] + 1  # TOML leaves out a line's end right after the quotes
    return source


def _locs(value: Json, loc: Loc) -> Iterator[tuple[Loc, Json]]:
    if loc:
        yield loc, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _locs(part, (*loc, key))


def _toml_place(loc: Loc, lines: list[str]) -> tuple[int, int]:
    """tomllib keeps no positions: the line is found by its key, after those of the tables and list items around it."""
    at, column = 0, 1
    for part in loc:
        pattern = re.compile(rf'(?:^|[\s\[{{,."])({re.escape(str(part))})["\s]*(?:=|\]|\.)') if isinstance(part, str) else None
        skip = part if isinstance(part, int) else 0
        for number in range(at, len(lines)):
            header = re.match(r"\s*\[\[", lines[number]) if pattern is None else None
            found = pattern.search(lines[number]) if pattern else header
            if found and skip == 0:
                at, column = number, found.start(1) + 1 if pattern else found.start() + 1
                break
            skip -= bool(header)
    return at + 1, column


def name(loc: Loc) -> str:
    """A place as people write it: `tiers[0].gates[1]`."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _WORD.fullmatch(part):
            text += f".{cut(part, 80)}" if text else cut(part, 80)
        else:
            text += f"[{cut(repr(part), 80)}]"
    return text


_WORD = re.compile(r"[\w./:<$+-]+")


def cut(text: str, most: int = 300) -> str:
    """One line of at most that many characters, without control characters: what files say may not steer a terminal."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= most else line[: most - 1] + "…"
