"""Requests at a fixed rate, sent whether or not the earlier ones were answered; prints what each took.

    python benchmarks/open_loop.py http://127.0.0.1:8600/v1/chat/completions --rate 100 --seconds 10 [--get]

A request's time begins when it is written, on a connection that waits for nothing else: a slow server gets more connections, not fewer
requests. Prints JSON: `seconds` of each answer in order, and `failed`: how many were not answered 200.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from urllib.parse import urlsplit

GRACE = 30.0
"""Seconds that answers are waited for at the end."""
QUESTION = "Review {}: how is this meant? It works well but it came a week late."


class Connection(asyncio.Protocol):
    """One connection, kept alive, one request at a time."""

    def __init__(self, free: list[Connection]) -> None:
        self.free = free
        self.answered: asyncio.Future[tuple[float, int]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def ask(self, request: bytes) -> asyncio.Future[tuple[float, int]]:
        """Sends it; when it was answered, and the status."""
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or self.answered is None:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) >= length:
            answered, self.answered, self.buffer = self.answered, None, b""
            self.free.append(self)
            if not answered.done():
                answered.set_result((time.perf_counter(), int(head.split(b" ", 2)[1])))

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.free:
            self.free.remove(self)
        if self.answered is not None and not self.answered.done():
            self.answered.set_result((time.perf_counter(), 0))


def request(url: str, number: int, get: bool) -> bytes:
    """No two bodies are equal: an equal one might be answered from memory."""
    where = urlsplit(url)
    if get:
        return f"GET {where.path} HTTP/1.1\r\nhost: {where.netloc}\r\n\r\n".encode()
    messages = [{"role": "system", "content": "Answer with JSON."}, {"role": "user", "content": QUESTION.format(f"{time.time_ns()}-{number}")}]
    body = json.dumps({"model": "chat", "messages": messages}).encode()
    head = f"POST {where.path} HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def ask(url: str, number: int, get: bool, free: list[Connection]) -> tuple[float, int]:
    where = urlsplit(url)
    raw = request(url, number, get)
    if free:
        connection = free.pop()
    else:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(free), where.hostname, where.port)
        except OSError:
            return 0.0, 0
    started = time.perf_counter()
    try:
        answered, status = await asyncio.wait_for(connection.ask(raw), GRACE)
    except TimeoutError:
        return GRACE, 0
    return answered - started, status


async def run(url: str, rate: float, seconds: float, get: bool) -> dict[str, object]:
    free: list[Connection] = []
    begun = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(url, number, get, free)))
    answers = await asyncio.gather(*tasks)
    return {"seconds": [took for took, status in answers if status == 200], "failed": sum(status != 200 for _, status in answers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second (%(default)g)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (%(default)g)")
    parser.add_argument("--get", action="store_true", help="ask by GET, not with a chat completion's body")
    args = parser.parse_args()
    print(json.dumps(asyncio.run(run(args.url, args.rate, args.seconds, args.get))))


if __name__ == "__main__":
    main()
