"""What each wire makes of a reply, without a server: the odd but honest ones, and those that may have cost money."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson
import pytest
import stub

from cascade import providers
from cascade.errors import BadReply, TimedOut
from cascade.providers.adapter import Reading, SdkAdapter
from cascade.types import Answer, Call, Document, Message, Provider, Usage


def adapter(wire: str, pricing: Any = None, **settings: Any) -> SdkAdapter:
    kind = "anthropic" if wire == "messages" else "openai"
    options = {"api": "responses"} if wire == "responses" else {}
    built = providers.build(providers.provider("p", {"kind": kind, "options": options, **settings}), pricing or {})
    assert isinstance(built, SdkAdapter)
    return built


def read(wire: str, reply: Any) -> Reading:
    return adapter(wire).wire.read(reply, "p/m")


def choice(finish: Any = "stop", **message: Any) -> Any:
    return {"model": "m", "choices": [{"finish_reason": finish, "message": message}]}


READ: dict[str, tuple[str, Any, Reading]] = {
    "text in parts, thinking skipped": (
        "chat",
        choice(content=[{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        Reading("ab", "stop", "m"),
    ),
    "no finish reason": ("chat", choice(None, content="a"), Reading("a", "stop", "m")),
    "an unknown finish reason": ("chat", choice("eos", content="a"), Reading("a", "stop", "m")),
    "no text at all": ("chat", choice(content=None), Reading("", "stop", "m")),
    "a service tier": ("chat", {**choice(content="a"), "service_tier": "flex"}, Reading("a", "stop", "m", "flex")),
    "two texts around a thought": (
        "messages",
        {"model": "m", "stop_reason": "end_turn", "content": [{"type": "text", "text": "a"}, {"type": "thinking"}, {"type": "text", "text": "b"}]},
        Reading("ab", "stop", "m"),
    ),
    "a refusal without content": ("messages", {"model": "m", "stop_reason": "refusal", "content": None}, Reading("", "refusal", "m")),
    "a full window": (
        "messages",
        {"model": "m", "stop_reason": "model_context_window_exceeded", "content": [{"type": "text", "text": "a"}]},
        Reading("a", "length", "m"),
    ),
    "a refusal in a response": (
        "responses",
        {"model": "m", "status": "completed", "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]},
        Reading("no", "refusal", "m"),
    ),
    "a filtered response": (
        "responses",
        {"model": "m", "status": "incomplete", "output": [], "incomplete_details": {"reason": "content_filter"}},
        Reading("", "filter", "m"),
    ),
}


@pytest.mark.parametrize(("wire", "reply", "reading"), READ.values(), ids=READ.keys())
def test_a_reply_is_read(wire: str, reply: Any, reading: Reading) -> None:
    assert read(wire, reply) == reading


UNREAD: dict[str, tuple[str, Any, str]] = {
    "a tool call": ("chat", choice("tool_calls", content=None, tool_calls=[{}]), "a tool call that is none of a function"),
    "an error for a choice": ("chat", {"error": {"message": "upstream\ndied"}}, "no choices: upstream died"),
    "an error inside a choice": ("chat", choice("error", content="a"), "the choice ends in an error"),
    "content that is a number": ("chat", choice(content=7), "message.content is int, not text"),
    "no message": ("chat", {"choices": [{}]}, "the choice has no message"),
    "a choice that is text": ("chat", {"choices": ["a"]}, "no choices"),
    "a paused turn": ("messages", {"stop_reason": "pause_turn", "content": []}, "the model paused for a server tool"),
    "thoughts only": ("messages", {"stop_reason": "end_turn", "content": [{"type": "thinking"}]}, "the content has no text block"),
    "an error for a message": ("messages", {"type": "error", "error": {"message": "busy"}}, "no content: busy"),
    "a failed response": ("responses", {"status": "failed", "output": [], "error": {"message": "boom"}}, "status 'failed': boom"),
    "a response without message": ("responses", {"status": "completed", "output": [{"type": "reasoning"}]}, "the output has no message"),
}


@pytest.mark.parametrize(("wire", "reply", "says"), UNREAD.values(), ids=UNREAD.keys())
def test_a_reply_that_is_no_answer_says_what_it_is(wire: str, reply: Any, says: str) -> None:
    with pytest.raises(BadReply) as caught:
        read(wire, reply)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("record", "usage"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 16, "completion_tokens_details": {"reasoning_tokens": 5}}, Usage(9, 7, 0, 0, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16, "completion_tokens_details": {"reasoning_tokens": 5}}, Usage(9, 7, 0, 0, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(9, 2)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 10}}, None),
        ([], None),
    ],
)  # fmt: skip
def test_usage_that_contradicts_itself_is_unknown(record: Any, usage: Usage | None) -> None:
    assert adapter("chat").wire.usage({"usage": record}, "p/m") == usage


@pytest.mark.parametrize("value", [True, 1.5, "7", -1, 10**12])
def test_a_count_that_is_none_is_a_bad_reply(value: Any) -> None:
    with pytest.raises(BadReply, match=r"usage\.prompt_tokens"):
        adapter("chat").wire.usage({"usage": {"prompt_tokens": value}}, "p/m")


# ---------------------------------------------------------------- bodies

CALL = Call("p/m", (Message("user", "x"),), None, Document({"max_tokens": 5}))


def body(wire: str, call: Call, **settings: Any) -> Any:
    return orjson.loads(adapter(wire, **settings).body(call))


def test_openai_has_its_own_word_for_the_limit() -> None:
    assert body("chat", CALL) == {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 5}


@pytest.mark.parametrize(
    ("params", "samples"),
    [({}, [None, 1, 2]), ({"seed": 40}, [40, 41, 42]), ({"seed": 0}, [0, 1, 2])],
)
def test_each_sample_has_a_seed_of_its_own(params: dict[str, Any], samples: list[int | None]) -> None:
    calls = [Call("p/m", CALL.messages, None, Document(params), sample) for sample in range(3)]
    assert [body("chat", call, base_url="http://127.0.0.1:1").get("seed") for call in calls] == samples
    assert all("seed" not in body("messages", call) for call in [CALL, Call("p/m", CALL.messages, sample=3)])


def test_effort_goes_where_each_wire_wants_it() -> None:
    low = Document({"max_tokens": 5, "reasoning_effort": "low"})
    assert body("responses", Call("p/m", CALL.messages, None, low))["reasoning"] == {"effort": "low"}
    assert body("messages", Call("p/m", CALL.messages, None, Document({"effort": "low"})))["output_config"] == {"effort": "low"}


def test_a_model_keeps_the_slashes_in_its_name() -> None:
    assert body("chat", Call("p/openai/gpt-oss-20b", CALL.messages))["model"] == "openai/gpt-oss-20b"


# ---------------------------------------------------------------- money and connections


@pytest.fixture(scope="module")
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


@pytest.fixture
def local(server: stub.Stub) -> Provider:
    return providers.provider("p", {"kind": "openai", "base_url": f"{server.url}/v1"})


def test_a_bad_reply_that_was_billed_says_what_it_cost(server: stub.Stub, local: Provider) -> None:
    server.will(stub.said({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 0}}))
    with pytest.raises(BadReply) as caught:
        asyncio.run(providers.build(local, {"p/m": {"input": Decimal(3), "output": Decimal(1)}})(CALL))
    assert (caught.value.cost_usd, caught.value.billed) == (Decimal("0.003"), True)


def test_one_adapter_serves_one_loop_after_another(server: stub.Stub, local: Provider) -> None:
    shared = providers.build(local)

    async def twice() -> list[str]:
        texts = [(await shared(CALL)).text, (await shared(CALL)).text]
        await shared.close()
        await shared.close()
        return texts

    server.will(*[stub.chat(str(number)) for number in range(4)])
    assert [asyncio.run(twice()), asyncio.run(twice())] == [["0", "1"], ["2", "3"]]


def test_what_arrives_after_the_deadline_is_nobodys_answer(server: stub.Stub, local: Provider) -> None:
    late = stub.Reply(stub.chat("late").body, drip=0.01)

    async def main() -> Answer:
        shared = providers.build(local)
        await shared(CALL)
        with pytest.raises(TimedOut):
            await shared(Call("p/m", CALL.messages, timeout=0.05))
        answer = await shared(CALL)
        await shared.close()
        return answer

    server.will(stub.chat("first"), late, stub.chat("mine"))
    assert asyncio.run(main()).text == "mine"
