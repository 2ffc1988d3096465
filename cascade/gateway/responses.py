"""OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cascade.gateway.wire import (
    ROLES,
    Asked,
    OpenAi,
    Refused,
    arguments,
    called,
    fields,
    given,
    lengths,
    one_of,
    refusal_of,
    sse,
    text_of,
    usage,
    wrong,
)
from cascade.outcome import Outcome
from cascade.types import Json

KNOWN = ("model", "input", "instructions", "text", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls")
IGNORED = ("temperature", "top_p", "max_output_tokens", "user", "metadata", "store", "service_tier", "reasoning", "safety_identifier",
           "prompt_cache_key", "truncation", "include", "background")  # fmt: skip
"""What clients send and the policy decides. Nothing is stored."""


class Responses(OpenAi):
    """`/v1/responses`."""

    def asked(self, body: Mapping[str, Json]) -> Asked:
        for name in ("previous_response_id", "conversation"):
            if body.get(name) is not None:
                raise wrong(f"{name}: nothing is stored here; send the whole conversation in input")
        fields(body, (*KNOWN, "previous_response_id", "conversation"), IGNORED)
        lengths(body, "max_output_tokens")
        if body.get("background"):
            raise wrong("background: a request is answered while its caller waits")
        instructions = one_of(body, "instructions", str)
        messages: list[dict[str, Json]] = [] if instructions is None else [{"role": "system", "content": instructions}]
        asked = body.get("input")
        if isinstance(asked, str):
            messages.append({"role": "user", "content": asked})
        else:
            for i, item in enumerate(one_of(body, "input", list, [])):
                _add(messages, item, f"input[{i}]")
        return Asked(one_of(body, "model", str, ""), messages, _schema(one_of(body, "text", dict)), one_of(body, "stream", bool, False),
                     tools=_tools(body))

    def reply(self, asked: Asked, outcome: Outcome, id: str, created: int) -> dict[str, Json]:
        used, calls = usage(outcome), called(outcome)
        said = {"type": "refusal", "refusal": refusal_of(outcome)} if outcome.status == "refused" else _text(
            text_of(outcome) if calls is None else calls.said)  # fmt: skip
        output: list[Json] = [_message(id, said)] if calls is None or calls.said else []
        if calls is not None:
            output += [{"id": f"fc_{id}_{i}", "type": "function_call", "status": "completed", "call_id": f"call_{id}_{i}", "name": call["name"],
                        "arguments": arguments(call)} for i, call in enumerate(calls.calls)]  # fmt: skip
        return {
            **_head(asked, id, created), "output": output,
            "usage": {"input_tokens": used.input, "input_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": used.cache_written},
                      "output_tokens": used.output, "output_tokens_details": {"reasoning_tokens": used.reasoning},
                      "total_tokens": used.input + used.output},
        }  # fmt: skip

    def stream(self, asked: Asked, id: str, created: int) -> ResponseStream:
        return ResponseStream(asked, id, created)

    def broken(self, problem: Refused) -> bytes:
        return sse({"type": "error", "sequence_number": 0, "code": problem.kind, "message": str(problem), "param": None}, "error")


def _head(asked: Asked, id: str, created: int) -> dict[str, Json]:
    """A response but for its output and usage."""
    return {
        "id": f"resp_{id}", "object": "response", "created_at": created, "status": "completed", "model": asked.model, "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": None, "top_p": None, "store": False,
        "parallel_tool_calls": asked.tools.get("parallel_tool_calls", True), "tool_choice": _flat(asked.tools.get("tool_choice", "auto")),
        "tools": [_flat(tool) for tool in asked.tools.get("tools", ())], "text": {"format": {"type": "text"}},
    }  # fmt: skip


Steps = list[tuple[str, dict[str, Json]]]


class ResponseStream:
    """A response in its events, which are numbered."""

    def __init__(self, asked: Asked, id: str, created: int) -> None:
        self._asked, self._id, self._created = asked, id, created
        self._number = 0
        self._said: list[str] = []
        self._place: dict[str, Json] = {"item_id": f"msg_{id}", "output_index": 0, "content_index": 0}

    def _events(self, steps: Steps) -> bytes:
        made = b""
        for name, data in steps:
            made += sse({"type": name, "sequence_number": self._number, **data}, name)
            self._number += 1
        return made

    def _begin(self) -> Steps:
        response = {**_head(self._asked, self._id, self._created), "status": "in_progress", "output": [], "usage": None}
        return [("response.created", {"response": response}), ("response.in_progress", {"response": response})]

    def piece(self, text: str) -> bytes:
        steps: Steps = [] if self._said else [*self._begin(), *_opened(_message(self._id, _text("")), 0)]
        self._said.append(text)
        return self._events([*steps, ("response.output_text.delta", {**self._place, "logprobs": [], "delta": text})])

    def end(self, reply: dict[str, Json]) -> Iterator[bytes]:
        steps: Steps = []
        if self._said:
            steps += _closed(_message(self._id, _text("".join(self._said))), 0)
        else:
            steps += self._begin()
            for at, item in enumerate(reply["output"]):
                steps += _called(item, at) if item["type"] == "function_call" else _whole(item, at)
        yield self._events([*steps, ("response.completed", {"response": reply})])


def _message(id: str, said: dict[str, Json]) -> dict[str, Json]:
    return {"id": f"msg_{id}", "type": "message", "status": "completed", "role": "assistant", "content": [said]}


def _text(text: str) -> dict[str, Json]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _opened(message: dict[str, Json], at: int) -> Steps:
    """The events before a message's first piece."""
    (said,) = message["content"]
    word = "refusal" if said["type"] == "refusal" else "text"
    return [
        ("response.output_item.added", {"output_index": at, "item": {**message, "status": "in_progress", "content": []}}),
        ("response.content_part.added", {"item_id": message["id"], "output_index": at, "content_index": 0, "part": {**said, word: ""}}),
    ]


