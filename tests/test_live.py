"""Answers that nothing looks at are passed on as they come: from each wire, up the ladder, through the gateway to the SDKs."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest
import stub
from test_gateway import CHAT, Serving

from cascade import Cascade, providers
from cascade.errors import BadReply, Overloaded, ProviderError
from cascade.policy.load import load_text
from cascade.providers.adapter import SdkAdapter
from cascade.types import Answer, CacheSettings, Call, Document, Message, Usage


@pytest.fixture(scope="module")
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


def events(*data: Any, drip: float = 0.0) -> stub.Reply:
    """A stream of these events, with a sign of life among them."""
    lines = [b"data: %b\r\n\r\n" % one if isinstance(one, bytes) else
             f"event: {one.get('type', 'x')}\r\ndata: {json.dumps(one)}\r\n\r\n".encode() for one in data]  # fmt: skip
    return stub.Reply(b"".join([b": ping\n\n", *lines, b"data: [DONE]\n\n"]), headers={"content-type": "text/event-stream"}, drip=drip)


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


RESPONSE = {"model": "m-1", "status": "completed", "usage": {"input_tokens": 10, "output_tokens": 2},
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}]}  # fmt: skip
STREAMS: dict[str, list[dict[str, Any]]] = {
    "chat": [chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), chunk("stop"),
             {"model": "m-1", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}],
    "responses": [{"type": "response.created", "response": {"status": "in_progress"}}, {"type": "response.output_text.delta", "delta": "Hel"},
                  {"type": "response.output_text.delta", "delta": "lo"}, {"type": "response.completed", "response": RESPONSE}],
    "messages": [{"type": "message_start", "message": {"model": "m-1", "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}}},
                 {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
                 {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
                 {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}},
                 {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}, {"type": "message_stop"}],
}  # fmt: skip


def adapter(wire: str, server: stub.Stub) -> SdkAdapter:
    kind, base = ("anthropic", server.url) if wire == "messages" else ("openai", f"{server.url}/v1")
    options = {"api": "responses"} if wire == "responses" else {}
    made = providers.build(providers.provider("p", {"kind": kind, "base_url": base, "options": options}), {"p/m": {"input": Decimal(1), "output": Decimal(2)}})
    assert isinstance(made, SdkAdapter)
    return made


def ask(wire: str, server: stub.Stub, **params: Any) -> tuple[Answer | ProviderError, list[str]]:
    """What comes of a call that somebody listens to, and what was heard."""
    heard: list[str] = []

    async def main() -> Answer | ProviderError:
        one = adapter(wire, server)
        try:
            return await one(Call("p/m", (Message("user", "Hi"),), params=Document({"max_tokens": 9, **params}), live=heard.append))
        except ProviderError as error:
            return error
        finally:
            await one.close()

    return asyncio.run(main()), heard


@pytest.mark.parametrize("drip", [0.0, 0.0001], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("wire", STREAMS)
def test_an_answer_is_heard_in_pieces_and_had_whole(server: stub.Stub, wire: str, drip: float) -> None:
    server.will(events(*STREAMS[wire], drip=drip))
    answer, heard = ask(wire, server)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish, answer.usage, answer.cost_usd, answer.model) == ("Hello", "stop", Usage(10, 2), Decimal("0.000014"), "m-1")
    assert heard == ["Hel", "lo"]
    assert server.requests[0].json["stream"] is True


HEAD, _, HEL, LO, END, STOP = STREAMS["messages"]
TOOL = {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "x", "name": "rm", "input": {}}}
CALLS = {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "rm", "arguments": "{}"}}]}
UNGIVEN, UNREAD, ANOTHER = "the model calls a tool it was not given", "an event of the stream is no JSON", "another text than it told"
LIES: list[tuple[str, list[Any], list[str], str]] = [
    ("chat", [chunk(**CALLS), chunk("tool_calls")], [], UNGIVEN),
    ("chat", [chunk(content="Let me"), chunk(**CALLS), chunk("tool_calls")], ["Let me"], UNGIVEN),
    ("messages", [HEAD, HEL, LO, TOOL, END, STOP], ["Hel", "lo"], UNGIVEN),
    ("chat", [chunk(content="Hel"), b'{"choices": [{"delta": {"content": "\xff"}}]}', chunk("stop")], ["Hel"], UNREAD),
    ("chat", [b'{"choices": [{"delta": {"content": "\\ud83d"}}]}', chunk("stop")], [], UNREAD),
    ("chat", [chunk(content=7), chunk("stop")], [], "message.content is int, not text"),
    ("chat", [{"error": {"code": {"a": 1}, "message": "x"}}], [], "the stream ends in an error"),
    ("responses", [{"type": "response.output_text.delta", "delta": "Bye"}, STREAMS["responses"][-1]], ["Bye"], ANOTHER),
    ("responses", [*STREAMS["responses"], {"type": "response.completed", "response": {**RESPONSE, "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "Bye"}]}]}}], ["Hel", "lo"], ANOTHER),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "said", "told", "says"), LIES, ids=[f"{wire}: {says} {told}" for wire, _, told, says in LIES])
def test_a_stream_that_lies_or_loses_text_is_no_answer(server: stub.Stub, wire: str, said: list[Any], told: list[str], says: str) -> None:
    server.will(events(*said))
    error, heard = ask(wire, server)
    assert (type(error), error.billed, heard) == (BadReply, True, told)  # type: ignore[union-attr]
    assert says in str(error)


ODD: list[tuple[str, list[Any], tuple[str, str, Usage | None]]] = [
    ("chat", [chunk(content=[{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hi"}]), chunk("stop")], ("Hi", "stop", None)),
    ("chat", [chunk(content="Hi"), {"choices": [{"index": 1, "delta": {"content": "Ho"}, "finish_reason": "length"}]}, chunk("stop")], ("Hi", "stop", None)),
    ("messages", [HEAD, {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Hi"}}, END, STOP], ("Hi", "stop", Usage(10, 2))),
    ("messages", [HEAD, HEL, {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}},
                  {"type": "message_delta", "delta": {"stop_reason": None}, "usage": None}, STOP], ("Hel", "length", Usage(10, 9))),
    ("messages", [HEAD, HEL, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, STOP], ("Hel", "stop", None)),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "said", "comes_to"), ODD, ids=["parts", "a second choice", "text in a block's head", "two ends", "no count at the end"])
def test_an_odd_stream_comes_to_what_it_says(server: stub.Stub, wire: str, said: list[Any], comes_to: tuple[str, str, Usage | None]) -> None:
    server.will(events(*said))
    answer, heard = ask(wire, server)
    assert isinstance(answer, Answer)
    assert ((answer.text, answer.finish, answer.usage), "".join(heard)) == (comes_to, comes_to[0])


def test_a_packed_stream_is_read_at_its_end(server: stub.Stub) -> None:
    plain = events(*STREAMS["chat"])
    server.will(stub.Reply(gzip.compress(plain.body), headers={**plain.headers, "content-encoding": "gzip"}))
    answer, heard = ask("chat", server)
    assert isinstance(answer, Answer)
    assert (answer.text, answer.usage, heard) == ("Hello", Usage(10, 2), ["Hel", "lo"])


@pytest.mark.parametrize("wire", STREAMS)
def test_what_breaks_off_is_no_answer_and_is_not_asked_again(server: stub.Stub, wire: str) -> None:
    server.will(events(*STREAMS[wire][:3]))
    error, heard = ask(wire, server)
    assert isinstance(error, BadReply)
    assert "the stream ended before the answer did" in str(error)
    assert heard[:1] == ["Hel"]


def test_a_connection_that_is_lost_after_the_first_piece_is_not_made_again() -> None:
    asked: list[bytes] = []

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n")
        writer.write(f"data: {json.dumps(chunk(content='Hel'))}\n\n".encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    with stub.listening(cut) as url:
        text = LADDER.replace("http://127.0.0.1:9/v1", f"{url}/v1").replace("  - {name: middle, model: p/middle}\n", "")
        made = Cascade(load_text(text.replace("  - {name: small, model: p/small, gates: [{check: \"answer != 'no'\"}]}\n", ""), "x.yaml"),
                       cache=CacheSettings(backend="off"))  # fmt: skip
        heard: list[str] = []

        async def main() -> Any:
            async with made:
                return await made.arun({"messages": [{"role": "user", "content": "Hi"}]}, live=heard.append)

        outcome = asyncio.run(main())
    assert (outcome.status, heard, len(asked), outcome.cost_usd) == ("failed", ["Hel"], 1, None)
    assert "the stream broke off after 3 characters" in (outcome.error or "")


@pytest.mark.parametrize(
    ("said", "kind", "transient"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, Overloaded, True),
        ({"error": {"code": "server_error", "message": "oops"}}, Overloaded, True),
        ({"error": {"code": "odd", "message": "oops"}}, BadReply, False),
    ],
    ids=["anthropic's", "openai's", "another"],
)
def test_an_error_in_a_stream_is_one_that_may_be_tried_again_before_the_first_piece(server: stub.Stub, said: Any, kind: type[Any], transient: bool) -> None:
    server.will(events(said))
    error, heard = ask("chat", server)
    assert (type(error), error.transient, heard) == (kind, transient, [])  # type: ignore[union-attr]
    server.will(events(*STREAMS["chat"][:2], said))
    error, heard = ask("chat", server)
    assert (type(error), error.transient, error.billed, heard) == (BadReply, False, True, ["Hel"])  # type: ignore[union-attr]
    assert "the stream broke off after 3 characters" in str(error)


def test_a_server_that_does_not_stream_answers_all_the_same(server: stub.Stub) -> None:
    for before in (b"", b"\n\n"):
        server.will(stub.Reply(before + stub.chat("Hello").body))
        answer, heard = ask("chat", server)
        assert isinstance(answer, Answer)
        assert (answer.text, heard) == ("Hello", [])


def test_what_has_log_probabilities_is_not_streamed(server: stub.Stub) -> None:
    server.will(stub.chat("Hello"))
    ask("chat", server, logprobs=True)
    assert "stream" not in server.requests[0].json


def test_an_error_status_is_no_stream(server: stub.Stub) -> None:
    server.will(stub.Reply(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n', 503))
    error, heard = ask("chat", server)
    assert (type(error), heard) == (Overloaded, [])


# ---------------------------------------------------------------- up the ladder

LADDER = """
version: 1
name: chat
prompt: messages
providers: {p: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}}
tiers:
  - {name: small, model: p/small, gates: [{check: "answer != 'no'"}]}
  - {name: middle, model: p/middle}
  - {name: big, model: p/big}
