"""OpenAI's Batch API: a file of requests, a batch of it, a file of results and one of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from cascade.errors import BadReply, ConfigurationError, NotProcessed, ProviderError, RateLimited
from cascade.prices import Pricing
from cascade.providers import openai, replies
from cascade.providers.adapter import SdkAdapter
from cascade.providers.batch import PAGE, SECONDS, Batches, Found, Limits, Look, Request, Result, SdkBatches, lines, may_be_taken, named, sdk_errors
from cascade.providers.failures import bad_reply, clean, of_reply
from cascade.types import NOTHING, Json, Provider

MARK = "cascade"
"""The key of the metadata that names the wave."""
_CUT_SHORT = ("expired", "cancelled")
_ENDED = ("completed", "failed", *_CUT_SHORT)
_NOT_PROCESSED = ("batch_expired", "batch_cancelled")


def build(provider: Provider, pricing: Pricing = NOTHING) -> Batches:
    """The Batch API of a provider of kind openai."""
    adapter = openai.build(provider, pricing)
    assert isinstance(adapter, SdkAdapter)
    return OpenAIBatches(adapter)


class OpenAIBatches(SdkBatches):
    """Limits as in the SDK's `batches.create`; a batch is of one model."""

    limits = Limits(50_000, 200_000_000)

    async def newest(self) -> str | None:
        with sdk_errors(self.adapter.provider.name):
            async with asyncio.timeout(SECONDS):
                page = await self.sdk().batches.list(limit=1)
        return named(page.data[0], "batches") if page.data else None

    async def submit(self, wave: str, requests: Sequence[Request], where: str) -> str:
        """The new batch's id. The file alone costs nothing: only what follows its upload may have been taken."""
        path = f"/v1{self.adapter.wire.path}"
        front = f'","method":"POST","url":"{path}","body":'.encode()
        text = b"\n".join(b'{"custom_id":"' + name.encode() + front + body + b"}" for name, body in requests)
        with sdk_errors(where):
            async with asyncio.timeout(SECONDS):
                file = await self.sdk().files.create(file=(f"{MARK}-{wave}.jsonl", text), purpose="batch")
        file_id = named(file, where)
        with may_be_taken(), sdk_errors(where):
            async with asyncio.timeout(SECONDS):
                batch = await self.sdk().batches.create(input_file_id=file_id, endpoint=path, completion_window="24h", metadata={MARK: wave})
            return named(batch, where)

    async def find(self, wave: str, count: int, since: str | None) -> Found:
        """The batch that carries the wave's name, among those that are newer than `since`."""
        with sdk_errors(self.adapter.provider.name):
            async with asyncio.timeout(SECONDS):
                async for batch in self.sdk().batches.list(limit=PAGE):
                    if batch.id == since:
                        break
                    if (batch.metadata or {}).get(MARK) == wave:
                        return Found(named(batch, "batches"))
        return Found(None)

    async def look(self, id: str, where: str) -> Look:
        batch = await self._batch(id, where)
        counts = batch.request_counts
        done, failed, total = (counts.completed, counts.failed, counts.total) if counts else (0, 0, 0)
        problem = _problem(batch, where) if batch.status == "failed" else None
        return Look(clean(batch.status), batch.status in _ENDED, done, failed, total, batch.status in _CUT_SHORT, problem)

    async def results(self, id: str, where: str) -> AsyncGenerator[tuple[str, Result]]:
        """(custom id, result) in the order of the provider's files."""
        batch = await self._batch(id, where)
        for file in (batch.output_file_id, batch.error_file_id):
            if file:
                with sdk_errors(where):
                    async with self.sdk().files.with_streaming_response.content(file) as reply:
                        async for line in lines(reply.iter_bytes(), where):
                            yield _result(line, where)

    async def _batch(self, id: str, where: str) -> Any:
        with sdk_errors(where):
            async with asyncio.timeout(SECONDS):
                batch = await self.sdk().batches.retrieve(id)
        if named(batch, where) != id or not isinstance(batch.status, str):
            raise bad_reply(where, f"200, but not batch {id}")
        return batch


def _problem(batch: Any, where: str) -> ProviderError | ConfigurationError:
    """Why the batch as a whole was refused after its file had been read."""
    errors = (batch.errors.data if batch.errors else None) or []
    said = "; ".join(f"line {error.line}: {error.message}" if error.line else str(error.message) for error in errors[:3])
    text = f"{where}: batch {batch.id} failed: {clean(said or 'no reason given')}"
    limited = any(error.code in ("token_limit_exceeded", "rate_limit_exceeded") for error in errors)
    return RateLimited(text) if limited else ConfigurationError(text)


def _result(line: bytes, where: str) -> tuple[str, Result]:
    try:
        value = replies.load(line, where)
    except BadReply as error:
        return "", error
    name = value.get("custom_id")
    if not isinstance(name, str):
        return "", bad_reply(where, "a result without custom_id")
    return name, _of(value.get("response"), value.get("error"), where)


def _of(response: Json, error: Json, where: str) -> Result:
    if isinstance(response, dict) and isinstance(response.get("status_code"), int):
        status, body = response["status_code"], response.get("body")
        if status == 200:
            return body if isinstance(body, dict) else bad_reply(where, "200, but no body")
        return _error(status, body, where)
    code = error.get("code") if isinstance(error, dict) else None
    if code in _NOT_PROCESSED:
        return NotProcessed(f"{where}: {clean(error.get('message') or code)}")
    return _error(500, {"error": error}, where)


def _error(status: int, body: Json, where: str) -> ProviderError | ConfigurationError:
    failure = of_reply(status, body, where)
    assert isinstance(failure, ProviderError | ConfigurationError)
    return failure
