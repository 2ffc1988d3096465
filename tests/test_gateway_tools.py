"""Tools and pictures through the gateway: the real SDKs hold a conversation in which tools are called, whole and as streams."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest
import stub
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel
from test_gateway import Serving, ours, running, theirs  # noqa: F401

from cascade import tools
from cascade.types import Image, Message, Text, ToolCall, ToolResult

PNG = "iVBORw0KGgo="
URL = f"data:image/png;base64,{PNG}"
CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
CALLS = (tools.written("Let me see.", [("weather", '{"city": "Oslo"}'), ("weather", '{"city": "Rome"}')]), "tool_calls")
WRONG = (tools.written("", [("weather", '{"town": "Oslo"}')]), "tool_calls")
FOUND = [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})]
TURNS = [
    Message("user", (Text("The weather?"), Image(URL))),
    Message("assistant", (Text("Let me see."), ToolCall("0", "weather", '{"city":"Oslo"}'), ToolCall("1", "weather", '{"city":"Rome"}'))),
    Message("user", (ToolResult("0", (Text("rain"),)),)),
    Message("user", (ToolResult("1", (Text("sun"),)),)),
]
"""What the ladder is asked at last, with the ids as numbers."""


@pytest.fixture
def serving(running: Serving) -> Serving:
    running.models.said, running.models.calls = {"small": WRONG, "big": CALLS}, []
    return running


def asked(serving: Serving) -> list[Message]:
    """The last call's messages, with the ids of tool calls as numbers in the order of their appearance."""
    found: list[Message] = []
    ids: dict[str, str] = {}
    for role, content in serving.models.calls[-1].messages:
        if isinstance(content, str):
            found.append(Message(role, content))
            continue
        parts: list[Any] = []
        for part in content:
            if isinstance(part, ToolCall):
                parts.append(ToolCall(ids.setdefault(part.id, str(len(ids))), part.name, part.arguments))
            else:
                parts.append(ToolResult(ids[part.id], part.content, part.error) if isinstance(part, ToolResult) else part)
        found.append(Message(role, tuple(parts)))
    return found


CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CHAT_ASK: Any = [{"role": "user", "content": [{"type": "text", "text": "The weather?"}, {"type": "image_url", "image_url": {"url": URL}}]}]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_conversation_with_tools_in_chat_completions(serving: Serving, ours: openai.OpenAI, streamed: bool) -> None:
    if streamed:
        with ours.chat.completions.stream(model="chat", messages=CHAT_ASK, tools=[CHAT_TOOL], parallel_tool_calls=True) as stream:
            choice: Any = stream.get_final_completion().choices[0]
    else:
        choice = ours.chat.completions.create(model="chat", messages=CHAT_ASK, tools=[CHAT_TOOL]).choices[0]
    message = choice.message
    assert (choice.finish_reason, message.content) == ("tool_calls", "Let me see.")
    assert [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()] == FOUND
    serving.models.said = {"small": "Rain and sun.", "big": ""}
    results = [{"role": "tool", "tool_call_id": call.id, "content": said} for call, said in zip(message.tool_calls or (), ("rain", "sun"), strict=True)]
    talk: Any = [*CHAT_ASK, message.model_dump(exclude={"parsed"}), *results]
    assert ours.chat.completions.create(model="chat", messages=talk, tools=[CHAT_TOOL]).choices[0].message.content == "Rain and sun."
    assert asked(serving) == TURNS


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_conversation_with_tools_in_responses(serving: Serving, ours: openai.OpenAI, streamed: bool) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
    start: Any = [{"role": "user", "content": [{"type": "input_text", "text": "The weather?"}, {"type": "input_image", "image_url": URL, "detail": "auto"}]}]
    if streamed:
        with ours.responses.stream(model="chat", input=start, tools=[tool]) as stream:
            for event in stream:
                assert event.type
            reply: Any = stream.get_final_response()
    else:
        reply = ours.responses.create(model="chat", input=start, tools=[tool], tool_choice={"type": "function", "name": "weather"})
        assert (reply.tools[0].name, reply.tool_choice.name) == ("weather", "weather")
    calls: list[Any] = [item for item in reply.output if item.type == "function_call"]
    assert reply.output_text == "Let me see."
    assert [(call.name, json.loads(call.arguments)) for call in calls] == FOUND
    serving.models.said = {"small": "Rain and sun.", "big": ""}
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": said} for call, said in zip(calls, ("rain", "sun"), strict=True)]
    talk: Any = [*start, *(item.model_dump(exclude={"parsed_arguments"}, exclude_none=True) for item in reply.output), *results]
    assert ours.responses.create(model="chat", input=talk, tools=[tool]).output_text == "Rain and sun."
    (first, *rest), (_, *turns) = asked(serving), TURNS
    assert rest == turns
    assert first == Message("user", (Text("The weather?"), Image(URL, "auto")))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_conversation_with_tools_in_messages(serving: Serving, theirs: anthropic.Anthropic, streamed: bool) -> None:
    tool: Any = {"name": "weather", "input_schema": CITY}
    picture: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    start: Any = [{"role": "user", "content": [{"type": "text", "text": "The weather?"}, picture]}]
    options: Any = {"model": "chat", "max_tokens": 99, "tools": [tool], "tool_choice": {"type": "any"}}
    if streamed:
        with theirs.messages.stream(messages=start, **options) as stream:
            reply = stream.get_final_message()
    else:
        reply = theirs.messages.create(messages=start, **options)
    said, *calls = reply.content
    assert (reply.stop_reason, said.type == "text" and said.text) == ("tool_use", "Let me see.")
    assert [(call.name, call.input) for call in calls if call.type == "tool_use"] == FOUND
    assert serving.models.calls[-1].tools.json["choice"] == "required"  # type: ignore[union-attr]
    serving.models.said = {"small": "Rain and sun.", "big": ""}
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": found} for call, found in zip(calls, ("rain", "sun"), strict=True)
               if call.type == "tool_use"]  # fmt: skip
    talk: Any = [*start, {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in reply.content]}, {"role": "user", "content": results}]
    last = theirs.messages.create(model="chat", max_tokens=99, messages=talk, tools=[tool]).content[0]
    assert (last.type == "text" and last.text) == "Rain and sun."
    assert asked(serving) == TURNS


def test_a_tool_that_went_wrong_is_told_and_thoughts_are_left_out(serving: Serving, theirs: anthropic.Anthropic) -> None:
    serving.models.said = {"small": "Sorry.", "big": ""}
    talk: Any = [
        {"role": "user", "content": "The weather?"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                                          {"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Oslo"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "down"}], "is_error": True},
                                     {"type": "text", "text": "Well?"}]},
    ]  # fmt: skip
    theirs.messages.create(model="chat", max_tokens=99, messages=talk, tools=[{"name": "weather", "input_schema": CITY}])
    assert asked(serving)[1:] == [Message("assistant", (ToolCall("0", "weather", '{"city":"Oslo"}'),)),
                                  Message("user", (ToolResult("0", (Text("down"),), True),)), Message("user", "Well?")]  # fmt: skip


