"""Runs a client: COUNT prompts, CONCURRENCY at a time, after a warm-up; prints CPU, wall and latencies as one JSON line.

    python CLIENT.py URL COUNT CONCURRENCY

With CALLGRIND in the environment it runs under callgrind, which it turns on for the measured prompts alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from task import FIRST, GOOD, WARM_UP, mail

WARM_UP_AT_LEAST = 20
"""So that both wrong answers are among them, and what a client loads only then is loaded before the clock starts."""


@dataclass(frozen=True)
class Client:
    """`ask`: the text of a mail -> the right answer, and the tokens that this client knows were used for it. `close` ends all that is open."""

    ask: Callable[[str], Awaitable[tuple[object, int]]]
    close: Callable[[], Awaitable[object]]


Make = Callable[[str], Awaitable[Client]]


async def measure(make: Make, url: str, count: int, concurrency: int) -> dict[str, float]:
    client = await make(url)
    latencies: list[float] = []
    tokens = 0

    async def batch(numbers: range) -> None:
        queue = iter(numbers)

        async def work() -> None:
            nonlocal tokens
            for n in queue:
                started = time.perf_counter()
                answer, used = await client.ask(mail(n))
                latencies.append(time.perf_counter() - started)
                tokens += used
                assert answer == GOOD, answer

        await asyncio.gather(*(work() for _ in range(concurrency)))

    await batch(range(WARM_UP, WARM_UP + max(WARM_UP_AT_LEAST, concurrency)))
    latencies.clear()
    tokens = 0
    callgrind("on")
    wall, used = time.perf_counter(), cpu()
    await batch(range(FIRST, FIRST + count))
    await client.close()  # on the clock: whatever was put off is paid here
    wall, used = time.perf_counter() - wall, cpu() - used
    callgrind("off")
    latencies.sort()
    return {"count": count, "cpu": used, "wall": wall, "p50": latencies[count // 2], "p99": latencies[count * 99 // 100], "tokens": tokens}


def cpu() -> float:
    """Seconds of CPU of this process so far, user and system, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def callgrind(switch: str) -> None:
    if "CALLGRIND" in os.environ:
        subprocess.run(["callgrind_control", "-i", switch, str(os.getpid())], check=True, capture_output=True)


def run(make: Make) -> None:
    url, count, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(asyncio.run(measure(make, url, count, concurrency))))
