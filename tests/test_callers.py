"""What a request brings itself: its messages as the prompt, and a schema in place of the policy's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade
from cascade.errors import InputError, PolicyError
from cascade.policy.load import load_text
from cascade.types import Answer, CacheSettings, Call, Message, Usage

POLICY = """
version: 1
name: chat
prompt: messages
caller_schema: true
providers: {p: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}}
pricing: {p/small: {input: 1, output: 1}, p/big: {input: 10, output: 10}}
tiers: [p/small, p/big]
"""
ASKED: dict[str, Any] = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 and 2?"}]}
NUMBER = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
TEXT = {"type": "object", "properties": {"sum": {"type": "string"}}, "required": ["sum"]}


class Models:
    """Each says what it says, and remembers what it was asked."""

    def __init__(self, **said: str) -> None:
        self.said, self.calls = said, list[Call]()

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        return Answer(self.said[call.model.partition("/")[2]], usage=Usage(1, 1), model=call.model)


def cascade(models: Models, text: str = POLICY, backend: str = "off") -> Cascade:
    return Cascade(load_text(text, "chat.yaml"), ask=models, cache=CacheSettings(backend=backend))


def test_the_callers_messages_are_the_prompt_after_the_policys_system_message() -> None:
    models = Models(small="four", big="4")
    outcome = cascade(models, POLICY + 'system: "You add for {{ inputs.messages | length }} messages."').run(ASKED)
    assert (outcome.status, outcome.output) == ("accepted", "four")
    assert models.calls[0].messages == (Message("system", "You add for 2 messages."), Message("system", "Be brief."), Message("user", "2 and 2?"))


def test_a_callers_schema_is_checked_by_every_tier_and_goes_upstream() -> None:
    models = Models(small='{"sum": "four"}', big='{"sum": 4}')
    outcome = cascade(models).run(ASKED, schema=NUMBER)
    assert (outcome.tier, outcome.output) == ("big", {"sum": 4})
    assert [call.schema.json for call in models.calls if call.schema] == [NUMBER, NUMBER]


def test_what_was_accepted_by_one_schema_is_not_served_for_another() -> None:
    models = Models(small='{"sum": "four"}', big='{"sum": 4}')
    with cascade(models, backend="memory") as both:
        assert [both.run(ASKED, schema=schema).tier for schema in (NUMBER, TEXT, NUMBER, TEXT)] == ["big", "small", "big", "small"]
        assert [both.run(ASKED, schema=schema).cached for schema in (NUMBER, TEXT)] == [True, True]
    assert len(models.calls) == 3


def test_schemas_without_end_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.app.MOST_SCHEMAS", 2)
    models = Models(small='{"sum": 4}', big="")
    one = cascade(models)
    for n in range(5):
        assert one.run(ASKED, schema={**NUMBER, "title": str(n)}).status == "accepted"
    assert len(one._callers) == 2


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "nothing"}, "the schema of the request: /type"),
        ({"$ref": "http://example.com/x"}, "the schema of the request"),
        ([1], "the schema of the request"),
        ({"const": 2**70}, "the schema of the request"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused_before_anything_is_asked(schema: Any, says: str) -> None:
    models = Models(small="{}")
    with pytest.raises(InputError, match=says):
        cascade(models).run(ASKED, schema=schema)
    assert not models.calls


def test_a_policy_keeps_its_own_schema_unless_it_says_otherwise() -> None:
    with pytest.raises(InputError, match="chat does not take a schema with a request; caller_schema: true in its file allows it"):
        cascade(Models(), POLICY.replace("caller_schema: true\n", "")).run(ASKED, schema=NUMBER)


def test_a_certificate_does_not_hold_for_schemas_it_has_not_seen(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="the certificate of thresholds holds for the policy's own schema only"):
        load_text(POLICY + "thresholds: x.json\n", str(tmp_path / "chat.yaml"))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"text": "x"}, "the prompt|a list of {role, content}; the inputs have: text"),
        ({"messages": []}, "a list of {role, content}"),
        ({"messages": ["hello"]}, r"messages\[0\].role: must be one of system, user, assistant, tool"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, r"messages\[0\]: a message of user has content, role, not name"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\].tool_call_id: no call of a tool with this id waits"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"messages\[0\].content\[0\]: must be {type: text, text} or"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, r"messages\[1\].role: the last message is the user's"),
    ],
    ids=json.dumps,
)
def test_messages_that_are_none_are_refused(inputs: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        cascade(Models()).run(inputs)
