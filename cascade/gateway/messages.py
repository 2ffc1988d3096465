"""Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import orjson

from cascade.gateway.wire import Asked, Refused, called, fields, given, one_of, refusal_of, sse, text_of, usage, wrong
from cascade.outcome import Outcome
from cascade.types import Json

KNOWN = ("model", "messages", "system", "output_config", "stream", "max_tokens", "tools", "tool_choice")
IGNORED = ("metadata", "service_tier", "thinking", "temperature", "top_p", "top_k", "cache_control")
"""What clients send and the policy decides."""
KINDS = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
         413: "request_too_large", 422: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error"}  # fmt: skip
"""The kinds of errors that its clients know, by HTTP status."""


class Messages:
    """`/v1/messages`."""

    def asked(self, body: Mapping[str, Json]) -> Asked:
        fields(body, KNOWN, IGNORED)
        if (one_of(body, "max_tokens", int) or 0) < 1:
            raise wrong("max_tokens: must be a whole number of 1 or more")
        return Asked(one_of(body, "model", str, ""), _messages(body), _schema(one_of(body, "output_config", dict)),
                     one_of(body, "stream", bool, False), tools=_tools(body))

    def counted(self, body: Mapping[str, Json]) -> Asked:
        """What `/v1/messages/count_tokens` is asked: as above, with no need of max_tokens."""
        return self.asked({"max_tokens": 1, **body})

    def reply(self, asked: Asked, outcome: Outcome, id: str, created: int) -> dict[str, Json]:
        refused, used, calls = outcome.status == "refused", usage(outcome), called(outcome)
        said = refusal_of(outcome) if refused else text_of(outcome) if calls is None else calls.said
        content: list[Json] = [{"type": "text", "text": said}] if said or calls is None else []
        if calls is not None:
            content += [{"type": "tool_use", "id": f"toolu_{id}_{i}", "name": call["name"], "input": call["arguments"]}
                        for i, call in enumerate(calls.calls)]  # fmt: skip
        return {
            "id": f"msg_{id}", "type": "message", "role": "assistant", "model": asked.model,
            "content": content, "stop_reason": "refusal" if refused else "end_turn" if calls is None else "tool_use", "stop_sequence": None,
            "usage": {"input_tokens": used.input - used.cached - used.cache_written, "cache_read_input_tokens": used.cached,
                      "cache_creation_input_tokens": used.cache_written, "output_tokens": used.output},
        }  # fmt: skip

    def stream(self, asked: Asked, id: str, created: int) -> MessageStream:
        return MessageStream(asked, id)

    def alive(self) -> bytes:
        return sse({"type": "ping"}, "ping")

    def error(self, problem: Refused) -> dict[str, Json]:
        kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": str(problem)}}

    def broken(self, problem: Refused) -> bytes:
        return sse(self.error(problem), "error")


class MessageStream:
    """A message in its events."""

    def __init__(self, asked: Asked, id: str) -> None:
        self._head = {"id": f"msg_{id}", "type": "message", "role": "assistant", "model": asked.model, "stop_reason": None, "stop_sequence": None}
        self._said = False

    def _begin(self, usage: Json) -> bytes:
        message: dict[str, Json] = {**self._head, "content": [], "usage": {**usage, "output_tokens": 0}}
        return sse({"type": "message_start", "message": message}, "message_start")

    def piece(self, text: str) -> bytes:
        begun = b"" if self._said else self._begin({"input_tokens": 0}) + _block_start(0, {"type": "text", "text": ""})
        self._said = True
        return begun + _block_delta(0, {"type": "text_delta", "text": text})

    def end(self, reply: dict[str, Json]) -> Iterator[bytes]:
        counted = reply["usage"] if self._said else {"output_tokens": reply["usage"]["output_tokens"]}
        if self._said:
            yield _block_stop(0)
        else:
            yield self._begin(reply["usage"])
            for i, block in enumerate(reply["content"]):
                empty, delta = _begun(block)
                yield _block_start(i, empty) + _block_delta(i, delta) + _block_stop(i)
        ends = {"stop_reason": reply["stop_reason"], "stop_sequence": None}
        yield sse({"type": "message_delta", "delta": ends, "usage": counted}, "message_delta")
        yield sse({"type": "message_stop"}, "message_stop")


def _block_start(i: int, block: Json) -> bytes:
    return sse({"type": "content_block_start", "index": i, "content_block": block}, "content_block_start")


def _block_delta(i: int, delta: Json) -> bytes:
    return sse({"type": "content_block_delta", "index": i, "delta": delta}, "content_block_delta")


def _block_stop(i: int) -> bytes:
    return sse({"type": "content_block_stop", "index": i}, "content_block_stop")


def _begun(block: dict[str, Json]) -> tuple[Json, Json]:
    """A block of content before its first delta, and all of it as one."""
    if block["type"] == "text":
        return {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
    return {**block, "input": {}}, {"type": "input_json_delta", "partial_json": orjson.dumps(block["input"]).decode()}


def _messages(body: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Turns of this shape as messages of Chat Completions: what tools gave are messages of their own."""
    system = body.get("system")
    found: list[dict[str, Json]] = [] if system is None else [{"role": "system", "content": system}]
    for i, message in enumerate(one_of(body, "messages", list, [])):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise wrong(f"messages[{i}].role: must be user or assistant")
        content = message.get("content")
        if not isinstance(content, list):
            found.append({"role": message["role"], "content": content})
            continue
        parts: list[Json] = []
        calls: list[Json] = []
        for j, block in enumerate(content):
            _add(block, f"messages[{i}].content[{j}]", parts, calls, found)
        if parts or calls or not content:
            found.append({"role": message["role"], "content": parts or None, **({"tool_calls": calls} if calls else {})})
    return found


