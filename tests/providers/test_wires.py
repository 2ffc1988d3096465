"""The adapters through the real SDKs against a loopback server: what goes out, what comes back, and every way it can go wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson
import pytest
import stub
from stub import Reply, chat, failure, messages, responses, said

from cascade import providers
from cascade.errors import (
    BadReply,
    CascadeError,
    ConfigurationError,
    ContextTooLong,
    OutOfCredit,
    Overloaded,
    RateLimited,
    TimedOut,
    Unreachable,
)
from cascade.types import Answer, Call, Document, Message, Usage

SCHEMA = Document({"type": "object", "properties": {"a": {"type": "string", "minLength": 1}, "b": {"type": "integer"}}, "required": ["a"]})
TALK = (Message("system", "Be brief."), Message("user", "Hello"))
WIRES = ["chat", "responses", "messages"]


@pytest.fixture(scope="module")
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "canary-0123456789abcdef")


def provider(wire: str, url: str, **settings: Any) -> Any:
    kind = "anthropic" if wire == "messages" else "openai"
    base = url if wire == "messages" else f"{url}/v1"
    options = {"api": "responses"} if wire == "responses" else {}
    return providers.provider("p", {"kind": kind, "base_url": base, "api_key_env": "TEST_KEY", "options": options, **settings})


def ask(wire: str, server: stub.Stub, call: Call, **settings: Any) -> Answer:
    async def main() -> Answer:
        adapter = providers.build(provider(wire, server.url, **settings), {"p/m": {"input": Decimal(1), "output": Decimal(2)}})
        try:
            return await adapter(call)
        finally:
            await adapter.close()

    return asyncio.run(main())


def call(schema: Document | None = None, sample: int = 0, timeout: float = 5.0, **params: Any) -> Call:
    return Call("p/m", TALK, schema, Document({"max_tokens": 50, **params}), sample, timeout)


SAY = {"chat": chat, "responses": responses, "messages": messages}


# ---------------------------------------------------------------- out


def test_chat_sends_what_a_compatible_server_takes(server: stub.Stub) -> None:
    server.will(chat())
    ask("chat", server, call(SCHEMA, sample=2, temperature=0.5))
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer " + "canary-0123456789abcdef"
    assert request.json == {
        "model": "m", "max_tokens": 50, "temperature": 0.5, "seed": 2,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA.json, "strict": False}},
    }  # fmt: skip


def test_openai_itself_gets_its_own_word_for_the_limit_and_a_strict_projection(server: stub.Stub) -> None:
    server.will(chat())
    ask("chat", server, call(SCHEMA), capabilities={"schema": "strict"})
    schema = server.requests[0].json["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["a", "b"]
    assert schema["schema"]["additionalProperties"] is False
    assert "minLength" not in json.dumps(schema)


def test_responses_stores_nothing(server: stub.Stub) -> None:
    server.will(responses())
    ask("responses", server, call(SCHEMA))
    body = server.requests[0].json
    assert (server.requests[0].path, body["store"], body["max_output_tokens"]) == ("/v1/responses", False, 50)
    assert body["text"]["format"]["type"] == "json_schema"


def test_messages_sends_the_system_apart_and_the_schema_as_output_config(server: stub.Stub) -> None:
    server.will(messages())
    ask("messages", server, call(SCHEMA), capabilities={"schema": "strict"})
    body = server.requests[0].json
    assert (server.requests[0].path, body["system"], body["max_tokens"]) == ("/v1/messages", "Be brief.", 50)
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert body["output_config"]["format"]["type"] == "json_schema"
    assert not {"temperature", "tools", "tool_choice"} & body.keys()


def test_a_server_that_ignores_schemas_is_told_in_words(server: stub.Stub) -> None:
    server.will(messages())
    ask("messages", server, call(SCHEMA), capabilities={"schema": "none"})
    body = server.requests[0].json
    assert "output_config" not in body
    assert body["system"].startswith("Be brief.")
    assert json.loads(body["system"].splitlines()[-1]) == SCHEMA.json


@pytest.mark.parametrize(("schema", "held_to"), [
    ({"type": "object"}, {"type": "json_object"}),
    ({"type": "object", "properties": {"tags": {"type": "object", "additionalProperties": {"type": "string"}}}}, {"type": "json_object"}),
    ({"type": "array", "items": {"type": "object"}}, None),  # JSON mode gives objects only
])  # fmt: skip
@pytest.mark.parametrize("wire", WIRES)
def test_a_strict_server_is_told_in_words_of_a_schema_that_it_could_not_be_held_to(wire: str, schema: Any, held_to: Any, server: stub.Stub) -> None:
    server.will(SAY[wire]("{}"))
    assert ask(wire, server, call(Document(schema)), capabilities={"schema": "strict"}).text == "{}"
    body = server.requests[0].json
    told = {"chat": body.get("response_format"), "responses": body.get("text", {}).get("format"), "messages": body.get("output_config")}[wire]
    assert told == (None if wire == "messages" else held_to)
    assert orjson.dumps(schema).decode() in _spoken(body)


def _spoken(body: Any) -> str:
    """The words of the system message, on any wire."""
    if isinstance(body.get("system"), str):
        return str(body["system"])
    first = (body.get("messages") or body["input"])[0]
    return str(first["content"])


# ---------------------------------------------------------------- in


@pytest.mark.parametrize("wire", WIRES)
def test_an_answer_has_text_usage_cost_and_the_model_that_gave_it(wire: str, server: stub.Stub) -> None:
    server.will(SAY[wire]("hello"))
    answer = ask(wire, server, call())
    assert (answer.text, answer.finish, answer.usage, answer.cost_usd) == ("hello", "stop", Usage(10, 3), Decimal("0.000016"))
    assert answer.model in ("gpt-6-luna-2026", "claude-haiku-5-5-20261001")
    assert answer.seconds > 0


@pytest.mark.parametrize(
    ("wire", "reply", "usage"),
    [
        ("chat", chat(usage={"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 60},
                             "completion_tokens_details": {"reasoning_tokens": 15}}), Usage(100, 20, 60, 0, 15)),
        ("responses", responses(usage={"input_tokens": 100, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 60},
                                       "output_tokens_details": {"reasoning_tokens": 15}}), Usage(100, 20, 60, 0, 15)),
        ("messages", messages(usage={"input_tokens": 30, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10, "output_tokens": 20}),
         Usage(100, 20, 60, 10, 0)),
        ("chat", chat(usage=None), None),
        ("messages", messages(usage=None), None),
    ],
)  # fmt: skip
def test_usage_means_the_same_on_every_wire(wire: str, reply: Reply, usage: Usage | None, server: stub.Stub) -> None:
    server.will(reply)
    answer = ask(wire, server, call())
    assert (answer.usage, answer.cost_usd is None) == (usage, usage is None)


@pytest.mark.parametrize(
    ("wire", "reply", "finish"),
    [
        ("chat", chat(None, refusal="I cannot."), "refusal"), ("chat", chat("cut", "length"), "length"), ("chat", chat("", "content_filter"), "filter"),
        ("responses", responses("cut", "incomplete", incomplete_details={"reason": "max_output_tokens"}), "length"),
        ("messages", messages(None, "refusal"), "refusal"), ("messages", messages("cut", "max_tokens"), "length"),
    ],
)  # fmt: skip
def test_refused_cut_and_filtered_answers_say_so(wire: str, reply: Reply, finish: str, server: stub.Stub) -> None:
    server.will(reply)
    assert ask(wire, server, call()).finish == finish


ODD = {
    "html": Reply(b"<html>nginx</html>", headers={"content-type": "text/html"}),
    "empty": Reply(b""),
    "object": said({}),
    "list": said([]),
    "null": said(None),
    "cut": Reply(b'{"id": "x", "choi'),
    "bad utf-8": Reply(b'{"id": "\xff"}'),
    "deep": Reply(b'{"a":' * 2000 + b"1" + b"}" * 2000),
    "events": Reply(b"data: {}\n\n", headers={"content-type": "text/event-stream"}),
    "no choices": said({"choices": None, "content": None, "output": None}),
    "empty choices": said({"choices": [], "content": [], "output": []}),
    "negative usage": chat(usage={"prompt_tokens": -5, "completion_tokens": 1}),
    "absurd usage": chat(usage={"prompt_tokens": 10**15, "completion_tokens": 1}),
    "bomb": stub.bomb(16),
    "big": Reply(b" " * (9 * 1024 * 1024)),
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("odd", ODD, ids=str)
def test_whatever_comes_with_a_200_and_is_no_answer_is_a_bad_reply(odd: str, wire: str, server: stub.Stub) -> None:
    server.will(ODD[odd])
    with pytest.raises(BadReply) as caught:
        ask(wire, server, call())
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_a_compressed_reply_is_read_though_none_was_asked_for(server: stub.Stub) -> None:
    plain = chat("hello")
    server.will(Reply(gzip.compress(plain.body), headers={"content-encoding": "gzip"}))
    assert ask("chat", server, call()).text == "hello"


FAILURES: list[tuple[Reply, type[CascadeError], str]] = [
    (failure(429, "slow down", retry_after="7"), RateLimited, "429: slow down"),
    (failure(429, "pay", "insufficient_quota"), OutOfCredit, "429: pay"),
    (failure(500, "oops"), Overloaded, "500: oops"),
    (failure(529, "busy"), Overloaded, "529: busy"),
    (failure(408, "late"), Overloaded, "408: late"),
    (failure(409, "conflict"), Overloaded, "409: conflict"),
    (failure(400, "your prompt is too long", "context_length_exceeded"), ContextTooLong, "400: your prompt is too long"),
    (failure(400, "prompt is too long: 300000 tokens"), ContextTooLong, "400: prompt is too long"),
    (failure(400, "bad schema"), ConfigurationError, "400: bad schema"),
    (failure(401, "bad key " + "sk-" + "abcdef0123456789abcdef"), ConfigurationError, "401: bad key [secret]"),
    (failure(403, "no"), ConfigurationError, "403: no"),
    (failure(404, "no such\nmodel\x1b[31m"), ConfigurationError, "404: no such model [31m"),
    (failure(422, "no"), ConfigurationError, "422: no"),
    (Reply(b"", 302, {"location": "http://127.0.0.1:1/"}), ConfigurationError, "redirect"),
]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("reply", "error", "says"), FAILURES, ids=[says for _, _, says in FAILURES])
def test_a_providers_error_is_one_of_ours(reply: Reply, error: type[CascadeError], says: str, wire: str, server: stub.Stub) -> None:
    server.will(reply)
    with pytest.raises(error) as caught:
        ask(wire, server, call())
    assert says in str(caught.value)
    assert "canary" not in str(caught.value)
    assert len(server.requests) == 1, "the SDK does not retry: we do"
    assert getattr(caught.value, "retry_after", None) == (7 if "slow down" in says else None)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("slow", [Reply(hang=True), Reply(b"x" * 200, drip=0.02)], ids=["silent", "dripping"])
def test_the_deadline_is_total(slow: Reply, wire: str) -> None:
    with stub.running() as server:  # its own: a request that was given up may come in late, and take the next test's reply
        server.default = slow
        with pytest.raises(TimedOut, match=r"no answer within 0\.1 s"):
            ask(wire, server, call(timeout=0.1))


@pytest.mark.parametrize("wire", WIRES)
def test_a_cut_connection_and_a_closed_port_are_unreachable(wire: str, server: stub.Stub) -> None:
    server.will(Reply(drop=True))
    with pytest.raises(Unreachable) as cut:
        ask(wire, server, call())
    assert cut.value.billed
    closed = stub.Stub()
    closed.url = "http://127.0.0.1:9"
    with pytest.raises(Unreachable) as refused:
        ask(wire, closed, call())
    assert not refused.value.billed


@pytest.mark.parametrize("wire", WIRES)
def test_a_missing_key_is_told_before_anything_is_sent(wire: str, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")
    server.will()
    with pytest.raises(ConfigurationError, match="set the environment variable TEST_KEY"):
        ask(wire, server, call())
    assert server.requests == []


def test_a_server_of_ones_own_never_gets_the_vendors_key(server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "vendor-0123456789abcdef")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-vendor")
    server.will(chat())
    ask("chat", server, call(), api_key_env=None)
    assert "vendor" not in str(server.requests[0].headers)


@pytest.mark.parametrize("params", [{"messages": []}, {"model": "x"}, {"stream": True}, {"n": 3}], ids=str)
def test_parameters_that_are_ours_to_set_are_refused(params: dict[str, Any], server: stub.Stub) -> None:
    server.will()
    with pytest.raises(ConfigurationError, match="is set by cascade itself"):
        ask("chat", server, call(**params))
    assert server.requests == []


def test_every_kind_has_an_adapter_that_can_be_built_without_its_sdk() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from cascade import providers\n"
        "for name in providers.KINDS:\n"
        "    if name not in ('scripted', 'recorded'): providers.build(providers.provider(name))\n"
        "assert not {'openai', 'anthropic', 'httpx2'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
