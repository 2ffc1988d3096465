"""Anthropic's Messages wire, for Anthropic, Bedrock, Vertex, Foundry and servers that speak it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import orjson

from cascade import projection
from cascade.prices import Pricing
from cascade.providers import Adapter, Capabilities, key_env
from cascade.providers.adapter import Reading, SdkAdapter
from cascade.providers.failures import bad_reply
from cascade.providers.live import Streamed
from cascade.providers.replies import count, text, usage
from cascade.types import NOTHING, FinishReason, Json, Message, Part, Provider, Text, ToolCall, ToolResult, Usage

DEFAULT_MAX_TOKENS = 1024


def build(provider: Provider, pricing: Pricing = NOTHING) -> Adapter:
    """The adapter for a provider of kind anthropic, bedrock, vertex or foundry."""
    # The cloud clients move the model from the body into the URL: they want the body as a dict.
    return SdkAdapter(provider, pricing, Messages(counts=provider.kind != "bedrock"), _client, as_json=provider.kind in ("bedrock", "vertex"))


def _client(provider: Provider, http_client: Any) -> Any:
    import anthropic

    options = provider.options
    common: dict[str, Any] = {
        "base_url": provider.base_url,
        "http_client": http_client,
        "max_retries": 0,
        "default_headers": dict(options.get("headers", {})),
        "open_telemetry": False,  # cascade's own spans tell more, and two would count each call twice
    }
    name = key_env(provider)
    if provider.kind == "bedrock":  # without a key: AWS_BEARER_TOKEN_BEDROCK or AWS's own credentials
        token = os.environ[name] if name else None
        return anthropic.AsyncAnthropicBedrock(
            api_key=token, aws_region=options.get("region"), aws_profile=options.get("profile"), **common
        )
    if provider.kind == "vertex":  # without a key: Google's application default credentials
        named = {word: options[option] for word, option in (("region", "region"), ("project_id", "project")) if option in options}
        return anthropic.AsyncAnthropicVertex(access_token=os.environ[name] if name else None, **named, **common)
    key = os.environ[name] if name else "none"  # or the SDK would look for a key itself, and send it to any base_url
    if provider.kind == "foundry":
        return anthropic.AsyncAnthropicFoundry(resource=options.get("resource"), api_key=key, **common)
    return anthropic.AsyncAnthropic(api_key=key, **common)


_FINISHES: Mapping[str, FinishReason] = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "refusal"}


class Messages:
    """The Messages API."""

    path = "/v1/messages"

    def __init__(self, counts: bool = True) -> None:
        self.counting = "/v1/messages/count_tokens" if counts else None

    def fields(self, model: str, params: Mapping[str, Json], schema: Json, takes: Capabilities) -> dict[str, Json]:
        fields: dict[str, Json] = {"model": model, "max_tokens": DEFAULT_MAX_TOKENS, **params}
        output: dict[str, Json] = {"effort": fields.pop("effort")} if "effort" in fields else {}
        if schema is not None and takes.schema in ("strict", "full"):
            projected = projection.project(schema) if takes.schema == "strict" else schema
            output["format"] = {"type": "json_schema", "schema": projected}
        if output:
            fields["output_config"] = output
        return fields

    def tools(self, offered: Mapping[str, Json]) -> dict[str, Json]:
        """`strict` is left out: its schemas are the other provider's subset."""
        choice = offered["choice"]
        made: dict[str, Json] = {"type": _CHOICES[choice]} if isinstance(choice, str) else {"type": "tool", **choice}
        if offered["parallel"] is not None and choice != "none":
            made["disable_parallel_tool_use"] = not offered["parallel"]
        told = [{"name": tool["name"], "input_schema": tool["parameters"], **({"description": tool["description"]} if "description" in tool else {})}
                for tool in offered["tools"]]  # fmt: skip
        return {"tools": told, "tool_choice": made}

    def messages(self, messages: tuple[Message, ...]) -> dict[str, Json]:
        """System messages go to their own field; there is no such role on this wire. What several tools gave is one turn."""
        turns: list[dict[str, Json]] = []
        for message in messages:
            if message.role == "system":
                continue
            content = message.content if isinstance(message.content, str) else [_block(part) for part in message.content]
            if turns and turns[-1]["role"] == message.role and isinstance(turns[-1]["content"], list):
                turns[-1]["content"] += content if isinstance(content, list) else [{"type": "text", "text": content}]
            else:
                turns.append({"role": message.role, "content": content})
        system = "\n\n".join(message.text for message in messages if message.role == "system")
        return {"system": system, "messages": turns} if system else {"messages": turns}

    def read(self, reply: dict[str, Any], where: str) -> Reading:
        content = reply.get("content")
        stop = reply.get("stop_reason")
        if not isinstance(content, list):
            if stop != "refusal":
                raise bad_reply(where, f"200, but no content{_error_in(reply)}")
            content = []
        blocks = [block for block in content if isinstance(block, dict) and block.get("type") == "text"]
        said = "".join(text(block.get("text"), "a text block", where) for block in blocks)
        if stop == "pause_turn":
            raise bad_reply(where, "200, but the model paused for a server tool")
        uses = [block for block in content if isinstance(block, dict) and block.get("type") == "tool_use"]
        calls = tuple((text(use.get("name"), "a tool's name", where), orjson.dumps(use.get("input")).decode()) for use in uses)
        if not blocks and not calls and stop not in _FINISHES:
            raise bad_reply(where, "200, but the content has no text block")
        record = reply.get("usage")
        service_tier = text(record.get("service_tier"), "service_tier", where) or None if isinstance(record, dict) else None
        finish = _FINISHES.get(stop, "stop") if isinstance(stop, str) else "stop"
        return Reading(said, finish, text(reply.get("model"), "model", where), service_tier, calls=calls)

    def usage(self, reply: dict[str, Any], where: str) -> Usage | None:
        record = reply.get("usage")
        if not isinstance(record, dict):
            return None
        cached, written = count(record, "cache_read_input_tokens", where), count(record, "cache_creation_input_tokens", where)
        return usage(
            count(record, "input_tokens", where) + cached + written,  # this wire counts cached tokens beside the input
            count(record, "output_tokens", where),
            cached,
            written,
            count(record.get("output_tokens_details"), "thinking_tokens", where),
        )

    def streamed(self) -> Streamed:
        return _Stream()

    def streaming(self) -> dict[str, Json]:
        return {"stream": True}


