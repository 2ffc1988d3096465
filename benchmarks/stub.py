"""A loopback server for benchmarks: both wires, fixed answers, in its own process; much cheaper than any client that asks it.

    python benchmarks/stub.py [--delay 0.2]      prints its URL, serves until it is killed

GET /calls tells how many calls came, GET /answered how many of them were not failed; after GET /down all are answered 529, until GET /up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "clients"))

from task import ANSWERS, CHEAP, INPUT_TOKENS, OUTPUT_TOKENS, cheap_answer

MODEL = re.compile(rb'"model"\s*:\s*"([^"]+)"')
NUMBER = re.compile(rb"the order number is (A-[0-9]+)")
"""What tells prompts apart: it stands in each once, and every client writes it into its JSON the same way."""


def _reply(body: object) -> bytes:
    raw = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw


def _chat(value: object) -> bytes:
    message = {"role": "assistant", "content": json.dumps(value), "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}
    return _reply({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage})


def _messages(value: object) -> bytes:
    content = [{"type": "text", "text": json.dumps(value)}]
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    return _reply({"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content, "stop_reason": "end_turn",
                   "stop_sequence": None, "usage": usage})  # fmt: skip


CHAT = [_chat(answer) for answer in ANSWERS]
MESSAGES = [_messages(answer) for answer in ANSWERS]


class Stub(asyncio.Protocol):
    """One connection, kept alive. Reads no more of a request than its length, path, model and order number."""

    delay = 0.0
    calls = answered = 0
    down = False
    per_second = 0.0
    left, seen = 0.0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self._answer(head.split(b"\r\n", 1)[0], body)

    def _answer(self, line: bytes, body: bytes) -> None:
        if line.startswith(b"get /calls "):
            self._write(_reply(Stub.calls))
            return
        if line.startswith((b"get /down ", b"get /up ", b"get /answered ")):
            Stub.down = Stub.down if b"answered" in line else b"down" in line
            self._write(_reply(Stub.answered))
            return
        Stub.calls += 1
        if Stub.down:
            self._write(_reply({"error": {"message": "down", "type": "overloaded", "code": None}}).replace(b"200 OK", b"529 Down", 1))
            return
        if Stub.per_second and not Stub.allowed():
            self._write(_reply({"error": {"message": "slow down", "type": "rate", "code": None}}).replace(b"200 OK", b"429 Slow", 1))
            return
        Stub.answered += 1
        model, number = MODEL.search(body), NUMBER.search(body)
        cheap = model is not None and model[1] == CHEAP.encode()
        which = cheap_answer(number[1].decode()) if cheap and number else 0
        reply = (MESSAGES if b"/messages" in line else CHAT)[which]
        if Stub.delay:
            asyncio.get_running_loop().call_later(Stub.delay, self._write, reply)
        else:
            self._write(reply)

    @staticmethod
    def allowed() -> bool:
        """A token bucket that holds a second's worth."""
        now = asyncio.get_running_loop().time()
        Stub.left = min(Stub.per_second, Stub.left + (now - Stub.seen) * Stub.per_second)
        Stub.seen = now
        if Stub.left < 1:
            return False
        Stub.left -= 1
        return True

    def _write(self, reply: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(reply)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--per-second", type=float, default=0.0, help="calls a second; the others are answered 429")
    args = parser.parse_args()
    Stub.delay, Stub.per_second = args.delay, args.per_second
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