"""


class Models:
    """Each says what it is told to, a word at a time to who listens."""

    def __init__(self, **said: str) -> None:
        self.said, self.listened = said, list[str]()

    async def __call__(self, call: Call) -> Answer:
        text = self.said[call.model.partition("/")[2]]
        if call.live is not None:
            self.listened.append(call.model)
            for word in text.split(" "):
                call.live(f"{word} ")
        return Answer(text, model=call.model)


@pytest.mark.parametrize(
    ("ladder", "said", "heard"),
    [
        (LADDER.replace("  - {name: middle, model: p/middle}\n", ""), {"small": "no", "big": "It is 4."}, ["It ", "is ", "4. "]),
        (LADDER.replace("  - {name: middle, model: p/middle}\n", ""), {"small": "four"}, []),
        (LADDER.replace("{name: big, model: p/big}", "{name: big, model: p/big, gates: [{check: \"answer != ''\"}]}").replace(
            "  - {name: middle, model: p/middle}\n", ""), {"small": "no", "big": "4"}, []),
        (LADDER, {"small": "no", "middle": "4", "big": "4"}, []),
    ],
    ids=["the last tier without gates", "accepted below", "the last tier with a gate", "a tier below without gates"],
)  # fmt: skip
def test_only_what_nothing_looks_at_is_heard_before_its_end(ladder: str, said: dict[str, str], heard: list[str]) -> None:
    models, found = Models(**said), list[str]()
    made = Cascade(load_text(ladder, "x.yaml"), ask=models, cache=CacheSettings(backend="off"))
    asked = {"messages": [{"role": "user", "content": "2 and 2?"}]}
    assert asyncio.run(made.arun(asked, live=found.append)).status == "accepted"
    assert found == heard
    models.listened.clear()
    asyncio.run(made.arun(asked))
    assert models.listened == []


# ---------------------------------------------------------------- through the gateway


class Slowly:
    """The big model says a piece, and the rest when the test has seen it."""

    def __init__(self) -> None:
        self.seen = threading.Event()
        self.ends: Any = Answer("Hello", usage=Usage(10, 2), model="m")

    async def __call__(self, call: Call) -> Answer:
        if call.model == "p/small":
            return Answer("no", usage=Usage(10, 2), model=call.model)
        assert call.live is not None
        call.live("Hel")
        while not self.seen.is_set():
            await asyncio.sleep(0.005)
        if isinstance(self.ends, Exception):
            raise self.ends
        call.live("lo")
        assert isinstance(self.ends, Answer)
        return self.ends


@pytest.fixture
def slowly() -> Iterator[tuple[Slowly, str]]:
    models = Slowly()
    text = CHAT.replace("{name: small, model: p/small}", "{name: small, model: p/small, gates: [{check: \"answer != 'no'\"}]}")
    serving = Serving(texts=(text,), ask=models)
    yield models, serving.url
    models.seen.set()
    serving.close()


ASK: Any = [{"role": "user", "content": "Hi"}]


def test_openais_client_sees_the_first_piece_before_the_last_is_there(slowly: tuple[Slowly, str]) -> None:
    models, url = slowly
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        pieces: list[str] = []
        with client.chat.completions.stream(model="chat", messages=ASK, stream_options={"include_usage": True}) as stream:
            for event in stream:
                if event.type == "content.delta" and event.delta:
                    pieces.append(event.delta)
                    models.seen.set()
            final = stream.get_final_completion()
        assert (pieces, final.choices[0].message.content, final.choices[0].finish_reason) == (["Hel", "lo"], "Hello", "stop")
        assert final.usage is not None
        assert final.usage.total_tokens == 24


def test_its_responses_too(slowly: tuple[Slowly, str]) -> None:
    models, url = slowly
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        kinds: list[str] = []
        with client.responses.stream(model="chat", input=ASK) as stream:
            for event in stream:
                kinds.append(event.type.removeprefix("response."))
                if kinds[-1] == "output_text.delta":
                    models.seen.set()
            final = stream.get_final_response()
    assert (final.output_text, final.usage.total_tokens if final.usage else None) == ("Hello", 24)
    assert kinds == ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done",
                     "content_part.done", "output_item.done", "completed"]  # fmt: skip


def test_anthropics_client_too(slowly: tuple[Slowly, str]) -> None:
    models, url = slowly
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        pieces: list[str] = []
        with client.messages.stream(model="chat", max_tokens=9, messages=ASK) as stream:
            for text in stream.text_stream:
                pieces.append(text)
                models.seen.set()
            final = stream.get_final_message()
    assert (pieces, final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == (["Hel", "lo"], "end_turn", 20, 4)
    assert [block.text for block in final.content if block.type == "text"] == ["Hello"]


def test_what_breaks_off_later_is_an_error_in_the_stream(slowly: tuple[Slowly, str]) -> None:
    models, url = slowly
    models.ends = BadReply("p/big: the stream broke off after 3 characters")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream, pieces = client.chat.completions.create(model="chat", messages=ASK, stream=True), []

        def read() -> None:
            for one in stream:
                if one.choices and one.choices[0].delta.content:
                    pieces.append(one.choices[0].delta.content)
                    models.seen.set()

        with pytest.raises(openai.APIError, match="no tier's answer passed its gates"):
            read()
    assert pieces == ["Hel"]
