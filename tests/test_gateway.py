"""The gateway as its callers meet it: the real SDKs over real HTTP, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import uvicorn
from pydantic import BaseModel
from typer.testing import CliRunner

from cascade import Cascade, tools
from cascade.cli.app import app
from cascade.errors import InputError, Overloaded
from cascade.gateway import server as gateway_server
from cascade.gateway.desk import MAX_BODY, order
from cascade.gateway.keys import Keys, new
from cascade.gateway.server import Gateway
from cascade.policy.load import load_text
from cascade.types import Answer, Ask, CacheSettings, Call, Usage

PROVIDER = """
version: 1
providers: {p: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}}
pricing: {p/small: {input: 1, output: 2}, p/big: {input: 10, output: 20}}
defaults: {retries: 0}
cache: {backend: off}
tiers: [{name: small, model: p/small}, {name: big, model: p/big}]
"""
CHAT = PROVIDER + "name: chat\nprompt: messages\ncaller_schema: true\n"
SUMS = PROVIDER + 'name: sums\nprompt: "Add {{ a }} and {{ b }}."\nschema: {type: object, properties: {sum: {type: integer}}, required: [sum]}\n'
ECHO = PROVIDER + 'name: echo\nprompt: "Repeat: {{ text }}"\n'
SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": False}


class Models:
    """What the models say, by tier; a test sets it."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self.calls: list[Call] = []
        self.cancelled = threading.Event()
        self.asked = threading.Event()

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        self.asked.set()
        said = self.said[call.model.partition("/")[2]]
        if said is None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if isinstance(said, Exception):
            raise said
        text, finish = said if isinstance(said, tuple) else (said, "stop")
        return Answer(text, finish, Usage(10, 5, cached=4), Decimal("0.00011"), model=call.model)


class Serving:
    """A gateway in a thread, on a port of its own."""

    def __init__(self, keys: Keys | None = None, texts: tuple[str, ...] = (CHAT, SUMS, ECHO), ask: Ask | None = None,
                 real: bool = False) -> None:
        self.models = Models()
        made = [Cascade(load_text(text, "x.yaml"), ask=None if real else ask or self.models, cache=CacheSettings(backend="off")) for text in texts]
        self.gateway = Gateway({one.policy.name: one for one in made}, keys)
        self.server = uvicorn.Server(uvicorn.Config(self.gateway.app, "127.0.0.1", 0, log_level="error"))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=lambda: self.server.run([self.socket]))
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture(scope="module")
def running() -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.close()


@pytest.fixture
def serving(running: Serving) -> Serving:
    running.models.said, running.models.calls = {"small": "four", "big": "4"}, []
    running.models.cancelled.clear()
    running.models.asked.clear()
    return running


@pytest.fixture
def ours(serving: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def theirs(serving: Serving) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=serving.url, api_key="none", max_retries=0) as client:
        yield client


QUESTION: Any = [{"role": "user", "content": "2 and 2?"}]
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SUM, "strict": True}}


# ---------------------------------------------------------------- OpenAI's shape


def test_an_openai_client_gets_the_ladders_answer_and_sees_the_tier_in_a_header(serving: Serving, ours: openai.OpenAI) -> None:
    serving.models.said = {"small": '{"sum": "four"}', "big": '{"sum": 4}'}
    raw = ours.chat.completions.with_raw_response.create(model="chat", messages=QUESTION, response_format=FORMAT, temperature=0)
    reply = raw.parse()
    assert json.loads(reply.choices[0].message.content or "") == {"sum": 4}
    assert (reply.model, reply.choices[0].finish_reason, reply.choices[0].message.refusal) == ("chat", "stop", None)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (20, 10, 30), "of both tries"
    told = {name: raw.headers[f"x-cascade-{name}"] for name in ("tier", "status", "cost-usd")}
    assert told == {"tier": "big", "status": "accepted", "cost-usd": "0.00022"}
    trail = ours.get(f"/cascade/trails/{raw.headers['x-cascade-trail-id']}", cast_to=object)
    assert [event["tier"] for event in trail["trail"] if event["event"] == "tried"] == ["small", "big"]  # type: ignore[index]


