"""Connections that are kept within bounds: seconds for a request's head and body, bytes that are read in vain, how many there are at once.

uvicorn's own limits end here: it waits for ever for the rest of a request that has begun.
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any, Literal

import h11
from h11._receivebuffer import ReceiveBuffer
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cascade.gateway.desk import SHAPES
from cascade.gateway.wire import Refused

MOST_HEAD = 64 * 1024
"""Bytes of a request's head."""

HEAD_SECONDS = 10.0
"""For the head of a request, from the first byte, or from the connection on."""
BODY_SECONDS = 60.0
"""For its body, all of it."""
VAIN_BYTES = 16 * 1024 * 1024
VAIN_SECONDS = 5.0
"""So much, and so long, of a body is still taken after the request was answered, so that its sender gets to read why."""
VAIN_PAUSE = 0.0005
"""Seconds between two reads of it, for each connection that is read so."""
READ = 64 * 1024
"""Bytes that are read at once. asyncio's 256 KiB cost a page fault a page, and the others so much time."""
SMALL = 64 * 1024
"""A body of so many bytes is read to its end, and the connection kept; what is left of a larger one is thrown away, and then the connection."""
Phase = Literal["head", "body", "vain"]
SECONDS: dict[Phase, float] = {"head": HEAD_SECONDS, "body": BODY_SECONDS, "vain": VAIN_SECONDS}


NOT_STRICT = re.compile(rb"(?<!\r)\n|\n[ \t]")
"""A bare line feed, or a folded header: two servers may read such a head in two ways."""
LENGTH, CODING = re.compile(rb"(?i)\ncontent-length[ \t]*:"), re.compile(rb"(?i)\ntransfer-encoding[ \t]*:")
"""So they may when the length of the body is told in both ways."""


async def crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """What those are told who come when there are too many."""
    problem = Refused(503, "overloaded", "too many connections; try again", retry=True)
    shape = SHAPES.get(scope["path"].removeprefix("/v1"), SHAPES["/chat/completions"])
    await JSONResponse(shape.error(problem), 503, {"retry-after": "1", "x-should-retry": "true", "connection": "close"})(scope, receive, send)


class _Strict(ReceiveBuffer):
    """h11's buffer, which takes no head that is NOT_STRICT."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        before = bytes(self._data[: MOST_HEAD + 1])
        had = len(self._data)
        lines: list[bytearray] | None = super().maybe_extract_lines()
        end = had - len(self._data)
        if lines and (end > MOST_HEAD or NOT_STRICT.search(before, 0, end) or (LENGTH.search(before, 0, end) and CODING.search(before, 0, end))):
            raise h11.LocalProtocolError("too long, bare line feed, folded header, or two lengths")
        return lines


class Bounded(H11Protocol):
    """One connection. With more than `most` of them each new one is answered 503, with twice as many it is cut."""

    most = 2_000
    vain = 0
    """How many are read in vain now."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.conn = h11.Connection(h11.SERVER, MOST_HEAD)
        self.conn._receive_buffer = _Strict()  # h11 has no other place to look at the bytes of a head
        self._phase: Phase | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._vain = VAIN_BYTES

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if (own := transport.get_extra_info("socket")) is not None and own.family in (socket.AF_INET, socket.AF_INET6):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only for sockets that name TCP; else a body waits 40 ms
        transport.max_size = READ  # type: ignore[attr-defined]
        if len(self.connections) > 2 * self.most:
            transport.abort()
        elif len(self.connections) > self.most:
            self.app = crowded
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._phase == "vain" and self._large():
            return self._throw_away(len(data))
        super().data_received(data)
        self._watch()

    def _throw_away(self, size: int) -> None:
        """The more of these there are, the slower each is read: together they take a quarter of the time."""
        self._vain -= size
        if self._vain < 0:
            return self.transport.close()
        self.flow.pause_reading()
        self.loop.call_later(VAIN_PAUSE * Bounded.vain, self.flow.resume_reading)

    def _large(self) -> bool:
        """Whether the body is, or says no length."""
        length = next((value for name, value in self.headers if name == b"content-length"), None)
        return length is None or int(length) > SMALL

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._enter(None)

    def _watch(self) -> None:
        """What the connection waits for now."""
        if self.transport.is_closing():
            self._enter(None)
        elif self.cycle is None or self.cycle.response_complete:
            waits: Phase | None = None if self.timeout_keep_alive_task is not None else "head"
            self._enter("vain" if self.conn.their_state is h11.SEND_BODY else waits)
        else:
            self._enter("body" if self.cycle.more_body else None)

    def _enter(self, phase: Phase | None) -> None:
        if phase == self._phase:
            return  # its time goes on: a byte now and then does not renew it
        if self._timer is not None:
            self._timer.cancel()
        Bounded.vain += (phase == "vain") - (self._phase == "vain")
        self._phase, self._vain = phase, VAIN_BYTES
        self._timer = None if phase is None else self.loop.call_later(SECONDS[phase], self.transport.close)
