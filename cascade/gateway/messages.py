"""Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cascade.gateway.wire import Asked, Refused, content_text, fields, one_of, refusal_of, sse, text_of, usage
from cascade.outcome import Outcome
from cascade.types import Json

KNOWN = ("model", "messages", "system", "output_config", "stream", "max_tokens")
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
            raise Refused(400, "invalid_request_error", "max_tokens: must be a whole number of 1 or more")
        system = body.get("system")
        messages = [] if system is None else [{"role": "system", "content": content_text(system, "system")}]
        for i, message in enumerate(one_of(body, "messages", list, [])):
            if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
                raise Refused(400, "invalid_request_error", f"messages[{i}].role: must be user or assistant")
            messages.append({"role": message["role"], "content": content_text(message.get("content"), f"messages[{i}].content")})
        return Asked(one_of(body, "model", str, ""), messages, _schema(one_of(body, "output_config", dict)), one_of(body, "stream", bool, False))

    def reply(self, asked: Asked, outcome: Outcome, id: str, created: int) -> dict[str, Json]:
        refused, used = outcome.status == "refused", usage(outcome)
        return {
            "id": f"msg_{id}", "type": "message", "role": "assistant", "model": asked.model,
            "content": [{"type": "text", "text": refusal_of(outcome) if refused else text_of(outcome)}],
            "stop_reason": "refusal" if refused else "end_turn", "stop_sequence": None,
            "usage": {"input_tokens": used.input - used.cached - used.cache_written, "cache_read_input_tokens": used.cached,
                      "cache_creation_input_tokens": used.cache_written, "output_tokens": used.output},
        }  # fmt: skip

    def events(self, asked: Asked, reply: dict[str, Json]) -> Iterator[bytes]:
        start = {**reply, "content": [], "stop_reason": None, "usage": {**reply["usage"], "output_tokens": 0}}
        yield sse({"type": "message_start", "message": start}, "message_start")
        for i, block in enumerate(reply["content"]):
            yield sse({"type": "content_block_start", "index": i, "content_block": {**block, "text": ""}}, "content_block_start")
            yield sse({"type": "content_block_delta", "index": i, "delta": {"type": "text_delta", "text": block["text"]}}, "content_block_delta")
            yield sse({"type": "content_block_stop", "index": i}, "content_block_stop")
        ends = {"stop_reason": reply["stop_reason"], "stop_sequence": None}
        yield sse({"type": "message_delta", "delta": ends, "usage": {"output_tokens": reply["usage"]["output_tokens"]}}, "message_delta")
        yield sse({"type": "message_stop"}, "message_stop")

    def alive(self) -> bytes:
        return sse({"type": "ping"}, "ping")

    def error(self, problem: Refused) -> dict[str, Json]:
        kind = KINDS.get(problem.status, "invalid_request_error" if problem.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": str(problem)}}

    def broken(self, problem: Refused) -> bytes:
        return sse(self.error(problem), "error")


def _schema(given: dict[str, Json] | None) -> Json:
    """The schema of an output_config."""
    form = (given or {}).get("format")
    if form is None:
        return None
    if not isinstance(form, dict) or form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        raise Refused(400, "invalid_request_error", "output_config.format: must be json_schema with a schema")
    return form["schema"]