def _closed(message: dict[str, Json], at: int) -> Steps:
    """The events after its last one."""
    (said,) = message["content"]
    place: dict[str, Json] = {"item_id": message["id"], "output_index": at, "content_index": 0}
    done = ("response.refusal.done", {"refusal": said["refusal"]}) if said["type"] == "refusal" else (
        "response.output_text.done", {"logprobs": [], "text": said["text"]})  # fmt: skip
    return [(done[0], {**place, **done[1]}), ("response.content_part.done", {**place, "part": said}),
            ("response.output_item.done", {"output_index": at, "item": message})]  # fmt: skip


def _whole(message: dict[str, Json], at: int) -> Steps:
    """The events of a message in one piece."""
    (said,) = message["content"]
    place: dict[str, Json] = {"item_id": message["id"], "output_index": at, "content_index": 0}
    delta = ("response.refusal.delta", {"delta": said["refusal"]}) if said["type"] == "refusal" else (
        "response.output_text.delta", {"logprobs": [], "delta": said["text"]})  # fmt: skip
    return [*_opened(message, at), (delta[0], {**place, **delta[1]}), *_closed(message, at)]


def _called(call: dict[str, Json], at: int) -> Steps:
    """The events of a call of a tool."""
    place: dict[str, Json] = {"item_id": call["id"], "output_index": at}
    return [
        ("response.output_item.added", {"output_index": at, "item": {**call, "status": "in_progress", "arguments": ""}}),
        ("response.function_call_arguments.delta", {**place, "delta": call["arguments"]}),
        ("response.function_call_arguments.done", {**place, "name": call["name"], "arguments": call["arguments"]}),
        ("response.output_item.done", {"output_index": at, "item": call}),
    ]


def _add(messages: list[dict[str, Json]], item: Json, where: str) -> None:
    """One item of the input, as a message of its own or, of a call, in the assistant's last one."""
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if kind == "function_call":
        call = {"id": item.get("call_id"), "type": "function", "function": {"name": item.get("name"), "arguments": item.get("arguments")}}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"), f"{where}.output")})
    elif kind == "message":
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES or role == "tool":
            raise wrong(f"{where}.role: must be one of developer, system, user, assistant")
        messages.append({"role": ROLES[role], "content": _content(item.get("content"), f"{where}.content")})
    else:
        raise wrong(f"{where}: must be a message, a function_call or a function_call_output; files and references are not carried up a ladder")


def _content(content: Json, where: str) -> Json:
    """Parts of this shape as those of Chat Completions."""
    if not isinstance(content, list):
        return content
    made: list[Json] = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text", "text"):
            made.append({"type": "text", "text": part.get("text")})
        elif kind == "refusal":
            made.append({"type": "text", "text": part.get("refusal")})
        elif kind == "input_image" and isinstance(part.get("image_url"), str):
            made.append({"type": "image_url", "image_url": {"url": part["image_url"], **given(part, "detail")}})
        else:
            raise wrong(f"{where}[{i}]: only text and pictures by their URL are carried up a ladder, no files")
    return made


def _tools(body: Mapping[str, Json]) -> dict[str, Json]:
    """The tools of this shape as those of Chat Completions."""
    one_of(body, "parallel_tool_calls", bool)
    made = given(body, "parallel_tool_calls")
    if (tools := one_of(body, "tools", list)) is not None:
        made["tools"] = [_nested(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    choice = body.get("tool_choice")
    if choice is not None:
        made["tool_choice"] = _nested(choice, "tool_choice") if isinstance(choice, dict) else choice
    return made


def _nested(tool: Json, where: str) -> dict[str, Json]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise wrong(f"{where}: only tools of type function are carried up a ladder: those of a provider's own are not the other providers'")
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _flat(tool: Json) -> Json:
    return {"type": "function", "parameters": None, "strict": False, **tool["function"]} if isinstance(tool, dict) else tool


def _schema(told: dict[str, Json] | None) -> Json:
    """The schema of text.format; an object for json_object."""
    form = (told or {}).get("format")
    kind = form.get("type") if isinstance(form, dict) else "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema" or not isinstance(form, dict) or not isinstance(form.get("schema"), dict):
        raise wrong("text.format: must be text, json_object, or json_schema with a schema")
    return form["schema"]
