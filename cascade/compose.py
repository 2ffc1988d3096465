"""Puts a request into the words of one call: prompt, repair, and what a tier sees of the last one's try. Pure but for template files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import orjson

from cascade import partial, shipped, tools
from cascade.conversation import added, call_id, tool_name, turns
from cascade.decide import answered, calls_tools, verdicts
from cascade.errors import InputError
from cascade.prompts import render
from cascade.reading import said, whole_text
from cascade.types import Call, Document, Event, Json, Message, Policy, Template, Text, Tier, ToolCall, ToolResult, Tried

TRUNCATED = "the answer was cut off before its end: answer more briefly"


def prompt(policy: Policy, inputs: Mapping[str, Json]) -> tuple[Message, ...]:
    """The policy's messages for these inputs, the same for every tier. Raises InputError, TemplateError."""
    variables = {"inputs": inputs, **inputs}
    asked = _given(inputs) if policy.prompt is None else (Message("user", render(policy.prompt, variables)),)
    return (Message("system", render(policy.system, variables)), *asked) if policy.system else asked


def brings_tools(policy: Policy, inputs: Mapping[str, Json]) -> bool:
    """Whether the caller lets a model call tools: only where the prompt is the caller's, too."""
    return policy.prompt is None and bool(inputs.get("tools"))


def offered(policy: Policy, inputs: Mapping[str, Json]) -> Document | None:
    """The tools that the caller lets a model call; None where there are none. Raises InputError."""
    return None if policy.prompt is not None else tools.offered(inputs)


def size(policy: Policy, inputs: Mapping[str, Json], frame: int = 0) -> int:
    """Bytes of the prompt, with the tools that come with it, and `frame` more for each message. Raises InputError, TemplateError."""
    return sum(message.size + frame for message in prompt(policy, inputs)) + tools.size(offered(policy, inputs))


def _given(inputs: Mapping[str, Json]) -> tuple[Message, ...]:
    """The input `messages`. Raises InputError when they are no conversation that waits for an answer."""
    if "messages" not in inputs:
        names = ", ".join(inputs) or "nothing"
        raise InputError(f"this policy's prompt is the input messages, a list of {{role, content}}; the inputs have: {names}")
    return turns(inputs["messages"])


def carried(policy: Policy, messages: tuple[Message, ...], tier: Tier, trail: Sequence[Event]) -> tuple[Message, ...]:
    """The messages with what went wrong with the last try (and that draft, if the tier wants it) added at their end."""
    at = answered(trail) if tier.carry != "nothing" else None
    if at is None:
        return messages
    errors = complaints(trail, at)
    if not errors:
        return messages
    draft = whole_text(policy, trail, at) if tier.carry == "draft" else None
    return added(messages, render(_shipped("carry.j2"), {"errors": errors, "draft": draft}).strip())


def only(policy: Policy, call: Call, tier: Tier, trail: Sequence[Event], part: tuple[str, ...]) -> Call:
    """The call for these fields of the last answer alone: their schema, and the fields that are kept as data. `call` has the bare prompt."""
    at = answered(trail)
    assert at is not None, "a part is of an answer"
    assert policy.schema is not None, "a schema tells the parts"
    agreed, refused = partial.apart(said(policy, trail, at).read.value, part)
    told = {"agreed": agreed, "fields": part, "errors": complaints(trail, at) if tier.carry != "nothing" else [],
            "draft": refused if tier.carry == "draft" else None}  # fmt: skip
    return replace(call, messages=added(call.messages, render(_shipped("partial.j2"), told).strip()), schema=partial.cut(policy.schema, part))


def repaired(messages: tuple[Message, ...], trail: Sequence[Event]) -> tuple[Message, ...]:
    """The messages, the tier's own draft, and what was wrong with it."""
    at = answered(trail)
    assert at is not None, "a repair follows an answer"
    draft = trail[at]
    assert isinstance(draft, Tried)
    note = render(_shipped("repair.j2"), {"errors": complaints(trail, at)})
    if calls_tools(draft):
        return (*messages, *_uncalled(draft.text, note))
    # Anthropic refuses an assistant turn with no text
    return (*messages, Message("assistant", draft.text if draft.text.strip() else "(empty)"), Message("user", note))


def _uncalled(text: str, note: str) -> tuple[Message, Message]:
    """The draft that calls tools, and for each call the result that it was not made, the first one with the note on why."""
    calls, said = tools.called(text)
    made = [ToolCall(call_id(i, "draft"), tool_name(call["name"]), _object(call["arguments"])) for i, call in enumerate(calls)]
    results = [ToolResult(call.id, (Text(note if i == 0 else "This was not called either."),), True) for i, call in enumerate(made)]
    return Message("assistant", (*((Text(said),) if said else ()), *made)), Message("user", tuple(results))


def _object(arguments: Json) -> str:
    """The arguments of a call as the JSON object that every server can read."""
    return orjson.dumps(arguments if isinstance(arguments, dict) else {"arguments": arguments}).decode()


def complaints(trail: Sequence[Event], at: int) -> list[str]:
    """Why the answer at that index was not accepted, one line each."""
    tried = trail[at]
    assert isinstance(tried, Tried)
    if tried.finish == "length":
        return [TRUNCATED]
    return [c.reason or f"{c.gate}: not good enough" for c in verdicts(trail, at) if not c.passed]


@lru_cache(maxsize=8)
def _shipped(name: str) -> Template:
    path = shipped.folder("prompts") / name
    return Template(path.read_text(encoding="utf-8"), str(path))
