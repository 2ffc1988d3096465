"""Partial escalation: which fields the next tier is asked for, the schema of only those, and what their answer makes of the kept one. Pure.

A *unit* is the JSON pointer of what is asked for in one piece: a member of the answer, or of an object within it whose schema can be cut.
An array is one unit, whatever was disputed in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from cascade.projection import mappings
from cascade.types import Document, Json

_MAX_DEPTH = 64
_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})
_PLAIN = frozenset({"type", "properties", "required", "additionalProperties"}) | _NOTES
_SAID: tuple[str, ...] = ("$schema", "title", "description")
_AT_ROOT = frozenset({"$schema", "$id", "$defs", "definitions"})
_NAMING = frozenset({"$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$id"})
"""Keywords by which one place of a schema means another in a way that a cut could change."""


class Apart(NamedTuple):
    """An answer taken apart: what is kept, and what was asked for anew."""

    agreed: dict[str, Json]
    disputed: dict[str, Json]


def units(schema: Document, kept: Json, pointers: Iterable[str]) -> tuple[str, ...]:
    """The units that hold the disputed `pointers` of the answer `kept`, sorted; () when the whole is to be asked for.

    That is so when nothing is named, a pointer leads to nothing that the schema names, the units are more than half of the schema's
    fields, or the schema cannot be cut there (`uncut` says why).
    """
    found = {_unit(schema.json, kept, pointer) for pointer in pointers}
    named = sorted(unit for unit in found if unit)
    if not named or len(named) < len(found):
        return ()
    asked = tuple(unit for unit in named if not any(unit.startswith(f"{other}/") for other in named))
    if 2 * sum(_fields(_at(schema.json, unit), schema.json) for unit in asked) > _fields(schema.json, schema.json):
        return ()
    return asked if cut(schema, asked) is not None else ()


@lru_cache(maxsize=256)
def cut(schema: Document, asked: tuple[str, ...]) -> Document | None:
    """The schema of an object with only these units, as strict about each as `schema`; None when it cannot be cut so."""
    root = schema.json
    tree: dict[str, Any] = {}
    for unit in asked:
        here = tree
        for name in _names(unit) or ():
            here = here.setdefault(name, {})
    body = _cut(root, tree, root, at_root=True)
    if body is None:
        return None
    definitions = _reached(body, root)
    if definitions is None:
        return None
    return Document(body | definitions)


def uncut(schema: Document | None) -> str | None:
    """Why no part of this schema can be asked for alone, in a few words; None when some can."""
    if schema is None:
        return "the policy has no schema"
    level = _level(schema.json, schema.json, at_root=True)
    if level is None:
        odd = sorted(schema.json.keys() - _PLAIN - _AT_ROOT) if isinstance(schema.json, dict) else []
        return f"its root uses {', '.join(odd)}" if odd else "its root is no object with properties"
    single = (f"/{_escaped(name)}" for name in level["properties"])
    if all(cut(schema, (unit,)) is None for unit in single):
        return "its parts refer to the whole"
    return None if _fields(schema.json, schema.json) > 1 else "it has one field only"


def merge(kept: Json, part: Mapping[str, Json], asked: Sequence[str]) -> Json:
    """The kept answer with the units that were asked for as `part` has them; a unit that `part` leaves out is left out.

    All else is the kept answer's own, the same objects; what `part` says beyond the units is passed over.
    """
    for unit in asked:
        kept = _put(kept, part, _names(unit) or ())
    return kept


def apart(kept: Json, asked: Sequence[str]) -> Apart:
    """The kept answer without the units, and the units alone as the kept answer has them."""
    agreed = kept
    disputed: dict[str, Json] = {}
    for unit in asked:
        names = _names(unit) or ()
        agreed = _put(agreed, {}, names)
        here: dict[str, Json] = disputed
        value = kept
        for name in names[:-1]:
            value, here = value[name], here.setdefault(name, {})
        if names[-1] in value:
            here[names[-1]] = value[names[-1]]
    return Apart(agreed, disputed)


# ---------------------------------------------------------------- places


def _names(pointer: str) -> tuple[str, ...] | None:
    """The steps of a JSON pointer; None for what is none, and for the whole."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        return None
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in pointer[1:].split("/"))


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unit(root: Json, kept: Json, pointer: str) -> str | None:
    """The deepest place at or above the pointer that can be asked for alone: every object above it is there, and can be cut."""
    names = _names(pointer)
    level = _level(root, root, at_root=True)
    if names is None or level is None or not isinstance(kept, dict) or names[0] not in level["properties"]:
        return None
    unit = f"/{_escaped(names[0])}"
    for above, name in pairwise(names):
        kept = kept.get(above)
        level = _level(level["properties"][above], root)
        if level is None or not isinstance(kept, dict) or name not in level["properties"]:
            break
        unit += f"/{_escaped(name)}"
    return unit


