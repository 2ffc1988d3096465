"""What no route answers: requests that two servers could read differently, unknown paths and methods, and our own faults."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

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
    """The app with all that no route answers answered in the providers' shapes, as JSON."""
    app.router.redirect_slashes = False  # a redirect would repeat the Host header to whoever sent it
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(Exception, _fault)
    return _Door(app)


class _Door:
    """Refuses a request with two lengths: a proxy that believes the other one sees another request behind it (RFC 9112, 6.3)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]} if scope["type"] == "http" else set()
        if {b"content-length", b"transfer-encoding"} <= names:
            problem = Refused(400, "invalid_request_error", "send Content-Length or Transfer-Encoding, not both")
            await no(shape_of(scope["path"]), problem, {"connection": "close"})(scope, receive, send)
        else:
            await self.app(scope, receive, send)


async def _unrouted(request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    allowed = (err.headers or {}).get("allow") or (err.headers or {}).get("Allow")
    if err.status_code == 405:
        problem = Refused(405, "invalid_request_error", f"{request.method} is not for this path, which takes {allowed}")
    else:
        problem = Refused(err.status_code, "not_found", "there is nothing at this path; GET /openapi.json says what there is")
    return no(shape_of(request.url.path), problem, err.headers)


async def _fault(request: Request, err: Exception) -> Response:
    return no(shape_of(request.url.path), Refused(500, "internal", "the gateway failed at this request; its log says why"))
