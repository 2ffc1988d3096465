"""What strict servers are sent instead of a schema, and how their answers come home."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.projection import project, restore, unsupported

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
NULLABLE_TEXT = {"type": ["string", "null"]}


def obj(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


def strict(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **more}


PROJECTED: dict[str, tuple[Any, Any]] = {
    "a required property stays as it is": (obj({"a": TEXT}, "a"), strict({"a": TEXT})),
    "an optional property becomes required and nullable": (obj({"a": TEXT}), strict({"a": NULLABLE_TEXT})),
    "limits, patterns and formats go": (
        obj({"a": {**TEXT, "minLength": 1, "pattern": "x", "format": "date"}, "b": {**NUMBER, "minimum": 0, "multipleOf": 2}}, "a", "b"),
        strict({"a": TEXT, "b": NUMBER}),
    ),
    "title and description stay": (obj({"a": {**TEXT, "title": "T", "description": "D"}}, "a"), strict({"a": {**TEXT, "title": "T", "description": "D"}})),
    "an optional choice may be null": (obj({"a": {"enum": ["x", "y"]}}), strict({"a": {"type": ["string", "null"], "enum": ["x", "y", None]}})),
    "a constant keeps its type": (obj({"a": {"const": 3}}, "a"), strict({"a": {"type": "integer", "const": 3}})),
    "oneOf becomes anyOf": (obj({"a": {"oneOf": [TEXT, NUMBER]}}, "a"), strict({"a": {"anyOf": [TEXT, NUMBER]}})),
    "an optional anyOf gets one null": (obj({"a": {"anyOf": [TEXT, {"type": "null"}]}}), strict({"a": {"anyOf": [TEXT, {"type": "null"}]}})),
    "arrays keep their items only": (obj({"a": {"type": "array", "items": TEXT, "minItems": 1, "uniqueItems": True}}, "a"),
                                     strict({"a": {"type": "array", "items": TEXT}})),
    "definitions are projected too": (
        obj({"a": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": obj({"b": TEXT})}}),
        strict({"a": {"anyOf": [{"$ref": "#/$defs/x"}, {"type": "null"}]}}, **{"$defs": {"x": strict({"b": NULLABLE_TEXT})}}),
    ),
    "a root that only refers is written out": ({"$ref": "#/$defs/x", "$defs": {"x": obj({"b": TEXT}, "b")}}, strict({"b": TEXT}, **{"$defs": {"x": strict({"b": TEXT})}})),
    "allOf is folded in": ({"allOf": [obj({"a": TEXT}, "a"), obj({"b": TEXT}, "b")]}, strict({"a": TEXT, "b": TEXT})),
    "conditions are left to the check at home": (obj({"a": TEXT}, "a", **{"if": {"properties": {"a": {"const": "x"}}}, "then": {"required": ["a"]}}), strict({"a": TEXT})),
    "alternatives beside properties only narrow": (obj({"a": TEXT, "b": TEXT}, "a", "b", anyOf=[{"required": ["a"]}, {"required": ["b"]}]), strict({"a": TEXT, "b": TEXT})),
    "a root that is a list is wrapped": ({"type": "array", "items": TEXT}, strict({"value": {"type": "array", "items": TEXT}})),
    "a root of alternatives is wrapped": ({"anyOf": [TEXT, NUMBER]}, strict({"value": {"anyOf": [TEXT, NUMBER]}})),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "sent"), PROJECTED.values(), ids=PROJECTED.keys())
def test_a_schema_is_sent_as_strict_servers_take_it(schema: Any, sent: Any) -> None:
    assert unsupported(schema) is None
    assert _sorted(project(schema)) == _sorted(sent)


def _sorted(value: Any) -> Any:
    """`required` is a set."""
    if isinstance(value, dict):
        return {key: sorted(part) if key == "required" else _sorted(part) for key, part in value.items()}
    return [_sorted(part) for part in value] if isinstance(value, list) else value


REFUSED: dict[str, Any] = {
    "/properties/a is an object without properties: strict servers want each one named": obj({"a": {"type": "object"}}),
    "/properties/a gives additionalProperties a schema, which strict servers do not know": obj(
        {"a": obj({"b": TEXT}, additionalProperties=NUMBER)}
    ),
    "/properties/a says no type": obj({"a": {}}),
    "/properties/a is True: say what may stand there": obj({"a": True}),
    "/properties/a uses prefixItems, which strict servers do not know": obj({"a": {"type": "array", "prefixItems": [TEXT]}}),
    "the root uses patternProperties, which strict servers do not know": obj({"a": TEXT}, patternProperties={"x": TEXT}),
    "/properties/a refers to '#/$defs/no', which is not in this schema": obj({"a": {"$ref": "#/$defs/no"}}),
    "the root speaks of 'b' only under a condition: name it under properties as well": obj({"a": TEXT}, then={"properties": {"b": TEXT}}),
}


@pytest.mark.parametrize(("says", "schema"), REFUSED.items(), ids=REFUSED.keys())
def test_a_schema_whose_meaning_would_be_lost_is_refused_with_its_place(says: str, schema: Any) -> None:
    assert unsupported(schema) == says


def test_a_schema_without_end_is_refused() -> None:
    deep: dict[str, Any] = dict(TEXT)
    for _ in range(70):
        deep = obj({"a": deep})
    assert str(unsupported(deep)).endswith("is nested more than 64 deep")
    assert unsupported({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}) is not None


RESTORED: dict[str, tuple[Any, Any, Any]] = {
    "a null for an optional property goes": (obj({"a": TEXT}), {"a": None}, {}),
    "a null that the schema allows stays": (obj({"a": NULLABLE_TEXT}), {"a": None}, {"a": None}),
    "a null for a required property stays, and fails at home": (obj({"a": TEXT}, "a"), {"a": None}, {"a": None}),
    "in lists and definitions too": (
        obj({"a": {"type": "array", "items": {"$ref": "#/$defs/x"}}}, "a", **{"$defs": {"x": obj({"b": TEXT, "c": TEXT}, "c")}}),
        {"a": [{"b": None, "c": "1"}, {"b": "2", "c": "3"}]},
        {"a": [{"c": "1"}, {"b": "2", "c": "3"}]},
    ),
    "by the alternative it was made by": (
        obj({"a": {"anyOf": [obj({"kind": {"const": "x"}, "b": TEXT}, "kind"), obj({"kind": {"const": "y"}, "b": NULLABLE_TEXT}, "kind")]}}),
        {"a": {"kind": "y", "b": None}},
        {"a": {"kind": "y", "b": None}},
    ),
    "a wrapped value is unwrapped": ({"type": "array", "items": TEXT}, {"value": ["x"]}, ["x"]),
    "an answer that was never projected stays": (obj({"a": TEXT, "b": NUMBER}), {"a": "x", "z": None}, {"a": "x", "z": None}),
    "a value of another kind stays": (obj({"a": TEXT}), [None], [None]),
}


@pytest.mark.parametrize(("schema", "value", "meant"), RESTORED.values(), ids=RESTORED.keys())
def test_an_answer_comes_home_as_the_schema_means_it(schema: Any, value: Any, meant: Any) -> None:
    assert restore(value, schema) == meant


_LEAVES = st.sampled_from([TEXT, {"type": "integer", "minimum": 0}, {"type": "boolean"}, NULLABLE_TEXT, {"enum": ["x", "y"]}])


def _objects(rules: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from("abcd"), rules, min_size=1).flatmap(
        lambda properties: st.sets(st.sampled_from(sorted(properties))).map(lambda required: obj(properties, *sorted(required)))
    )


SCHEMAS = _objects(st.recursive(_LEAVES, lambda rules: _objects(rules) | rules.map(lambda rule: {"type": "array", "items": rule}), max_leaves=8))


def _values(rule: Any, draw: Any) -> Any:
    """A value that fits a projected rule."""
    if "enum" in rule:
        return draw(st.sampled_from(rule["enum"]))
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    kind = draw(st.sampled_from(kinds))
    if kind == "object":
        return {name: _values(part, draw) for name, part in rule["properties"].items()}
    if kind == "array":
        return [_values(rule["items"], draw) for _ in range(draw(st.integers(0, 2)))]
    return {"string": "s", "integer": 1, "boolean": True, "null": None}[kind]


@given(SCHEMAS, st.data())
@settings(max_examples=50, deadline=None)
def test_whatever_fits_the_projection_fits_the_original_once_it_is_home(schema: Any, data: st.DataObject) -> None:
    sent = project(schema)
    value = _values(sent, data.draw)
    jsonschema.validate(value, sent)
    jsonschema.validate(restore(value, schema), schema)
