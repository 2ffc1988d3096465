"""`schema`: who is valid, how errors are told, that two libraries agree, that nothing hangs or is fetched."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest
from referencing import Registry
from verifying import a_case, verdict

from cascade.types import Document, Verdict
from cascade.verifiers import build
from cascade.verifiers._explain import explain
from cascade.verifiers.schema import SchemaVerifier, check_schema

VALID = Verdict(1.0, signals={"errors": 0.0})

INVOICE = {
    "type": "object",
    "required": ["vendor", "total", "lines"],
    "properties": {
        "vendor": {"type": "string", "minLength": 1},
        "total": {"type": "number", "minimum": 0},
        "date": {"type": "string", "format": "date"},
        "currency": {"enum": ["EUR", "USD"]},
        "lines": {
            "type": "array",
            "items": {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}},
        },
    },
    "additionalProperties": False,
}


def test_a_valid_answer_scores_one() -> None:
    good = {"vendor": "Acme", "total": 3.5, "date": "2026-11-03", "lines": [{"amount": 3.5}]}
    assert verdict(SchemaVerifier(INVOICE), a_case(good)) == VALID


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"vendor": "Acme", "total": 1, "lines": [{"amount": 1}, {}]}, Verdict(0.75, "/lines/1/amount: is missing", ("/lines/1/amount",), {"errors": 1.0})),
        ({"vendor": "", "total": -1, "lines": []},
         Verdict(0.3333, "/vendor: '' should be non-empty; /total: -1 is less than the minimum of 0", ("/vendor", "/total"), {"errors": 2.0})),
        ({"vendor": "Acme", "total": 1, "lines": [], "date": "2026-02-30"}, Verdict(0.75, "/date: '2026-02-30' is not a date", ("/date",), {"errors": 1.0})),
        ({"vendor": "Acme", "total": 1, "lines": [], "currency": "DM"},
         Verdict(0.75, "/currency: 'DM' is not one of ['EUR', 'USD']", ("/currency",), {"errors": 1.0})),
        ({"vendor": "Acme", "total": 1, "lines": [], "x": 1, "y": 2},
         Verdict(0.8, "the answer: has members the schema does not know: 'x', 'y'", ("",), {"errors": 1.0})),
        ([], Verdict(0.0, "the answer: [] is not of type 'object'", ("",), {"errors": 1.0})),
        ("text", Verdict(0.0, "the answer: 'text' is not of type 'object'", ("",), {"errors": 1.0})),
        ({}, Verdict(0.0, "/vendor: is missing; /total: is missing; /lines: is missing", ("/vendor", "/total", "/lines"), {"errors": 3.0})),
    ],
)  # fmt: skip
def test_errors_are_told_with_their_paths_and_a_partial_score(value: Any, expected: Verdict) -> None:
    assert verdict(SchemaVerifier(INVOICE), a_case(value)) == expected


def test_of_several_alternatives_the_one_that_was_meant_is_told() -> None:
    card = {
        "type": "object",
        "required": ["kind", "number"],
        "properties": {"kind": {"const": "card"}, "number": {"type": "string"}},
    }
    cash = {"type": "object", "required": ["kind"], "properties": {"kind": {"const": "cash"}}, "additionalProperties": False}
    schema = {"properties": {"paid": {"oneOf": [card, cash, {"type": "null"}]}}}
    assert verdict(SchemaVerifier(schema), a_case({"paid": {"kind": "card"}})).reason == "/paid/number: is missing"
    assert verdict(SchemaVerifier(schema), a_case({"paid": 5})).reason == "/paid: fits none of the 3 alternatives"


def test_members_left_over_are_named() -> None:
    schema = {"allOf": [{"properties": {"a": True}}], "properties": {"b": True}, "unevaluatedProperties": False}
    reason = verdict(SchemaVerifier(schema), a_case({"a": 1, "b": 2, "c": 3})).reason
    assert reason == "the answer: Unevaluated properties are not allowed ('c' was unexpected)"


def test_a_reason_is_one_line_without_control_characters_and_short() -> None:
    value = {"vendor": {"x": "\x1b[31m\u202e\n" + "y" * 10_000}, "total": "\x00", "lines": [{"amount": "a"}] * 40}
    found = verdict(SchemaVerifier(INVOICE), a_case(value))
    assert found.reason is not None
    assert found.reason.isprintable()
    assert len(found.reason) < 1_000
    assert "(and 37 more)" in found.reason


def test_an_answer_without_json_scores_nothing_and_says_why() -> None:
    assert verdict(SchemaVerifier(INVOICE), a_case(None, problem="no JSON in the answer")) == Verdict(0.0, "no JSON in the answer")


def test_without_a_schema_the_gate_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="the policy has no schema"):
        build("schema", None, None)


DEEP: Any = "x"
for _ in range(60):
    DEEP = {"a": DEEP}

TANGLED = {
    "anyOf": [
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "z": {"type": "null"}}, "minProperties": 1},
        {"type": "integer"},
    ]
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 40 + "!"),
        ({"pattern": "^(a|aa)+$"}, "a" * 10_000 + "!"),
        ({"pattern": r"(x+x+)+\1y"}, "x" * 100_000),
        ({"pattern": r"^(?=(a+)+b)(a+)+\1$"}, "a" * 40 + "!"),
        ({"items": {"pattern": r"(x+x+)+\1y"}}, ["x" * 50] * 4),
        ({"patternProperties": {"^(a+)+$": False}}, {"a" * 40 + "!": 1, "aa": 1}),
        ({"patternProperties": {"^(a+)+$": True}, "additionalProperties": False}, {"a" * 40 + "!": 1}),
        ({"propertyNames": {"pattern": "^(a+)+$"}}, {"a" * 40 + "!": 1}),
        ({"patternProperties": {"^(a+)+$": True}, "unevaluatedProperties": False}, {"a" * 40 + "!": 1}),
        ({"unevaluatedItems": False, "prefixItems": [True]}, list(range(100_000))),
        ({"uniqueItems": True}, [{"a": i} for i in range(20_000)] + [{"a": 0}]),
        ({"items": {"required": ["a", "b", "c"]}}, [{}] * 100_000),
        ({"format": "iri"}, "x" * 100_000),
        (TANGLED, DEEP),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_nothing_hangs(schema: Any, value: Any) -> None:
    verifier = SchemaVerifier(schema)
    explain({"type": "string"}, 1)  # imports jsonschema, which is not what is measured
    started = time.process_time()
    found = verdict(verifier, a_case(value))
    assert time.process_time() - started < 1.0  # at most 0.15 s of explaining, 0.25 s in all; the rest is for slow machines
    assert found.score is not None
    assert found.score < 1.0
    assert found.reason


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (5, "a JSON Schema is an object"),
        ({"type": "strin"}, "/type: 'strin' is not valid"),
        ({"type": "object", "required": "a"}, "/required: 'a' is not of type 'array'"),
        ({"properties": {"a": {"minLength": -1}}}, "/properties/a/minLength: -1 is less than the minimum"),
        ({"pattern": "("}, 'is not a "regex"'),
        ({"$ref": "http://example.com/s.json"}, "/$ref: 'http://example.com/s.json' leads out of the schema"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "/properties/a/$ref: 'file:///etc/passwd' leads out"),
        ({"items": {"$ref": "other.json#/x"}}, "/items/$ref: 'other.json#/x' leads out"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "leads out of the schema"),
        ({"$ref": "#/$defs/nothing"}, "does not exist"),
        ({"$ref": "#nothing"}, "nothing"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_at_load(schema: Any, says: str) -> None:
    problems = check_schema(schema)
    assert len(problems) == 1
    assert says in problems[0]
    with pytest.raises(ValueError, match=r"^"):
        SchemaVerifier(schema)


def test_references_that_multiply_are_refused_and_quickly() -> None:
    defs: dict[str, Any] = {"d0": {"type": "string"}}
    for i in range(1, 40):
        defs[f"d{i}"] = {"allOf": [{"$ref": f"#/$defs/d{i - 1}"}] * 2}
    # jsonschema-rs itself compiles forty of these; to try them is 10^12 steps
    assert check_schema({"$ref": "#/$defs/d39", "$defs": defs}) == ["its references multiply to more than 100000 subschemas"]


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"const": {"$ref": "http://example.com"}},
        {"enum": [{"$ref": "http://example.com"}]},
        {"properties": {"$ref": {"type": "string"}}},
        {"$id": "http://example.com/a", "$defs": {"x": {"$id": "b", "type": "string"}}, "$ref": "b"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
        {"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"},
        {"$anchor": "top", "properties": {"a": {"$ref": "#top"}}},
        TANGLED,
    ],
)
def test_what_only_looks_like_a_foreign_reference_is_taken(schema: Any) -> None:
    assert check_schema(schema) == []


# Own cases over Draft 2020-12: schema, a valid value, an invalid one.
BOTH: list[tuple[Any, Any, Any]] = [
    ({"type": "integer"}, 1.0, 1.5),
    ({"type": "number"}, 1e5, True),
    ({"type": ["string", "null"]}, None, 0),
    ({"type": "boolean"}, False, 0),
    ({"type": "array"}, [], {}),
    ({"enum": [1, "a", None, {"x": [1]}]}, {"x": [1.0]}, {"x": []}),
    ({"enum": [False]}, False, 0),
    ({"const": 1}, 1.0, True),
    ({"const": {"a": [1, 2]}}, {"a": [1, 2]}, {"a": [2, 1]}),
    ({"multipleOf": 0.5}, 4.5, 4.35),
    ({"multipleOf": 3}, 9, 10),
    ({"minimum": 1}, 1, 0.99),
    ({"exclusiveMinimum": 1}, 1.01, 1),
    ({"maximum": 1}, 1, 1.01),
    ({"exclusiveMaximum": 1}, 0, 1),
    ({"minLength": 2}, "😀😀", "😀"),
    ({"maxLength": 2}, "😀😀", "abc"),
    ({"pattern": "b+"}, "abc", "ac"),
    ({"pattern": "^\\d{4}-\\d{2}$"}, "2026-11", "2026-1"),
    ({"minItems": 1}, [None], []),
    ({"maxItems": 1}, [1], [1, 2]),
    ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}], [1, 1.0]),
    ({"uniqueItems": True}, [{"a": 1}, {"a": 2}], [{"a": 1, "b": 2}, {"b": 2, "a": 1}]),
    ({"items": {"type": "string"}}, ["a"], ["a", 1]),
    ({"prefixItems": [{"type": "string"}, {"type": "number"}]}, ["a", 1, {}], ["a", "b"]),
    ({"prefixItems": [{"type": "string"}], "items": False}, ["a"], ["a", 1]),
    ({"prefixItems": [True], "items": {"type": "number"}}, ["a", 1], ["a", 1, "b"]),
    ({"contains": {"type": "number"}}, ["a", 1], ["a"]),
    ({"contains": {"type": "number"}, "minContains": 2}, [1, 2, "a"], [1, "a"]),
    ({"contains": {"type": "number"}, "maxContains": 1}, [1, "a"], [1, 2]),
    ({"contains": {"type": "number"}, "minContains": 0}, [], None),
    ({"required": ["a"]}, {"a": None}, {}),
    ({"minProperties": 1}, {"a": 1}, {}),
    ({"maxProperties": 1}, {"a": 1}, {"a": 1, "b": 2}),
    ({"properties": {"a": {"type": "number"}}}, {"b": "x"}, {"a": "x"}),
    ({"properties": {"a": False}}, {"b": 1}, {"a": 1}),
    ({"patternProperties": {"^n_": {"type": "number"}}}, {"n_a": 1, "x": "y"}, {"n_a": "1"}),
    ({"properties": {"a": True}, "patternProperties": {"^b": True}, "additionalProperties": False}, {"a": 1, "bb": 2}, {"c": 1}),
    ({"additionalProperties": {"type": "number"}}, {"x": 1}, {"x": "1"}),
    ({"propertyNames": {"maxLength": 2}}, {"ab": 1}, {"abc": 1}),
    ({"dependentRequired": {"a": ["b"]}}, {"b": 1}, {"a": 1}),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1, "b": 2}, {"a": 1}),
    ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, 2, 4),
    ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, 5, 4),
    ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, 5.5, 6),
    ({"not": {"type": "string"}}, 1, "a"),
    ({"if": {"minimum": 10}, "then": {"multipleOf": 10}, "else": {"maximum": 5}}, 20, 11),
    ({"if": {"minimum": 10}, "else": {"maximum": 5}}, 15, 7),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, "x", 1),
    ({"$ref": "#/$defs/a", "maxLength": 1, "$defs": {"a": {"type": "string"}}}, "x", "xy"),
    ({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "string"}}}, "x", 1),
    ({"properties": {"next": {"$ref": "#"}}, "additionalProperties": False}, {"next": {"next": {}}}, {"next": {"x": 1}}),
    ({"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "string"}}}, "x", 1),
    ({"$id": "http://example.com/r", "$ref": "item", "$defs": {"i": {"$id": "item", "type": "string"}}}, "x", 1),
    ({"$dynamicAnchor": "n", "properties": {"c": {"items": {"$dynamicRef": "#n"}}}, "required": ["v"]}, {"v": 1, "c": [{"v": 2}]},
     {"v": 1, "c": [{}]}),
    ({"properties": {"a": True}, "unevaluatedProperties": False}, {"a": 1}, {"b": 1}),
    ({"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False}, {"a": 1}, {"a": 1, "b": 1}),
    ({"anyOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": True}}], "unevaluatedProperties": False}, {"b": 2}, {"c": 2}),
    ({"prefixItems": [True], "unevaluatedItems": False}, [1], [1, 2]),
    ({"allOf": [{"prefixItems": [True]}], "unevaluatedItems": {"type": "string"}}, [1, "a"], [1, 2]),
    ({"format": "date"}, "2024-02-29", "2023-02-29"),
    ({"format": "date-time"}, "2026-11-03T10:00:00Z", "2026-11-03 10:00"),
    ({"format": "time"}, "10:00:00Z", "25:00:00Z"),
    ({"format": "email"}, "a@example.com", "a.example.com"),
    ({"format": "ipv4"}, "127.0.0.1", "127.0.0.256"),
    ({"format": "ipv6"}, "::1", "12345::"),
    ({"format": "uri"}, "https://example.com/a?b=c", "not a uri"),
    ({"format": "uuid"}, "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08"),
    ({"format": "duration"}, "P4DT12H30M5S", "P1D2H"),
    ({"format": "regex"}, "^a+$", "("),
    ({"format": "json-pointer"}, "/a~1b/0", "a"),
    ({"format": "hostname"}, "example.com", "-bad-.example"),
    ({"format": "nothing-known"}, "anything", None),
    (True, 1, None),
    ({}, None, None),
]  # fmt: skip
NO_INVALID = [{"contains": {"type": "number"}, "minContains": 0}, {"format": "nothing-known"}, True, {}]


@pytest.mark.parametrize(("schema", "good", "bad"), BOTH, ids=lambda value: repr(value)[:50])
def test_the_two_libraries_agree_on_draft_2020_12(schema: Any, good: Any, bad: Any) -> None:
    other = jsonschema.Draft202012Validator(schema, registry=Registry(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    ours = SchemaVerifier(schema)
    assert verdict(ours, a_case(good)) == VALID
    assert other.is_valid(good)
    if schema not in NO_INVALID:
        found = verdict(ours, a_case(bad))
        assert found.score is not None
        assert found.score < 1.0
        assert found.reason
        assert "too long to find" not in found.reason
        assert not other.is_valid(bad)


def test_false_lets_nothing_pass() -> None:
    assert verdict(SchemaVerifier(False), a_case(1)) == Verdict(0.0, "the answer: False schema does not allow 1", ("",), {"errors": 1.0})


def test_the_verifier_takes_microseconds() -> None:
    fields = {f"field_{i}": {"type": "string", "maxLength": 40} for i in range(15)}
    verifier = SchemaVerifier({"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False})
    case = a_case(dict.fromkeys(fields, "a value of some length"))
    best = min(_seconds(verifier, case) for _ in range(5))
    assert best < 80e-6  # 1 to 2 microseconds on a quiet machine; jsonschema alone takes 370


def _seconds(verifier: SchemaVerifier, case: Any) -> float:
    started = time.perf_counter()
    for _ in range(200):
        running = verifier(case, None)  # type: ignore[arg-type]
        with pytest.raises(StopIteration):
            running.send(None)
    return (time.perf_counter() - started) / 200


def test_the_policys_document_is_what_is_built_from() -> None:
    assert verdict(build("schema", {}, Document({"type": "string"})), a_case("x")) == VALID
