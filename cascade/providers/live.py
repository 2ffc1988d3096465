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
        """The reply as it would be without a stream; None before its end has come."""


class Listening:
    """Reads server-sent events out of the bytes of a reply, tells `live` their text, and holds on to what they come to."""

    def __init__(self, streamed: Streamed, live: Callable[[str], None], where: str) -> None:
        self._streamed, self._live, self._where = streamed, live, where
        self._rest = b""
        self.told = 0
        """Characters that were told."""

    def feed(self, chunk: bytes) -> None:
        """More bytes. Raises what an error event says."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        try:
            event = orjson.loads(data)
        except ValueError:
            return  # [DONE], or what no provider of ours says
        if not isinstance(event, dict):
            return
        if event.get("type") == "error" or isinstance(event.get("error"), dict):
            error = event.get("error") if isinstance(event.get("error"), dict) else event
            overloaded = {error.get("type"), error.get("code")} & OVERLOADED  # type: ignore[union-attr]
            raise of_reply(529, event, self._where) if overloaded else bad_reply(self._where, f"the stream ends in an error: {error}")
        text = self._streamed.take(event)
        if text:
            self.told += len(text)
            self._live(text)

    def reply(self) -> dict[str, Any]:
        """The reply. Raises BadReply when its end never came."""
        self.feed(b"\n")
        found = self._streamed.reply()
        if found is None:
            raise bad_reply(self._where, "the stream ended before the answer did")
        return found
