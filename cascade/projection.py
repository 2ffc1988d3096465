"""Turns a JSON Schema into the subset that strict providers take, and their answers back into what the schema meant. Pure.

Strict servers want an object at the root, every property required, `additionalProperties: false`, and know no limits, patterns or
formats. `project` gives them that: an optional property becomes required and nullable. `restore` undoes it at home, before the
answer is validated against the *original* schema: a null that only the projection allowed is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cascade.types import Json

_KEPT = ("title", "description", "enum", "const")
_MAX_DEPTH = 64

WRAPPED = "value"
"""The one property of the object that a schema whose root is no object is wrapped in."""


def unsupported(schema: Json) -> str | None:
    """Why no strict server can be held to this schema, in one line; None when `project` keeps its meaning, limits apart."""
    return next(_problems(schema, "", schema, 0), None)


def project(schema: Json) -> Json:
    """The relaxed projection: takes every answer the original takes, with nulls for absent properties, and `wrapped`."""
    definitions = {
        name: {key: _projected(part, schema) for key, part in schema[name].items()}
        for name in ("$defs", "definitions")
        if isinstance(schema.get(name), dict)
    }
    body = _projected(schema, schema)
    if wrapped(schema):
        body = {"type": "object", "properties": {WRAPPED: body}, "required": [WRAPPED], "additionalProperties": False}
    return body | definitions


def wrapped(schema: Json) -> bool:
    """Whether the root is no object, so that the answer comes back as {"value": …}."""
    return not _is_object(_followed(schema, schema))


def restore(value: Json, schema: Json) -> Json:
    """The answer as the original schema means it: unwrapped, and without the nulls that only `project` allowed.

    Harmless on an answer that was never projected. Returns a new value where something changed, `value` itself elsewhere.
    """
    if wrapped(schema) and isinstance(value, dict) and value.keys() == {WRAPPED}:
        value = value[WRAPPED]
    return _restored(value, schema, schema, 0)


def keeps(schema: Json) -> bool:
    """Whether `restore` has nothing to do for any answer: an object at the root, and every property required in every object."""
    return not wrapped(schema) and not any(_optional(part) for part in _parts(schema))


def _optional(part: dict[str, Any]) -> bool:
    properties = part.get("properties")
    return isinstance(properties, dict) and not properties.keys() <= set(part.get("required", ()))


def _parts(value: Json) -> Iterator[dict[str, Any]]:
    """Every mapping in a schema, properties and keywords alike: reading one too many only costs a walk."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            yield part
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)


# ---------------------------------------------------------------- projecting


def _projected(part: Json, root: Json) -> Json:
    if isinstance(part, bool):
        return {}
    if "$ref" in part:
        return {"$ref": part["$ref"]}
    kept = {name: part[name] for name in _KEPT if name in part}
    alternatives = _alternatives(part)
    if alternatives:
        return kept | {"anyOf": [_projected(option, root) for option in alternatives]}
    if len(part.get("allOf", ())) == 1:
        return _projected({**{k: v for k, v in part.items() if k != "allOf"}, **part["allOf"][0]}, root)
    kind = _type(part)
    if kind is not None:
        kept["type"] = kind
    if _is_object(part):
        kept |= _projected_object(part, root)
    if isinstance(part.get("items"), dict):
        kept["items"] = _projected(part["items"], root)
    return kept


def _projected_object(part: Json, root: Json) -> Json:
    required = part.get("required", ())
    properties = {
        name: _projected(rule, root) if name in required else _nullable(_projected(rule, root))
        for name, rule in part.get("properties", {}).items()
    }
    return {"type": _type(part) or "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _nullable(part: Json) -> Json:
    """The same rule, null allowed."""
    if not part or part.get("const", 0) is None or None in part.get("enum", ()):
        return part
    if "anyOf" in part:
        if any(option.get("type") == "null" for option in part["anyOf"]):
            return part
        return part | {"anyOf": [*part["anyOf"], {"type": "null"}]}
    if "$ref" in part or "const" in part:
        return {"anyOf": [part, {"type": "null"}]}
    kinds = part.get("type")
    if isinstance(kinds, str):
        kinds = [kinds]
    if kinds is None:
        return {"anyOf": [part, {"type": "null"}]}
    nullable = part if "null" in kinds else part | {"type": [*kinds, "null"]}
    return nullable | {"enum": [*part["enum"], None]} if "enum" in part else nullable


def _alternatives(part: Json) -> Json:
    return part.get("anyOf") or part.get("oneOf")


def _type(part: Json) -> Json:
    """The type a rule has or, where it says none, the one its values have: strict servers want it said."""
    if "type" in part:
        return part["type"]
    if "properties" in part:
        return "object"
    if "items" in part:
        return "array"
    values = part["enum"] if "enum" in part else [part["const"]] if "const" in part else []
    kinds = sorted({_TYPES[type(value)] for value in values})
    return kinds[0] if len(kinds) == 1 else kinds or None


_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}


