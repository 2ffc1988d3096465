"""OpenAI's decisions endpoint, a beta, and servers of the same shape: fixed questions about an input, answered with probabilities.

All that knows its wire is in here. A call's messages are the input, its params hold the `questions`; the answer's text is the JSON object
{"answers": […]} in the order of the questions. Each is a predicate with its probability, a choice or a score with the probabilities of
its values, or a refusal. Input is paid, output is free.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson

from cascade.errors import ConfigurationError
from cascade.prices import Pricing
from cascade.providers import Adapter, Capabilities, is_own_server, key_env
from cascade.providers.adapter import Reading, SdkAdapter
from cascade.providers.failures import bad_reply
from cascade.providers.replies import in_and_out, text
from cascade.types import NOTHING, Json, Message, Provider, Usage


def build(provider: Provider, pricing: Pricing = NOTHING) -> Adapter:
    """The adapter of a provider of kind decisions."""
    return _InputOnly(provider, pricing, Decisions(), _client)


def _client(provider: Provider, http_client: Any) -> Any:
    from openai import AsyncOpenAI, omit

    headers = dict(provider.options.get("headers", {}))
    if is_own_server(provider):  # the SDK takes both from the environment: not other servers' business
        headers = {"OpenAI-Organization": omit, "OpenAI-Project": omit} | headers
    name = key_env(provider)
    key = os.environ[name] if name else "none"
    return AsyncOpenAI(api_key=key, base_url=provider.base_url, http_client=http_client, max_retries=0, default_headers=headers)


class _InputOnly(SdkAdapter):
    """Output tokens are counted and not paid."""

    def _cost(self, model: str, usage: Usage | None, service_tier: str | None, answered_by: str | None) -> Decimal | None:
        paid = None if usage is None else replace(usage, output=0, reasoning=0)
        return super()._cost(model, paid, service_tier, answered_by)


class Decisions:
    """The endpoint's one request and reply."""

    path = "/decisions"
    counting = None

    def fields(self, model: str, params: Mapping[str, Json], schema: Json, takes: Capabilities) -> dict[str, Json]:
        if "questions" not in params:
            raise ConfigurationError(f"{model} answers fixed questions and writes no text: ask it in a decision gate")
        return {"model": model} | {name: value for name, value in params.items() if name != "max_tokens"}

    def tools(self, offered: Mapping[str, Json]) -> dict[str, Json]:
        return {}

    def messages(self, messages: tuple[Message, ...]) -> dict[str, Json]:
        return {"input": [{"role": message.role, "content": message.text} for message in messages]}

    def read(self, reply: dict[str, Any], where: str) -> Reading:
        answers = reply.get("answers")
        if not isinstance(answers, list):
            raise bad_reply(where, f"200, but no answers{_error_in(reply)}")
        return Reading(orjson.dumps({"answers": answers}).decode(), "stop", text(reply.get("model"), "model", where))

    def streamed(self) -> None:
        return None

    def streaming(self) -> dict[str, Json]:
        return {}

    def usage(self, reply: dict[str, Any], where: str) -> Usage | None:
        return in_and_out(reply.get("usage"), where)


def _error_in(reply: dict[str, Any]) -> str:
    error = reply.get("error")
    return f": {error.get('message') or error}" if isinstance(error, dict) else ""