def test_a_typed_answer_comes_by_parse(serving: Serving, ours: openai.OpenAI) -> None:
    class Sum(BaseModel):
        sum: int

    serving.models.said = {"small": '{"sum": 4}', "big": ""}
    assert ours.chat.completions.parse(model="chat", messages=QUESTION, response_format=Sum).choices[0].message.parsed == Sum(sum=4)


def test_an_answer_is_streamed_when_it_is_accepted(serving: Serving, ours: openai.OpenAI) -> None:
    chunks = list(ours.chat.completions.create(model="chat", messages=QUESTION, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "four"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15


def test_a_stream_shows_that_it_lives_while_answers_are_verified(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_server, "ALIVE", 0.01)

    async def slow(call: Call) -> Answer:
        await asyncio.sleep(0.05)
        return Answer("four", usage=Usage(1, 1), model=call.model)

    cascade = Cascade(load_text(CHAT, "x.yaml"), ask=slow, cache=CacheSettings(backend="off"))

    async def events() -> list[bytes]:
        from cascade.gateway.chat import Chat

        gateway = Gateway({"chat": cascade})
        ordered = order(Chat(), {"model": "chat", "messages": QUESTION, "stream": True}, gateway.policies)
        return [event async for event in gateway._stream(ordered, asyncio.ensure_future(gateway._outcome(ordered, None)), asyncio.Queue())]

    found = asyncio.run(events())
    assert found[0] == b": verifying\n\n"
    assert found[-1] == b"data: [DONE]\n\n"


def test_a_policy_with_a_prompt_takes_its_inputs_as_the_message(serving: Serving, ours: openai.OpenAI) -> None:
    serving.models.said = {"small": '{"sum": 5}', "big": ""}
    ours.chat.completions.create(model="sums", messages=[{"role": "user", "content": '{"a": 2, "b": 3}'}])
    assert serving.models.calls[-1].messages[0].content == "Add 2 and 3."
    ours.chat.completions.create(model="echo", messages=[{"role": "user", "content": "{not json"}])
    assert serving.models.calls[-1].messages[0].content == "Repeat: {not json"


def test_a_refusal_is_one(serving: Serving, ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    serving.models.said = {"small": ("I will not.", "refusal"), "big": ""}
    message = ours.chat.completions.create(model="chat", messages=QUESTION).choices[0].message
    assert (message.content, message.refusal) == (None, "I will not.")
    assert theirs.messages.create(model="chat", messages=QUESTION, max_tokens=10).stop_reason == "refusal"


FAILURES = [
    ({"small": '{"sum": "x"}', "big": '{"sum": "x"}'}, 422, "not_accepted", "false"),
    ({"small": Overloaded("529"), "big": Overloaded("529")}, 503, "overloaded", "true"),
]


@pytest.mark.parametrize(("said", "status", "code", "again"), FAILURES, ids=["no tier passed", "the providers are down"])
def test_what_is_not_accepted_is_an_error_that_says_whether_to_try_again(serving: Serving, ours: openai.OpenAI, theirs: anthropic.Anthropic,
                                                                        said: Any, status: int, code: str, again: str) -> None:
    serving.models.said = said
    with pytest.raises(openai.APIStatusError) as caught:
        ours.chat.completions.create(model="chat", messages=QUESTION, response_format=FORMAT)
    assert (caught.value.status_code, caught.value.code, caught.value.response.headers["x-should-retry"]) == (status, code, again)
    with pytest.raises(openai.APIStatusError) as by_response:
        ours.responses.create(model="chat", input="2 and 2?", text={"format": {"type": "json_schema", "name": "sum", "schema": SUM}})
    assert (by_response.value.status_code, by_response.value.code) == (status, code)
    with pytest.raises(openai.APIError) as streamed:
        list(ours.chat.completions.create(model="chat", messages=QUESTION, response_format=FORMAT, stream=True))
    assert streamed.value.code == code
    with pytest.raises(anthropic.APIStatusError) as other:
        theirs.messages.create(model="chat", messages=QUESTION, max_tokens=10, output_config={"format": {"type": "json_schema", "schema": SUM}})
    assert other.value.status_code == status


def test_the_responses_api_is_spoken_too(serving: Serving, ours: openai.OpenAI) -> None:
    class Sum(BaseModel):
        sum: int

    serving.models.said = {"small": '{"sum": "four"}', "big": '{"sum": 4}'}
    raw = ours.responses.with_raw_response.parse(model="chat", instructions="Be brief.", input="2 and 2?", text_format=Sum)
    reply = raw.parse()
    assert (reply.output_parsed, reply.status, raw.headers["x-cascade-tier"]) == (Sum(sum=4), "completed", "big")
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (20, 10, 30)
    assert [(m.role, m.content) for m in serving.models.calls[0].messages] == [("system", "Be brief."), ("user", "2 and 2?")]


def test_what_builds_on_a_stored_response_is_told_to_send_the_conversation(ours: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="previous_response_id: nothing is stored here; send the whole conversation in input"):
        ours.responses.create(model="chat", input="And 3?", previous_response_id="resp_1")


def test_kept_trails_put_into_one_file_are_rows_for_explain_and_report(serving: Serving, ours: openai.OpenAI, tmp_path: Path) -> None:
    import httpx2

    raws = [ours.chat.completions.with_raw_response.create(model="chat", messages=QUESTION) for _ in range(2)]
    ids = [raw.headers["x-cascade-trail-id"] for raw in raws]
    rows = tmp_path / "trails.jsonl"
    rows.write_bytes(b"".join(httpx2.get(f"{serving.url}/v1/cascade/trails/{id}").content for id in ids))
    assert [row["id"] for row in map(json.loads, rows.read_text().splitlines())] == ids


def test_responses_are_streamed_in_their_events(serving: Serving, ours: openai.OpenAI) -> None:
    with ours.responses.stream(model="chat", input=[{"role": "user", "content": [{"type": "input_text", "text": "2 and 2?"}]}]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (final.output_text, kinds[0], kinds[-1]) == ("four", "response.created", "response.completed")
    assert "response.output_text.delta" in kinds
    serving.models.said = {"small": ("I will not.", "refusal"), "big": ""}
    refused = ours.responses.create(model="chat", input="2 and 2?").output[0]
    assert refused.content[0].refusal == "I will not."  # type: ignore[union-attr]
    with ours.responses.stream(model="chat", input="2 and 2?") as stream:
        assert "response.refusal.done" in [event.type for event in stream]


# ---------------------------------------------------------------- Anthropic's shape


def test_an_anthropic_client_gets_it_too(serving: Serving, theirs: anthropic.Anthropic) -> None:
    serving.models.said = {"small": '{"sum": "four"}', "big": '{"sum": 4}'}
    raw = theirs.messages.with_raw_response.create(model="chat", max_tokens=100, system="Be brief.", messages=QUESTION,
                                                   output_config={"format": {"type": "json_schema", "schema": SUM}})
    reply = raw.parse()
    assert json.loads(reply.content[0].text) == {"sum": 4}  # type: ignore[union-attr]
    assert (reply.model, reply.stop_reason, raw.headers["x-cascade-tier"]) == ("chat", "end_turn", "big")
    assert (reply.usage.input_tokens, reply.usage.cache_read_input_tokens, reply.usage.output_tokens) == (12, 8, 10)
    assert [m.role for m in serving.models.calls[0].messages] == ["system", "user"]


def test_it_is_streamed_in_its_events(theirs: anthropic.Anthropic) -> None:
    with theirs.messages.stream(model="chat", max_tokens=100, messages=QUESTION) as stream:
        assert "".join(stream.text_stream) == "four"
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 5)


def test_both_see_the_policies_as_models(ours: openai.OpenAI, theirs: anthropic.Anthropic) -> None:
    assert [model.id for model in ours.models.list()] == ["chat", "sums", "echo"]
    assert [model.id for model in theirs.models.list()] == ["chat", "sums", "echo"]
    assert (ours.models.retrieve("sums").owned_by, theirs.models.retrieve("sums").display_name) == ("cascade", "sums")


# ---------------------------------------------------------------- what is refused

WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "gpt"}, 404, "there is no policy 'gpt'; there are: chat, sums, echo"),
    ({"messages": []}, 400, "messages: there is none"),
    ({"messages": "hi"}, 400, "messages: must be a list"),
    ({"messages": ["hi"]}, 400, "messages[0]: must be an object"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].tool_call_id: no call of a tool with this id waits"),
    ({"messages": [{"role": "critic", "content": "x"}]}, 400, "messages[0].role: must be one of developer, system, user, assistant, tool"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, 400, "messages[0].content[0].image_url.url: must be an https URL"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]}, 400, "must be an https URL, or a data"),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, 400, "messages[0].content[0]: must be {type: text, text} or"),
    ({"stream": True, "messages": [{"role": "user", "content": []}]}, 400, "messages[0].content: must be text or a list of parts"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "the last message is the user's"),
    ({"n": 100}, 400, "n: a ladder gives one answer"),
    ({"base_url": "http://evil"}, 400, "unknown parameter 'base_url'"),
    ({"tier": "big"}, 400, "unknown parameter 'tier'"),
    ({"functions": []}, 400, "unknown parameter 'functions': leave it out, how models are asked is the policy's business"),
    ({"tools": [{"type": "web_search"}]}, 400, "tools[0]: must be {type: function"),
    ({"tool_choice": "required"}, 400, "tool_choice: there are no tools to choose from"),
    ({"response_format": {"type": "xml"}}, 400, "response_format: must be"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "odd"}}}}, 400, "the schema of the request: /type"),
    ({"model": "sums", "messages": [{"role": "user", "content": '{"a": 1, "b": 2}'}], "response_format": FORMAT}, 400, "does not take a schema with a request"),
    ({"model": "sums"}, 400, "the message must be a JSON object with its inputs, a, b"),
    ({"model": "sums", "messages": QUESTION * 2}, 400, "send one message of text, its inputs as JSON"),
    ({"stream": "yes"}, 400, "stream: must be true or false"),
]