def _is_object(part: Json) -> bool:
    if not isinstance(part, dict):
        return False
    kind = part.get("type", "object" if "properties" in part else None)
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _followed(part: Json, root: Json) -> Json:
    """The rule that a chain of local `$ref` ends at; {} when it leads nowhere."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(part, dict) or "$ref" not in part:
            return part if isinstance(part, dict) else {}
        part = _looked_up(part["$ref"], root)
    return {}


def _looked_up(reference: Any, root: Json) -> Json:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return {}
    part = root
    for step in reference[1:].split("/")[1:]:
        part = part.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(part, dict) else None
    return part if part is not None else {}


# ---------------------------------------------------------------- what cannot be projected


def _problems(part: Json, where: str, root: Json, depth: int) -> Iterator[str]:
    place = where or "the root"
    if depth > _MAX_DEPTH:
        yield f"{place} is nested more than {_MAX_DEPTH} deep"
        return
    if isinstance(part, bool) or not isinstance(part, dict):
        yield f"{place} is {part!r}: say what may stand there"
        return
    if "$ref" in part:
        if not _followed(part, root):
            yield f"{place} refers to {part['$ref']!r}, which is not in this schema"
        return
    yield from _own_problems(part, place)
    yield from _nested_problems(part, where, root, depth)


def _own_problems(part: Json, place: str) -> Iterator[str]:
    for name in ("patternProperties", "prefixItems", "not", "if", "dependentSchemas", "propertyNames", "$dynamicRef", "contains"):
        if name in part:
            yield f"{place} uses {name}, which strict servers do not know"
    if len(part.get("allOf", ())) > 1:
        yield f"{place} uses allOf with several parts, which strict servers do not know"
    if _alternatives(part) and ("properties" in part or "items" in part):
        yield f"{place} mixes alternatives (anyOf, oneOf) with rules beside them"
    if _is_object(part) and not part.get("properties"):
        yield f"{place} is an object without properties: strict servers want each one named"
    if _is_object(part) and part.get("additionalProperties") not in (None, False, True):
        yield f"{place} gives additionalProperties a schema, which strict servers do not know"
    if not _alternatives(part) and "allOf" not in part and _type(part) is None:
        yield f"{place} says no type"


def _nested_problems(part: Json, where: str, root: Json, depth: int) -> Iterator[str]:
    for name in ("$defs", "definitions", "properties"):
        for key, rule in (part.get(name) or {}).items():
            yield from _problems(rule, f"{where}/{name}/{key}", root, depth + 1)
    for name in ("anyOf", "oneOf", "allOf"):
        for index, rule in enumerate(part.get(name) or ()):
            yield from _problems(rule, f"{where}/{name}/{index}", root, depth + 1)
    if "items" in part:
        yield from _problems(part["items"], f"{where}/items", root, depth + 1)


# ---------------------------------------------------------------- restoring


def _restored(value: Json, part: Json, root: Json, depth: int) -> Json:
    part = _followed(part, root)
    if depth > _MAX_DEPTH or not isinstance(value, dict | list):
        return value
    for option in _alternatives(part) or part.get("allOf") or ():
        rule = _followed(option, root)
        if _describes(rule, value):
            return _restored(value, rule, root, depth + 1)
    if isinstance(value, list):
        rule = part.get("items")
        return [_restored(item, rule, root, depth + 1) for item in value] if isinstance(rule, dict) else value
    return _restored_object(value, part, root, depth)


def _restored_object(value: dict[str, Json], part: Json, root: Json, depth: int) -> Json:
    properties = part.get("properties", {})
    required = part.get("required", ())
    kept = {}
    for name, item in value.items():
        rule = properties.get(name)
        if item is None and rule is not None and name not in required and not _allows_null(rule, root, 0):
            continue
        kept[name] = item if rule is None else _restored(item, rule, root, depth + 1)
    return kept


def _describes(rule: Json, value: Json) -> bool:
    """Whether an alternative is the one an object or array was made by: its kind, its property names, its constants."""
    if isinstance(value, list):
        return bool(_type(rule) == "array")
    properties = rule.get("properties", {})
    if not _is_object(rule) or not value.keys() <= properties.keys():
        return False
    return all("const" not in properties[name] or properties[name]["const"] == item for name, item in value.items())


def _allows_null(rule: Json, root: Json, depth: int) -> bool:
    rule = _followed(rule, root)
    if depth > _MAX_DEPTH:
        return False
    if "const" in rule or "enum" in rule:
        return None in rule.get("enum", [rule.get("const", 0)])
    if options := _alternatives(rule):
        return any(_allows_null(option, root, depth + 1) for option in options)
    kind = rule.get("type")
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)
