"""OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cascade.gateway.wire import ROLES, Asked, OpenAi, Refused, content_text, fields, lengths, one_of, refusal_of, sse, text_of, usage
from cascade.outcome import Outcome
from cascade.types import Json

KNOWN = ("model", "input", "instructions", "text", "stream", "stream_options")
IGNORED = ("temperature", "top_p", "max_output_tokens", "user", "metadata", "store", "service_tier", "reasoning", "safety_identifier",
           "prompt_cache_key", "truncation", "include", "background")  # fmt: skip
"""What clients send and the policy decides. Nothing is stored."""


class Responses(OpenAi):
    """`/v1/responses`."""

    def asked(self, body: Mapping[str, Json]) -> Asked:
        fields(body, KNOWN, IGNORED)
        lengths(body, "max_output_tokens")
        if body.get("background"):
            raise Refused(400, "invalid_request_error", "background: a request is answered while its caller waits")
        instructions = one_of(body, "instructions", str)
        messages = [] if instructions is None else [{"role": "system", "content": instructions}]
        given = body.get("input")
        if isinstance(given, str):
            messages.append({"role": "user", "content": given})
        else:
            messages += [_message(item, f"input[{i}]") for i, item in enumerate(one_of(body, "input", list, []))]
        return Asked(one_of(body, "model", str, ""), messages, _schema(one_of(body, "text", dict)), one_of(body, "stream", bool, False))

    def reply(self, asked: Asked, outcome: Outcome, id: str, created: int) -> dict[str, Json]:
        used = usage(outcome)
        said: dict[str, Json] = ({"type": "refusal", "refusal": refusal_of(outcome)} if outcome.status == "refused"
                                 else {"type": "output_text", "text": text_of(outcome), "annotations": [], "logprobs": []})  # fmt: skip
        message = {"id": f"msg_{id}", "type": "message", "status": "completed", "role": "assistant", "content": [said]}
        return {
            "id": f"resp_{id}", "object": "response", "created_at": created, "status": "completed", "model": asked.model, "output": [message],
            "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": False, "tool_choice": "none",
            "tools": [], "temperature": None, "top_p": None, "store": False, "text": {"format": {"type": "text"}},
            "usage": {"input_tokens": used.input, "input_tokens_details": {"cached_tokens": used.cached, "cache_write_tokens": used.cache_written},
                      "output_tokens": used.output, "output_tokens_details": {"reasoning_tokens": used.reasoning},
                      "total_tokens": used.input + used.output},
        }  # fmt: skip

    def events(self, asked: Asked, reply: dict[str, Json]) -> Iterator[bytes]:
        (message,) = reply["output"]
        (said,) = message["content"]
        place: dict[str, Json] = {"item_id": message["id"], "output_index": 0, "content_index": 0}
        kind = "refusal" if said["type"] == "refusal" else "output_text"
        word = "refusal" if kind == "refusal" else "text"
        more: dict[str, Json] = {} if kind == "refusal" else {"logprobs": []}
        begun = {**reply, "status": "in_progress", "output": [], "usage": None}
        steps: list[tuple[str, dict[str, Json]]] = [
            ("response.created", {"response": begun}),
            ("response.in_progress", {"response": begun}),
            ("response.output_item.added", {"output_index": 0, "item": {**message, "status": "in_progress", "content": []}}),
            ("response.content_part.added", {**place, "part": {**said, word: ""}}),
            (f"response.{kind}.delta", {**place, **more, "delta": said[word]}),
            (f"response.{kind}.done", {**place, **more, word: said[word]}),
            ("response.content_part.done", {**place, "part": said}),
            ("response.output_item.done", {"output_index": 0, "item": message}),
            ("response.completed", {"response": reply}),
        ]
        for number, (name, data) in enumerate(steps):
            yield sse({"type": name, "sequence_number": number, **data}, name)

    def broken(self, problem: Refused) -> bytes:
        return sse({"type": "error", "sequence_number": 0, "code": problem.kind, "message": str(problem), "param": None}, "error")


def _message(item: Json, where: str) -> dict[str, str]:
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        raise Refused(400, "invalid_request_error", f"{where}: must be a message; tools, files and references are not carried up a ladder")
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(400, "invalid_request_error", f"{where}.role: must be one of {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": content_text(item.get("content"), f"{where}.content", ("input_text", "output_text", "text"))}


def _schema(given: dict[str, Json] | None) -> Json:
    """The schema of text.format; an object for json_object."""
    form = (given or {}).get("format")
    kind = form.get("type") if isinstance(form, dict) else "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema" or not isinstance(form, dict) or not isinstance(form.get("schema"), dict):
        raise Refused(400, "invalid_request_error", "text.format: must be text, json_object, or json_schema with a schema")
    return form["schema"]
