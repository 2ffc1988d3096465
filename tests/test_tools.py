"""Tools and pictures up a ladder: what each wire is sent and says, what is checked, judged, repaired and served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import stub
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter
from verifying import CALL, refuse, verdict

from cascade import Cascade, conversation, providers, tools
from cascade.errors import BadReply, InputError
from cascade.policy.load import load_text
from cascade.providers.adapter import SdkAdapter
from cascade.types import Answer, CacheSettings, Call, Case, Document, Image, Message, Text, ToolCall, ToolResult, Usage, Verdict
from cascade.verifiers import build
from cascade.verifiers._evidence import shown

PNG = "data:image/png;base64,iVBORw0KGgo="
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather of a city.", "parameters": CITY, "strict": True}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
OFFERED: dict[str, Any] = {"tools": [WEATHER, CLOCK]}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Where?"}, {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [
        {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"id": "a2", "type": "function", "function": {"name": "clock", "arguments": ""}}]},
    {"role": "tool", "tool_call_id": "a2", "content": "noon", "is_error": True},
    {"role": "tool", "tool_call_id": "a1", "content": [{"type": "text", "text": "rain"}, {"type": "image_url", "image_url": {"url": "https://x.example/y.png"}}]},
]  # fmt: skip
TURNS = (
    Message("system", "Be brief."),
    Message("user", (Text("Where?"), Image(PNG, "low"))),
    Message("assistant", (Text("Let me see."), ToolCall("call00000", "weather", '{"city": "Oslo"}'), ToolCall("call00001", "clock", ""))),
    Message("user", (ToolResult("call00001", (Text("noon"),), True),)),
    Message("user", (ToolResult("call00000", (Text("rain"), Image("https://x.example/y.png"))),)),
)


def test_messages_become_turns() -> None:
    assert conversation.turns(TALK) == TURNS
    two = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert conversation.turns(two) == (Message("user", "a\n\nb"),)


def test_ids_and_names_of_a_hostile_history_become_such_as_every_provider_takes_and_prices_know() -> None:
    def turn(id: str, name: str) -> list[dict[str, Any]]:
        call = {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        return [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": id, "content": "x"}]

    found = conversation.turns([*turn("\n" * 1_000_000, "rm -rf\x00/"), *turn("same", ""), *turn("same", "n" * 1_000_000)])
    calls = [part for message in found for part in message.content if isinstance(part, ToolCall)]
    assert [(call.id, call.name) for call in calls] == [("call00000", "rm_-rf__"), ("call00001", "_"), ("call00002", "n" * 128)]
    assert [part.id for message in found for part in message.content if isinstance(part, ToolResult)] == [call.id for call in calls]
    assert sum(message.size for message in found) < 1000


CALLING = {"role": "assistant", "content": None, "tool_calls": TALK[2]["tool_calls"][:1]}
NO_TALK: list[tuple[list[Any], str]] = [
    ([{"role": "user", "content": [{"type": "input_audio"}]}], r"messages\[0\].content\[0\]: must be {type: text, text} or {type: image_url"),
    ([{"role": "system", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}], r"messages\[0\].content\[0\]: must be {type: text, text}$"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}], "must be an https URL, or a data URL of png"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG, "detail": "most"}}]}], "detail: must be auto, low or high"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/x"}}]}], "must be an https URL, or a data URL"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}], "must be an https URL, or a data URL of"),
    ([{**CALLING, "tool_calls": CALLING["tool_calls"] * 2}], r"messages\[0\].tool_calls: two have the same id"),
    ([CALLING, {"role": "tool", "tool_call_id": ["a1"], "content": "x"}], r"messages\[1\].tool_call_id: no call of a tool with this id waits"),
    ([{"role": "user", "content": []}], r"messages\[0\].content: must be text or a list of parts"),
    ([CALLING], "the last message is the user's, or what a tool gave"),
    ([CALLING, {"role": "user", "content": "x"}], r"messages\[1\]: the tool call 'a1' has no result yet"),
    ([CALLING, {"role": "tool", "tool_call_id": "a9", "content": "x"}], r"messages\[1\].tool_call_id: no call of a tool with this id waits"),
    ([{"role": "assistant", "content": None, "tool_calls": [{"id": "a1"}]}], r"messages\[0\].tool_calls\[0\]: must be {id, type: function"),
    ([{"role": "assistant", "content": None, "tool_calls": "x"}], r"messages\[0\].tool_calls: must be a list"),
]


@pytest.mark.parametrize(("messages", "says"), NO_TALK, ids=[says for _, says in NO_TALK])
def test_messages_that_no_wire_can_be_made_of_are_refused(messages: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        conversation.turns(messages)


NO_TOOLS: list[tuple[dict[str, Any], str]] = [
    ({"tools": "x"}, "tools: must be a list of at most 512"),
    ({"tools": [CLOCK] * 513}, "tools: must be a list of at most 512"),
    ({"tools": [CLOCK, CLOCK]}, "tools: two are named 'clock'"),
    ({"tools": [{"type": "web_search"}]}, r"tools\[0\]: must be {type: function"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, r"tools\[0\]: must be {type: function"),
    ({"tools": [{"type": "function", "function": {"name": "a\nb"}}]}, r"tools\[0\].function.name: must be 1 to 128 letters"),
    ({"tools": [{"type": "function", "function": {"name": "a" * 129}}]}, r"tools\[0\].function.name: must be 1 to 128 letters"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": "x"}}]}, r"tools\[0\].function.parameters: must be a JSON Schema"),
    ({"tools": [{"type": "function", "function": {"name": "a", "strict": 1}}]}, r"tools\[0\].function.strict: must be true or false"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice: .* one of: clock"),
    ({"tools": [CLOCK], "tool_choice": "any"}, "tool_choice: must be auto, none, required"),
    ({"tools": [CLOCK], "parallel_tool_calls": 1}, "parallel_tool_calls: must be true or false"),
    ({"tool_choice": "required"}, "tool_choice: there are no tools to choose from"),
]


@pytest.mark.parametrize(("inputs", "says"), NO_TOOLS, ids=[says for _, says in NO_TOOLS])
def test_tools_that_are_none_are_refused(inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        tools.offered(inputs)


# ---------------------------------------------------------------- on the wire

PARAMS: dict[str, TypeAdapter[Any]] = {
    "chat": TypeAdapter(CompletionCreateParamsNonStreaming),
    "responses": TypeAdapter(ResponseCreateParamsNonStreaming),
    "messages": TypeAdapter(MessageCreateParamsNonStreaming),
}


def adapter(wire: str, **settings: Any) -> SdkAdapter:
    kind = "anthropic" if wire == "messages" else "openai"
    options = {"api": "responses"} if wire == "responses" else {}
    made = providers.build(providers.provider("p", {"kind": kind, "options": options, "api_key_env": None, **settings}))
    assert isinstance(made, SdkAdapter)
    return made


def body(wire: str, inputs: dict[str, Any] = OFFERED) -> dict[str, Any]:
    call = Call("p/m", TURNS, params=Document({"max_tokens": 9}), tools=tools.offered(inputs))
    made: dict[str, Any] = json.loads(adapter(wire).body(call))
    PARAMS[wire].validate_python(made)  # the SDK's own types
    return made


def test_chat_completions_are_sent_tools_and_pictures() -> None:
    made = body("chat")
    calls = [{"id": "call00000", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
             {"id": "call00001", "type": "function", "function": {"name": "clock", "arguments": ""}}]  # fmt: skip
    assert made["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}, {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]},
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call00001", "content": "noon"},
        {"role": "tool", "tool_call_id": "call00000", "content": "rain"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/y.png"}}]},
    ]
    no_parameters = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
    assert made["tools"] == [WEATHER, {"type": "function", "function": no_parameters}]
    assert (made["tool_choice"], "parallel_tool_calls" in made) == ("auto", False)


def test_responses_are_sent_tools_and_pictures() -> None:
    made = body("responses", {**OFFERED, "tool_choice": {"type": "function", "function": {"name": "clock"}}, "parallel_tool_calls": False})
    assert made["input"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Where?"}, {"type": "input_image", "image_url": PNG, "detail": "low"}]},
        {"role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "call00000", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call", "call_id": "call00001", "name": "clock", "arguments": ""},
        {"type": "function_call_output", "call_id": "call00001", "output": "noon"},
        {"type": "function_call_output", "call_id": "call00000", "output": [
            {"type": "input_text", "text": "rain"}, {"type": "input_image", "image_url": "https://x.example/y.png", "detail": "auto"}]},
    ]  # fmt: skip
    assert made["tools"][0] == {"type": "function", "name": "weather", "description": "The weather of a city.", "parameters": CITY, "strict": True}
    assert (made["tool_choice"], made["parallel_tool_calls"]) == ({"type": "function", "name": "clock"}, False)


def test_messages_are_sent_tools_and_pictures_and_a_forced_choice_in_words() -> None:
    made = body("messages", {**OFFERED, "tool_choice": "required", "parallel_tool_calls": False})
    assert made["system"] == "Be brief.\n\nDo not answer in words: call a tool."
    assert made["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Where?"},
                                     {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."},
                                          {"type": "tool_use", "id": "call00000", "name": "weather", "input": {"city": "Oslo"}},
                                          {"type": "tool_use", "id": "call00001", "name": "clock", "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "call00001", "content": [{"type": "text", "text": "noon"}], "is_error": True},
            {"type": "tool_result", "tool_use_id": "call00000", "is_error": False, "content": [
                {"type": "text", "text": "rain"}, {"type": "image", "source": {"type": "url", "url": "https://x.example/y.png"}}]}]},
    ]  # fmt: skip
    assert made["tools"] == [{"name": "weather", "description": "The weather of a city.", "input_schema": CITY},
                             {"name": "clock", "input_schema": {"type": "object", "properties": {}}}]  # fmt: skip
    assert made["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    ("choice", "chat", "told"),
    [
        ("none", "none", {"type": "none"}),
        ("required", "required", {"type": "any"}),
        ({"type": "function", "function": {"name": "clock"}}, {"type": "function", "function": {"name": "clock"}}, {"type": "tool", "name": "clock"}),
    ],
    ids=["none", "required", "named"],
)
def test_the_choice_in_each_providers_words(choice: Any, chat: Any, told: Any) -> None:
    offered = tools.offered({**OFFERED, "tool_choice": choice})
    assert offered is not None
    assert adapter("chat").wire.tools(offered.json)["tool_choice"] == chat
    assert adapter("messages").wire.tools(offered.json)["tool_choice"] == told


FUNCTION = {"name": "weather", "arguments": '{"city":"Oslo"}'}
REPLIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat", {"model": "m", "choices": [{"finish_reason": "tool_calls", "message": {
        "role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "x", "type": "function", "function": FUNCTION}]}}]}),
    "responses": ("responses", {"model": "m", "status": "completed", "output": [
        {"type": "message", "content": [{"type": "output_text", "text": "Let me see."}]}, {"type": "function_call", "call_id": "x", **FUNCTION}]}),
    "messages": ("messages", {"model": "m", "stop_reason": "tool_use", "content": [
        {"type": "text", "text": "Let me see."}, {"type": "tool_use", "id": "x", "name": "weather", "input": {"city": "Oslo"}}]}),
}  # fmt: skip


@pytest.mark.parametrize("wire", REPLIES)
def test_calls_are_read_from_every_wire_alike(wire: str) -> None:
    call = Call("p/m", TURNS, params=Document({"max_tokens": 9}), tools=tools.offered(OFFERED))
    answer = adapter(wire).answer(call, REPLIES[wire][1], 0.1)
    assert (answer.finish, tools.called(answer.text)) == ("tool_calls", ([{"name": "weather", "arguments": {"city": "Oslo"}}], "Let me see."))
    with pytest.raises(BadReply, match="the model calls a tool it was not given"):
        adapter(wire).answer(replace(call, tools=None), REPLIES[wire][1], 0.1)


def test_a_call_that_was_cut_off_is_a_truncated_answer() -> None:
    cut = json.loads(json.dumps(REPLIES["chat"][1]))
    cut["choices"][0]["finish_reason"] = "length"
    answer = adapter("chat").answer(Call("p/m", TURNS, tools=tools.offered(OFFERED)), cut, 0.1)
    assert (answer.text, answer.finish) == ("Let me see.", "length")


@pytest.mark.parametrize(
    ("arguments", "read"),
    [("", {}), ("{}", {}), ("[1]", [1]), ("{", "{"), ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'), ('{"a": 99999999999999999999}', '{"a": 99999999999999999999}')],
)
def test_arguments_that_are_no_json_stay_text(arguments: str, read: Any) -> None:
    assert tools.called(tools.written("", [("f", arguments)])) == ([{"name": "f", "arguments": read}], "")


# ---------------------------------------------------------------- the gate


def looked(calls: list[tuple[str, str]], **offered: Any) -> Verdict:
    said = tools.written("", calls) if calls else "It rains."
    value = tools.value(said) if calls else said
    call = replace(CALL, tools=tools.offered({**OFFERED, **offered}))
    return verdict(build("tools", None, None), Case({}, said, value, call, finish="tool_calls" if calls else "stop"), refuse)


OSLO, BARE = ("weather", '{"city": "Oslo"}'), ("clock", "{}")
NAMED = {"tool_choice": {"type": "function", "function": {"name": "weather"}}}
WRONG: list[tuple[list[tuple[str, str]], dict[str, Any], str | None]] = [
    ([OSLO, BARE], {}, None),
    ([], {}, None),
    ([], {"tool_choice": "none"}, None),
    ([OSLO], {"tool_choice": "required"}, None),
    ([OSLO, OSLO], NAMED, None),
    ([BARE], {"parallel_tool_calls": False}, None),
    ([("weather", "{}")], {}, "the arguments of weather: /city: is missing"),
    ([("weather", '{"city": 1}'), BARE], {}, "the arguments of weather: /city: 1 is not of type 'string'"),
    ([("weather", "{")], {}, "the arguments of weather are no JSON object"),
    ([("weather", "[]")], {}, "the arguments of weather are no JSON object"),
    ([("rm", "{}")], {}, "there is no tool 'rm'; there are: weather, clock"),
    ([("rm", "{}"), ("rm", "[]"), ("ls", "{}")], {}, "there is no tool 'rm', 'ls'; there are: weather, clock"),
    ([BARE] * 128, {}, None),
    ([BARE] * 129, {}, "129 tools are called at a time; at most 128 may be"),
    ([], {"tool_choice": "required"}, "no tool is called, and one has to be"),
    ([BARE], {"tool_choice": "none"}, "a tool is called, and none was to be"),
    ([BARE], NAMED, "the tool weather has to be called, and no other"),
    ([], NAMED, "the tool weather has to be called, and no other"),
    ([OSLO, BARE], {"parallel_tool_calls": False}, "more than one tool is called at a time"),
]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"name": "weather", "arguments": {"city": "Oslo"}}', "the tool weather is called in the text, and not as a call of a tool"),
        ('```json\n{"name": "clock", "parameters": {}}\n```', "the tool clock is called in the text, and not as a call of a tool"),
        ('{"name": "Oslo", "arguments": {}}', None),
        ('{"name": "weather", "city": "Oslo"}', None),
        ('{"name": ["weather"], "arguments": {}}', None),
        ('To know more, call {"name": "weather", "arguments": {}}.', None),
    ],
)
def test_a_tool_that_is_called_in_words_is_not_called(text: str, wrong: str | None) -> None:
    call = replace(CALL, tools=tools.offered(OFFERED))
    found = verdict(build("tools", None, None), Case({}, text, text, call), refuse)
    assert (found.score, found.reason) == (0.0 if wrong else 1.0, wrong)


@pytest.mark.parametrize(("calls", "offered", "wrong"), WRONG, ids=[f"{len(calls)} {calls[:3]} {offered}" for calls, offered, _ in WRONG])
def test_calls_have_to_be_what_was_offered(calls: list[tuple[str, str]], offered: dict[str, Any], wrong: str | None) -> None:
    found = looked(calls, **offered)
    assert (found.score, found.reason) == (0.0 if wrong else 1.0, wrong)


# ---------------------------------------------------------------- up the ladder

POLICY = """
version: 1
name: chat
prompt: messages
providers: {p: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}}
pricing: {p/small: {input: 1, output: 1}, p/big: {input: 10, output: 10}}
tiers:
  - {name: small, model: p/small, repair: 1}
  - {name: big, model: p/big}
