"""Callers who mean no good: connections that never finish their head, and bodies far larger than is taken, for a bounded time.

    python benchmarks/attack.py 8600 --idle 1000 --bodies 100 --seconds 10

Half of the bodies say their length, half come in chunks. Each is sent until the server answers or hangs up; its sender begins anew a second
later. Only this machine is attacked. Prints `ready` when all idle connections stand, then JSON: how the bodies ended, bytes sent, and how many
of the idle connections the server closed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import resource
import time

PAUSE = 1.0
"""Seconds between a sender's bodies."""
CHUNK = b"x" * 65536
HOST = "127.0.0.1"
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


class Tally:
    """What came of it."""

    def __init__(self) -> None:
        self.ended: collections.Counter[str] = collections.Counter()
        self.sent = 0


async def body(port: int, size: int, chunked: bool, tally: Tally, until: float) -> None:
    """One body after the other."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            tally.ended["no connection"] += 1
            await asyncio.sleep(max(0.0, min(PAUSE, until - time.monotonic())))
            continue
        answer = asyncio.ensure_future(reader.readline())
        sending = asyncio.ensure_future(_send(writer, size, chunked, tally))
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, until - time.monotonic())):
                await asyncio.wait({answer, sending}, return_when=asyncio.FIRST_COMPLETED)
                line = await answer
            tally.ended[line.split(b" ")[1].decode() if line else "hung up"] += 1
        except TimeoutError:
            tally.ended["under way at the end"] += 1
        except OSError:
            tally.ended["hung up"] += 1
        finally:
            for task in (answer, sending):
                task.cancel()
            await asyncio.gather(answer, sending, return_exceptions=True)
            writer.transport.abort()
        await asyncio.sleep(max(0.0, min(PAUSE, until - time.monotonic())))


async def _send(writer: asyncio.StreamWriter, size: int, chunked: bool, tally: Tally) -> None:
    writer.write((HEAD + ("transfer-encoding: chunked\r\n\r\n" if chunked else f"content-length: {size}\r\n\r\n")).encode())
    for _ in range(size // len(CHUNK)):
        writer.write(b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK) if chunked else CHUNK)
        await writer.drain()
        tally.sent += len(CHUNK)


async def run(port: int, idle: int, bodies: int, size: int, seconds: float) -> dict[str, object]:
    held = [await asyncio.open_connection(HOST, port) for _ in range(idle)]
    for _, writer in held:
        writer.write(HEAD.encode())
    print("ready", flush=True)
    waiting = [asyncio.ensure_future(reader.read()) for reader, _ in held]
    tally, until = Tally(), time.monotonic() + seconds
    await asyncio.gather(*(body(port, size, bool(i % 2), tally, until) for i in range(bodies)))
    await asyncio.sleep(max(0.0, until - time.monotonic()))
    closed = sum(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return {"ended": dict(tally.ended), "sent": tally.sent, "idle_closed": closed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, help="of a server on this machine")
    parser.add_argument("--idle", type=int, default=1000, help="connections that never finish their head (%(default)s)")
    parser.add_argument("--bodies", type=int, default=100, help="bodies at a time (%(default)s)")
    parser.add_argument("--size", type=int, default=10**9, help="bytes of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long (%(default)g)")
    args = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(asyncio.run(run(args.port, args.idle, args.bodies, args.size, args.seconds))))


if __name__ == "__main__":
    main()