@pytest.mark.parametrize(("change", "status", "says"), WRONG, ids=[says for _, _, says in WRONG])
def test_a_wrong_request_is_told_and_asks_nobody(serving: Serving, change: dict[str, Any], status: int, says: str) -> None:
    import httpx2

    reply = httpx2.post(f"{serving.url}/v1/chat/completions", json={"model": "chat", "messages": QUESTION, **change})
    assert (reply.status_code, serving.models.calls) == (status, [])
    assert says in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages"])
def test_what_a_client_sends_as_null_or_false_asks_for_nothing(serving: Serving, path: str) -> None:
    import httpx2

    serving.models.said = {"small": "four", "big": ""}
    asked = {"input": "2 and 2?"} if path == "responses" else {"messages": QUESTION, "max_tokens": 9}
    url, unset = f"{serving.url}/v1/{path}", {"stop": None, "logprobs": False, "stop_sequences": None, "background": False}
    assert httpx2.post(url, json={"model": "chat", **asked, **unset}).status_code == 200
    assert [httpx2.post(url, json={"model": "chat", **asked, "stop": said}).status_code for said in (0, "", [], True)] == [400] * 4


BODIES = [
    (b'{"model": "chat", "model": "sums"}', "application/json", 400),
    (b'{"model": NaN}', "application/json", 400),
    (b"[" * 100_000, "application/json", 400),
    (b"\xff", "application/json", 400),
    (b"[]", "application/json", 400),
    (b"{}", "text/plain", 415),
    (b" " * (MAX_BODY + 1), "application/json", 413),
]


