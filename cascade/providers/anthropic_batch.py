"""Anthropic's Message Batches: requests in one call, results in one stream. They carry no metadata, so the custom ids name the wave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from cascade.errors import BadReply, ConfigurationError, NotProcessed, ProviderError
from cascade.prices import Pricing
from cascade.providers import anthropic, replies
from cascade.providers.adapter import SdkAdapter
from cascade.providers.batch import (
    PAGE,
    SECONDS,
    Batches,
    Found,
    Gone,
    Limits,
    Look,
    Request,
    Result,
    SdkBatches,
    lines,
    may_be_taken,
    named,
    sdk_errors,
)
from cascade.providers.failures import bad_reply, clean, of_reply
from cascade.types import NOTHING, Json, Provider

_STATUS = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403, "not_found_error": 404,
    "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip
"""An error's type as the status that a live reply would have had."""


def build(provider: Provider, pricing: Pricing = NOTHING) -> Batches:
    """The Batch API of a provider of kind anthropic."""
    adapter = anthropic.build(provider, pricing)
    assert isinstance(adapter, SdkAdapter)
    return AnthropicBatches(adapter)


class AnthropicBatches(SdkBatches):
    """Limits as in Anthropic's guide to batches."""

    limits = Limits(100_000, 256_000_000)

    async def newest(self) -> str | None:
        with sdk_errors(self.adapter.provider.name):
            async with asyncio.timeout(SECONDS):
                page = await self.sdk().messages.batches.list(limit=1)
        return named(page.data[0], "batches") if page.data else None

    async def submit(self, wave: str, requests: Sequence[Request], where: str) -> str:
        """The new batch's id."""
        given = [{"custom_id": name, "params": orjson.loads(body)} for name, body in requests]
        with may_be_taken(), sdk_errors(where):
            async with asyncio.timeout(SECONDS):
                batch = await self.sdk().messages.batches.create(requests=given)
            return named(batch, where)

    async def find(self, wave: str, count: int, since: str | None) -> Found:
        """The batch whose custom ids end in the wave's name, among those newer than `since` with as many requests.

        Only results show custom ids: of a batch that has not ended nobody can say.
        """
        perhaps = False
        with sdk_errors(self.adapter.provider.name):
            async with asyncio.timeout(SECONDS):
                async for batch in self.sdk().messages.batches.list(limit=PAGE):
                    if batch.id == since:
                        break
                    if _count(batch) != count:
                        continue
                    if batch.processing_status != "ended":
                        perhaps = True
                    elif await self._is(batch, wave):
                        return Found(named(batch, "batches"))
        return Found(None, perhaps)

    async def _is(self, batch: Any, wave: str) -> bool:
        if not batch.results_url:
            return False
        async with aclosing(self.results(batch.id, "batches")) as results:
            async for name, _ in results:
                return name.endswith(wave)
        return False

    async def look(self, id: str, where: str) -> Look:
        with sdk_errors(where):
            async with asyncio.timeout(SECONDS):
                batch = await self.sdk().messages.batches.retrieve(id)
        if named(batch, where) != id or not isinstance(batch.processing_status, str):
            raise bad_reply(where, f"200, but not batch {id}")
        counts = batch.request_counts
        failed = counts.errored + counts.canceled + counts.expired
        return Look(clean(batch.processing_status), batch.processing_status == "ended", counts.succeeded, failed, _count(batch))

    async def results(self, id: str, where: str) -> AsyncGenerator[tuple[str, Result]]:
        """(custom id, result) in the order of the provider's stream."""
        with sdk_errors(where):
            batch = await self.sdk().messages.batches.retrieve(id)
            if not batch.results_url:
                raise Gone(f"{where}: batch {id} has no results any more")
            stream = await self.sdk().messages.batches.results(id)
            async for line in lines(stream.http_response.aiter_bytes(), where):
                yield _result(line, where)


def _count(batch: Any) -> int:
    counts = batch.request_counts
    total: int = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
    return total


def _result(line: bytes, where: str) -> tuple[str, Result]:
    try:
        value = replies.load(line, where)
    except BadReply as error:
        return "", error
    name, result = value.get("custom_id"), value.get("result")
    if not isinstance(name, str) or not isinstance(result, dict):
        return "", bad_reply(where, "a result without custom_id")
    return name, _of(result, where)


def _of(result: dict[str, Json], where: str) -> Result:
    kind = result.get("type")
    if kind == "succeeded":
        message = result.get("message")
        return message if isinstance(message, dict) else bad_reply(where, "200, but no message")
    if kind in ("expired", "canceled"):
        return NotProcessed(f"{where}: the request was {kind}")
    body = result.get("error")
    inner = body.get("error") if isinstance(body, dict) else None
    status = _STATUS.get(inner.get("type", ""), 500) if isinstance(inner, dict) else 500
    failure = of_reply(status, body, where)
    assert isinstance(failure, ProviderError | ConfigurationError)
    return failure
