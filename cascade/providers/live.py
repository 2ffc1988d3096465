"""A reply that comes as a stream of events: its pieces of text as they come, and at the end the reply as if it had come whole."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

import orjson

from cascade.providers.failures import bad_reply, of_reply

Listener = Callable[[bytes], None]
listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
"""Told each piece of a good reply's body as it comes from the transport."""

OVERLOADED = frozenset({"overloaded_error", "server_error", "api_error", "service_unavailable", "rate_limit_error", "rate_limit_exceeded"})


class Streamed(Protocol):
    """What a wire makes of a stream's events."""

    def take(self, event: dict[str, Any]) -> str:
        """The text that the event adds."""

    def reply(self) -> dict[str, Any] | None:
        """The reply as it would be without a stream, tools that it calls included; None before its end has come."""


class Listening:
    """Reads server-sent events out of the bytes of a reply, tells `live` their text, and holds on to what they come to."""

    def __init__(self, streamed: Streamed, live: Callable[[str], None], where: str) -> None:
        self._streamed, self._live, self._where = streamed, live, where
        self._rest: list[bytes] = []
        self._fed = False
        self._told: list[str] = []

    @property
    def told(self) -> str:
        """The text that was told."""
        return "".join(self._told)

    def feed(self, chunk: bytes) -> None:
        """More bytes. Raises what an error event says, and BadReply for an event that cannot be read: its text would be lost."""
        self._fed = True
        self._rest.append(chunk)
        if b"\n" not in chunk:
            return
        *lines, rest = b"".join(self._rest).split(b"\n")
        self._rest = [rest]
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        if data in (b"", b"[DONE]"):
            return
        try:
            event = orjson.loads(data)
        except ValueError as err:
            raise bad_reply(self._where, f"an event of the stream is no JSON: {data[:80].decode('utf-8', 'replace')}") from err
        if not isinstance(event, dict):
            return
        if event.get("type") == "error" or isinstance(event.get("error"), dict):
            said: dict[str, Any] = event["error"] if isinstance(event.get("error"), dict) else event
            if {said[name] for name in ("type", "code") if isinstance(said.get(name), str)} & OVERLOADED:
                raise of_reply(529, event, self._where)
            raise bad_reply(self._where, f"the stream ends in an error: {said}")
        text = self._streamed.take(event)
        if text:
            self._told.append(text)
            self._live(text)

    def reply(self, content: bytes) -> dict[str, Any]:
        """The reply, whose whole `content` is read now where no piece of it was fed (a packed one). Raises BadReply when its end never came."""
        self.feed(b"\n" if self._fed else content + b"\n")
        found = self._streamed.reply()
        if found is None:
            raise bad_reply(self._where, "the stream ended before the answer did")
        return found