@pytest.mark.parametrize(("body", "kind", "status"), BODIES, ids=["twice", "NaN", "deep", "no UTF-8", "a list", "a form of a web page", "too large"])
def test_a_hostile_body_is_refused(serving: Serving, body: bytes, kind: str, status: int) -> None:
    import httpx2

    for path in ("chat/completions", "messages"):
        assert httpx2.post(f"{serving.url}/v1/{path}", content=body, headers={"content-type": kind}).status_code == status


def test_without_keys_only_this_machine_is_answered_whatever_name_it_is_reached_by(serving: Serving) -> None:
    import httpx2

    reply = httpx2.get(f"{serving.url}/v1/models", headers={"host": "evil.example"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (403, "without keys only requests to localhost are answered")


def test_a_caller_who_goes_stops_what_is_asked(serving: Serving) -> None:
    serving.models.said = {"small": None}
    body = json.dumps({"model": "chat", "messages": QUESTION}).encode()
    with socket.create_connection(("127.0.0.1", int(serving.url.rpartition(":")[2]))) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert serving.models.asked.wait(5)
    assert serving.models.cancelled.wait(5)


# ---------------------------------------------------------------- operations


def test_metrics_count_requests_tokens_dollars_and_verdicts(serving: Serving, ours: openai.OpenAI) -> None:
    import httpx2

    def counted() -> dict[str, float]:
        lines = httpx2.get(f"{serving.url}/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    before = counted()
    serving.models.said = {"small": '{"sum": "four"}', "big": '{"sum": 4}'}
    ours.chat.completions.create(model="chat", messages=QUESTION, response_format=FORMAT)
    with pytest.raises(openai.NotFoundError):
        ours.chat.completions.create(model="none", messages=QUESTION)
    more = {name: round(value - before.get(name, 0), 6) for name, value in counted().items()}
    assert more['cascade_requests_total{policy="chat",status="accepted",tier="big"}'] == 1
    assert more['cascade_tokens_total{kind="input",model="p/small",policy="chat"}'] == 10
    assert more['cascade_calls_total{model="p/big",policy="chat",result="stop"}'] == 1
    assert more['cascade_verdicts_total{gate="schema",policy="chat",tier="small",verdict="failed"}'] == 1
    assert more['cascade_cost_usd_total{policy="chat"}'] == 0.00022
    assert more['cascade_request_seconds_count{policy="chat"}'] == 1
    assert more['cascade_refused_total{kind="model_not_found"}'] == 1


def test_each_request_is_a_line_without_its_text(serving: Serving, ours: openai.OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="cascade.gateway"):
        ours.chat.completions.create(model="chat", messages=[{"role": "user", "content": "a secret"}])
    (line,) = [json.loads(record.getMessage()) for record in caplog.records if record.name == "cascade.gateway"]
    assert {name: line[name] for name in ("event", "key", "status", "tier", "cost_usd", "calls", "error")} == {
        "event": "request", "key": None, "status": "accepted", "tier": "small", "cost_usd": 0.00011, "calls": 1, "error": None}
    assert "secret" not in caplog.text
    assert "four" not in caplog.text


def test_a_refused_request_is_a_line_that_says_whose_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, line = new("team-a")
    (tmp_path / "keys.txt").write_text(f"{line} budget=0.01/day\n")
    serving = Serving(Keys(str(tmp_path / "keys.txt")))
    try:
        with caplog.at_level("INFO", logger="cascade.gateway"), openai.OpenAI(base_url=f"{serving.url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(openai.APIStatusError) as unpaid:
                client.chat.completions.create(model="chat", messages=QUESTION)
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model="none", messages=QUESTION)
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="csk-foreign").chat.completions.create(model="chat", messages=QUESTION)
    finally:
        serving.close()
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "cascade.gateway"]
    assert lines == [
        {"event": "refused", "id": unpaid.value.response.headers["x-cascade-trail-id"], "key": "team-a", "policy": "chat", "status": 402, "kind": "budget"},
        {"event": "refused", "id": None, "key": "team-a", "policy": None, "status": 404, "kind": "model_not_found"},
        {"event": "refused", "id": None, "key": None, "policy": None, "status": 401, "kind": "authentication_error"}]


# ---------------------------------------------------------------- keys


def test_keys_open_the_door_and_trails_are_for_the_key_that_asked(tmp_path: Path) -> None:
    (one, line_one), (two, line_two) = new("team-a"), new("team-b")
    file = tmp_path / "keys.txt"
    file.write_text(f"# who may ask\n{line_one}\n\n{line_two}\n")
    assert one not in file.read_text()
    serving = Serving(Keys(str(file)))
    try:
        serving.models.said = {"small": "four", "big": ""}
        with openai.OpenAI(base_url=f"{serving.url}/v1", api_key=one) as client:
            raw = client.chat.completions.with_raw_response.create(model="chat", messages=QUESTION)
        with anthropic.Anthropic(base_url=serving.url, api_key=two, auth_token=None) as other:
            assert other.messages.create(model="chat", messages=QUESTION, max_tokens=9).stop_reason == "end_turn"
        import httpx2

        trail = f"{serving.url}/v1/cascade/trails/{raw.headers['x-cascade-trail-id']}"
        statuses = [httpx2.get(trail, headers=headers).status_code for headers in (
            [("authorization", f"Bearer {one}")], [("authorization", f"Bearer {two}")], [("authorization", "Bearer x")], [],
            [("authorization", f"Bearer {one}"), ("authorization", f"Bearer {one}")])]  # fmt: skip
        assert statuses == [200, 404, 401, 401, 401]
    finally:
        serving.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [("team-a\n", ":1: a line is NAME SHA256"), ("", "there is no key in it"), (f"a {'0' * 64}\na {'1' * 64}\n", ":2: the name a stands there already")],
)
def test_a_wrong_keys_file_is_told_by_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "keys.txt").write_text(text)
    with pytest.raises(InputError, match=says):
        Keys(str(tmp_path / "keys.txt"))


