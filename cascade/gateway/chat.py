"""OpenAI's Chat Completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cascade.gateway.wire import ROLES, Asked, OpenAi, Refused, content_text, fields, lengths, one_of, refusal_of, sse, text_of, usage
from cascade.outcome import Outcome
from cascade.types import Json

KNOWN = ("model", "messages", "response_format", "stream", "stream_options", "n")
IGNORED = ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "user", "metadata", "store", "service_tier", "reasoning_effort",
           "frequency_penalty", "presence_penalty", "safety_identifier", "prompt_cache_key", "verbosity")  # fmt: skip
"""What clients send and the policy decides."""


class Chat(OpenAi):
    """`/v1/chat/completions`."""

    def asked(self, body: Mapping[str, Json]) -> Asked:
        fields(body, KNOWN, IGNORED)
        lengths(body, "max_tokens", "max_completion_tokens")
        if one_of(body, "n", int, 1) != 1:
            raise Refused(400, "invalid_request_error", "n: a ladder gives one answer")
        given = one_of(body, "messages", list, [])
        messages = [_message(message, f"messages[{i}]") for i, message in enumerate(given)]
        options = one_of(body, "stream_options", dict) or {}
        return Asked(one_of(body, "model", str, ""), messages, _schema(one_of(body, "response_format", dict)), one_of(body, "stream", bool, False),
                     bool(options.get("include_usage")))

    def reply(self, asked: Asked, outcome: Outcome, id: str, created: int) -> dict[str, Json]:
        refused = outcome.status == "refused"
        message: dict[str, Json] = {"role": "assistant", "content": None if refused else text_of(outcome),
                                    "refusal": refusal_of(outcome) if refused else None}
        used = usage(outcome)
        return {
            "id": f"chatcmpl-{id}", "object": "chat.completion", "created": created, "model": asked.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
            "usage": {"prompt_tokens": used.input, "completion_tokens": used.output, "total_tokens": used.input + used.output,
                      "prompt_tokens_details": {"cached_tokens": used.cached},
                      "completion_tokens_details": {"reasoning_tokens": used.reasoning}},
        }  # fmt: skip

    def events(self, asked: Asked, reply: dict[str, Json]) -> Iterator[bytes]:
        message = reply["choices"][0]["message"]
        head = {"id": reply["id"], "object": "chat.completion.chunk", "created": reply["created"], "model": reply["model"]}
        more: dict[str, Json] = {"usage": None} if asked.told else {}

        def chunk(delta: dict[str, Json], finish: str | None = None) -> bytes:
            return sse({**head, **more, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]})

        yield chunk({"role": "assistant", "content": "" if message["content"] is not None else None, "refusal": None})
        yield chunk({"content": message["content"]} if message["content"] is not None else {"refusal": message["refusal"]})
        yield chunk({}, "stop")
        if asked.told:
            yield sse({**head, "choices": [], "usage": reply["usage"]})
        yield b"data: [DONE]\n\n"

    def broken(self, problem: Refused) -> bytes:
        return sse(self.error(problem))


def _message(message: Json, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise Refused(400, "invalid_request_error", f"{where}: must be an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(400, "invalid_request_error", f"{where}.role: must be one of {', '.join(ROLES)}; tools are not carried up a ladder")
    if message.get("tool_calls") or message.get("function_call"):
        raise Refused(400, "invalid_request_error", f"{where}: tools are not carried up a ladder")
    return {"role": ROLES[role], "content": content_text(message.get("content"), f"{where}.content")}


def _schema(given: dict[str, Json] | None) -> Json:
    """The schema of a response_format; an object for json_object."""
    kind = (given or {}).get("type", "text")
    if kind == "text" or given is None:
        return None
    if kind == "json_object":
        return {"type": "object"}
    named = given.get("json_schema")
    if kind != "json_schema" or not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
        raise Refused(400, "invalid_request_error", "response_format: must be text, json_object, or json_schema with json_schema.schema")
    return named["schema"]
