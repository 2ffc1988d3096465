"""`cascade.wrap(client)`: an OpenAI or Anthropic client that asks policies in this process, and everything else as before.

The client's own HTTP transport is what is wrapped, so that typed answers, streams, raw responses and errors are the SDK's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import httpx2
import orjson

from cascade.app import Cascade
from cascade.gateway.desk import SHAPES, Order, body_of, order
from cascade.gateway.wire import Refused, Shape
from cascade.outcome import Outcome
from cascade.types import Json

Client = TypeVar("Client")


def wrap(client: Client, *policies: Cascade | str | os.PathLike[str]) -> Client:
    """A copy of an OpenAI, AsyncOpenAI, Anthropic or AsyncAnthropic client for which a policy's name is a model.

    `policies` are policy files, or Cascades. Calls of `chat.completions`, `responses` and `messages` that name one are answered by its ladder;
    all other calls go where they went. Closing the copy closes what was loaded from files, neither the Cascades nor the client that were given.
    Raises ValueError for two policies of a name, TypeError for a client that is none of these.
    """
    found: dict[str, Cascade] = {}
    own: list[Cascade] = []
    for given in policies:
        cascade = given if isinstance(given, Cascade) else Cascade.load(given)
        if cascade is not given:
            own.append(cascade)
        if cascade.policy.name in found:
            raise ValueError(f"two policies are named {cascade.policy.name}")
        found[cascade.policy.name] = cascade
    inner = getattr(client, "_client", None)
    if isinstance(inner, httpx2.AsyncClient):
        http: Any = httpx2.AsyncClient(transport=_AsyncInside(inner, found, own), base_url=inner.base_url, timeout=inner.timeout)
    elif isinstance(inner, httpx2.Client):
        http = httpx2.Client(transport=_Inside(inner, found, own), base_url=inner.base_url, timeout=inner.timeout)
    else:
        raise TypeError(f"a client of the openai or anthropic SDK is wrapped, this is {type(client).__name__}")
    wrapped: Client = client.copy(http_client=http)  # type: ignore[attr-defined]
    return wrapped


class _Inside(httpx2.BaseTransport):
    def __init__(self, inner: httpx2.Client, policies: Mapping[str, Cascade], own: Sequence[Cascade]) -> None:
        self.inner, self.policies, self.own = inner, policies, own

    def close(self) -> None:
        for cascade in self.own:
            cascade.close()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        shape = _shape(request)
        body = None if shape is None else _named(request.read(), self.policies)
        if shape is None or body is None:
            return self.inner.send(request, stream=True)
        headers: dict[str, str] = {}
        try:
            ordered = order(shape, body, self.policies)
            outcome = ordered.answer_now()
            headers = ordered.headers(outcome)
            return _answered(request, ordered, outcome, headers)
        except Refused as problem:
            return _no(request, shape, problem, headers)


class _AsyncInside(httpx2.AsyncBaseTransport):
    def __init__(self, inner: httpx2.AsyncClient, policies: Mapping[str, Cascade], own: Sequence[Cascade]) -> None:
        self.inner, self.policies, self.own = inner, policies, own

    async def aclose(self) -> None:
        for cascade in self.own:
            await cascade.aclose()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        shape = _shape(request)
        body = None if shape is None else _named(await request.aread(), self.policies)
        if shape is None or body is None:
            return await self.inner.send(request, stream=True)
        headers: dict[str, str] = {}
        try:
            ordered = order(shape, body, self.policies)
            outcome = await ordered.answer()
            headers = ordered.headers(outcome)
            return _answered(request, ordered, outcome, headers)
        except Refused as problem:
            return _no(request, shape, problem, headers)


def _shape(request: httpx2.Request) -> Shape | None:
    if request.method != "POST":
        return None
    return next((shape for path, shape in SHAPES.items() if request.url.path.endswith(path)), None)


def _named(text: bytes, policies: Mapping[str, Cascade]) -> dict[str, Json] | None:
    """The body of a request that names a policy; None for any other."""
    try:
        body = body_of(text)
    except Refused:
        return None
    model = body.get("model")
    return body if isinstance(model, str) and model in policies else None


def _answered(request: httpx2.Request, ordered: Order, outcome: Outcome, headers: Mapping[str, str]) -> httpx2.Response:
    if ordered.asked.stream:
        told = {**headers, "content-type": "text/event-stream"}
        return httpx2.Response(200, headers=told, content=b"".join(ordered.events(outcome)), request=request)
    return _json(request, 200, ordered.reply(outcome), headers)


def _no(request: httpx2.Request, shape: Shape, problem: Refused, headers: Mapping[str, str]) -> httpx2.Response:
    return _json(request, problem.status, shape.error(problem), {**headers, "x-should-retry": "true" if problem.retry else "false"})


def _json(request: httpx2.Request, status: int, body: Json, headers: Mapping[str, str]) -> httpx2.Response:
    return httpx2.Response(status, headers={**headers, "content-type": "application/json"}, content=orjson.dumps(body), request=request)
