"""`check`: what an expression can say, how it tells what is wrong, and that no expression or answer gets out or goes on for ever."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verifying import a_case, verdict

from cascade.types import Document, Verdict
from cascade.verifiers import build

ANSWER: dict[str, Any] = {
    "vendor": "Acme",
    "total": 3.5,
    "n": 5,
    "ok": True,
    "none": None,
    "tags": ["a", "b"],
    "lines": [{"amount": 1.5, "name": "x"}, {"amount": 2, "name": "y"}],
    "items": {"k": 1},
    "ints": list(range(2_000)),
    "big": "z" * 900_000,
}


def check(expression: str, value: Any = ANSWER, **inputs: Any) -> Verdict:
    return verdict(build("check", expression, None), a_case(value, inputs=inputs or {"po": 7}))


@pytest.mark.parametrize(
    "expression",
    [
        "abs(sum(line.amount for line in lines) - total) <= 0.01",
        "abs(sum([line['amount'] for line in lines]) - answer.total) <= 0.01",
        "vendor.lower() == 'acme' and vendor.strip().startswith('A') and 'cm' in vendor",
        "len(set(tags)) == len(tags) and 'a' in tags and 'c' not in tags",
        "all(line.amount > 0 for line in lines if line.name != 'z') and any(line.amount == 2 for line in lines)",
        "lines[0].amount < lines[-1].amount and lines[1:][0].name == 'y'",
        "total is not None and none is None and ok is True and ok",
        "0 < n <= 5 and n % 2 == 1 and n // 2 == 2 and n ** 2 == 25 and -n == -5 and +n == 5",
        "inputs.po == 7 and inputs['po'] == 7",
        "items.k == 1 and len(items.items()) == 1 and items.get('q', 0) == 0 and [v for k, v in items.items()] == [1]",
        "(total if n > 3 else 'x') == 3.5",
        "min(total, n) == 3.5 and max([1, 2]) == 2 and sorted([2, 1]) == [1, 2] and round(3.14159, 2) == 3.14",
        "str(n) == '5' and int('5') == n and float('3.5') == total and bool(n)",
        "{1, 2} == {2, 1} and len({t for t in tags}) == 2",
        "[a + b for a in tags for b in tags] == ['aa', 'ab', 'ba', 'bb']",
        "'a,b'.split(',') == tags and vendor[0] == 'A' and vendor[1:] == 'cme'",
        "not (1 == True) and true and not false and null == none",
        "sum(x for x in ints) == 1999000 and len(ints) == 2000",
        "none or ok",
        "  n ==\n 5 ",
    ],
)
def test_what_holds_scores_one(expression: str) -> None:
    assert check(expression) == Verdict(1.0)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("abs(sum(line.amount for line in lines) - n) <= 0.01",
         "abs(sum(line.amount for line in lines) - n) <= 0.01 is false: left side 1.5, right side 0.01"),
        ("n == 5 and vendor == 'ACME' and n == 6", "vendor == 'ACME' is false: left side 'Acme', right side 'ACME'"),
        ("not ok", "not ok is false"),
        ("1 < n < 3", "1 < n < 3 is false"),
        ("0.1 + 0.2 == 0.7", "0.1 + 0.2 == 0.7 is false: left side 0.3, right side 0.7"),
        ("missing > 1", "check `missing > 1`: answer has no field `missing`"),
        ("answer.missing == 1", "check `answer.missing == 1`: answer has no field `missing`"),
        ("sum(line.qty for line in lines) > 0", "check `sum(line.qty for line in lines) > 0`: line has no field `qty`"),
        ("lines[9].amount == 1", "check `lines[9].amount == 1`: lines has no item 9"),
        ("vendor.name == 'x'", "check `vendor.name == 'x'`: vendor is the text 'Acme', without `name`"),
        ("vendor > 1", "check `vendor > 1`: the text 'Acme' and the number 1 have no order"),
        ("none + 1 == 1", "check `none + 1 == 1`: a number is wanted, not null"),
        ("sum(tags) == 1", "check `sum(tags) == 1`: a sum of numbers is asked of the text 'a'"),
        ("total.lower() == 'x'", "check `total.lower() == 'x'`: the number 3.5 has no lower()"),
        ("1 / (n - 5) > 0", "check `1 / (n - 5) > 0`: division by zero"),
        ("max([]) == 1", "check `max([]) == 1`: max of nothing"),
        ("any(tags)", "check `any(tags)`: true or false is wanted, not the text 'a'"),  # "false" would be true
        ("big == 'x'", f"big == 'x' is false: left side '{'z' * 27}...{'z' * 28}', right side 'x'"),
    ],
)  # fmt: skip
def test_what_does_not_hold_scores_nothing_and_says_why(expression: str, reason: str) -> None:
    found = check(expression)
    assert (found.score, found.reason) == (0.0, reason)


@pytest.mark.parametrize(
    ("expression", "fields"),
    [
        ("abs(sum(line.amount for line in lines) - total) > 0.01", ("/lines", "/total")),
        ("n == 5 and vendor == 'ACME' and total == 6", ("/vendor",)),
        ("vendor == inputs.po", ("/vendor",)),
        ("missing > 1", ("/missing",)),
        ("vendor == 'ACME' and answer.total == 1", ("/vendor",)),
        ("answer.total == n + 1", ()),
        ("n / 10 and total / 10", ("/total",)),
        ("n / 5", ()),
        ("n / 5 and 1 / (total - 3.5)", ("/total",)),
        ("n / 50 and n == 5", ("/n",)),
        ("n == n + 1 and total > 1", ("/n",)),
        ("[n for n in tags] == n", ("/tags", "/n")),
    ],
)
def test_the_fields_that_a_failing_condition_names_are_disputed_unless_it_looks_at_the_whole_answer(expression: str, fields: tuple[str, ...]) -> None:
    assert check(expression).fields == fields


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1], "check `total > 1`: answer has no field `total`"),
        ("text", "check `total > 1`: answer has no field `total`"),
        (None, "check `total > 1`: answer has no field `total`"),
        ({"total": "1"}, "check `total > 1`: the text '1' and the number 1 have no order"),
        ({"total": True}, "check `total > 1`: true and the number 1 have no order"),
        ({"total": {"a": 1}}, "check `total > 1`: an object and the number 1 have no order"),
    ],
)
def test_an_answer_of_another_shape_scores_nothing(value: Any, reason: str) -> None:
    assert check("total > 1", value) == Verdict(0.0, reason, ("/total",))


def test_a_number_from_0_to_1_is_the_score() -> None:
    assert check("n / 10") == Verdict(0.5, "check `n / 10`: 0.5", ("/n",))
    assert check("n / 5") == Verdict(1.0)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("vendor", "gives the text 'Acme'"),
        ("n", "gives the number 5"),
        ("none", "gives null"),
        ("inputs.missing == 1", "inputs has no `missing`"),  # not the answer's fault
        ("n ** n ** n ** n", "an integer grows over 4096 bits"),
        ("2 ** 4097 > 1", "an integer grows over 4096 bits"),
        ("10 ** 1000 * 10 ** 1000 > 1", "an integer grows over 4096 bits"),
        ("[1 for a in ints for b in ints for c in ints] == []", "takes more than 100000 steps"),
        ("len(sorted(sorted(ints) + [b for a in ints for b in ints])) == 1", "takes more than 100000 steps"),
        ("[big + big for a in ints] == []", "takes more than 100000 steps"),
        ("[big.upper() for a in ints] == []", "takes more than 100000 steps"),
        ("all('zy' not in big for a in ints)", "takes more than 100000 steps"),
        ("str([[answer for a in ints] for b in ints[:40]]) == ''", "takes more than 100000 steps"),
        ("[[answer for a in ints[:40]] for b in ints[:40]] == [[answer for a in ints[:40]] for b in ints[:40]]", "takes more than"),
    ],
)
def test_what_cannot_be_told_is_no_verdict(expression: str, says: str) -> None:
    started = time.process_time()
    found = check(expression)
    assert time.process_time() - started < 1.0
    assert found.score is None
    assert found.reason is not None
    assert says in found.reason


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("n if", "column 1: invalid syntax"),
        ("sum(x for x in ints", "column 4: '(' was never closed"),
        ("", "column 1: invalid syntax"),
        ("n = 1", "column 3: invalid syntax"),
        ("import os", "column 1: invalid syntax"),
        ("n > 1 and (lambda: 1)()", "column 11: only abs, all"),
        ("lambda: 1", "column 1: lambda cannot be used"),
        ("(x := 1)", "column 2: := cannot be used"),
        ("f'{n}'", "column 1: an f-string cannot be used"),
        ("'{0.__class__}'.format(n)", "column 1: there is no method format"),
        ("n.__class__", "column 1: __class__ cannot be used"),
        ("().__class__.__bases__[0].__subclasses__()", "__subclasses__"),
        ("tags.__len__()", "there is no method __len__"),
        ("__import__('os').system('id')", "there is no method system"),
        ("__builtins__", "__builtins__ cannot be used"),
        ("__import__('os')", "not __import__"),
        ("getattr(n, 'x')", "not getattr"),
        ("eval('1')", "not eval"),
        ("open('/etc/passwd')", "not open"),
        ("globals()", "not globals"),
        ("type(n)", "not type"),
        ("range(10)", "not range"),
        ("abs.__self__", "__self__ cannot be used"),
        ("lower(vendor)", "not lower"),
        ("(abs)(n)(1)", "only abs, all"),
        ("[abs][0](n)", "only abs, all"),
        ("tags.append(1)", "there is no method append"),
        ("vendor.lower(1)", "lower() takes 0 arguments"),
        ("abs(n, n)", "abs(): too many positional arguments"),
        ("sum(ints, start=1)", "arguments by name cannot be used"),
        ("max(*ints)", "* cannot be used"),
        ("[*tags]", "* cannot be used"),
        ("{'a': 1}", "cannot be used in a check"),
        ("{**items}", "cannot be used in a check"),
        ("n << 1000000", "the operator LShift cannot be used"),
        ("~n", "the operator ~ cannot be used"),
        ("n @ n", "the operator MatMult cannot be used"),
        ("b'a'", "bytes cannot be used"),
        ("1j", "complex cannot be used"),
        ("...", "ellipsis cannot be used"),
        ("lines[::2]", "a slice with a step cannot be used"),
        ("n is vendor", "`is` compares with None"),
        ("[x for __x in tags]", "only `for NAME in"),
        ("[x async for x in tags]", "only `for NAME in"),
        ("await n", "await cannot be used"),
        ("9" * 1300, "the number is too large"),
        ("9" * 3990, "the number is too large"),
        ("9" * 5000, "has 5000 characters"),
        ("(" * 100 + "n" + ")" * 100, ""),
        ("-" * 100 + "1", "nested more than 40 deep"),
        ("-" * 3990 + "1", "cannot be read"),
        ("not " * 900 + "n", "nested more than 40 deep"),
        ("[" * 60 + "]" * 60, "nested more than 40 deep"),
        ("n" + ".a" * 1500, "nested more than 40 deep"),
        ("n\0", "null bytes"),
    ],
)
def test_what_is_not_allowed_is_refused_before_anything_runs(expression: str, says: str) -> None:
    if not says:  # brackets alone nest nothing
        assert build("check", expression, None)
        return
    with pytest.raises(ValueError, match=r"^") as caught:
        build("check", expression, None)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "'a' * 10 ** 9 == ''",
        "[1] * 10 ** 9 == []",
        "'%1000000000d' % n == ''",
        "round(n, -10 ** 9) == 0",
        "int(big) == 1",
        "float(big) == 1",
        "10.0 ** 400 > 1",
        "(-8) ** 0.5 > 1",
        "set(lines) == 1",
        "sorted(lines) == 1",
        "tags[big] == 1",
        "items[tags] == 1",
        "set([2 ** 61 - 1]) == 1",
        "vendor.split('') == 1",
        "int('x') == 1",
        "float('nan') > 1",
    ],
)
def test_odd_values_are_a_reason_and_never_an_error(expression: str) -> None:
    started = time.process_time()
    found = check(expression)
    assert time.process_time() - started < 0.5
    assert found.score == 0.0
    assert found.reason
    assert len(found.reason) <= 600


def test_fields_that_look_like_functions_and_methods_are_fields() -> None:
    assert check("sum + len + keys.items == 6", {"sum": 1, "len": 2, "keys": {"items": 3}}) == Verdict(1.0)
    assert check("sum([len, len]) == 4", {"len": 2}) == Verdict(1.0)


def test_names_bound_in_a_comprehension_are_seen_inside_only() -> None:
    assert check("[n for n in tags] == ['a', 'b'] and n == 5") == Verdict(1.0)
    assert check("[x for x in tags] == tags and x == 1").reason == "check `[x for x in tags] == tags and x == 1`: answer has no field `x`"


def test_a_field_the_closed_schema_does_not_have_is_a_mistake_in_the_policy() -> None:
    schema = Document({"type": "object", "properties": {"total": {}, "lines": {}}, "additionalProperties": False})
    assert build("check", "total == sum(x for x in lines) and inputs.a == answer.b", schema)
    with pytest.raises(ValueError, match="column 11: the schema has no field 'totl', did you mean 'total'\\?"):
        build("check", "1 < 2 and totl > 1", schema)
    assert build("check", "totl > 1", Document({"type": "object", "properties": {"total": {}}}))  # others may be there


def test_neither_answer_nor_inputs_are_changed() -> None:
    answer, inputs = {"lines": [{"a": 2}, {"a": 1}]}, {"answer": 1}
    assert check("sorted([line.a for line in lines]) == [1, 2] and inputs.answer == 1", answer, **inputs) == Verdict(1.0)
    assert (answer, inputs) == ({"lines": [{"a": 2}, {"a": 1}]}, {"answer": 1})


PIECES = st.sampled_from(
    ["n", "vendor", "lines", "tags", "answer", "inputs", "none", "1", "0.5", "'x'", "True", "None", ".a", "[0]", "[1:]", "(", ")", "[",
     "]", "{", "}", " and ", " or ", "not ", " in ", " is ", " < ", " == ", " + ", " * ", " ** ", " % ", "sum", "len", "max", "str", "set",
     "sorted", ".lower", ".items", ".get", "()", " for x in ", "x", " if ", " else ", ",", "-", "__class__", "lambda: ", ":=", "*", ":"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_expression_is_refused_or_gives_a_verdict(expression: str) -> None:
    try:
        verifier = build("check", expression, None)
    except ValueError:
        return
    small = {**ANSWER, "big": "z", "ints": [1]}
    found = verdict(verifier, a_case(small))
    assert found.score is None or 0.0 <= found.score <= 1.0
