"""The page for people at `/`: who may see it, its updates as server-sent events, and one page a trail."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cascade import records
from cascade.app import Cascade
from cascade.errors import InputError
from cascade.gateway import page
from cascade.gateway.keys import Key
from cascade.gateway.page import HEADERS, Viewer
from cascade.gateway.rows import Rows
from cascade.gateway.seen import Eyes, Seen
from cascade.gateway.wire import Refused

EVERY = 1.0
"""Seconds between two looks at the store, at least."""
SHARE = 20
"""And so many times as long as a look takes: the page costs a twentieth of a core at most."""
HEARTBEAT = 15.0
"""Seconds after which a stream without news shows that it lives."""
LISTENERS = 32
"""Open pages at a time."""
BASIC = 'Basic realm="cascade: any name, a key as password", charset="UTF-8"'
Who = Callable[[Request], Key | None]
"""The caller's key, None where none is needed; raises Refused."""


@dataclass
class _Rendered:
    """What was rendered for one viewer, of what was seen as number `of`."""

    of: int = -1
    parts: dict[str, str] = field(default_factory=dict)


class Views:
    """The page of a gateway. `who` says which key asks."""

    def __init__(self, policies: Mapping[str, Cascade], rows: Rows, who: Who, trails: bool = True) -> None:
        self.policies, self.rows, self._who, self._trails = policies, rows, who, trails
        self._eyes = Eyes(policies, rows)
        self._looking = asyncio.Lock()
        self._seen: Seen | None = None
        self._number, self._mark, self._next = 0, object(), 0.0
        self._rendered: dict[str | None, _Rendered] = {}
        self._closing = asyncio.Event()
        self.listeners = 0
        self.routes = [Route("/", self._home), Route("/events", self._events), Route("/trails/{id}", self._trail)]

    def close(self) -> None:
        """End all streams: they would hold up the end of the server."""
        self._closing.set()

    @property
    def closed(self) -> bool:
        """Whether no stream begins any more."""
        return self._closing.is_set()

    # ------------------------------------------------------------ what is shown

    async def parts(self, viewer: Viewer) -> dict[str, str]:
        """The page's parts for this viewer, at most EVERY seconds old when there was something new. Raises sqlite3.Error."""
        async with self._looking:
            if time.monotonic() >= self._next:
                await self._look()
            assert self._seen is not None
            mine = self._rendered.setdefault(viewer.key, _Rendered())
            if mine.of != self._number:
                mine.parts = await asyncio.to_thread(page.sections, self._seen, viewer)
                mine.of = self._number
            return mine.parts

    async def _look(self) -> None:
        started = time.monotonic()
        mark = await self._eyes.mark()
        if mark != self._mark or self._seen is None:
            self._seen, self._mark = await self._eyes.look(), mark
            self._number += 1
        ended = time.monotonic()
        self._next = ended + max(EVERY, SHARE * (ended - started))

    # ------------------------------------------------------------ the routes

    async def _home(self, request: Request) -> Response:
        try:
            viewer = self._viewer(request)
            parts = await self.parts(viewer)
        except (Refused, sqlite3.Error) as err:
            return _problem(err)
        assert self._seen is not None
        first = next(iter(self.policies.values())).policy
        start = None if self._seen.rows else page.start(first, f"{request.url.scheme}://{request.url.netloc}")
        return HTMLResponse(page.page(parts, viewer, start), headers=HEADERS)

    async def _events(self, request: Request) -> Response:
        try:
            viewer = self._viewer(request)
        except Refused as err:
            return _problem(err)
        return _Listening(self, self._stream(viewer))

    async def _stream(self, viewer: Viewer) -> AsyncIterator[bytes]:
        """What has changed, at most once a second. Only the newest is told, so that a slow reader costs nothing."""
        try:
            sent: dict[str, str] = {}
            spoke = 0.0
            while not self.closed:
                parts = await self.parts(viewer)
                if news := {name: part for name, part in parts.items() if sent.get(name) != part}:
                    yield b"data: " + orjson.dumps(news) + b"\n\n"
                    sent, spoke = parts, time.monotonic()
                elif time.monotonic() - spoke >= HEARTBEAT:
                    yield b": nothing new\n\n"
                    spoke = time.monotonic()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), EVERY)
        except sqlite3.Error:
            return  # the page says that it is not connected, and tries again

    async def _trail(self, request: Request) -> Response:
        id = request.path_params["id"]
        try:
            viewer = self._viewer(request)
            line = await self.rows.trail(id, viewer.key)
            if line is None:
                raise Refused(404, "not_found", "There is no trail of that id. The newest are kept, each for the key that asked.")
            outcome = records.from_line(line)
        except (Refused, InputError, sqlite3.Error) as err:
            return _problem(err)
        return HTMLResponse(await asyncio.to_thread(page.trail, id, outcome), headers=HEADERS)

    def _viewer(self, request: Request) -> Viewer:
        """Who looks: a browser sends the key as the password of HTTP Basic, which only these pages take. Raises Refused."""
        headers = []
        for name, value in request.scope["headers"]:
            if name == b"authorization" and value[:6].lower() == b"basic ":
                value = b"Bearer " + _password(value[6:])
            headers.append((name, value))
        key = self._who(Request({**request.scope, "headers": headers}))
        return Viewer(None if key is None else key.name, self._trails)


class _Listening(StreamingResponse):
    """A page's stream, if there are not too many."""

    def __init__(self, live: Views, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._live.listeners >= LISTENERS or self._live.closed:
            await Response("too many pages are open", 503, headers={"retry-after": "5"}, media_type="text/plain")(scope, receive, send)
            return
        self._live.listeners += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.listeners -= 1


def _password(given: bytes) -> bytes:
    """The password of HTTP Basic; whatever the name is. Nothing for what is none."""
    try:
        return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _problem(err: Refused | InputError | sqlite3.Error) -> Response:
    if isinstance(err, Refused):
        headers = {**HEADERS, **({"www-authenticate": BASIC} if err.status == 401 else {})}
        title = {401: "A key is needed", 403: "Only this machine is answered", 404: "No such trail"}.get(err.status, "Not possible")
        return HTMLResponse(page.problem(title, str(err)), err.status, headers=headers)
    return HTMLResponse(page.problem("Not readable", f"What is kept of requests cannot be read: {err}"), 503, headers=HEADERS)
