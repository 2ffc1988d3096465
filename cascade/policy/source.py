"""Text of a policy file to plain values, and where each of them stands. Knows YAML, JSON and TOML, not policies.

YAML is read with the scalars of YAML 1.2 (`no` and `on` are text, `1e3` is a number); duplicate keys and aliases are refused.
"""

from __future__ import annotations

import re
import tomllib
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
    if path.endswith(".json"):
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError as err:
            raise SourceError(f"not JSON: {err.msg}", err.lineno, err.colno) from err
        text = text.replace("\t", " ")  # outside strings; inside them JSON has none
    return _yaml(text)


# ---------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases: they save nothing in a policy, and a few lines of them fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise SourceError("aliases (*name) are not used in policies: write the value out", mark.line + 1, mark.column + 1)
        return super().compose_node(parent, index)


def _yaml(text: str) -> Source:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        message = " ".join(str(part) for part in (err.context, err.problem) if part)
        raise SourceError(f"not YAML: {message}", mark.line + 1 if mark else 1, mark.column + 1 if mark else 1) from err
    except (yaml.YAMLError, RecursionError, ValueError) as err:
        raise SourceError(f"not YAML: {str(err).splitlines()[0]}") from err
    if node is None:
        raise SourceError("the file is empty")
    source = Source()
    source.value = _value(node, (), source)
    return source


def _value(node: yaml.Node, loc: Loc, source: Source) -> Json:
    mark = node.start_mark
    source.values[loc] = (mark.line + 1, mark.column + 1)
    if len(loc) > MAX_DEPTH:
        raise SourceError(f"nested more than {MAX_DEPTH} deep", mark.line + 1, mark.column + 1)
    if node.tag not in _PLAIN_TAGS:
        raise SourceError(f"the tag {node.tag} is not used in policies", mark.line + 1, mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*loc, i), source) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, loc, source)
    assert isinstance(node, yaml.ScalarNode)
    if node.style in ("|", ">"):
        source.blocks[loc] = mark.line + 2
    return _scalar(node.value) if node.style is None else node.value


_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "seq", "map")}


def _mapping(node: yaml.MappingNode, loc: Loc, source: Source) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key_node, value_node in node.value:
        line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise SourceError("a key must be plain text", line, column)
        key = key_node.value
        if key in found:
            first = source.keys[(*loc, key)][0]
            raise SourceError(f'{name((*loc, key))}: the key stands already in line {first}', line, column)
        source.keys[(*loc, key)] = (line, column)
        found[key] = _value(value_node, (*loc, key), source)
    return found


_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
          "false": False, "False": False, "FALSE": False}  # fmt: skip


def _scalar(text: str) -> Json:
    """A plain scalar by YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text) and len(text) < 400:
        return int(text)
    return float(text) if _FLOAT.match(text) else text


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
    source = Source(value)
    lines = text.splitlines()
    for loc in _locs(value, ()):
        source.keys[loc] = source.values[loc] = _toml_place(loc, lines)
    return source


def _locs(value: Json, loc: Loc) -> Iterator[Loc]:
    if loc:
        yield loc
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
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