# ---------------------------------------------------------------- the docs

PAGE = (Path(__file__).parents[1] / "docs" / "gateway.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.S))
def test_an_example_of_the_docs_runs(serving: Serving, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "tools=" in code:
        serving.models.said["small"] = (tools.written("", [("add", '{"a": 2, "b": 2}')]), "tool_calls")
    exec(compile(code.replace("http://127.0.0.1:8600", serving.url), "docs/gateway.md", "exec"), {})
    said = capsys.readouterr().out
    assert any(one in said for one in ("four", "x-cascade-tier small", "add {'a': 2, 'b': 2}"))


# ---------------------------------------------------------------- the command


def _has(host: str) -> bool:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
def test_the_command_serves_and_stops_when_it_is_told(host: str, address: str, tmp_path: Path) -> None:
    if not _has(host):
        pytest.skip(f"this machine has no {host}")
    text = CHAT.replace('kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null', "kind: scripted, replies: {small: four, big: four}")
    (tmp_path / "chat.yaml").write_text(text)
    command = [sys.executable, "-c", "from cascade.cli import main; main()", "serve", str(tmp_path / "chat.yaml"), "--host", host, "--port", "0", "--state", str(tmp_path / "state")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith(f"serving chat on {address}")
        assert "for this machine only" in said
        with openai.OpenAI(base_url=said.split()[3].rstrip(","), api_key="none") as client:
            assert client.chat.completions.create(model="chat", messages=QUESTION).choices[0].message.content == "four"
        assert json.loads(process.stderr.readline())["status"] == "accepted"
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("args", "says"),
    [([], "name at least one policy file"), (["x.yaml", "--host", "0.0.0.0"], "say who may ask with --keys FILE"), (["no.yaml"], "no.yaml"),
     (["--new-key", "a b"], "is no name")],
)
def test_wrong_usage_is_one_line(args: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["serve", *args])
    assert says in str(done.exception)


def test_a_policy_without_its_key_is_served_and_says_so_at_start(tmp_path: Path) -> None:
    ready = CHAT.replace('kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null', "kind: scripted, replies: {small: four, big: four}")
    (tmp_path / "a.yaml").write_text(ready)
    (tmp_path / "b.yaml").write_text(CHAT.replace("name: chat", "name: locked").replace("api_key_env: null", "api_key_env: NOT_SET_HERE"))
    command = [sys.executable, "-c", "from cascade.cli import main; main()", "serve", "a.yaml", "b.yaml", "--port", "0", "--state", "state"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        said = json.loads(process.stderr.readline())
        assert (said["event"], said["policy"], "NOT_SET_HERE" in said["error"]) == ("unready", "locked", True)
        assert process.stderr.readline().startswith("serving chat, locked on ")
        process.send_signal(signal.SIGTERM)
        process.wait(10)