class _Stream:
    """The events of a message: its head, the text of its blocks, and how it ended with the last count of its tokens. Who calls tools is not
    asked for a stream: of calls that come all the same there is only that they do."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] = {}
        self._said: list[str] = []
        self._calls: list[Json] = []
        self._counted = self._ended = False

    def take(self, event: dict[str, Any]) -> str:
        kind, delta, block = event.get("type"), event.get("delta"), event.get("content_block")
        if kind == "message_start" and isinstance(event.get("message"), dict):
            self._reply = {**event["message"], "content": []}
        elif kind == "content_block_start" and isinstance(block, dict) and block.get("type") == "tool_use":
            self._calls.append({**block, "name": ""})
        elif kind == "content_block_start" and isinstance(block, dict) and isinstance(block.get("text"), str):
            self._said.append(block["text"])
            return str(block["text"])
        elif kind == "content_block_delta" and isinstance(delta, dict) and delta.get("type") == "text_delta" and isinstance(delta.get("text"), str):
            self._said.append(delta["text"])
            return str(delta["text"])
        elif kind == "message_delta" and isinstance(delta, dict):
            counted = {name: count for name, count in _mapping(event.get("usage")).items() if count is not None}
            self._counted = self._counted or "output_tokens" in counted
            self._reply |= {"stop_reason": delta.get("stop_reason") or self._reply.get("stop_reason"),
                            "usage": {**_mapping(self._reply.get("usage")), **counted}}  # fmt: skip
        self._ended = self._ended or kind == "message_stop"
        return ""

    def reply(self) -> dict[str, Any] | None:
        text = "".join(self._said)
        said = [{"type": "text", "text": text}] if text else []
        usage = self._reply.get("usage") if self._counted else None  # the head's counts the first token only
        return {**self._reply, "usage": usage, "content": [*said, *self._calls]} if self._ended else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def _block(part: Part) -> dict[str, Json]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part.arguments)}
    if isinstance(part, ToolResult):
        return {"type": "tool_result", "tool_use_id": part.id, "content": [_block(one) for one in part.content], "is_error": part.error}
    if not part.url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    kind, _, data = part.url.removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def _input(arguments: str) -> Json:
    """The arguments of a call as the object that this wire wants; what is none stands in one."""
    try:
        found = orjson.loads(arguments or "{}")
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}


def _error_in(reply: dict[str, Any]) -> str:
    error = reply.get("error")
    return f": {error.get('message') or error}" if isinstance(error, dict) else ""
