"""The HTTP server: who asks, what it asks, and what the ladder answers, whole or as a stream."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cascade.app import Cascade
from cascade.gateway.chat import Chat
from cascade.gateway.desk import MAX_BODY, SHAPES, Order, body_of, order
from cascade.gateway.door import behind
from cascade.gateway.door import no as _no
from cascade.gateway.keys import Keys
from cascade.gateway.messages import Messages
from cascade.gateway.metrics import TYPE, Metrics
from cascade.gateway.openapi import document
from cascade.gateway.rows import MOST_TRAILS, Rows
from cascade.gateway.state import State
from cascade.gateway.wire import Refused, Shape
from cascade.outcome import Outcome
from cascade.story import one_line
from cascade.types import Failed, Json, Tried

log = logging.getLogger("cascade.gateway")
ALIVE = 5.0
"""Seconds between signs of life in a stream that waits for its answer."""
BODY_SECONDS = 30.0
"""Within which a body has to arrive, so that nobody holds a connection by sending slowly."""
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
Handler = Callable[[Request], Awaitable[Response]]


class Gateway:
    """The policies by name. Without `keys` only requests that name this machine as their host are answered. What is kept of requests goes
    into `state`, which is closed with the gateway; where none is given it ends with the process. `trails` False: none is kept."""

    def __init__(self, policies: Mapping[str, Cascade], keys: Keys | None = None, state: State | None = None, trails: bool = True) -> None:
        self.policies, self.keys = policies, keys
        self.state = state or State.temporary()
        self.rows = Rows(self.state, trails)
        self.started = int(time.time())
        self.metrics = Metrics()
        routes = [
            *(Route(f"/v1{path}", self._asking(shape), methods=["POST"]) for path, shape in SHAPES.items()),
            Route("/v1/models", self._models),
            Route("/v1/models/{model}", self._model),
            Route("/v1/cascade/trails/{id}", self._trail),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
        ]
        self.app = behind(Starlette(routes=routes, lifespan=self._life))

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        yield
        for cascade in self.policies.values():
            await cascade.aclose()
        self.state.close()

    # ------------------------------------------------------------ asking

    def _asking(self, shape: Shape) -> Handler:
        async def handle(request: Request) -> Response:
            try:
                who = self._who(request)
                ordered = order(shape, await _body(request), self.policies)
            except Refused as problem:
                self._refuse(problem)
                return _no(shape, problem)
            except ClientDisconnect:
                return Response(status_code=400)
            work = asyncio.ensure_future(self._outcome(ordered, who))
            if ordered.asked.stream:
                headers = {"x-cascade-trail-id": ordered.id, "cache-control": "no-store"}
                return StreamingResponse(self._stream(ordered, work), media_type="text/event-stream", headers=headers)
            return await self._whole(ordered, work, request)

        return handle

    async def _outcome(self, ordered: Order, who: str | None) -> Outcome:
        started = time.perf_counter()
        try:
            outcome = await ordered.answer()
        except Refused as problem:
            self._refuse(problem)
            raise
        seconds = time.perf_counter() - started
        self.metrics.ended(ordered.asked.model, outcome)
        self.rows.add(outcome, ordered.id, who, seconds)
        told = {"id": ordered.id, "key": who, "policy": outcome.policy, "status": outcome.status, "tier": outcome.tier, "cached": outcome.cached,
                "cost_usd": None if outcome.cost_usd is None else float(outcome.cost_usd), "seconds": round(seconds, 4),
                "calls": sum(isinstance(e, Tried | Failed) for e in outcome.trail), "error": (outcome.error or "").partition(":")[0] or None,
                "alarm": outcome.alarm}  # fmt: skip
        log.info(orjson.dumps({"event": "request", **told}).decode())
        return outcome

    def _refuse(self, problem: Refused) -> None:
        self.metrics.refused(problem.kind)
        log.info(orjson.dumps({"event": "refused", "status": problem.status, "kind": problem.kind}).decode())

    async def _whole(self, ordered: Order, work: asyncio.Future[Outcome], request: Request) -> Response:
        """The answer in one piece; what is asked for a caller who has gone is cancelled."""
        gone = asyncio.ensure_future(_gone(request))
        headers = {"x-cascade-trail-id": ordered.id}
        try:
            waiting: set[asyncio.Future[Any]] = {work, gone}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return Response(status_code=499)
            outcome = await work
            headers = ordered.headers(outcome)
            return JSONResponse(ordered.reply(outcome), headers=headers)
        except Refused as problem:
            return _no(ordered.shape, problem, headers)
        finally:
            gone.cancel()
            work.cancel()

    async def _stream(self, ordered: Order, work: asyncio.Future[Outcome]) -> AsyncIterator[bytes]:
        """Signs of life until the answer is accepted, then the answer. Starlette cancels this when the caller goes."""
        try:
            while not (await asyncio.wait({work}, timeout=ALIVE))[0]:
                yield ordered.shape.alive()
            for event in ordered.events(await work):
                yield event
        except Refused as problem:
            yield ordered.shape.broken(problem)
        finally:
            work.cancel()

    # ------------------------------------------------------------ who asks

    def _who(self, request: Request) -> str | None:
        """The name of the caller's key; None where none is needed. Raises Refused."""
        if self.keys is None:
            if LOCAL.fullmatch(request.headers.get("host", "")) is None:
                raise Refused(403, "permission_error", "without keys only requests to localhost are answered")
            return None
        given = request.headers.getlist("authorization") + request.headers.getlist("x-api-key")
        if len(given) != 1:
            raise Refused(401, "authentication_error", "send one key, as Authorization: Bearer KEY or as x-api-key: KEY")
        name = self.keys.name(given[0].removeprefix("Bearer ").strip())
        if name is None:
            raise Refused(401, "authentication_error", "this key is not known")
        return name

    # ------------------------------------------------------------ looking

    async def _models(self, request: Request) -> Response:
        try:
            self._who(request)
        except Refused as problem:
            return _no(Chat(), problem)
        if "anthropic-version" in request.headers:
            data = [_as_anthropic(name, self.started) for name in self.policies]
            return JSONResponse({"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})
        return JSONResponse({"object": "list", "data": [_as_openai(name, self.started) for name in self.policies]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        try:
            self._who(request)
            if name not in self.policies:
                raise Refused(404, "model_not_found", f"there is no policy {one_line(name, 80)!r}; there are: {', '.join(self.policies)}")
        except Refused as problem:
            return _no(Messages() if "anthropic-version" in request.headers else Chat(), problem)
        return JSONResponse(_as_anthropic(name, self.started) if "anthropic-version" in request.headers else _as_openai(name, self.started))

    async def _trail(self, request: Request) -> Response:
        try:
            who = self._who(request)
            try:
                line = await self.rows.trail(request.path_params["id"], who)
            except sqlite3.Error as err:
                raise Refused(503, "state", f"what is kept of requests cannot be read: {err}", retry=True) from err
            if line is None:
                raise Refused(404, "not_found", f"there is no trail of that id; the last {MOST_TRAILS} are kept, each for the key that asked")
        except Refused as problem:
            return _no(Chat(), problem)
        return Response(line, media_type="application/json")

    async def _metrics(self, request: Request) -> Response:
        try:
            self._who(request)
        except Refused as problem:
            return _no(Chat(), problem)
        return Response(self.metrics.text(), media_type=None, headers={"content-type": TYPE})

    async def _openapi(self, request: Request) -> Response:
        try:
            self._who(request)
        except Refused as problem:
            return _no(Chat(), problem)
        return JSONResponse(document(list(self.policies), self.keys is not None))

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "policies": {name: cascade.label for name, cascade in self.policies.items()}})


async def _gone(request: Request) -> None:
    """Returns when the caller has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> dict[str, Json]:
    """The body as strict JSON. Raises Refused, and ClientDisconnect."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "invalid_request_error", "the body must be application/json")
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                read += part
                if len(read) > MAX_BODY:
                    raise Refused(413, "request_too_large", f"the body has more than {MAX_BODY} bytes")
    except TimeoutError as err:
        raise Refused(408, "invalid_request_error", f"the body did not arrive in {BODY_SECONDS:g} seconds", retry=True) from err
    return body_of(bytes(read))


def _as_openai(name: str, created: int) -> dict[str, Json]:
    return {"id": name, "object": "model", "created": created, "owned_by": "cascade"}


def _as_anthropic(name: str, created: int) -> dict[str, Json]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
    return {"type": "model", "id": name, "display_name": name, "created_at": at}
