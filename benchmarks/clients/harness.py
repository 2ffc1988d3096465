"""Runs a client: N prompts at a concurrency, after a warm-up; prints CPU, wall and latencies as one JSON line.

    python CLIENT.py URL N CONCURRENCY [WARMUP]
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from task import GOOD, mail

Ask = Callable[[str], Awaitable[dict[str, object]]]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(make: Callable[[str], Awaitable[Ask]], url: str, count: int, concurrency: int, warmup: int) -> dict[str, object]:
    ask = await make(url)
    latencies: list[float] = []

    async def batch(numbers: range) -> None:
        queue = iter(numbers)

        async def work() -> None:
            for n in queue:
                started = time.perf_counter()
                answer = await ask(mail(n))
                latencies.append(time.perf_counter() - started)
                assert answer == GOOD, answer

        await asyncio.gather(*(work() for _ in range(concurrency)))

    await batch(range(10_000, 10_000 + warmup))
    latencies.clear()
    wall, used = time.perf_counter(), cpu()
    await batch(range(20_000, 20_000 + count))
    wall, used = time.perf_counter() - wall, cpu() - used
    latencies.sort()
    return {"count": count, "cpu": used, "wall": wall, "p50": latencies[len(latencies) // 2], "p99": latencies[int(len(latencies) * 0.99)]}


def run(make: Callable[[str], Awaitable[Ask]]) -> None:
    url, count, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    warmup = int(sys.argv[4]) if len(sys.argv) > 4 else concurrency + 5
    print(json.dumps(asyncio.run(measure(make, url, count, concurrency, warmup))))
