"""What no route answers: unknown paths and methods, and our own faults."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from cascade.gateway.chat import Chat
from cascade.gateway.messages import Messages
from cascade.gateway.wire import Refused, Shape


def no(shape: Shape, problem: Refused, headers: Mapping[str, str] | None = None) -> Response:
    """The error as a response of that shape."""
    told = {**(headers or {}), **problem.headers, "x-should-retry": "true" if problem.retry else "false"}
    return JSONResponse(shape.error(problem), problem.status, headers=told)


def shape_of(path: str) -> Shape:
    """Whose clients ask for that path, so in whose words an error is told."""
    return Messages() if path == "/v1/messages" or path.startswith("/v1/messages/") else Chat()


def behind(app: Starlette) -> ASGIApp:
    """The app, which answers in the providers' shapes, as JSON, what no route answers."""
    app.router.redirect_slashes = False  # a redirect would repeat the Host header to whoever sent it
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _fault)
    return app


async def _unrouted(request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    allowed = (err.headers or {}).get("allow") or (err.headers or {}).get("Allow")
    if err.status_code == 405:
        problem = Refused(405, "invalid_request_error", f"{request.method} is not for this path, which takes {allowed}")
    else:
        told = "GET /openapi.json says what there is"
        if (right := _meant(request.url.path)) is not None:
            told = f"a client whose base_url is right asks {right}: OpenAI's ends in /v1, Anthropic's does not"
        problem = Refused(err.status_code, "not_found", f"there is nothing at this path; {told}")
    return no(shape_of(request.url.path), problem, err.headers)


def _meant(path: str) -> str | None:
    """The path that a client asks whose base_url has a /v1 too few or too many; None where that is not what is wrong."""
    return next((right for right in ASKED if path in (right.removeprefix("/v1"), f"/v1{right}")), None)


ASKED = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/models")


def fault() -> Refused:
    """The error of a request that failed by our own fault."""
    return Refused(500, "internal", "the gateway failed at this request; its log says why")


async def _fault(request: Request, err: Exception) -> Response:
    return no(shape_of(request.url.path), fault())
