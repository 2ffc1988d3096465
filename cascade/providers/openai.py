"""OpenAI's two wires, Chat Completions and Responses, for OpenAI, Azure and every server that speaks the first one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cascade import projection
from cascade.errors import ConfigurationError
from cascade.prices import Pricing
from cascade.providers import Adapter, Capabilities, is_own_server, key_env, kind
from cascade.providers.adapter import Reading, SdkAdapter
from cascade.providers.failures import bad_reply
from cascade.providers.replies import count, in_and_out, text, usage
from cascade.types import NOTHING, FinishReason, Json, Message, Provider, Usage


def build(provider: Provider, pricing: Pricing = NOTHING) -> Adapter:
    """The adapter for a provider of kind openai, azure or one of the compatible ones."""
    dated_azure = "api_version" in provider.options  # the deployments API, older than Azure's /openai/v1
    own_limits = kind(provider.kind).compat or is_own_server(provider)
    chat = Chat("max_tokens" if own_limits else "max_completion_tokens")
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


def _messages(messages: tuple[Message, ...]) -> list[Json]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _format(schema: Json, takes: Capabilities) -> Json:
    """The schema as both wires name it: {name, schema, strict}."""
    strict = takes.schema == "strict"
    return {"name": "answer", "schema": projection.project(schema) if strict else schema, "strict": strict}


# ---------------------------------------------------------------- Chat Completions

_FINISHES: Mapping[str, FinishReason] = {"length": "length", "max_tokens": "length", "content_filter": "filter", "refusal": "refusal"}


class Chat:
    """Chat Completions. `limit` is the server's word for max_tokens."""

    path = "/chat/completions"

    def __init__(self, limit: str) -> None:
        self._limit = limit

    def fields(self, model: str, params: Mapping[str, Json], schema: Json, takes: Capabilities) -> dict[str, Json]:
        fields: dict[str, Json] = {"model": model}
        fields |= {self._limit if name == "max_tokens" else name: value for name, value in params.items()}
        if schema is not None and takes.schema in ("strict", "full"):
            fields["response_format"] = {"type": "json_schema", "json_schema": _format(schema, takes)}
        elif schema is not None and takes.schema == "object":
            fields["response_format"] = {"type": "json_object"}
        return fields

    def messages(self, messages: tuple[Message, ...]) -> dict[str, Json]:
        return {"messages": _messages(messages)}

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
        if not said and message.get("tool_calls"):
            raise bad_reply(where, "200, but the model calls a tool it was not given")
        if finish == "error":  # OpenRouter: the upstream broke off
            raise bad_reply(where, f"200, but the choice ends in an error{_error_in(choices[0])}")
        given = choices[0].get("logprobs")
        tokens = given.get("content") if isinstance(given, dict) else None
        return Reading(said, _FINISHES.get(finish, "stop") if isinstance(finish, str) else "stop", model, service_tier, tokens)

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


_LOGPROBS = "message.output_text.logprobs"
"""What `logprobs: true` of Chat Completions is called here, among the things to `include`."""


class Responses:
    """The Responses API. Nothing is stored there: it stores by default."""

    path = "/responses"

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

    def messages(self, messages: tuple[Message, ...]) -> dict[str, Json]:
        return {"input": _messages(messages)}

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
            if not messages:
                raise bad_reply(where, "200, but the output has no message")
            return Reading(said, "stop", model, service_tier, tokens)
        details = reply.get("incomplete_details")
        filtered = isinstance(details, dict) and details.get("reason") == "content_filter"
        return Reading(said, "filter" if filtered else "length", model, service_tier)

    def usage(self, reply: dict[str, Any], where: str) -> Usage | None:
        return in_and_out(reply.get("usage"), where)
