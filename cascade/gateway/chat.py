"""OpenAI's Chat Completions."""

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

KNOWN = ("model", "messages", "response_format", "stream", "stream_options", "n", "tools", "tool_choice", "parallel_tool_calls")
IGNORED = ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "user", "metadata", "store", "service_tier", "reasoning_effort",
           "frequency_penalty", "presence_penalty", "safety_identifier", "prompt_cache_key", "verbosity")  # fmt: skip
"""What clients send and the policy decides."""


class Chat(OpenAi):
    """`/v1/chat/completions`."""

    def asked(self, body: Mapping[str, Json]) -> Asked:
        fields(body, KNOWN, IGNORED)
        lengths(body, "max_tokens", "max_completion_tokens")
        if one_of(body, "n", int, 1) != 1:
            raise wrong("n: a ladder gives one answer")
        messages = [_message(message, f"messages[{i}]") for i, message in enumerate(one_of(body, "messages", list, []))]
        options = one_of(body, "stream_options", dict) or {}
        one_of(body, "tools", list)
        one_of(body, "parallel_tool_calls", bool)
        return Asked(one_of(body, "model", str, ""), messages, _schema(one_of(body, "response_format", dict)), one_of(body, "stream", bool, False),
                     bool(options.get("include_usage")), given(body, "tools", "tool_choice", "parallel_tool_calls"))

    def reply(self, asked: Asked, outcome: Outcome, id: str, created: int) -> dict[str, Json]:
        refused, calls = outcome.status == "refused", called(outcome)
        message: dict[str, Json] = {"role": "assistant", "content": None if refused else text_of(outcome),
                                    "refusal": refusal_of(outcome) if refused else None}
        if calls is not None:
            message |= {"content": calls.said or None, "tool_calls": [
                {"id": f"call_{id}_{i}", "type": "function", "function": {"name": call["name"], "arguments": arguments(call)}}
                for i, call in enumerate(calls.calls)]}  # fmt: skip
        used = usage(outcome)
        return {
            "id": f"chatcmpl-{id}", "object": "chat.completion", "created": created, "model": asked.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop" if calls is None else "tool_calls", "logprobs": None}],
            "usage": {"prompt_tokens": used.input, "completion_tokens": used.output, "total_tokens": used.input + used.output,
                      "prompt_tokens_details": {"cached_tokens": used.cached},
                      "completion_tokens_details": {"reasoning_tokens": used.reasoning}},
        }  # fmt: skip

    def stream(self, asked: Asked, id: str, created: int) -> ChatStream:
        return ChatStream(asked, id, created)

    def broken(self, problem: Refused) -> bytes:
        return sse(self.error(problem))


class ChatStream:
    """A completion in chunks."""

    def __init__(self, asked: Asked, id: str, created: int) -> None:
        self._told = asked.told
        self._said: list[str] = []
        self._head = {"id": f"chatcmpl-{id}", "object": "chat.completion.chunk", "created": created, "model": asked.model}
        self._begun = False

    def _chunk(self, delta: dict[str, Json], finish: str | None = None) -> bytes:
        more: dict[str, Json] = {"usage": None} if self._told else {}
        return sse({**self._head, **more, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]})

    def _begin(self, content: str | None) -> bytes:
        begun, self._begun = self._begun, True
        return b"" if begun else self._chunk({"role": "assistant", "content": content, "refusal": None})

    def piece(self, text: str) -> bytes:
        self._said.append(text)
        return self._begin("") + self._chunk({"content": text})

    def end(self, reply: dict[str, Json]) -> Iterator[bytes]:
        (choice,) = reply["choices"]
        message = choice["message"]
        yield self._begin(None if message["content"] is None else "")
        for name, said in (("content", "".join(self._said)), ("refusal", "")):
            if message[name] is not None and message[name] != said:
                yield self._chunk({name: message[name]})
        for i, call in enumerate(message.get("tool_calls", ())):
            yield self._chunk({"tool_calls": [{"index": i, **call}]})
        yield self._chunk({}, choice["finish_reason"])
        if self._told:
            yield sse({**self._head, "choices": [], "usage": reply["usage"]})
        yield b"data: [DONE]\n\n"


def _message(message: Json, where: str) -> dict[str, Json]:
    """A message without what no ladder looks at; what is in it is looked at with the inputs."""
    if not isinstance(message, dict):
        raise wrong(f"{where}: must be an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise wrong(f"{where}.role: must be one of {', '.join(ROLES)}")
    if message.get("function_call"):
        raise wrong(f"{where}.function_call: is no more; use tool_calls")
    kept = {"assistant": ("tool_calls",), "tool": ("tool_call_id",)}.get(role, ())
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        content = message.get("refusal")
    return {"role": ROLES[role], "content": content, **given(message, *kept)}


def _schema(form: dict[str, Json] | None) -> Json:
    """The schema of a response_format; an object for json_object."""
    kind = (form or {}).get("type", "text")
    if kind == "text" or form is None:
        return None
    if kind == "json_object":
        return {"type": "object"}
    named = form.get("json_schema")
    if kind != "json_schema" or not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
        raise wrong("response_format: must be text, json_object, or json_schema with json_schema.schema")
    return named["schema"]
