"""A loopback HTTP server that answers as it is told: OpenAI's and Anthropic's wires, and every odd reply a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What goes back. `drip`: seconds between single bytes; `hang`: nothing is sent at all; `drop`: the connection is cut."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drip: float = 0.0
    hang: bool = False
    drop: bool = False


@dataclass(frozen=True)
class Request:
    """What came in."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


class Stub:
    """`url` is the server's root. `replies` are given in order; then `default` again and again. `requests` came in, oldest first."""

    def __init__(self) -> None:
        self.url = ""
        self.replies: deque[Reply] = deque()
        self.default = Reply()
        self.requests: list[Request] = []

    def will(self, *replies: Reply) -> None:
        """Forgets what was, and answers these."""
        self.requests.clear()
        self.replies = deque(replies)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in rest if item)}
                raw = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append(Request(line.split(" ")[1], headers, raw))
                reply = self.replies.popleft() if self.replies else self.default
                if reply.drop:
                    break
                await self._send(writer, reply)
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        if reply.hang:
            await asyncio.Event().wait()
        headers = {"content-type": "application/json", "content-length": str(len(reply.body))} | reply.headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} Said\r\n{lines}\r\n".encode("latin-1"))
        if not reply.drip:
            writer.write(reply.body)
            return await writer.drain()
        for index in range(len(reply.body)):
            writer.write(reply.body[index : index + 1])
            await writer.drain()
            await asyncio.sleep(reply.drip)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.contextmanager
def listening(serve: Serve) -> Iterator[str]:
    """The address of a server on a free port, in a thread and loop of its own."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def end() -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@contextlib.contextmanager
def running() -> Iterator[Stub]:
    """A stub that listens."""
    stub = Stub()
    with listening(stub._serve) as stub.url:
        yield stub


# ---------------------------------------------------------------- replies in the shape of each wire


def said(value: Any, **rest: Any) -> Reply:
    """A reply with this JSON body."""
    return Reply(json.dumps(value).encode(), **rest)


def chat(text: str | None = "hi", finish: str = "stop", usage: Any = "plain", **more: Any) -> Reply:
    """A Chat Completions reply. `more` goes into the message."""
    tokens = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13} if usage == "plain" else usage
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **more}}
    return said({"id": "c1", "object": "chat.completion", "model": "gpt-6-luna-2026", "choices": [choice], "usage": tokens})


def responses(text: str | None = "hi", status: str = "completed", usage: Any = "plain", **more: Any) -> Reply:
    """A Responses reply. `more` goes into its root."""
    tokens = {"input_tokens": 10, "output_tokens": 3} if usage == "plain" else usage
    output = [{"type": "reasoning", "summary": []}]
    if text is not None:
        output.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})
    return said({"id": "r1", "object": "response", "model": "gpt-6-luna-2026", "status": status, "output": output, "usage": tokens, **more})


def messages(text: str | None = "hi", stop: str = "end_turn", usage: Any = "plain", **more: Any) -> Reply:
    """A Messages reply. `more` goes into its root."""
    tokens = {"input_tokens": 10, "output_tokens": 3} if usage == "plain" else usage
    content = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    if text is not None:
        content.append({"type": "text", "text": text})
    root = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-haiku-5-5-20261001", "content": content}
    return said({**root, "stop_reason": stop, "usage": tokens, **more})


def decisions(*answers: Any, usage: Any = "plain", **more: Any) -> Reply:
    """A reply of the decisions endpoint. `more` goes into its root."""
    tokens = {"input_tokens": 1000, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 40,
              "output_tokens_details": {"reasoning_tokens": 30}, "total_tokens": 1040}  # fmt: skip
    return said({"answers": list(answers), "model": "gpt-6-luna", "usage": tokens if usage == "plain" else usage, **more})


def failure(status: int, message: str = "no", code: str | None = None, kind: str = "error", **headers: str) -> Reply:
    """An error reply; both vendors' SDKs read this shape."""
    body = {"type": "error", "error": {"type": kind, "code": code, "message": message}}
    return said(body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def bomb(megabytes: int = 64) -> Reply:
    """A small gzip body that unpacks to many megabytes."""
    return Reply(gzip.compress(b" " * (megabytes * 1024 * 1024), 9), headers={"content-encoding": "gzip"})
