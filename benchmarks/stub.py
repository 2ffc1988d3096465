"""A loopback server for benchmarks: both wires, fixed answers, in its own process; much cheaper than any client that asks it.

    python benchmarks/stub.py [--delay 0.2]      prints its URL, serves until it is killed
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re

from task import BAD, CHEAP, GOOD, fails_cheap

MODEL = re.compile(rb'"model"\s*:\s*"([^"]+)"')
USAGE = {"prompt_tokens": 180, "completion_tokens": 110, "total_tokens": 290}


def _reply(body: dict[str, object]) -> bytes:
    raw = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw


def _chat(value: object) -> bytes:
    message = {"role": "assistant", "content": json.dumps(value)}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return _reply({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE})


def _messages(value: object) -> bytes:
    content = [{"type": "text", "text": json.dumps(value)}]
    return _reply({"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content, "stop_reason": "end_turn",
                   "stop_sequence": None, "usage": {"input_tokens": 180, "output_tokens": 110}})  # fmt: skip


REPLIES = {(wire, good): make(GOOD if good else BAD) for wire, make in (("chat", _chat), ("messages", _messages)) for good in (True, False)}


class Stub(asyncio.Protocol):
    delay = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self._answer(b"/messages" in head.split(b"\r\n", 1)[0], body)

    def _answer(self, anthropic: bool, body: bytes) -> None:
        found = MODEL.search(body)
        # the prompt decides, not the way a client writes JSON around it: the order number is in every prompt once
        number = re.search(rb"the order number is (A-[0-9]+)", body)
        wrong = bool(found and found[1] == CHEAP.encode() and number and fails_cheap(number[1].decode()))
        reply = REPLIES["messages" if anthropic else "chat", not wrong]
        if Stub.delay:
            asyncio.get_running_loop().call_later(Stub.delay, self.transport.write, reply)  # type: ignore[attr-defined]
        else:
            self.transport.write(reply)  # type: ignore[attr-defined]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    Stub.delay = parser.parse_args().delay
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
