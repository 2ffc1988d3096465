"""OpenAI's two wires, Chat Completions and Responses, for OpenAI, Azure and every server that speaks the first one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from cascade import projection
from cascade.errors import ConfigurationError
from cascade.prices import Pricing
from cascade.providers import Adapter, Capabilities, is_own_server, key_env, kind
from cascade.providers.adapter import Reading, SdkAdapter
from cascade.providers.failures import bad_reply
from cascade.providers.live import Streamed
from cascade.providers.replies import count, in_and_out, text, usage
from cascade.types import NOTHING, FinishReason, Image, Json, Message, Part, Provider, Text, ToolCall, ToolResult, Usage


def build(provider: Provider, pricing: Pricing = NOTHING) -> Adapter:
    """The adapter for a provider of kind openai, azure or one of the compatible ones."""
    dated_azure = "api_version" in provider.options  # the deployments API, older than Azure's /openai/v1
    own_limits = kind(provider.kind).compat or is_own_server(provider)
    chat = Chat("max_tokens" if own_limits else "max_completion_tokens", counts=provider.kind != "mistral")
    wire = Responses() if provider.options.get("api") == "responses" else chat
    return SdkAdapter(provider, pricing, wire, _azure_client if dated_azure else _client, as_json=dated_azure)


def _client(provider: Provider, http_client: Any) -> Any:
    from openai import AsyncOpenAI, omit

    headers = dict(provider.options.get("headers", {}))
    if provider.base_url and (provider.kind != "openai" or is_own_server(provider)):
        # The SDK takes both from the environment: not other servers' business.
        headers = {"OpenAI-Organization": omit, "OpenAI-Project": omit} | headers
    base_url = f"{_azure_endpoint(provider)}/openai/v1" if provider.kind == "azure" else provider.base_url
    name = key_env(provider)
    key = os.environ[name] if name else "none"
    return AsyncOpenAI(api_key=key, base_url=base_url, http_client=http_client, max_retries=0, default_headers=headers)


def _azure_client(provider: Provider, http_client: Any) -> Any:
    from openai import AsyncAzureOpenAI

    return AsyncAzureOpenAI(
        api_key=os.environ[key_env(provider) or "AZURE_OPENAI_API_KEY"],
        api_version=str(provider.options["api_version"]),
        azure_endpoint=_azure_endpoint(provider),
        http_client=http_client,
        max_retries=0,
        default_headers=dict(provider.options.get("headers", {})),
    )


def _azure_endpoint(provider: Provider) -> str:
    endpoint = provider.base_url or os.environ.get("AZURE_OPENAI_ENDPOINT")
    if not endpoint:
        raise ConfigurationError(f'provider "{provider.name}" has no address: set base_url or AZURE_OPENAI_ENDPOINT')
    return endpoint.rstrip("/").removesuffix("/openai/v1")


def _format(schema: Json, takes: Capabilities) -> Json:
    """The schema as both wires name it: {name, schema, strict}."""
    strict = takes.schema == "strict"
    return {"name": "answer", "schema": projection.project(schema) if strict else schema, "strict": strict}


# ---------------------------------------------------------------- Chat Completions

_FINISHES: Mapping[str, FinishReason] = {"length": "length", "max_tokens": "length", "content_filter": "filter", "refusal": "refusal"}


class Chat:
    """Chat Completions. `limit` is the server's word for max_tokens; `counts`: it has to be told to count the tokens of a stream."""

    path = "/chat/completions"
    counting = None

    def __init__(self, limit: str, counts: bool = True) -> None:
        self._limit, self._counts = limit, counts

    def fields(self, model: str, params: Mapping[str, Json], schema: Json, takes: Capabilities) -> dict[str, Json]:
        fields: dict[str, Json] = {"model": model}
        fields |= {self._limit if name == "max_tokens" else name: value for name, value in params.items()}
        if schema is not None and takes.schema in ("strict", "full"):
            fields["response_format"] = {"type": "json_schema", "json_schema": _format(schema, takes)}
        elif schema is not None and takes.schema == "object":
            fields["response_format"] = {"type": "json_object"}
        return fields

    def tools(self, offered: Mapping[str, Json]) -> dict[str, Json]:
        choice = offered["choice"]
        fields: dict[str, Json] = {
            "tools": [{"type": "function", "function": tool} for tool in offered["tools"]],
            "tool_choice": choice if isinstance(choice, str) else {"type": "function", "function": choice},
        }
        return fields if offered["parallel"] is None else {**fields, "parallel_tool_calls": offered["parallel"]}

    def messages(self, messages: tuple[Message, ...]) -> dict[str, Json]:
        return {"messages": [made for message in messages for made in _chat_turns(message)]}

    def read(self, reply: dict[str, Any], where: str) -> Reading:
        choices = reply.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise bad_reply(where, f"200, but no choices{_error_in(reply)}")
        message = choices[0].get("message")
        if not isinstance(message, dict):
            raise bad_reply(where, "200, but the choice has no message")
        model = text(reply.get("model"), "model", where)
        service_tier = text(reply.get("service_tier"), "service_tier", where) or None
        refusal = text(message.get("refusal"), "message.refusal", where)
        if refusal:
            return Reading(refusal, "refusal", model, service_tier)
        said = _content(message.get("content"), where)
        finish = choices[0].get("finish_reason")
        if finish == "error":  # OpenRouter: the upstream broke off
            raise bad_reply(where, f"200, but the choice ends in an error{_error_in(choices[0])}")
        given = choices[0].get("logprobs")
        tokens = given.get("content") if isinstance(given, dict) else None
        ended = _FINISHES.get(finish, "stop") if isinstance(finish, str) else "stop"
        return Reading(said, ended, model, service_tier, tokens, _chat_calls(message.get("tool_calls"), where))

    def usage(self, reply: dict[str, Any], where: str) -> Usage | None:
        record = reply.get("usage")
        if not isinstance(record, dict):
            return None
        prompt, completion = count(record, "prompt_tokens", where), count(record, "completion_tokens", where)
        details = record.get("prompt_tokens_details")
        reasoning = count(record.get("completion_tokens_details"), "reasoning_tokens", where)
        if reasoning and count(record, "total_tokens", where) == prompt + completion + reasoning:
            completion += reasoning  # some servers (xAI) count reasoning beside the completion
        cached, written = count(details, "cached_tokens", where), count(details, "cache_write_tokens", where)
        return usage(prompt, completion, cached, written, reasoning)

    def streamed(self) -> Streamed:
        return _ChatStream()

    def streaming(self) -> dict[str, Json]:
        return {"stream": True, "stream_options": {"include_usage": True}} if self._counts else {"stream": True}


