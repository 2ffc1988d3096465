"""The HTTP server: who asks, what it asks, and what the ladder answers, whole or as a stream."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jiter
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cascade import prompts, records
from cascade.app import Cascade
from cascade.errors import ConfigurationError, InputError, MissingRecording, TemplateError
from cascade.gateway.chat import Chat
from cascade.gateway.keys import Keys
from cascade.gateway.messages import Messages
from cascade.gateway.wire import Asked, Refused, Shape, ended
from cascade.outcome import Outcome
from cascade.types import Json

MAX_BODY = 8 * 1024 * 1024
"""Bytes that a request may have."""
MAX_DEPTH = 64
MOST_TRAILS = 1_000
"""So many trails can be looked up afterwards."""
ALIVE = 5.0
"""Seconds between signs of life in a stream that waits for its answer."""
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
Handler = Callable[[Request], Awaitable[Response]]


class Gateway:
    """The policies by name. Without `keys` only requests that name this machine as their host are answered."""

    def __init__(self, policies: Mapping[str, Cascade], keys: Keys | None = None) -> None:
        self.policies, self.keys = policies, keys
        self.trails: OrderedDict[str, tuple[str | None, bytes]] = OrderedDict()
        self.started = int(time.time())
        routes = [
            Route("/v1/chat/completions", self._asking(Chat()), methods=["POST"]),
            Route("/v1/messages", self._asking(Messages()), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{model}", self._model),
            Route("/v1/cascade/trails/{id}", self._trail),
            Route("/health", self._health),
        ]
        self.app = Starlette(routes=routes, lifespan=self._life)

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        yield
        for cascade in self.policies.values():
            await cascade.aclose()

    # ------------------------------------------------------------ asking

    def _asking(self, shape: Shape) -> Handler:
        async def handle(request: Request) -> Response:
            id = uuid.uuid4().hex
            try:
                who = self._who(request)
                asked = shape.asked(await _body(request))
                cascade, inputs = self._policy(asked)
            except Refused as problem:
                return _no(shape, problem)
            except ClientDisconnect:
                return Response(status_code=400)
            work = asyncio.ensure_future(self._outcome(cascade, asked, inputs, id, who))
            if asked.stream:
                stream = self._stream(shape, asked, work, id)
                return StreamingResponse(stream, media_type="text/event-stream", headers={"x-cascade-trail-id": id, "cache-control": "no-store"})
            return await self._whole(shape, asked, work, id, request)

        return handle

    async def _outcome(self, cascade: Cascade, asked: Asked, inputs: Mapping[str, Json], id: str, who: str | None) -> Outcome:
        try:
            outcome = await cascade.arun(inputs, id=id, schema=asked.schema)
        except (InputError, TemplateError) as err:
            raise Refused(400, "invalid_request_error", str(err)) from err
        except (ConfigurationError, MissingRecording) as err:
            raise Refused(500, "configuration", str(err)) from err
        self.trails[id] = (who, records.to_line(outcome))
        while len(self.trails) > MOST_TRAILS:
            self.trails.popitem(last=False)
        return outcome

    async def _whole(self, shape: Shape, asked: Asked, work: asyncio.Future[Outcome], id: str, request: Request) -> Response:
        """The answer in one piece; what is asked for a caller who has gone is cancelled."""
        gone = asyncio.ensure_future(_gone(request))
        try:
            waiting: set[asyncio.Future[Any]] = {work, gone}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return Response(status_code=499)
            outcome = await work
            headers = _headers(outcome, id)
            problem = ended(outcome)
            if problem is not None:
                return _no(shape, problem, headers)
            return JSONResponse(shape.reply(asked, outcome, id, int(time.time())), headers=headers)
        except Refused as problem:
            return _no(shape, problem, {"x-cascade-trail-id": id})
        finally:
            gone.cancel()
            work.cancel()

    async def _stream(self, shape: Shape, asked: Asked, work: asyncio.Future[Outcome], id: str) -> AsyncIterator[bytes]:
        """Signs of life until the answer is accepted, then the answer. Starlette cancels this when the caller goes."""
        try:
            while not (await asyncio.wait({work}, timeout=ALIVE))[0]:
                yield shape.alive()
            outcome = await work
            problem = ended(outcome)
            if problem is not None:
                yield shape.broken(problem)
                return
            for event in shape.events(asked, shape.reply(asked, outcome, id, int(time.time()))):
                yield event
        except Refused as problem:
            yield shape.broken(problem)
        finally:
            work.cancel()

    def _policy(self, asked: Asked) -> tuple[Cascade, dict[str, Json]]:
        """The policy that is asked, and its inputs: the messages, or for a policy with a prompt of its own the one message as inputs."""
        cascade = self.policies.get(asked.model)
        if cascade is None:
            raise Refused(404, "model_not_found", f"there is no policy {asked.model!r}; there are: {', '.join(self.policies)}")
        if not asked.messages:
            raise Refused(400, "invalid_request_error", "messages: there is none")
        prompt = cascade.policy.prompt
        if prompt is None:
            return cascade, {"messages": asked.messages}
        if len(asked.messages) != 1:
            raise Refused(400, "invalid_request_error", f"the policy {asked.model} has a prompt of its own: send one message, its inputs as JSON")
        return cascade, _inputs(asked.messages[0]["content"], prompts.variables(prompt) - {"inputs"}, asked.model)

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
                raise Refused(404, "model_not_found", f"there is no policy {name!r}; there are: {', '.join(self.policies)}")
        except Refused as problem:
            return _no(Messages() if "anthropic-version" in request.headers else Chat(), problem)
        return JSONResponse(_as_anthropic(name, self.started) if "anthropic-version" in request.headers else _as_openai(name, self.started))

    async def _trail(self, request: Request) -> Response:
        try:
            who = self._who(request)
            owner, line = self.trails.get(request.path_params["id"], (None, b""))
            if not line or owner != who:
                raise Refused(404, "not_found", f"there is no trail of that id; the last {MOST_TRAILS} are kept, each for the key that asked")
        except Refused as problem:
            return _no(Chat(), problem)
        return Response(line, media_type="application/json")

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
    async for part in request.stream():
        read += part
        if len(read) > MAX_BODY:
            raise Refused(413, "request_too_large", f"the body has more than {MAX_BODY} bytes")
    try:
        found = jiter.from_json(bytes(read), catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as err:
        raise Refused(400, "invalid_request_error", f"the body is not JSON: {err}") from err
    if not isinstance(found, dict):
        raise Refused(400, "invalid_request_error", "the body must be a JSON object")
    return found


def _inputs(content: str, wanted: set[str], policy: str) -> dict[str, Json]:
    try:
        found = jiter.from_json(content.encode("utf-8", "surrogatepass"), catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError:
        found = None
    if isinstance(found, dict) and set(found) >= wanted:
        return found
    if len(wanted) == 1:
        return {next(iter(wanted)): content}
    raise Refused(400, "invalid_request_error", f"the policy {policy} has a prompt of its own: the message must be a JSON object with its inputs, "
                                                f"{', '.join(sorted(wanted))}")


def _headers(outcome: Outcome, id: str) -> dict[str, str]:
    cost = "unknown" if outcome.cost_usd is None else f"{outcome.cost_usd:f}"
    return {"x-cascade-tier": outcome.tier or "", "x-cascade-status": outcome.status, "x-cascade-cost-usd": cost, "x-cascade-trail-id": id}


def _no(shape: Shape, problem: Refused, headers: Mapping[str, str] | None = None) -> Response:
    told = {**(headers or {}), "x-should-retry": "true" if problem.retry else "false"}
    return JSONResponse(shape.error(problem), problem.status, headers=told)


def _as_openai(name: str, created: int) -> dict[str, Json]:
    return {"id": name, "object": "model", "created": created, "owned_by": "cascade"}


def _as_anthropic(name: str, created: int) -> dict[str, Json]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
    return {"type": "model", "id": name, "display_name": name, "created_at": at}
