"""What idle half-open connections and endless bodies do to a gateway: /health's times and the process's memory while they last.

    python -m benchmarks.gateway_abuse --idle 1000 --bodies 100 --gigabytes 1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

POLICY = 'version: 1\nname: echo\nprompt: "{{ text }}"\nproviders: {p: {kind: scripted, replies: {m: said}}}\ncache: {backend: off}\ntiers: [p/m]\n'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BLOCK = b" " * 2**20


async def idle(port: int) -> None:
    """Half a head, and again when the gateway has closed the connection."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD[:40])
            await reader.read()
            writer.close()


async def body(port: int, size: int, chunked: bool) -> int:
    """One endless body; how much of it went out before it was over."""
    sent = 0
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % size))
        while sent < size:
            writer.write(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)
            await writer.drain()
            sent += len(BLOCK)
    return sent


async def health(port: int) -> float:
    """Milliseconds of one look, with a connection of its own."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    return 1000 * (time.perf_counter() - began)


def memory(pid: int) -> float:
    """The most megabytes the process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


async def looks(port: int, done: Callable[[], bool], seconds: float) -> list[float]:
    found, ends = [], time.monotonic() + seconds
    while not done() or time.monotonic() < ends:
        found.append(await health(port))
        await asyncio.sleep(0.01)
    return sorted(found)


def told(what: str, times: list[float], pid: int) -> None:
    print(f"{what:<44} p50 {times[len(times) // 2]:6.1f} ms  p99 {times[int(len(times) * 0.99)]:6.1f} ms  most {times[-1]:6.1f} ms  "
          f"looks {len(times):5}  memory {memory(pid):5.0f} MB")


async def attack(port: int, idlers: int, bodies: int, size: int, chunked: bool, seconds: float) -> int:
    """The most of a body that was taken. Bodies begin anew when they are cut off, for that many seconds."""
    held = [asyncio.ensure_future(idle(port)) for _ in range(idlers)]
    ends, most = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        most = max(0, most, *(await asyncio.gather(*(body(port, size, chunked) for _ in range(bodies)))))
        await asyncio.sleep(0.1 if bodies else 1)
    for one in held:
        one.cancel()
    return most


def under(what: str, port: int, pid: int, *attacked: int | bool, seconds: float = 15) -> None:
    """Look while another process attacks."""
    with ProcessPoolExecutor(1) as pool:
        attacking = pool.submit(_attack, port, attacked, seconds)
        time.sleep(1)
        told(what, asyncio.run(looks(port, attacking.done, 1)), pid)
        if taken := attacking.result():
            print(f"{'':<44} taken of each: at most {taken / 2**20:.0f} MB")


def _attack(port: int, attacked: tuple[int | bool, ...], seconds: float) -> int:
    idlers, bodies, size, chunked = attacked
    return asyncio.run(attack(port, idlers, bodies, size, bool(chunked), seconds))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--idle", type=int, default=1000)
    options.add_argument("--bodies", type=int, default=100)
    options.add_argument("--gigabytes", type=float, default=1.0)
    given = options.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "echo.yaml").write_text(POLICY)
        command = [sys.executable, "-c", "from cascade.cli import main; main()", "serve", f"{folder}/echo.yaml", "--port", "0",
                   "--state", f"{folder}/state"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HOME": folder}) as process:
            assert process.stderr
            port = int(process.stderr.readline().split()[3].split(":")[2].partition("/")[0])
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a log that nobody reads stops who writes it
            size = int(given.gigabytes * 2**30)
            told("alone", asyncio.run(looks(port, lambda: True, 5)), process.pid)
            under(f"{given.idle} half-open connections", port, process.pid, given.idle, 0, 0, False)
            for chunked in (False, True):
                kind = "chunked" if chunked else "of a length"
                under(f"… and {given.bodies} bodies of {given.gigabytes:g} GB, {kind}", port, process.pid, given.idle, given.bodies, size, chunked)
            process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
