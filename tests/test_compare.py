"""Whether two answers are the same: by JSON type, by the policy's comparators, by field, and among several."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.compare import COMPARATORS, Agreement, Comparators, compare_schema, parse_field

NOTHING = Comparators()


def equals(a: Any, b: Any) -> bool:
    return isinstance(a, str) and isinstance(b, str) and a[0] == b[0]


def fails(a: Any, b: Any) -> bool:
    raise LookupError("no table")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1.0, True),
        (2**60, float(2**60), True),
        (10**40, 10**40, True),
        (10**40, 10**40 + 1, False),
        (True, 1, False),
        (False, 0, False),
        (None, 0, False),
        ("1", 1, False),
        (0.1 + 0.2, 0.3, False),
        (" Acme ", "Acme", True),
        ("Acme", "acme", False),
        ("e\u0301", "\u00e9", True),  # NFC
        ([1, 2], [2, 1], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1, "b": None}, {"a": 1}, True),  # a missing member and null are the same
        ({"a": 1}, [1], False),
        ({"a": {}}, {"a": []}, False),
        ([], None, False),
        ([], [None], False),
        ({}, {}, True),
    ],
)
def test_values_are_compared_by_json_type(a: Any, b: Any, same: bool) -> None:
    assert NOTHING.same(a, b) is same
    assert NOTHING.same(b, a) is same
    assert (NOTHING.canonical({"x": a}) == NOTHING.canonical({"x": b})) is same


@pytest.mark.parametrize(
    ("comparator", "a", "b", "same"),
    [
        ({"number": {"tolerance": 0.01}}, 100.01, 100.00, True),
        ({"number": {"tolerance": 0.01}}, 100.02, 100.00, False),
        ({"number": {"tolerance": 0.01}}, True, 1.0, False),
        ({"number": {"tolerance": 5}}, 1, None, False),
        ({"number": {"relative": 0.01}}, 1010, 1000, True),
        ({"number": {"relative": 0.01}}, 1012, 1000, False),
        ({"number": {"tolerance": 1}}, 10**400, 1.0, False),
        ({"number": {"parse": True}}, "$1,018.00", 1018, True),
        ({"number": {"parse": True}}, "18 dollars.", "USD 18", True),
        ({"number": {"parse": True}}, "(5.00)", -5, True),
        ({"number": {"parse": True}}, "\u22123", -3, True),
        ({"number": {"parse": True}}, "12%", "12", True),
        ({"number": {"parse": True}}, "10 to 20", 10, False),
        ({"number": {"parse": True}}, "1.018,00", 1.018, False),  # could be either: text
        ({"number": {"parse": True}}, "2026-11-03", 2026, False),
        ("number", "18", 18, False),
        ({"text": {"casefold": True}}, "STRASSE  12", "Straße 12", True),
        ({"text": {}}, "a  b\n", "a b", True),
        ({"text": {"collapse": False}}, "a  b", "a b", False),
        ({"text": {"strip": False}}, "a ", "a", False),
        ({"text": {"punctuation": False, "casefold": True}}, "Acme, Inc.", "ACME INC", True),
        ("text", "a", 1, False),
        ("date", "2026-11-03", "3 Nov 2026", True),
        ("date", "November 3rd, 2026", "03.11.2026", True),
        ("date", "2026/11/3", "2026-11-03T00:00:00", True),
        ("date", "2026-11-03T10:00:00Z", "2026-11-03T12:00:00+02:00", True),
        ("date", "2026-11-03T10:00:00Z", "2026-11-03", False),
        ("date", "03/11/2026", "2026-11-03", False),  # could be March
        ({"date": {"day_first": True}}, "03/11/2026", "2026-11-03", True),
        ({"date": {"day_first": False}}, "03/11/2026", "2026-03-11", True),
        ("date", "13/11/2026", "2026-11-13", True),
        ("date", "31.02.2026", "2026-02-31", False),  # no dates, so texts
        ("date", "soon", "soon ", True),
        ("set", ["a", "b"], ["b", "a", "a"], True),
        ("set", ["a"], ["a", "b"], False),
        ("set", [{"n": 1}, {"n": 2}], [{"n": 2}, {"n": 1.0}], True),
        ({"set": {"item": {"text": {"casefold": True}}}}, ["A", "b"], ["B", "a"], True),
        ({"set": {"item": {"number": {"tolerance": 0.1}}}}, [1, 2], [2.05, 0.95], True),
        ({"set": {"item": {"number": {"tolerance": 0.1}}}}, [1, 2], [2.05, 1.5], False),
        ("letter", "B", "(b)", True),
        ("letter", "B. Paris", "The answer is B.", True),
        ("letter", "**Answer:** C", "C", True),
        ("letter", "B", "C", False),
        ("letter", "Both are wrong", "B", False),
        ("letter", "Paris", "paris", True),
        ("literal", "[1, 2]", "[1,2]", True),
        ("literal", "'a'", '"a"', True),
        ("literal", "{1, 2}", "{2, 1}", True),
        ("literal", "(1, 'x')", ["1", "x"], False),
        ("literal", "(1, 'x')", [1, "x"], True),
        ("literal", "os.system('x')", "os.system( 'x')", False),
        ({"python": "test_compare:equals"}, "abc", "axe", True),
        ({"python": {"function": "test_compare:equals"}}, "abc", "xyz", False),
        ("ignore", 1, {"what": "ever"}, True),
        ("ignore", 1, None, True),
    ],
)
def test_a_comparator_says_what_is_the_same(comparator: Any, a: Any, b: Any, same: bool) -> None:
    comparators = Comparators.load({"x": comparator})
    assert comparators.same({"x": a}, {"x": b}) is same
    assert comparators.same({"x": b}, {"x": a}) is same
    if same:  # what is the same has one canonical form; exact comparators hold the other way round too
        assert comparators.canonical({"x": a}) == comparators.canonical({"x": b})
    elif comparators.exact:
        assert comparators.canonical({"x": a}) != comparators.canonical({"x": b})


@pytest.mark.parametrize(
    ("compare", "says"),
    [
        ({"a": {"numbr": {}}}, "a: unknown comparator 'numbr'; there are number, text, date"),
        ({"a": {"number": {"tol": 1}}}, "a: number has no option 'tol'; it has tolerance, relative, parse"),
        ({"a": {"number": {"tolerance": -1}}}, "a: number: tolerance: input should be greater than or equal to 0"),
        ({"a": {"number": {"tolerance": "0.1"}}}, "a: number: tolerance: input should be a valid number"),
        ({"a": {"number": {"tolerance": math.inf}}}, "a: number: tolerance: input should be a finite number"),
        ({"a": 5}, "a: wants one comparator"),
        ({"a": {"number": {}, "text": {}}}, "a: wants one comparator"),
        ({"a": {"set": {"item": "foo"}}}, "a: unknown comparator 'foo'"),
        ({"a": {"python": "os"}}, "a: 'os' is not of the form package.module:function"),
        ({"a": {"python": "no_such_module:f"}}, "a: cannot import 'no_such_module:f'"),
        ({"a": {"python": "os:sep"}}, "a: 'os:sep' is not a function"),
        ({"a..b": "number"}, "a..b: 'a..b' is not a field"),
        ({"": "number"}, ": '' is not a field"),
    ],
)
def test_a_mistake_in_compare_is_named(compare: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        Comparators.load(compare)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("total", ("total",)),
        ("vendor.name", ("vendor", "name")),
        ("lines.amount", ("lines", "amount")),
        ("lines[].amount", ("lines", "amount")),
        ("lines[0].amount", ("lines", 0, "amount")),
        ('["odd.key"].x', ("odd.key", "x")),
        ("[2]", (2,)),
    ],
)
def test_fields_are_dotted_paths(field: str, parts: tuple[str | int, ...]) -> None:
    assert parse_field(field) == parts


@pytest.mark.parametrize("field", ["", ".", "a.", "a[", "a[x]", "a]b", 'a["b]', "a[0]b"])
def test_other_paths_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match="is not a field"):
        parse_field(field)


A = {"total": 10, "vendor": {"name": "Acme"}, "lines": [{"amount": 4, "sku": "x"}, {"amount": 6, "sku": "y"}], "note": "n"}
B = {"total": 10.005, "vendor": {"name": "ACME"}, "lines": [{"amount": 4.5, "sku": "x"}, {"amount": 6, "sku": "z"}]}


@pytest.mark.parametrize(
    ("compare", "fields", "differing"),
    [
        ({}, None, ("/total", "/vendor/name", "/lines/0/amount", "/lines/1/sku", "/note")),
        ({"total": {"number": {"tolerance": 0.01}}, "vendor.name": {"text": {"casefold": True}}, "note": "ignore"}, None,
         ("/lines/0/amount", "/lines/1/sku")),
        ({"lines.amount": {"number": {"tolerance": 1}}}, ["lines"], ("/lines/1/sku",)),
        ({"lines[1].amount": {"number": {"tolerance": 1}}}, ["lines.amount"], ("/lines/0/amount",)),
        ({"lines[0].amount": {"number": {"tolerance": 1}}}, ["lines.amount"], ()),
        ({"lines.amount": "ignore", "lines[0].amount": "number"}, ["lines.amount"], ("/lines/0/amount",)),
        ({}, ["vendor"], ("/vendor/name",)),
        ({}, ["lines[1].sku", "total"], ("/total", "/lines/1/sku")),
        ({}, ["nowhere", "vendor.nowhere"], ()),
        ({"vendor": {"python": "test_compare:fails"}}, ["total"], ("/total",)),
    ],
)  # fmt: skip
def test_differing_names_the_leaves(compare: dict[str, Any], fields: list[str] | None, differing: tuple[str, ...]) -> None:
    assert Comparators.load(compare).differing(A, B, fields) == differing


@pytest.mark.parametrize(
    ("a", "b", "fields", "differing"),
    [
        ("x", "y", None, ("",)),
        ("x", "y", ["total"], ("",)),  # neither has the field: they still are not the same answer
        ({"a": 1}, "y", ["a"], ("",)),
        ({"a": [1, 2, 3]}, {"a": [1]}, None, ("/a/1", "/a/2")),
        ({"a": {"b": 1}}, {}, ["a.b"], ("/a/b",)),
        ({"a/b": 1, "c~d": 1}, {"a/b": 2, "c~d": 2}, None, ("/a~1b", "/c~0d")),
    ],
)
def test_shapes_that_do_not_match_differ(a: Any, b: Any, fields: list[str] | None, differing: tuple[str, ...]) -> None:
    assert NOTHING.differing(a, b, fields) == differing


def test_an_error_in_a_users_comparator_is_named() -> None:
    with pytest.raises(ValueError, match="test_compare:fails raised LookupError: no table"):
        Comparators.load({"x": {"python": "test_compare:fails"}}).same({"x": 1}, {"x": 2})


def test_agreement_finds_the_majority_and_what_is_disputed() -> None:
    values = [{"a": 1, "b": "x"}, {"a": 1.0, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}]
    assert NOTHING.agreement(values) == Agreement(0.5, {"a": 0.75, "b": 0.75}, ("/b", "/a"), {"a": 1, "b": "x"})
    assert NOTHING.agreement(values, ["a"]) == Agreement(0.75, {"a": 0.75}, ("/a",), {"a": 1, "b": "x"})
    assert NOTHING.agreement(["yes"]) == Agreement(1.0, {}, (), "yes")
    assert NOTHING.agreement(["no", "yes", "yes"]) == Agreement(2 / 3, {}, ("",), "yes")


def test_hostile_values_take_linear_time() -> None:
    collide = [n * (2**61 - 1) for n in range(1, 20_000)]  # one hash for all of them, were they kept as integers
    far = Comparators.load({"x": {"set": {"item": {"number": {"tolerance": 0.1}}}}, "y": "literal", "z": "set"})
    started = time.process_time()
    assert far.same({"x": list(range(30_000)), "z": collide}, {"x": list(range(30_000))[::-1], "z": collide[::-1]})
    assert not far.same({"y": "-" * 3_999 + "1"}, {"y": "(" * 3_999})
    assert not Comparators.load({"x": {"number": {"parse": True}}}).same({"x": "1," * 100_000}, {"x": 1})
    assert time.process_time() - started < 2.0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
ODD = Comparators.load({name: {"python": "test_compare:equals"} if kind == "python" else kind
                        for name, kind in zip("abcdefgh", COMPARATORS, strict=True)})  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES)
def test_comparison_is_reflexive_and_symmetric_and_agrees_with_the_canonical_form(a: Any, b: Any) -> None:
    for comparators in (NOTHING, ODD):
        assert comparators.same(a, a) or comparators is ODD
        assert comparators.same(a, b) == comparators.same(b, a)
        assert comparators.differing(a, b) == () or not comparators.same(a, b)
        if comparators.same(a, b):
            assert comparators.canonical(a) == comparators.canonical(b)
    assert NOTHING.same(a, b) == (NOTHING.canonical(a) == NOTHING.canonical(b))


def test_the_json_schema_of_compare_names_every_comparator() -> None:
    assert compare_schema()["anyOf"][0] == {"enum": list(COMPARATORS)}
    assert set(compare_schema()["anyOf"][1]["properties"]) == set(COMPARATORS)


@pytest.mark.parametrize(
    ("compare", "value", "size"),
    [
        ({}, {"a": "four", "b": [1, 22]}, 7),
        ({}, None, 0),
        ({}, "text", 4),
        ({"a": {"ignore": {}}}, {"a": "a long reasoning", "b": 18}, 2),
        ({"b": {"number": {"parse": True}}}, {"b": "$18.00"}, 2),
        ({"b": {"number": {"tolerance": 0.5, "parse": True}}}, {"b": "$18.00"}, 2),
        ({"b": {"text": {}}}, {"b": "  two words "}, 9),
        ({"b.c": {"ignore": {}}}, {"b": [{"c": "x", "d": "yz"}, {"d": "w"}]}, 3),
    ],
)
def test_the_size_is_the_characters_that_are_compared(compare: dict[str, object], value: object, size: int) -> None:
    assert Comparators.load(compare).size(value) == size


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Because it is so, the answer is (D).", "**Answer: D**", True),
        ("A first thought speaks for option B. " + "But see here. " * 900 + "So the answer is C.", "C", True),
        ("A. " + "but " * 60 + "the answer is (B)", "B", True),
        ("the answer is (D)", "the answer is (C)", False),
    ],
)
def test_the_whole_answer_is_compared_by_the_field_dollar(a: str, b: str, same: bool) -> None:
    comparators = Comparators.load({"$": "letter"})
    assert (comparators.same(a, b), comparators.agreement([a, b], ["$"]).share) == (same, 1.0 if same else 0.5)
    assert comparators.size(a) == 1