def test_tools_of_pydantic_models_are_parsed(serving: Serving, ours: openai.OpenAI) -> None:
    class Weather(BaseModel):
        city: str

    serving.models.said = {"small": (tools.written("", [("Weather", '{"city": "Oslo"}')]), "tool_calls"), "big": ""}
    made = ours.chat.completions.parse(model="chat", messages=CHAT_ASK, tools=[openai.pydantic_function_tool(Weather)])
    (call,) = made.choices[0].message.tool_calls or ()
    assert (call.function.parsed_arguments, to_strict_json_schema(Weather)["type"]) == (Weather(city="Oslo"), "object")


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("responses", {"input": "x", "tools": [{"type": "web_search"}]}, "tools[0]: only tools of type function are carried"),
    ("responses", {"input": [{"type": "reasoning", "summary": []}]}, "input[0]: must be a message, a function_call or a function_call_output"),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]: only text and pictures"),
    ("responses", {"input": [{"role": "tool", "content": "x"}]}, "input[0].role: must be one of developer, system, user, assistant"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0]: only text, images"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]}, "an image in base64 or by its URL"),
    ("messages", {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]: only tools of your own"),
    ("messages", {"messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "some"}}, "tool_choice.type: must be one of auto, any, none, tool"),
    ("chat/completions", {"messages": [{"role": "assistant", "content": None, "function_call": {"name": "f"}}]}, "function_call: is no more"),
    ("chat/completions", {"model": "sums", "messages": [{"role": "user", "content": '{"a": 1, "b": 2}'}], "tools": [CHAT_TOOL]}, "and no tools"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("path", "body", "says"), REFUSED, ids=[says for _, _, says in REFUSED])
def test_what_no_ladder_carries_is_told(serving: Serving, path: str, body: dict[str, Any], says: str, stream: bool) -> None:
    import httpx2

    reply = httpx2.post(f"{serving.url}/v1/{path}", json={"model": "chat", "max_tokens": 9, "stream": stream, **body} if path == "messages" else
                        {"model": "chat", "stream": stream, **body})  # fmt: skip
    assert (reply.status_code, says in reply.json()["error"]["message"], serving.models.calls) == (400, True, [])


# ---------------------------------------------------------------- counting tokens


def test_tokens_are_counted_by_the_highest_tier_that_can_and_estimated_where_none_can(serving: Serving, theirs: anthropic.Anthropic) -> None:
    text = """
version: 1
name: chat
prompt: messages
system: "Be brief."
providers:
  o: {{kind: openai, base_url: "{url}/v1", api_key_env: null}}
  a: {{kind: anthropic, base_url: "{url}", api_key_env: null}}
tiers: [o/m, a/m]
"""
    tool: Any = {"name": "weather", "input_schema": CITY}
    estimate = theirs.messages.with_raw_response.count_tokens(model="chat", messages=[{"role": "user", "content": "x" * 401}])
    assert (estimate.parse().input_tokens, estimate.headers["x-cascade-tokens"]) == (101, "estimated")
    with stub.running() as upstream:
        upstream.will(stub.said({"input_tokens": 42}), stub.Reply(b"{}", 500))
        counting = Serving(texts=(text.format(url=upstream.url),), real=True)
        try:
            with anthropic.Anthropic(base_url=counting.url, api_key="none", max_retries=0) as client:
                made = client.messages.with_raw_response.count_tokens(model="chat", messages=[{"role": "user", "content": "Hi"}], tools=[tool])
                assert (made.parse().input_tokens, made.headers["x-cascade-tokens"]) == (42, "counted")
                (asked,) = upstream.requests
                assert asked.path == "/v1/messages/count_tokens"
                assert asked.json == {"model": "m", "system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}],
                                      "tools": [tool], "tool_choice": {"type": "auto"}}  # fmt: skip
                assert client.messages.count_tokens(model="chat", messages=[{"role": "user", "content": "Hi"}]).input_tokens == 3, "9 + 2 bytes"
                with pytest.raises(anthropic.BadRequestError, match="messages: there is none"):
                    client.messages.count_tokens(model="chat", messages=[])
        finally:
            counting.close()


def test_what_a_provider_refuses_of_a_request_is_the_callers_and_of_a_policy_is_not() -> None:
    text = 'version: 1\nname: chat\nprompt: messages\nproviders: {{o: {{kind: openai, base_url: "{url}/v1", api_key_env: null}}}}\ncache: {{backend: off}}\ntiers: [o/m]\n'
    with stub.running() as upstream:
        upstream.default = stub.Reply(b'{"error": {"message": "Invalid image."}}', 400)
        refusing = Serving(texts=(text.format(url=upstream.url),), real=True)
        try:
            with openai.OpenAI(base_url=f"{refusing.url}/v1", api_key="none", max_retries=0) as client:
                with pytest.raises(openai.BadRequestError, match=r"a model's provider refuses what the request brought: .*400: Invalid image"):
                    client.chat.completions.create(model="chat", messages=CHAT_ASK)
                with pytest.raises(openai.InternalServerError, match="configuration"):
                    client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hi"}])
        finally:
            refusing.close()
