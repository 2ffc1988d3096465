"""The HTTP server: who asks, what it asks, and what the ladder answers, whole or as a stream."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
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
from starlette.types import Receive, Scope, Send

from cascade.app import Cascade
from cascade.errors import ConfigurationError
from cascade.gateway.chat import Chat
from cascade.gateway.desk import MAX_BODY, SHAPES, Order, body_of, count, order
from cascade.gateway.door import behind, fault
from cascade.gateway.door import no as _no
from cascade.gateway.health import Health
from cascade.gateway.keys import Key, Keys
from cascade.gateway.messages import Messages
from cascade.gateway.metrics import TYPE, Metrics
from cascade.gateway.openapi import document
from cascade.gateway.rates import Rates
from cascade.gateway.reload import Reload
from cascade.gateway.repeats import KEPT, Record, Repeats, Saved
from cascade.gateway.rows import MOST_TRAILS, Rows, units
from cascade.gateway.served import Served
from cascade.gateway.spending import Limit, Payer, Spending, limit, now
from cascade.gateway.state import State
from cascade.gateway.views import Views
from cascade.gateway.wire import Refused, Shape, ended
from cascade.outcome import Outcome
from cascade.story import one_line
from cascade.types import Failed, Json, Tried

log = logging.getLogger("cascade.gateway")
ALIVE = 5.0
"""Seconds between signs of life in a stream that waits for its answer."""
BODY_SECONDS = 30.0
"""Within which a body has to arrive, so that nobody holds a connection by sending slowly."""
UNPAID = 1.0
"""Seconds that a stream waits to be paid for before it begins."""
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
MOST_BODIES = 32 * 1024 * 1024
"""Bytes of all bodies that are being read at once, but for small ones."""
SMALL = 64 * 1024
Handler = Callable[[Request], Awaitable[Response]]


class Gateway:
    """The policies by name. Without `keys` only requests that name this machine as their host are answered. What is kept of requests goes
    into `state`, which is closed with the gateway; where none is given it ends with the process. `trails` False: none is kept. `run` names
    what `budget.per_run` is for: from the start of all workers to their end.
    `reload` watches the policies' files."""

    def __init__(self, policies: Mapping[str, Cascade], keys: Keys | None = None, state: State | None = None, trails: bool = True,
                 run: str | None = None, reload: Reload | None = None) -> None:
        self.policies, self.keys, self.reload = Served(policies), keys, reload
        self.run = run or secrets.token_hex(8)
        self.state = state or State.temporary()
        self.rows = Rows(self.state, trails)
        self.spending, self.rates, self.repeats = Spending(self.state), Rates(self.state), Repeats(self.state)
        self.started = int(time.time())
        self.draining = False
        self.bodies = Bodies()
        self.metrics = Metrics()
        self.health = Health(self.policies, self.state, keys, reload)
        self.views = Views(self.policies, self.rows, self._who, trails)
        routes = [
            *(Route(f"/v1{path}", self._asking(shape), methods=["POST"]) for path, shape in SHAPES.items()),
            Route("/v1/messages/count_tokens", self._count, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{model}", self._model),
            Route("/v1/cascade/trails/{id}", self._trail),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
            *self.views.routes,
        ]
        self.app = behind(Starlette(routes=routes, lifespan=self._life))

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        await self.spending.collect()
        watching = None if self.reload is None else asyncio.ensure_future(self.reload.run(self.policies.swap, self.metrics.reloaded))
        yield
        if watching is not None:
            watching.cancel()
        await self.policies.close()
        self.state.close()

    async def open(self) -> None:
        """Make the policies ready, so that no first request waits. One that lacks a key is told in the log, and by each request for it."""
        for name, cascade in self.policies.items():
            try:
                await cascade.open()
            except ConfigurationError as err:
                log.warning(orjson.dumps({"event": "unready", "policy": name, "error": str(err)}).decode())

    def reload_now(self) -> None:
        """Load all policies anew, whether their files have changed or not."""
        if self.reload is not None:
            self.reload.ask()

    # ------------------------------------------------------------ asking

    def _asking(self, shape: Shape) -> Handler:
        async def handle(request: Request) -> Response:
            key = None
            try:
                key = self._who(request)
                await self.rates.admit(key)
                body = await _body(request, self.bodies)
                ordered = order(shape, body, self._policies_of(key))
                record = await self._record(request, key, body)
            except Refused as problem:
                self._refuse(problem, key)
                return _no(shape, problem)
            except ClientDisconnect:
                return Response(status_code=400)
            if isinstance(record, Saved):
                return Response(record.body, record.status, {**record.headers, "idempotent-replayed": "true"})
            payer, pieces = self._payer(ordered, key), asyncio.Queue[str]()
            work = asyncio.ensure_future(self._outcome(ordered, key, payer, pieces.put_nowait if ordered.asked.stream else None))
            if ordered.asked.stream:
                headers = {"x-cascade-trail-id": ordered.id, "cache-control": "no-store"}
                unpaid = None if payer is None else await _unpaid(work, payer)
                if unpaid is not None:
                    if record is not None:
                        record.drop()
                    return _no(shape, unpaid, headers)
                events = self._stream(ordered, work, pieces)
                if record is not None:
                    told = {**headers, "content-type": "text/event-stream; charset=utf-8"}
                    events = record.stream(events, shape.alive(), told, lambda: _status(work))
                return _Stream(events, headers, (work.cancel, *(() if record is None else (record.drop,))))
            try:
                answer = await self._whole(ordered, work, request)
                if record is not None and answer.status_code in KEPT and await _status(work) == answer.status_code:
                    kept = {name: value for name, value in answer.headers.items() if name != "content-length"}
                    await record.keep(answer.status_code, kept, bytes(answer.body))
            finally:
                if record is not None:
                    record.drop()
            return answer

        return handle

    async def _record(self, request: Request, key: Key | None, body: Mapping[str, Json]) -> Record | Saved | None:
        """What stands under the request's Idempotency-Key; None where it has none. Raises Refused."""
        names = request.headers.getlist("idempotency-key")
        if not names:
            return None
        if len(names) > 1:
            raise Refused(400, "invalid_request_error", "Idempotency-Key: send one")
        return await self.repeats.begin(None if key is None else key.name, names[0], request.url.path, body)

    def _policies_of(self, key: Key | None) -> Mapping[str, Cascade]:
        """Those that the key may ask."""
        if key is None or key.models is None:
            return self.policies
        return {name: self.policies[name] for name in key.models if name in self.policies}

    def _payer(self, ordered: Order, key: Key | None) -> Payer | None:
        """Who pays for it; None where nothing limits what is spent."""
        policy = ordered.cascade.policy
        of_key = None if key is None else limit(key, now())
        of_run = (None if policy.budget_per_run is None
                  else Limit(f"run:{policy.name}", self.run, units(policy.budget_per_run), "run_budget"))  # fmt: skip
        limits = tuple(one for one in (of_key, of_run) if one is not None)
        return Payer(self.spending, limits, policy.name) if limits else None

    async def _outcome(self, ordered: Order, key: Key | None, payer: Payer | None = None, live: Callable[[str], None] | None = None) -> Outcome:
        started = time.perf_counter()
        who = None if key is None else key.name
        try:
            with self.policies.using(ordered.cascade):
                outcome = await ordered.answer(live, payer)
        except Refused as problem:
            self._refuse(problem, key, ordered)
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

    def _refuse(self, problem: Refused, key: Key | None, ordered: Order | None = None) -> None:
        self.metrics.refused(problem.kind)
        whose = {"id": ordered and ordered.id, "key": key and key.name, "policy": ordered and ordered.cascade.policy.name}
        log.info(orjson.dumps({"event": "refused", **whose, "status": problem.status, "kind": problem.kind}).decode())

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

    async def _stream(self, ordered: Order, work: asyncio.Future[Outcome], pieces: asyncio.Queue[str]) -> AsyncIterator[bytes]:
        """Signs of life until the answer is accepted, then the answer; pieces of one that nothing looks at, as they come. Starlette cancels this
        when the caller goes."""
        stream = ordered.stream()
        piece = asyncio.ensure_future(pieces.get())
        try:
            waiting: set[asyncio.Future[Any]] = {work, piece}
            while not work.done():
                await asyncio.wait(waiting, timeout=ALIVE, return_when=asyncio.FIRST_COMPLETED)
                if piece.done():
                    yield stream.piece(piece.result())
                    piece = asyncio.ensure_future(pieces.get())
                    waiting = {work, piece}
                elif not work.done():
                    yield ordered.shape.alive()
            if piece.done():
                yield stream.piece(piece.result())
            while not pieces.empty():
                yield stream.piece(pieces.get_nowait())
            for event in ordered.events(await work, stream):
                yield event
        except Refused as problem:
            yield ordered.shape.broken(problem)
        except Exception:  # our own fault: who reads the stream is told that it has ended, as `door` tells all others
            log.exception("a stream failed")
            yield ordered.shape.broken(fault())
        finally:
            work.cancel()
            piece.cancel()

    # ------------------------------------------------------------ who asks

    def _who(self, request: Request) -> Key | None:
        """The caller's key; None where none is needed. Raises Refused."""
        if self.keys is None:
            if LOCAL.fullmatch(request.headers.get("host", "")) is None:
                raise Refused(403, "permission_error", "without keys only requests to localhost are answered")
            return None
        given = request.headers.getlist("authorization") + request.headers.getlist("x-api-key")
        if len(given) != 1:
            raise Refused(401, "authentication_error", "send one key, as Authorization: Bearer KEY or as x-api-key: KEY")
        key = self.keys.of(given[0].removeprefix("Bearer ").strip())
        if key is None:
            raise Refused(401, "authentication_error", "this key is not known")
        return key

    # ------------------------------------------------------------ looking

    async def _count(self, request: Request) -> Response:
        key = None
        try:
            key = self._who(request)
            await self.rates.admit(key)
            tokens, counted = await count(await _body(request, self.bodies), self._policies_of(key))
        except Refused as problem:
            self._refuse(problem, key)
            return _no(Messages(), problem)
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse({"input_tokens": tokens}, headers={"x-cascade-tokens": "counted" if counted else "estimated"})

    async def _models(self, request: Request) -> Response:
        try:
            policies = self._policies_of(self._who(request))
        except Refused as problem:
            return _no(Chat(), problem)
        if "anthropic-version" in request.headers:
            data = [_as_anthropic(name, self.started) for name in policies]
            return JSONResponse({"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]})
        return JSONResponse({"object": "list", "data": [_as_openai(name, self.started) for name in policies]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["model"]
        try:
            policies = self._policies_of(self._who(request))
            if name not in policies:
                raise Refused(404, "model_not_found", f"there is no policy {one_line(name, 80)!r}; there are: {', '.join(policies)}")
        except Refused as problem:
            return _no(Messages() if "anthropic-version" in request.headers else Chat(), problem)
        return JSONResponse(_as_anthropic(name, self.started) if "anthropic-version" in request.headers else _as_openai(name, self.started))

    async def _trail(self, request: Request) -> Response:
        try:
            key = self._who(request)
            try:
                line = await self.rows.trail(request.path_params["id"], None if key is None else key.name)
            except sqlite3.Error as err:
                raise Refused(503, "state", f"what is kept of requests cannot be read: {err}", retry=True) from err
            if line is None:
                raise Refused(404, "not_found", f"there is no trail of that id; the last {MOST_TRAILS} are kept, each for the key that asked")
        except Refused as problem:
            return _no(Chat(), problem)
        return Response(line + b"\n", media_type="application/json")  # appended to a file it is a row for `cascade explain` and `report`

    async def _metrics(self, request: Request) -> Response:
        try:
            self._who(request)
        except Refused as problem:
            return _no(Chat(), problem)
        return Response(self.metrics.text(), media_type=None, headers={"content-type": TYPE})

    async def _openapi(self, request: Request) -> Response:
        try:
            policies = self._policies_of(self._who(request))
        except Refused as problem:
            return _no(Chat(), problem)
        return JSONResponse(document(list(policies), self.keys is not None))

    async def _health(self, request: Request) -> Response:
        """The status for all, the rest for those who may ask."""
        if self.draining:
            return JSONResponse({"status": "draining"}, 503)
        told = self.health.look()
        try:
            self._who(request)
        except Refused:
            return JSONResponse({"status": told["status"]})
        return JSONResponse(told)


class _Stream(StreamingResponse):
    """Events; what is `over` is called at the end, also when the caller had gone before they began."""

    def __init__(self, events: AsyncIterator[bytes], headers: Mapping[str, str], over: tuple[Callable[[], object], ...]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for end in self._over:
                end()


async def _unpaid(work: asyncio.Future[Outcome], payer: Payer) -> Refused | None:
    """Why a stream does not begin: a status can be told before its first byte only. Waits until the money is set aside, but not for long."""
    asked = asyncio.ensure_future(payer.asked.wait())
    waiting: set[asyncio.Future[Any]] = {work, asked}
    await asyncio.wait(waiting, timeout=UNPAID, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    problem = work.exception() if work.done() else None
    return problem if isinstance(problem, Refused) else None


async def _status(work: asyncio.Future[Outcome]) -> int:
    """The HTTP status of a request that was asked; 0 for one that was not, or failed by our own fault."""
    try:
        problem = ended(await work)
    except Exception:  # whoever waits for the answer is told
        return 0
    return 200 if problem is None else problem.status


class Bodies:
    """`now`: bytes of the bodies that are being read."""

    now = 0


async def _gone(request: Request) -> None:
    """Returns when the caller has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, bodies: Bodies) -> dict[str, Json]:
    """The body as strict JSON. Raises Refused, and ClientDisconnect."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "invalid_request_error", "the body must be application/json")
    if int(request.headers.get("content-length", "0")) > MAX_BODY:
        raise _large()
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                read += part
                bodies.now += len(part)
                if len(read) > MAX_BODY:
                    raise _large()
                if len(read) > SMALL and bodies.now > MOST_BODIES:
                    raise Refused(503, "overloaded", "too many large requests at once; try again", retry=True)
        return body_of(bytes(read))
    except TimeoutError as err:
        raise Refused(408, "invalid_request_error", f"the body did not arrive in {BODY_SECONDS:g} seconds", retry=True) from err
    finally:
        bodies.now -= len(read)


def _large() -> Refused:
    return Refused(413, "request_too_large", f"the body has more than {MAX_BODY} bytes")


def _as_openai(name: str, created: int) -> dict[str, Json]:
    return {"id": name, "object": "model", "created": created, "owned_by": "cascade"}


def _as_anthropic(name: str, created: int) -> dict[str, Json]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
    return {"type": "model", "id": name, "display_name": name, "created_at": at}