def _add(block: Json, where: str, parts: list[Json], calls: list[Json], found: list[dict[str, Json]]) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind in ("text", "image"):
        parts.append(_part(block, where))
    elif kind == "tool_use":
        try:
            text = orjson.dumps(block.get("input")).decode()
        except TypeError as err:
            raise wrong(f"{where}.input: {err}") from err
        calls.append({"id": block.get("id"), "type": "function", "function": {"name": block.get("name"), "arguments": text}})
    elif kind == "tool_result":
        content = block.get("content") or ""
        if isinstance(content, list):
            content = [_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
        found.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content, **given(block, "is_error")})
    elif kind not in ("thinking", "redacted_thinking"):  # which only the model that thought them can read
        raise wrong(f"{where}: only text, images, tool_use and tool_result are carried up a ladder")


def _part(block: Json, where: str) -> Json:
    source = block.get("source") if isinstance(block, dict) else None
    if isinstance(block, dict) and block.get("type") == "text":
        return {"type": "text", "text": block.get("text")}
    if isinstance(source, dict) and block.get("type") == "image":
        if source.get("type") == "base64":
            return {"type": "image_url", "image_url": {"url": f"data:{source.get('media_type')};base64,{source.get('data')}"}}
        if source.get("type") == "url":
            return {"type": "image_url", "image_url": {"url": source.get("url")}}
    raise wrong(f"{where}: must be text, or an image in base64 or by its URL")


CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _tools(body: Mapping[str, Json]) -> dict[str, Json]:
    """The tools of this shape as those of Chat Completions."""
    made: dict[str, Json] = {}
    if (tools := one_of(body, "tools", list)) is not None:
        made["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    choice = one_of(body, "tool_choice", dict)
    if choice is not None:
        kind = choice.get("type")
        if kind not in (*CHOICES, "tool"):
            raise wrong(f"tool_choice.type: must be one of {', '.join(CHOICES)}, tool")
        made["tool_choice"] = CHOICES[kind] if kind in CHOICES else {"type": "function", "function": given(choice, "name")}
        if choice.get("disable_parallel_tool_use"):
            made["parallel_tool_calls"] = False
    return made


def _tool(tool: Json, where: str) -> Json:
    if not isinstance(tool, dict) or tool.get("type") not in (None, "custom"):
        raise wrong(f"{where}: only tools of your own are carried up a ladder: those of a provider are not the other providers'")
    return {"type": "function", "function": {**given(tool, "name", "description"), "parameters": tool.get("input_schema")}}


def _schema(told: dict[str, Json] | None) -> Json:
    """The schema of an output_config."""
    form = (told or {}).get("format")
    if form is None:
        return None
    if not isinstance(form, dict) or form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise wrong("output_config.format: must be json_schema with a schema")
    return form["schema"]
