"""What the gateway takes and gives, as an OpenAPI 3.1 document. Pure.

It says what is true, and leaves open what is the provider's: the parts of a message, tools, an answer's schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cascade import __version__
from cascade.gateway import chat, messages, responses
from cascade.gateway.metrics import TYPE
from cascade.gateway.wire import ROLES
from cascade.types import Json

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
OBJECT: Json = {"type": "object"}
MAYBE: Json = {"type": ["object", "null"]}
WORDS: Json = {"type": ["string", "null"]}
LENGTH: Json = {"type": ["integer", "null"], "minimum": 1, "description": "Without effect: the policy decides."}
TOOLS: Json = {"type": ["array", "null"], "items": OBJECT, "description": "Tools of the caller's, in the provider's shape."}
CALLING: Json = {"tools": TOOLS, "tool_choice": {"type": ["string", "object", "null"]}, "parallel_tool_calls": {"type": ["boolean", "null"]}}
CONTENT: Json = {"type": ["string", "array", "null"], "items": OBJECT, "description": "Text, or the provider's parts."}
HEALTH: Json = {"application/json": {"schema": {"$ref": "#/components/schemas/Health"}}}
TRAIL: Json = {"trail": {"operationId": "trail", "parameters": {"id": "$response.header.x-cascade-trail-id"}}}
QUESTION: Json = [{"role": "user", "content": "What is 2 and 2?"}]

STATUSES: Mapping[int, str] = {
    400: "A wrong request: the message says what would be right.",
    401: "No key, a wrong one, or two of them.",
    402: "A budget is spent: `budget`, `run_budget`.",
    403: "Without keys only this machine is answered, by its own names.",
    404: "No such policy, or nothing of that id.",
    408: "The body did not arrive in time.",
    409: "A request with this Idempotency-Key is still being answered.",
    413: "The body has more than 8 MiB.",
    415: "The body is not application/json.",
    422: "No tier's answer passed its gates: `not_accepted`; it was cut off: `truncated`; or `idempotency_key_reused` with another request.",
    429: "The key asks too often: `rate_limit`; or what is left is set aside for requests in flight: `budget`, `run_budget`.",
    500: "A key or model of the policy is wrong: `configuration`.",
    503: "Every tier's provider failed: `timeout`, `overloaded`, …; or what has to be kept cannot be: `state`.",
    504: "The request's deadline is over: `deadline`.",
}
"""The errors of a request for an answer, by HTTP status."""
SEEN = (401, 403)
"""Those that every path but /health gives."""

TOLD: Json = {
    "x-cascade-trail-id": {"description": "For /v1/cascade/trails/{id}.", "required": True, "schema": TEXT},
    "x-cascade-tier": {"description": "Whose answer it is; not in a stream.", "schema": TEXT},
    "x-cascade-status": {"description": "Not in a stream.", "schema": {"enum": ["accepted", "refused"]}},
    "x-cascade-cost-usd": {"description": "Dollars, or `unknown`; not in a stream.", "schema": {"type": "string", "pattern": r"^(unknown|[0-9.]+)$"}},
}
RETRY: Json = {"x-should-retry": {"description": "Whether asking again may help.", "required": True, "schema": {"enum": ["true", "false"]}}}


def document(policies: Sequence[str], keys: bool) -> dict[str, Json]:
    """The document of a gateway that serves these policies; `keys`: whether callers need one."""
    ours, theirs = {"$ref": "#/components/schemas/OpenAIError"}, {"$ref": "#/components/schemas/AnthropicError"}
    model = {"model": policies[0]}
    found: dict[str, Json] = {
        "openapi": "3.1.0",
        "info": {"title": "cascade", "version": __version__,
                 "description": "Policies behind OpenAI's and Anthropic's HTTP shapes: `model` is a policy's name."},
        "paths": {
            "/v1/chat/completions": {"post": _asked("Chat Completions", "ChatRequest", "ChatReply", ours, {**model, "messages": QUESTION})},
            "/v1/responses": {"post": _asked("Responses", "ResponsesRequest", "ResponsesReply", ours, {**model, "input": QUESTION[0]["content"]})},
            "/v1/messages": {"post": _asked("Anthropic's Messages", "MessagesRequest", "MessagesReply", theirs,
                                            {**model, "max_tokens": 500, "messages": QUESTION})},
            "/v1/messages/count_tokens": {"post": _counted(theirs, {**model, "messages": QUESTION})},
            "/v1/models": {"get": _seen("The policies, as models", "Models", ours, anthropic=True)},
            "/v1/models/{model}": {"get": _seen("One of them", "Model", {"anyOf": [ours, theirs]}, "model", anthropic=True, more=(404,))},
            "/v1/cascade/trails/{id}": {"get": {
                "operationId": "trail", **_seen("All that happened at a request of this key", "Trail", ours, "id", more=(404, 503))}},
            "/metrics": {"get": _seen("Numbers for Prometheus", TEXT, ours, kind=TYPE.partition(";")[0])},
            "/openapi.json": {"get": _seen("This document", OBJECT, ours)},
            "/health": {"get": {"summary": "How the gateway is", "security": [], "responses": {
                "200": {"description": "It answers; what is wrong is told to those who may ask.", "content": HEALTH},
                "503": {"description": "It ends: it takes no more requests soon.", "content": HEALTH}}}},
        },
        "components": {"schemas": _schemas(list(policies))},
    }  # fmt: skip
    if keys:
        found["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"},
                                                  "key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}  # fmt: skip
        found["security"] = [{"bearer": []}, {"key": []}]
    return found


def _asked(summary: str, request: str, reply: str, error: Json, example: Json) -> dict[str, Json]:
    """A POST that climbs a ladder."""
    body = {"schema": {"$ref": f"#/components/schemas/{request}"}, "example": example}
    said = {"application/json": {"schema": {"$ref": f"#/components/schemas/{reply}"}}, "text/event-stream": {}}
    return {
        "summary": summary, "operationId": request.removesuffix("Request").lower(),
        "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                        "description": "The same request sent again with it gets the same answer, for a day."}],
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": {"description": "An accepted answer, or the model's refusal; with `stream: true` as server-sent events, in which "
                                             "an error is an event.", "headers": TOLD, "content": said, "links": TRAIL}, **_errors(STATUSES, error)},
    }  # fmt: skip


def _counted(error: Json, example: Json) -> dict[str, Json]:
    body = {"schema": {"$ref": "#/components/schemas/CountRequest"}, "example": example}
    return {
        "summary": "How many tokens a request of Messages has", "operationId": "count",
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {"200": {"description": "By a tier's provider, or estimated.",
                              "headers": {"x-cascade-tokens": {"required": True, "schema": {"enum": ["counted", "estimated"]}}},
                              "content": {"application/json": {"schema": _object({"input_tokens": COUNT})}}},
                      **_errors((400, 401, 403, 404, 408, 413, 415, 429, 500, 503), error)},
    }  # fmt: skip


def _seen(summary: str, reply: str | Json, error: Json, parameter: str | None = None, kind: str = "application/json",
          anthropic: bool = False, more: tuple[int, ...] = ()) -> dict[str, Json]:
    """A GET."""
    schema = {"$ref": f"#/components/schemas/{reply}"} if isinstance(reply, str) else reply
    wanted: list[Json] = [] if parameter is None else [{"name": parameter, "in": "path", "required": True, "schema": TEXT}]
    if anthropic:
        wanted.append({"name": "anthropic-version", "in": "header", "schema": TEXT, "description": "With it the answer has Anthropic's shape."})
    told = _errors((*SEEN, *more), error)
    return {"summary": summary, **({"parameters": wanted} if wanted else {}),
            "responses": {"200": {"description": "It.", "content": {kind: {"schema": schema}}}, **told}}  # fmt: skip


def _errors(statuses: Iterable[int], schema: Json) -> dict[str, Json]:
    content = {"application/json": {"schema": schema}}
    return {str(status): {"description": STATUSES[status], "headers": RETRY, "content": content} for status in statuses}


def _schemas(policies: list[str]) -> dict[str, Json]:
    theirs: dict[str, Json] = {
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role", "content"],
                     "properties": {"role": {"enum": ["user", "assistant"]}, "content": {**CONTENT, "type": ["string", "array"]}}}},
        "system": {"type": ["string", "array", "null"], "items": OBJECT}, "output_config": MAYBE, "tools": TOOLS, "tool_choice": MAYBE,
        "max_tokens": {**LENGTH, "type": "integer"}}  # fmt: skip
    return {
        "ChatRequest": _request(policies, (*chat.KNOWN, *chat.IGNORED), ["model", "messages"], {
            "messages": {"type": "array", "minItems": 1, "description": "The last one is the user's.", "items": {
                "type": "object", "required": ["role"], "properties": {"role": {"enum": list(ROLES)}, "content": CONTENT}}},
            "response_format": {**MAYBE, "description": "text, json_object, or json_schema for a policy with caller_schema."},
            **CALLING, "stream_options": MAYBE, "n": {"enum": [1, None]}, "max_tokens": LENGTH, "max_completion_tokens": LENGTH}),
        "ResponsesRequest": _request(policies, (*responses.KNOWN, *responses.IGNORED), ["model", "input"], {
            "input": {"type": ["string", "array"], "minItems": 1, "items": OBJECT}, "instructions": WORDS, "text": MAYBE,
            **CALLING, "max_output_tokens": LENGTH}),
        "MessagesRequest": _request(policies, (*messages.KNOWN, *messages.IGNORED), ["model", "messages", "max_tokens"], theirs),
        "CountRequest": _request(policies, (*messages.KNOWN, *messages.IGNORED), ["model", "messages"], theirs),
        "ChatReply": _object({
            "id": {"type": "string", "pattern": "^chatcmpl-"}, "object": {"const": "chat.completion"}, "created": COUNT, "model": {"enum": policies},
            "choices": {"type": "array", "minItems": 1, "maxItems": 1, "items": _object({
                "index": {"const": 0}, "finish_reason": TEXT, "logprobs": {"type": "null"},
                "message": _object({"role": {"const": "assistant"}, "content": WORDS, "refusal": WORDS})})},
            "usage": _object({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT, "prompt_tokens_details": OBJECT,
                              "completion_tokens_details": OBJECT})}),
        "ResponsesReply": _object({
            "id": {"type": "string", "pattern": "^resp_"}, "object": {"const": "response"}, "created_at": COUNT, "status": {"const": "completed"},
            "model": {"enum": policies}, "output": {"type": "array", "minItems": 1, "items": _object({"type": TEXT, "id": TEXT})},
            "store": {"const": False}, "usage": _object({"input_tokens": COUNT, "output_tokens": COUNT, "total_tokens": COUNT})}),
        "MessagesReply": _object({
            "id": {"type": "string", "pattern": "^msg_"}, "type": {"const": "message"}, "role": {"const": "assistant"}, "model": {"enum": policies},
            "content": {"type": "array", "minItems": 1, "items": _object({"type": TEXT})}, "stop_reason": TEXT, "stop_sequence": {"type": "null"},
            "usage": _object(dict.fromkeys(("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"), COUNT))}),
        "Model": {"anyOf": [
            _object({"id": {"enum": policies}, "object": {"const": "model"}, "created": COUNT, "owned_by": {"const": "cascade"}}),
            _object({"id": {"enum": policies}, "type": {"const": "model"}, "display_name": TEXT, "created_at": TEXT})]},
        "Models": _object({"data": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Model"}}}),
        "Trail": _object({
            "format": {"const": 1}, "id": TEXT, "policy": TEXT, "status": TEXT, "tier": {"type": ["string", "null"]}, "output": {},
            "cost_usd": {"type": ["number", "null"]}, "unpriced": {"type": "array", "items": TEXT}, "seconds": {"type": "number"},
            "trail": {"type": "array", "items": _object({"event": TEXT, "tier": TEXT})}}),
        "Health": {"type": "object", "required": ["status"], "properties": {
            "status": {"enum": ["ok", "degraded", "draining"]}, "problems": {"type": "array", "items": TEXT}, "worker": COUNT, "state": OBJECT,
            "policies": {"type": "object", "additionalProperties": _object({"label": TEXT, "serves": TEXT, "alarm": WORDS})}}},
        "OpenAIError": _object({"error": _object({"message": TEXT, "type": TEXT, "param": {"type": "null"}, "code": TEXT})}),
        "AnthropicError": _object({"type": {"const": "error"}, "error": _object({"type": TEXT, "message": TEXT})}),
    }  # fmt: skip


def _request(policies: list[str], names: Iterable[str], needed: list[str], said: Mapping[str, Json]) -> dict[str, Json]:
    """A body of those names and no other that says something; what `said` does not tell of is without effect or the provider's."""
    common: dict[str, Json] = {"model": {"type": "string", "enum": policies}, "stream": {"type": ["boolean", "null"]}}
    properties = {name: {**common, **said}.get(name, {}) for name in names}
    return {"type": "object", "required": needed, "properties": properties, "additionalProperties": {"enum": [None, False]}}


def _object(properties: dict[str, Json]) -> dict[str, Json]:
    """An object that has at least these."""
    return {"type": "object", "required": list(properties), "properties": properties}