class _ChatStream:
    """The chunks of a completion; the last one may have the usage and no choice. Who calls tools is not asked for a stream: of calls that
    come all the same there is only that they do."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] = {}
        self._said: dict[str, list[str]] = {"content": [], "refusal": []}
        self._calls: list[Json] = []
        self._finish: Any = None

    def take(self, event: dict[str, Any]) -> str:
        self._reply |= {name: event[name] for name in ("model", "service_tier", "usage") if event.get(name) is not None}
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        if choice.get("index"):
            return ""  # one of several, which nobody asked for
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta")
        if isinstance(delta, dict) and delta.get("tool_calls"):
            self._calls = [{"function": {}}]
        found = {name: _content(delta.get(name), "the stream") for name in self._said} if isinstance(delta, dict) else {}
        for name, more in found.items():
            self._said[name].append(more)
        return found.get("content", "")

    def reply(self) -> dict[str, Any] | None:
        if self._finish is None:
            return None
        said = {name: "".join(pieces) for name, pieces in self._said.items()}
        message = {"role": "assistant", **said, "tool_calls": self._calls}
        return {**self._reply, "choices": [{"index": 0, "finish_reason": self._finish, "message": message}]}


def _chat_turns(message: Message) -> list[dict[str, Json]]:
    """A turn as the messages it is here: what tools gave are messages of their own, whose pictures follow in the user's."""
    role, content = message
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results = [part for part in content if isinstance(part, ToolResult)]
    calls = [{"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}} for part in content
             if isinstance(part, ToolCall)]  # fmt: skip
    shown: list[Text | Image] = [part for part in content if isinstance(part, Text | Image)]
    shown += [part for result in results for part in result.content if isinstance(part, Image)]
    turns: list[dict[str, Json]] = [{"role": "tool", "tool_call_id": result.id, "content": _words(result.content)} for result in results]
    if calls:
        turns.append({"role": role, "content": _words(shown) or None, "tool_calls": calls})
    elif shown:
        turns.append({"role": role, "content": [_chat_part(part) for part in shown]})
    return turns


def _chat_part(part: Text | Image) -> dict[str, Json]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": part.url} if part.detail is None else {"url": part.url, "detail": part.detail}}


def _words(parts: Iterable[Part]) -> str:
    return "\n\n".join(part.text for part in parts if isinstance(part, Text))


def _chat_calls(given: Any, where: str) -> tuple[tuple[str, str], ...]:
    """The calls of a message: (name, arguments)."""
    found = []
    for call in given if isinstance(given, list) else []:
        told = call.get("function") if isinstance(call, dict) else None
        if not isinstance(told, dict):
            raise bad_reply(where, "200, but a tool call that is none of a function")
        found.append((text(told.get("name"), "a tool's name", where), text(told.get("arguments"), "a tool's arguments", where)))
    return tuple(found)


def _content(content: Any, where: str) -> str:
    """The text of a message: a string or, on some servers, a list of parts of which we take those of type text."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(text(part.get("text"), "a part of message.content", where) for part in parts)
    return text(content, "message.content", where)


def _error_in(reply: dict[str, Any]) -> str:
    error = reply.get("error")
    if isinstance(error, dict):
        return f": {error.get('message') or error}"
    return f": {error}" if error else ""


# ---------------------------------------------------------------- Responses


def _items(message: Message) -> list[dict[str, Json]]:
    """A turn as items of the input."""
    role, content = message
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    items: list[dict[str, Json]] = []
    shown = [part for part in content if isinstance(part, Text | Image)]
    if shown and role == "assistant":
        items.append({"role": role, "content": _words(shown)})
    for part in content:
        if isinstance(part, ToolCall):
            items.append({"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments})
        elif isinstance(part, ToolResult):
            seen = any(isinstance(one, Image) for one in part.content)
            items.append({"type": "function_call_output", "call_id": part.id,
                          "output": [_input(one) for one in part.content] if seen else _words(part.content)})  # fmt: skip
    if shown and role != "assistant":
        items.append({"role": role, "content": [_input(part) for part in shown]})
    return items


def _input(part: Text | Image) -> dict[str, Json]:
    return {"type": "input_text", "text": part.text} if isinstance(part, Text) else {
        "type": "input_image", "image_url": part.url, "detail": part.detail or "auto"}  # fmt: skip


_LOGPROBS = "message.output_text.logprobs"
"""What `logprobs: true` of Chat Completions is called here, among the things to `include`."""


class Responses:
    """The Responses API. Nothing is stored there: it stores by default."""

    path = "/responses"
    counting = None

    def fields(self, model: str, params: Mapping[str, Json], schema: Json, takes: Capabilities) -> dict[str, Json]:
        fields: dict[str, Json] = {"model": model, "store": False}
        for name, value in params.items():
            if name == "reasoning_effort":
                fields["reasoning"] = {"effort": value}
            elif name == "logprobs":
                fields |= {"include": [_LOGPROBS]} if value and "include" not in params else {}
            else:
                fields["max_output_tokens" if name == "max_tokens" else name] = value
        if schema is not None and takes.schema in ("strict", "full"):
            fields["text"] = {"format": {"type": "json_schema", **_format(schema, takes)}}
        elif schema is not None and takes.schema == "object":
            fields["text"] = {"format": {"type": "json_object"}}
        return fields

    def tools(self, offered: Mapping[str, Json]) -> dict[str, Json]:
        choice = offered["choice"]
        fields: dict[str, Json] = {
            "tools": [{"type": "function", "strict": False, **tool} for tool in offered["tools"]],
            "tool_choice": choice if isinstance(choice, str) else {"type": "function", **choice},
        }
        return fields if offered["parallel"] is None else {**fields, "parallel_tool_calls": offered["parallel"]}

    def messages(self, messages: tuple[Message, ...]) -> dict[str, Json]:
        return {"input": [item for message in messages for item in _items(message)]}

    def read(self, reply: dict[str, Any], where: str) -> Reading:
        status = reply.get("status")
        output = reply.get("output")
        if not isinstance(output, list) or status not in ("completed", "incomplete"):
            raise bad_reply(where, f"200, but status {status!r:.40}{_error_in(reply)}")
        model = text(reply.get("model"), "model", where)
        service_tier = text(reply.get("service_tier"), "service_tier", where) or None
        messages = [item for item in output if isinstance(item, dict) and item.get("type") == "message"]
        contents = [item.get("content") for item in messages]
        parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
        refusals = [text(part.get("refusal"), "a refusal", where) for part in parts if part.get("type") == "refusal"]
        if any(refusals):
            return Reading("".join(refusals), "refusal", model, service_tier)
        said = "".join(text(part.get("text"), "output_text", where) for part in parts if part.get("type") == "output_text")
        given = [part.get("logprobs") or () for part in parts if part.get("type") == "output_text"]
        tokens = [token for each in given if isinstance(each, list) for token in each] or None
        if status == "completed":
            calls = tuple((text(item.get("name"), "a tool's name", where), text(item.get("arguments"), "a tool's arguments", where))
                          for item in output if isinstance(item, dict) and item.get("type") == "function_call")  # fmt: skip
            if not messages and not calls:
                raise bad_reply(where, "200, but the output has no message")
            return Reading(said, "stop", model, service_tier, tokens, calls)
        details = reply.get("incomplete_details")
        filtered = isinstance(details, dict) and details.get("reason") == "content_filter"
        return Reading(said, "filter" if filtered else "length", model, service_tier)

    def usage(self, reply: dict[str, Any], where: str) -> Usage | None:
        return in_and_out(reply.get("usage"), where)

    def streamed(self) -> Streamed:
        return _ResponseStream()

    def streaming(self) -> dict[str, Json]:
        return {"stream": True}


class _ResponseStream:
    """The events of a response: the last one holds it all."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> str:
        if event.get("type") in ("response.completed", "response.incomplete", "response.failed") and isinstance(event.get("response"), dict):
            self._reply = event["response"]
        delta = event.get("delta")
        return delta if event.get("type") == "response.output_text.delta" and isinstance(delta, str) else ""

    def reply(self) -> dict[str, Any] | None:
        return self._reply
