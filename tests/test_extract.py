"""Reading JSON out of a model's text: what is read, what is refused, and that hostile text takes no longer than long text."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.extract import MAX_CHARACTERS, Extracted, extract

FENCE = "```"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, "b": [true, null, "x"]}', {"a": 1, "b": [True, None, "x"]}),
        ("  [1, 2]\n", [1, 2]),
        ('"hello"', "hello"),
        ("42", 42),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("null", None),
        (r'"\ud83d\ude00"', "😀"),
        ('{"fence": "```json"}', {"fence": "```json"}),
        ("[" * 64 + "]" * 64, json.loads("[" * 64 + "]" * 64)),
    ],
)
def test_text_that_is_json_is_read_as_it_is(text: str, value: object) -> None:
    assert extract(text) == Extracted(value, None, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'{FENCE}json\n{{"a": 1}}\n{FENCE}', Extracted({"a": 1}, None, ("fence",))),
        (f'Here:\n\n{FENCE}\n{{"a": 1}}\n{FENCE}\nDone, see {{"b": 2}}.', Extracted({"a": 1}, None, ("fence",))),
        (f'{FENCE}json {{"a": 1}} {FENCE}', Extracted({"a": 1}, None, ("fence",))),
        ('~~~\n{"a": 1}\n~~~', Extracted({"a": 1}, None, ("fence",))),
        (f'{FENCE}python\nprint(1)\n{FENCE}\n{FENCE}json\n{{"a": 2}}\n{FENCE}', Extracted({"a": 2}, None, ("fence",))),
        (f'{FENCE}\n{{"a": 1}}\n{FENCE}\n{FENCE}\n{{"a": 2}}\n{FENCE}', Extracted({"a": 2}, None, ("fence", "ambiguous"))),
        (f'{FENCE}json\n{{"a": 1}}\n', Extracted({"a": 1}, None, ("fence",))),  # complete, only the fence's end is missing
        ('Sure! {"a": 1} Anything else?', Extracted({"a": 1}, None, ("prose",))),
        ('It says "}" and then {"a": "}"}.', Extracted({"a": "}"}, None, ("prose",))),
        ('{"a": 1} or rather {"a": 2}', Extracted({"a": 2}, None, ("prose", "ambiguous"))),
        ('{"a": 1, "b": 2}, again: {"b": 2, "a": 1}', Extracted({"b": 2, "a": 1}, None, ("prose",))),
        ('<think>{"a": 0}?</think>{"a": 1}', Extracted({"a": 1}, None, ("prose", "ambiguous"))),
        ('As said in [1], {"a": 1} holds [2].', Extracted({"a": 1}, None, ("prose",))),
        ('The lines are [{"a": 1}, {"a": 2}].', Extracted([{"a": 1}, {"a": 2}], None, ("prose",))),
        ('With {name} and [see below]: {"a": 1}', Extracted({"a": 1}, None, ("prose",))),
        ('\ufeff{"a": 1}', Extracted({"a": 1}, None, ("prose",))),
    ],
)
def test_json_in_fences_and_prose_is_found_and_noted(text: str, expected: Extracted) -> None:
    assert extract(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the answer is empty"),
        (" \n\t", "the answer is empty"),
        ("The total is 42.", "no JSON in the answer"),
        (":", "no JSON in the answer"),
        ('{"a": {"b": 1}', "cut off: EOF while parsing an object at line 1 column 14"),
        ('Result: {"a": {"b": 1}, "c', "cut off: the bracket at character 8 is never closed"),
        ('{"a": 1} and then {"a": 2', "cut off: the bracket at character 18 is never closed"),
        ('{"a": "unfinished', "cut off"),
        ('{"a": [1}]', "expected `,` or `]` at line 1 column 9"),
        ('So: {"a": [1}]', "brackets do not match at character 12"),
        ('{"a": 1, "a": 2}', 'Detected duplicate key "a"'),
        ('{"a": 1} corrected {"a": 2,}', "trailing comma"),  # the last one decides: an old draft is not taken instead
        (f'{{"a": 1}}\n{FENCE}json\n{{"a": 2\n{FENCE}', "not JSON (fence)"),
        ('{"a": NaN}', "expected value"),
        ('{"a": Infinity}', "expected value"),
        ('{"a": 1e999}', "number out of range"),
        ("1" * 5000, "no JSON in the answer"),
        ("{'a': 1}", "key must be a string"),
        ("[1, 2,]", "trailing comma"),
        ("[01]", "invalid number"),
        (r'{"a": "\ud800"}', "hex escape"),
        ('{"a": "\ud800"}', "lone surrogate at character 7"),
        ('{"a"\x00: 1}', "expected `:`"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('{"a": 1}' + " " * MAX_CHARACTERS, f"more than {MAX_CHARACTERS}"),
    ],
)
def test_what_is_not_strict_json_has_a_problem_and_no_value(text: str, says: str) -> None:
    found = extract(text)
    assert found.value is None
    assert found.problem is not None
    assert says in found.problem
    assert len(found.problem) < 200


@pytest.mark.parametrize(
    "text",
    [
        "{" * MAX_CHARACTERS,
        "[" * MAX_CHARACTERS,
        '{"a":' * (MAX_CHARACTERS // 5),
        '{"' * (MAX_CHARACTERS // 2),
        '\\"' * (MAX_CHARACTERS // 2),
        '"' * MAX_CHARACTERS,
        '{"a":1} ' * (MAX_CHARACTERS // 8),
        '{"a":1} ' * 10_000,
        '{"a' + '\\"' * (MAX_CHARACTERS // 2 - 10),
        "```\n" * (MAX_CHARACTERS // 4),
        "`" * MAX_CHARACTERS,
        "{" + " " * (MAX_CHARACTERS - 1),
        ("{" + " " * 60) * 15_000,
        "[1" * 10_000 + "]" * 10_000,
        "[{}" + ",{}" * 300_000 + "]",
    ],
    ids=lambda text: repr(text[:10]),
)
def test_hostile_text_takes_linear_time(text: str) -> None:
    started = time.process_time()
    extract(text)
    assert time.process_time() - started < 1.0  # a tenth of it here; quadratic work on a megabyte takes minutes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_every_json_value_is_read_back(value: object) -> None:
    assert extract(json.dumps(value)) == Extracted(value, None, ())


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4))
def test_every_object_is_found_in_prose_and_in_a_fence(value: object) -> None:
    text = json.dumps(value)
    assert extract(f"Here it is: {text} I hope it helps.") == Extracted(value, None, ("prose",))
    assert extract(f"Here it is:\n{FENCE}json\n{text}\n{FENCE}\nI hope it helps.") == Extracted(value, None, ("fence",))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4), st.data())
def test_no_truncated_object_is_ever_completed(value: object, data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = data.draw(st.integers(1, len(text) - 1))
    assert extract(text[:cut]).problem is not None


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='{}[]"\\:,`\n a1'))
def test_any_text_gives_a_value_or_a_problem(text: str) -> None:
    found = extract(text)
    assert found.problem is None or (found.value is None and "\n" not in found.problem)


@pytest.mark.parametrize(
    ("text", "value", "notes"),
    [
        ('{"a": "line\nbreak\tand tab"}', {"a": "line\nbreak\tand tab"}, ("control",)),
        (f'Here:\n{FENCE}json\n{{"a": "one\ntwo", "b": "3"}}\n{FENCE}', {"a": "one\ntwo", "b": "3"}, ("fence", "control")),
        ('So: {"a": "one\ntwo", "b": 3} it is', {"a": "one\ntwo", "b": 3}, ("prose", "control")),
        ('{"a": "quote \\" and\nbreak"}', {"a": 'quote " and\nbreak'}, ("control",)),
    ],
)
def test_raw_line_breaks_in_strings_mean_themselves_and_are_noted(text: str, value: object, notes: tuple[str, ...]) -> None:
    assert extract(text) == (value, None, notes)