def _at(root: Json, unit: str) -> Json:
    """The schema of a unit."""
    part = root
    for name in _names(unit) or ():
        level = _level(part, root, at_root=part is root)
        part = level["properties"][name] if level else {}
    return part


def _put(kept: Json, part: Json, names: Sequence[str]) -> Json:
    name, *below = names
    if not isinstance(kept, dict):
        return kept
    inner = part[name] if isinstance(part, Mapping) and name in part else None
    if below:
        return {**kept, name: _put(kept[name], inner, below)} if name in kept else kept
    if isinstance(part, Mapping) and name in part:
        return {**kept, name: inner}
    return {key: value for key, value in kept.items() if key != name}


# ---------------------------------------------------------------- schemas


def _level(part: Json, root: Json, at_root: bool = False) -> dict[str, Any] | None:
    """The object schema that stands there, behind references; None when members of it cannot be told apart from each other."""
    for _ in range(_MAX_DEPTH):
        beside = _NOTES | _AT_ROOT if at_root else _NOTES
        if not isinstance(part, dict) or part.keys() - beside != {"$ref"}:
            break
        part, at_root = _definition(part["$ref"], root), False
    known = _PLAIN | _AT_ROOT if at_root else _PLAIN
    if not isinstance(part, dict) or part.get("type") != "object" or part.keys() - known:
        return None
    properties = part.get("properties")
    return part if isinstance(properties, dict) and properties else None


def _definition(reference: Json, root: Json) -> Json:
    """What a reference to a definition of the root means; None for one to anything else."""
    names = _names(reference[1:]) if isinstance(reference, str) and reference.startswith("#") else None
    if names is None or len(names) != 2 or names[0] not in ("$defs", "definitions"):
        return None
    among = root.get(names[0]) if isinstance(root, dict) else None
    return among.get(names[1]) if isinstance(among, dict) else None


def _fields(part: Json, root: Json, within: frozenset[str] = frozenset()) -> int:
    """How many fields a schema has: those of objects that can be cut are counted one by one, anything else, and what contains itself, is one."""
    reference = part.get("$ref") if isinstance(part, dict) else None
    level = None if reference in within or len(within) > _MAX_DEPTH else _level(part, root, at_root=part is root)
    if level is None:
        return 1
    below = within | {reference} if isinstance(reference, str) else within
    return sum(_fields(rule, root, below) for rule in level["properties"].values())


def _cut(part: Json, tree: Mapping[str, Any], root: Json, at_root: bool = False) -> dict[str, Any] | None:
    level = _level(part, root, at_root)
    if level is None or tree.keys() - level["properties"].keys():
        return None
    properties = {}
    for name, rule in level["properties"].items():
        if name in tree:
            smaller = _cut(rule, tree[name], root) if tree[name] else rule
            if smaller is None:
                return None
            properties[name] = smaller
    said = {key: level[key] for key in _SAID if key in level}
    required = [name for name in level.get("required", ()) if name in properties]
    return {**said, "type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _reached(body: Json, root: Json) -> dict[str, Any] | None:
    """The definitions that a cut schema still needs; None when something in it means the whole, or a place that is cut away."""
    needed: dict[str, dict[str, Json]] = {}
    open_ = [body]
    while open_:
        part = open_.pop()
        if any(isinstance(rule, str | bool) for rules in mappings(part) for name, rule in rules.items() if name in _NAMING):
            return None
        for reference in _references(part):
            names = _names(reference.removeprefix("#")) or ()
            if len(names) < 2 or names[0] not in ("$defs", "definitions"):
                return None
            definition = _definition(f"#/{names[0]}/{_escaped(names[1])}", root)
            if definition is None:
                return None
            among = needed.setdefault(names[0], {})
            if names[1] not in among:
                among[names[1]] = definition
                open_.append(definition)
    return {where: {name: rule for name, rule in root[where].items() if name in among} for where, among in needed.items()}


def _references(part: Json) -> Iterator[str]:
    return (rules["$ref"] for rules in mappings(part) if isinstance(rules.get("$ref"), str))