"""
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "The weather in Oslo?"}], **OFFERED}


class Models:
    """Each says the next of its list: text, or calls of tools."""

    def __init__(self, **said: list[Any]) -> None:
        self.said, self.calls = said, list[Call]()

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        said = self.said[call.model.partition("/")[2]].pop(0)
        text, finish = (said, "stop") if isinstance(said, str) else (tools.written("Hm.", said), "tool_calls")
        return Answer(text, finish, Usage(1, 1), model=call.model)  # type: ignore[arg-type]


def cascade(models: Any, text: str = POLICY, backend: str = "off") -> Cascade:
    return Cascade(load_text(text, "chat.yaml"), ask=models, cache=CacheSettings(backend=backend))


def test_a_tier_that_is_asked_for_a_part_may_call_a_tool() -> None:
    numbers = "{type: object, properties: {a: {type: integer}, b: {type: integer}, c: {type: integer}}, required: [a, b, c]}"
    text = f"{POLICY.replace(', repair: 1', '').replace('p/big}', 'p/big, escalate: partial}')}schema: {numbers}\n"
    models = Models(small=['{"a": 1, "b": 2, "c": "x"}'], big=[[OSLO]])
    outcome = cascade(models, text).run(ASKED)
    assert "c" in models.calls[1].schema.json["properties"]  # type: ignore[union-attr]
    assert (outcome.status, outcome.tier, outcome.output) == ("accepted", "big", {"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]})


def test_wrong_calls_are_repaired_then_climb_and_the_story_tells_it() -> None:
    models = Models(small=[[("weather", "{}"), BARE], [("rain", "{}")]], big=[[OSLO]])
    outcome = cascade(models).run(ASKED)
    assert (outcome.status, outcome.tier) == ("accepted", "big")
    assert outcome.output == {"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]}
    assert "calls tools" in outcome.explain()
    repair = models.calls[1].messages
    note = "the arguments of weather: /city: is missing"
    assert repair[1] == Message("assistant", (Text("Hm."), ToolCall("draft0000", "weather", "{}"), ToolCall("draft0001", "clock", "{}")))
    first, second = repair[2].content
    assert isinstance(first, ToolResult)
    assert (first.id, first.error) == ("draft0000", True)
    assert isinstance(first.content[0], Text)
    assert note in first.content[0].text
    assert second == ToolResult("draft0001", (Text("This was not called either."),), True)
    assert [call.tools for call in models.calls] == [tools.offered(ASKED)] * 3


def test_calls_are_cached_and_other_tools_ask_again() -> None:
    models = Models(small=[[OSLO], "It rains."])
    made = cascade(models, backend="memory")
    first, second = made.run(ASKED), made.run(ASKED)
    assert (second.cached, second.output, second.trail[0].finish) == (True, first.output, "tool_calls")  # type: ignore[union-attr]
    assert made.run({**ASKED, "tools": [WEATHER]}).output == "It rains."


def test_rules_of_the_task_wait_for_the_answer_itself() -> None:
    text = POLICY.replace("{name: small, model: p/small, repair: 1}", '{name: small, model: p/small, gates: [{check: "answer != \'\'"}, schema]}')
    text += "schema: {type: object, properties: {rain: {type: boolean}}, required: [rain]}\n"
    outcome = cascade(Models(small=[[OSLO]]), text).run(ASKED)
    assert [getattr(event, "gate", None) for event in outcome.trail] == [None, "tools"]
    assert (outcome.tier, outcome.status) == ("small", "accepted")
    outcome = cascade(Models(small=['{"rain": 1}'], big=['{"rain": true}']), text).run(ASKED)
    assert (outcome.tier, outcome.output) == ("big", {"rain": True})


def test_other_models_agree_on_calls_whatever_they_say_beside_them() -> None:
    gate = POLICY.replace("repair: 1}", "gates: [{agreement: p/other}]}") + "pricing_: 1\n"
    text = gate.replace("pricing_: 1\n", "")
    for theirs, tier in (([OSLO], "small"), ([("weather", '{"city": "Rome"}')], "big"), ("It rains.", "big")):
        models = Models(small=[[OSLO]], other=[theirs], big=[[OSLO]])
        assert cascade(models, text).run(ASKED).tier == tier
        assert next(call for call in models.calls if call.model == "p/other").tools == tools.offered(ASKED)


def test_a_judge_sees_the_pictures_and_no_bytes_of_them_as_text() -> None:
    seen: list[Call] = []

    async def ask(call: Call) -> Answer:
        if call.model != "p/judge":
            return Answer("a cat", model=call.model)
        seen.append(call)
        nonce = call.messages[1].text.split("\n")[0].removeprefix("<<<")
        return Answer(json.dumps({"nonce": nonce, "reason": "yes", "verdict": "correct", "score": 1}), model=call.model)

    text = POLICY.replace("repair: 1}", "gates: [{judge: {model: p/judge}}]}")
    shown = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PNG}}]}]
    outcome = cascade(ask, text).run({"messages": shown})
    assert (outcome.tier, outcome.output) == ("small", "a cat")
    told, picture = seen[0].messages[1].content
    assert picture == Image(PNG)
    assert isinstance(told, Text)
    assert "iVBOR" not in told.text
    assert "The pictures of the inputs follow" in told.text


def test_a_text_that_looks_like_a_picture_is_shown_to_a_judge() -> None:
    said = "data:image/png;base64, is how a picture begins"
    shown_ = [{"role": "user", "content": [{"type": "text", "text": said}, {"type": "image_url", "image_url": {"url": PNG}}]}]
    inputs, _ = shown(Case({"messages": shown_}, "a", "a", replace(CALL, messages=conversation.turns(shown_))))
    assert said in inputs
    assert "iVBOR" not in inputs


def test_a_url_that_holds_the_word_base64_is_sent_to_anthropic_as_a_url() -> None:
    call = Call("p/m", (Message("user", (Image("https://x.example/;base64,AAAA"),)),), params=Document({"max_tokens": 9}))
    (block,) = json.loads(adapter("messages").body(call))["messages"][0]["content"]
    assert block["source"] == {"type": "url", "url": "https://x.example/;base64,AAAA"}


def test_a_draft_that_calls_by_no_name_and_without_an_object_is_sent_back_as_every_provider_takes_it() -> None:
    models = Models(small=[[("a b\n", "[1]"), ("", "{")], "It rains."])
    assert cascade(models).run(ASKED).status == "accepted"
    drafted = models.calls[1].messages[-2].content
    assert isinstance(drafted, tuple)
    assert drafted[1:] == (ToolCall("draft0000", "a_b_", '{"arguments":[1]}'), ToolCall("draft0001", "_", '{"arguments":"{"}'))


def test_a_picture_costs_no_more_than_a_picture_in_the_worst_case() -> None:
    big = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG + "A" * 1_000_000}}]}]
    text = POLICY.replace("tiers:", "budget: {per_request: 0.10}\ntiers:")
    assert cascade(Models(small=["a cat"]), text).run({"messages": big}).status == "accepted"


def test_what_providers_add_for_tools_is_in_the_worst_case() -> None:
    text = POLICY.replace("tiers:", "budget: {per_request: 0.0022}\ntiers:")  # small takes at most 1,024 tokens of answer at $1 a million
    assert cascade(Models(small=["It rains."]), text).run({"messages": ASKED["messages"]}).status == "accepted"
    models = Models(small=["It rains."])
    outcome = cascade(models, text).run(ASKED)
    assert (outcome.status, (outcome.error or "").partition(":")[0], models.calls) == ("failed", "budget", [])


def test_tools_whose_parameters_are_no_schema_are_refused_before_anything_is_asked() -> None:
    models = Models()
    wrong = [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "https://evil.example/x"}}}]
    with pytest.raises(InputError, match=r"tools\[0\].function.parameters: .*nothing is fetched"):
        cascade(models).run({**ASKED, "tools": wrong})
    assert models.calls == []


def test_tools_whose_patterns_would_hold_up_everything_are_refused() -> None:
    def tool(n: int, patterns: int) -> dict[str, Any]:
        properties = {f"p{i}": {"type": "string", "pattern": f"^[\\w\\p{{L}}]{{1,{50 + i % 40}}}x{n}$"} for i in range(patterns)}
        return {"type": "function", "function": {"name": f"t{n}", "parameters": {"type": "object", "properties": properties}}}

    for offered, says in (([tool(0, 2000)], r"tools\[0\].function.parameters: .*patterns take too long"), ([tool(i, 8) for i in range(512)], "tools: their")):
        with pytest.raises(InputError, match=says):
            cascade(Models()).run({**ASKED, "tools": offered})


@pytest.mark.parametrize("brought", ["tools", "schema"])
def test_enums_that_would_hold_up_everything_are_refused(brought: str) -> None:
    def run(size: int) -> str:
        large = {"type": "object", "properties": {"a": {"type": "array", "items": {"enum": list(range(size))}}}}
        made = cascade(Models(small=["{}"]), f"{POLICY}caller_schema: true\n")
        if brought == "schema":
            return made.run({"messages": ASKED["messages"]}, schema=large).status
        return made.run({**ASKED, "tools": [{"type": "function", "function": {"name": "f", "parameters": large}}]}).status

    assert run(20_000) == "accepted"
    with pytest.raises(InputError, match="its enums have more than 20000 values"):
        run(20_001)


def test_what_is_kept_of_a_callers_tools_and_schemas_is_not_large() -> None:
    large = {"type": "object", "properties": {"a": {"type": "string", "description": "x" * 100_000}}}
    models, asked = Models(small=[[("big", "{}")], "{}"]), {**ASKED, "tools": [{"type": "function", "function": {"name": "big", "parameters": large}}]}
    made = cascade(models, f"{POLICY}caller_schema: true\n")
    assert made.run(asked).status == made.run({"messages": ASKED["messages"]}, schema=large).status == "accepted"
    one = adapter("chat")
    assert b"x" * 100_000 in one.body(models.calls[0])
    verifier: Any = made._rungs.tooled.verifiers["small", "tools"]
    assert (one._plans, made._callers, verifier._known) == ({}, {}, {})


def test_what_calibrate_learns_from_has_no_tools() -> None:
    with pytest.raises(InputError, match="requests with tools are not recorded"):
        cascade(Models()).record(ASKED)


def test_a_template_may_have_a_variable_named_tools() -> None:
    text = POLICY.replace("prompt: messages", 'prompt: "Say {{ tools }}"')
    models = Models(small=["x"])
    assert cascade(models, text).run({"tools": "hammer"}).output == "x"
    assert models.calls[0].tools is None


@pytest.fixture(scope="module")
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


def test_through_the_real_sdks_a_wrong_call_of_one_maker_is_mended_by_another(server: stub.Stub) -> None:
    text = f"""
