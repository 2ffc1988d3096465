"""Turns a JSON Schema into the subset that strict providers take, and their answers back into what the schema meant. Pure.

Strict servers want an object at the root, every property required, `additionalProperties: false`, and know no limits, patterns or
formats. `project` gives them that: an optional property becomes required and nullable; what only narrows (limits, `if`, `not`, rules
between fields) is left out, since the answer is validated at home. `restore` undoes it there, before the answer is validated against
the *original* schema: a null that only the projection allowed is dropped.
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
    body = _projected(_followed(schema, schema), schema)
    if wrapped(schema):
        body = {"type": "object", "properties": {WRAPPED: body}, "required": [WRAPPED], "additionalProperties": False}
    return body | definitions


def wrapped(schema: Json) -> bool:
    """Whether the root is no object, so that the answer comes back as {"value": …}."""
    return not _is_object(_plain(_followed(schema, schema), schema))


def restore(value: Json, schema: Json) -> Json:
    """The answer as the original schema means it: unwrapped, and without the nulls that only `project` allowed.

    Harmless on an answer that was never projected. Returns a new value where something changed, `value` itself elsewhere.
    """
    if wrapped(schema) and isinstance(value, dict) and value.keys() == {WRAPPED}:
        value = value[WRAPPED]
    return _restored(value, schema, schema, 0)


def keeps(schema: Json) -> bool:
    """Whether `restore` has nothing to do for any answer: an object at the root, and every property required in every object."""
    return not wrapped(schema) and not any(_optional(part) for part in mappings(schema))


def _optional(part: dict[str, Any]) -> bool:
    properties = part.get("properties")
    return isinstance(properties, dict) and not properties.keys() <= set(part.get("required", ()))


def mappings(value: Json) -> Iterator[dict[str, Any]]:
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
    part = _plain(part, root)
    kept = {name: part[name] for name in _KEPT if name in part}
    alternatives = _alternatives(part)
    if alternatives:
        return kept | {"anyOf": [_projected(option, root) for option in alternatives]}
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


def _plain(part: Json, root: Json, depth: int = 0) -> Json:
    """The rule with its allOf folded in, and without alternatives that stand beside properties: those only narrow."""
    plain = {name: rule for name, rule in part.items() if name != "allOf"}
    for piece in part.get("allOf") or ():
        rule = _followed(piece, root)
        plain = _joined(plain, _plain(rule, root, depth + 1) if depth < _MAX_DEPTH else rule)
    if "properties" in plain or "items" in plain:
        plain = {name: rule for name, rule in plain.items() if name not in ("anyOf", "oneOf")}
    return plain


def _joined(first: Json, second: Json) -> Json:
    """Two rules that both hold, as one that is no narrower: the first decides where both speak of one thing."""
    joined = {**second, **first}
    if "properties" in first and "properties" in second:
        joined["properties"] = {**second["properties"], **first["properties"]}
    if "required" in first and "required" in second:
        joined["required"] = [*first["required"], *(name for name in second["required"] if name not in first["required"])]
    return joined


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
    yield from _own_problems(part, place, root)
    yield from _nested_problems(part, where, root, depth)


def _own_problems(part: Json, place: str, root: Json) -> Iterator[str]:
    plain = _plain(part, root)
    for name in ("patternProperties", "prefixItems", "$dynamicRef"):
        if name in plain:
            yield f"{place} uses {name}, which strict servers do not know"
    hidden = sorted(set(_hidden(part, plain)) - plain.get("properties", {}).keys()) if _is_object(plain) else []
    if hidden:
        yield f"{place} speaks of {hidden[0]!r} only under a condition: name it under properties as well"
    if _is_object(plain) and not _alternatives(plain) and not plain.get("properties"):
        yield f"{place} is an object without properties: strict servers want each one named"
    if _is_object(plain) and plain.get("additionalProperties") not in (None, False, True):
        yield f"{place} gives additionalProperties a schema, which strict servers do not know"
    if not _alternatives(plain) and _type(plain) is None:
        yield f"{place} says no type"


def _hidden(part: Json, plain: Json) -> Iterator[str]:
    """The properties named only by rules that the projection leaves out: strict servers would forbid them."""
    rules = [part.get(name) for name in ("then", "else")]
    rules += (part.get("dependentSchemas") or {}).values()
    rules += () if _alternatives(plain) else part.get("anyOf") or part.get("oneOf") or ()
    for piece in part.get("allOf") or ():
        rules += [piece.get(name) for name in ("then", "else")] if isinstance(piece, dict) else ()
    for rule in rules:
        if isinstance(rule, dict):
            yield from rule.get("properties", ())


def _nested_problems(part: Json, where: str, root: Json, depth: int) -> Iterator[str]:
    plain = _plain(part, root)
    for name in ("$defs", "definitions", "properties"):
        for key, rule in (plain.get(name) or {}).items():
            yield from _problems(rule, f"{where}/{name}/{key}", root, depth + 1)
    for name in ("anyOf", "oneOf"):
        for index, rule in enumerate(plain.get(name) or ()):
            yield from _problems(rule, f"{where}/{name}/{index}", root, depth + 1)
    if "items" in plain:
        yield from _problems(plain["items"], f"{where}/items", root, depth + 1)


# ---------------------------------------------------------------- restoring


def _restored(value: Json, part: Json, root: Json, depth: int) -> Json:
    if depth > _MAX_DEPTH or not isinstance(value, dict | list):
        return value
    part = _plain(_followed(part, root), root)
    for option in _alternatives(part) or ():
        rule = _plain(_followed(option, root), root)
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
