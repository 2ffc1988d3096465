"""Token log-probabilities to signals: which tokens count, and everything that must give no signal rather than a wrong one."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import stub
from hypothesis import given, settings
from hypothesis import strategies as st
from stub import chat, responses, said

from cascade import providers
from cascade.providers.logprobs import Span, signals, values
from cascade.signals import MOST_FIELDS
from cascade.types import Call, Document, Message

SCHEMA = {"type": "object", "properties": {"vendor": {"type": "string"}, "total": {"type": "number"}}}
TEXT = '{"vendor":"Acme Ltd","total":12.5}'
TOKENS = [('{"', -0.5), ("vendor", -0.4), ('":"', -0.3), ("Ac", -0.2), ("me", -0.01), (" Ltd", -1.5), ('","', -0.1), ("total", -9.0),
          ('":', -8.0), ("12", -0.25), (".5", -0.04), ("}", -7.0)]  # fmt: skip
SUM = -0.2 - 0.01 - 1.5 - 0.1 - 0.25 - 0.04


def token(text: str, logprob: Any, raw: bytes | None = None) -> dict[str, Any]:
    return {"token": text, "bytes": list(text.encode() if raw is None else raw), "logprob": logprob}


def tokens(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [token(*pair) for pair in pairs]


def changed(at: int, logprob: Any) -> list[dict[str, Any]]:
    return tokens(*[(text, logprob if i == at else value) for i, (text, value) in enumerate(TOKENS)])


def test_only_the_tokens_of_values_count() -> None:
    assert signals(tokens(*TOKENS), TEXT, SCHEMA) == {
        "logprob_mean": round(SUM / 6, 6), "logprob_min": -1.5, "logprob_sum": round(SUM, 6), "logprob_min:vendor": -1.5, "logprob_min:total": -0.25,
    }  # fmt: skip


def test_without_a_schema_every_token_of_the_text_counts() -> None:
    assert signals(tokens(("Yes", -0.5), (".", -0.25)), "Yes.") == {"logprob_mean": -0.375, "logprob_min": -0.5, "logprob_sum": -0.75}


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ('{"a": "x", "b": -1.5e3}', [("x\"", "a"), ("-1.5e3", "b")]),
        ('{"a": [1, true, null], "b": {"c": "}{,"}}', [("1", "a"), ("true", "a"), ("null", "a"), ('}{,"', "b")]),
        ('{"a": [], "b": {}, "c": [[], {"d": ""}]}', [("[]", "a"), ("{}", "b"), ("[]", "c"), ('"', "c")]),
        (r'{"a\"": "say \"no\": 1"}', [(r'say \"no\": 1"', 'a"')]),
        (' ["x", 2] ', [('x"', None), ("2", None)]),
        ("42", [("42", None)]),
        ('"ja"', [('ja"', None)]),
        ('Here {name}:\n```json\n{"a": 1}\n```', [("1", "a")]),
        ('I think [maybe] {"a": 1} is it', [("1", "a")]),
        ('{"a": "one\ntwo"}', [('one\ntwo"', "a")]),
        ('{"a": 1} or {"a": 2}', []),
        ('{"a": 1', []),
        ("no JSON", []),
        ("", []),
    ],
)
def test_the_places_of_values(text: str, spans: list[tuple[str, str | None]]) -> None:
    found = values(text)
    assert [(text[start:end], field) for start, end, field in found] == spans
    assert all(isinstance(span, Span) for span in found)


def test_characters_split_between_tokens_are_put_together() -> None:
    euro = "€".encode()
    split = [token('{"vendor":"', -1.0), token("\\xe2", -0.1, euro[:1]), token("\\x82\\xac", -0.2, euro[1:]), token('ß"}', -0.4)]
    assert signals(split, '{"vendor":"€ß"}', SCHEMA)["logprob_sum"] == -0.7
    without = [{"token": t["token"], "logprob": t["logprob"]} for t in split]  # texts alone are not the answer's
    assert signals(without, '{"vendor":"€ß"}', SCHEMA) == {}


def test_what_the_server_cut_off_around_the_text_does_not_count() -> None:
    around = [token("thinking …", -5.0), token("\n", -5.0), *tokens(*TOKENS), token("", -20.0), token("<|im_end|>", -30.0, b"")]
    assert signals(around, TEXT, SCHEMA) == signals(tokens(*TOKENS), TEXT, SCHEMA)
    fenced = f"```json\n{TEXT}\n```"
    in_fence = [token("```json\n", -6.0), *tokens(*TOKENS), token("\n```", -6.0)]
    assert signals(in_fence, fenced, SCHEMA) == signals(tokens(*TOKENS), TEXT, SCHEMA)


@pytest.mark.parametrize("bad", [None, "x", True, math.nan, -math.inf, math.inf, 0.5, -9999.0, -9999, -3.4e38, [1]])
def test_a_value_without_a_log_probability_gives_no_signals(bad: Any) -> None:
    assert signals(changed(5, bad), TEXT, SCHEMA) == {}
    assert signals(changed(8, bad), TEXT, SCHEMA) == signals(tokens(*TOKENS), TEXT, SCHEMA)  # of structure nobody asks


def test_rounding_above_zero_is_zero() -> None:
    assert signals(tokens(("Yes", 1e-5)), "Yes") == {"logprob_mean": 0.0, "logprob_min": 0.0, "logprob_sum": 0.0}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, TEXT), ({}, TEXT), ([], TEXT), ([None], TEXT), ([{}], TEXT), ([{"token": 1, "logprob": -1}], TEXT),
        ([{"token": TEXT, "bytes": [300], "logprob": -1}], TEXT), ([{"token": TEXT, "bytes": "x", "logprob": -1}], TEXT),
        ([{"token": TEXT, "bytes": [True, "a"], "logprob": -1}], TEXT), ([{"token": "\ud800", "logprob": -1}], TEXT),
        (tokens(*TOKENS[:-1]), TEXT), (tokens(*TOKENS), TEXT.replace("12", "13")),
        (tokens(*TOKENS, *TOKENS), TEXT),  # a draft and an answer: which of them is not known
        (tokens(*TOKENS), "Sure!"), (tokens(("Sure!", -1)), "Sure!"), (tokens(("", -1)), ""), (tokens(("\\ud800", -1)), "\ud800"),
    ],
)  # fmt: skip
def test_what_does_not_add_up_gives_no_signals(given: Any, text: str) -> None:
    assert signals(given, text, SCHEMA) == {}


def test_fields_are_the_schemas_own_and_few() -> None:
    def named(count: int) -> list[str]:
        properties: dict[str, Any] = {f"f{i}": {} for i in range(count)}
        text = json.dumps({**dict.fromkeys(properties, 1), "made up": 2})
        return [name for name in signals(tokens((text, -1.0)), text, {"properties": properties}) if ":" in name]

    assert [len(named(count)) for count in (1, 2, MOST_FIELDS, MOST_FIELDS + 1)] == [0, 2, MOST_FIELDS, 0]
    assert named(2) == ["logprob_min:f0", "logprob_min:f1"]
    assert signals(tokens(("1", -1.0)), "1", True) == {"logprob_mean": -1.0, "logprob_min": -1.0, "logprob_sum": -1.0}


JSON = st.recursive(st.none() | st.booleans() | st.integers(-99, 99) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@settings(max_examples=200, deadline=None)
@given(JSON, st.booleans(), st.randoms())
def test_however_a_text_is_cut_into_tokens_the_values_are_found(value: Any, ascii_only: bool, random: Any) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    raw = text.encode()
    cuts = sorted({0, len(raw), *(random.randrange(len(raw)) for _ in range(5))})
    parts = [token("?", -1.0, raw[a:b]) for a, b in pairwise(cuts)]
    found = signals(parts, text, {})
    assert found["logprob_min"] == found["logprob_mean"] == -1.0
    assert 1 <= -found["logprob_sum"] <= len(parts)
    leaves = values(text)
    assert all(a.end <= b.start for a, b in pairwise(leaves))


# ---------------------------------------------------------------- through the adapters


@pytest.fixture(scope="module")
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


def ask(server: stub.Stub, api: str, **params: Any) -> dict[str, float]:
    settings = {"kind": "openai", "base_url": f"{server.url}/v1", "options": {"api": "responses"} if api == "responses" else {}}
    call = Call("p/m", (Message("user", "x"),), Document(SCHEMA), Document({"max_tokens": 50, **params}), 0, 5.0)

    async def main() -> dict[str, float]:
        adapter = providers.build(providers.provider("p", settings))
        try:
            return dict((await adapter(call)).signals)
        finally:
            await adapter.close()

    return asyncio.run(main())


def in_chat(given: Any) -> stub.Reply:
    whole = json.loads(chat(TEXT).body)
    whole["choices"][0]["logprobs"] = given
    return said(whole)


def in_responses(given: Any) -> stub.Reply:
    whole = json.loads(responses(TEXT).body)
    whole["output"][1]["content"][0]["logprobs"] = given
    return said(whole)


def test_the_chat_wire_asks_for_them_and_reads_them(server: stub.Stub) -> None:
    server.will(in_chat({"content": tokens(*TOKENS), "refusal": None}))
    assert ask(server, "chat", logprobs=True) == signals(tokens(*TOKENS), TEXT, SCHEMA) != {}
    assert server.requests[0].json["logprobs"] is True


def test_the_responses_wire_asks_for_them_in_its_own_words(server: stub.Stub) -> None:
    server.will(in_responses(tokens(*TOKENS)))
    assert ask(server, "responses", logprobs=True) == signals(tokens(*TOKENS), TEXT, SCHEMA) != {}
    assert server.requests[0].json["include"] == ["message.output_text.logprobs"]
    assert "logprobs" not in server.requests[0].json
    server.will(in_responses([]), in_responses([]))
    ask(server, "responses", logprobs=False)
    ask(server, "responses", logprobs=True, include=["x"])
    assert [request.json.get("include") for request in server.requests] == [None, ["x"]]


@pytest.mark.parametrize("given", [None, {}, [], "x", {"content": None}, {"content": {}}, {"content": [1]}])
def test_a_server_that_gives_none_is_no_error(server: stub.Stub, given: Any) -> None:
    server.will(in_chat(given), in_responses(given))
    assert ask(server, "chat", logprobs=True) == {}
    assert ask(server, "responses", logprobs=True) == {}


def test_nothing_is_made_of_what_was_not_asked_for(server: stub.Stub) -> None:
    server.will(in_chat({"content": tokens(*TOKENS)}))
    assert ask(server, "chat") == {}
    assert "logprobs" not in server.requests[0].json