version: 1
name: chat
prompt: messages
providers:
  o: {{kind: openai, base_url: "{server.url}/v1", api_key_env: null}}
  a: {{kind: anthropic, base_url: "{server.url}", api_key_env: null}}
pricing: {{o/m: {{input: 1, output: 2}}, a/m: {{input: 10, output: 20}}}}
tiers: [o/m, a/m]
"""
    made = Cascade(load_text(text, "chat.yaml"), cache=CacheSettings(backend="off"))
    wrong = [{"id": "x", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Oslo"}'}}]
    use = {"type": "tool_use", "id": "y", "name": "weather", "input": {"city": "Oslo"}}
    right = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [use], "stop_reason": "tool_use",
             "usage": {"input_tokens": 10, "output_tokens": 3}}  # fmt: skip
    server.will(stub.chat(None, "tool_calls", tool_calls=wrong), stub.said(right))
    with made:
        outcome = made.run({"messages": TALK, **OFFERED})
    assert (outcome.tier, outcome.output) == ("m-2", {"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]})
    assert [request.path for request in server.requests] == ["/v1/chat/completions", "/v1/messages"]
    assert server.requests[1].json["messages"][1]["content"][1] == {"type": "tool_use", "id": "call00000", "name": "weather", "input": {"city": "Oslo"}}
