"""What single parts of cascade cost: a cache hit end to end, reading and verifying a 15-field answer, the import. One JSON line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

from task import GOOD, SCHEMA, TEMPLATE, mail

from cascade import Answer, Call, Cascade, Case
from cascade.extract import extract
from cascade.types import Document, Usage
from cascade.verifiers import build

TEXT = json.dumps(GOOD)


async def _ask(call: Call) -> Answer:
    return Answer(TEXT, usage=Usage(180, 110), cost_usd=Decimal("0.0001"))


async def cache_hit(rounds: int = 20, entries: int = 500) -> float:
    """Microseconds of CPU of a request answered from the disk cache; the best of the rounds."""
    folder = Path(tempfile.mkdtemp())
    (folder / "p.j2").write_text(TEMPLATE)
    policy = {"version": 1, "name": "order", "prompt": "p.j2", "schema": SCHEMA, "cache": {"path": str(folder / "cache")}, "tiers": ["openai/x"]}
    (folder / "p.json").write_text(json.dumps(policy))
    filling = Cascade.load(folder / "p.json", ask=_ask)
    for n in range(entries):
        await filling.arun({"text": mail(n)})
    await filling.aclose()
    cascade = Cascade.load(folder / "p.json", ask=_ask)
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        for n in range(entries):
            outcome = await cascade.arun({"text": mail(n)})
            assert outcome.cached
        best = min(best, (time.process_time() - started) / entries)
    return best * 1e6


async def verify(rounds: int = 20, count: int = 2000) -> float:
    """Microseconds of CPU to read a 15-field answer's JSON and put it through the schema gate."""
    schema = Document(SCHEMA)
    gate = build("schema", None, schema)
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(count):
            verdict = await gate(Case({}, TEXT, extract(TEXT).value, Call("p/m", ()), schema), _ask)
            assert verdict.score == 1
        best = min(best, (time.process_time() - started) / count)
    return best * 1e6


def import_milliseconds(rounds: int = 5) -> float:
    """Milliseconds of `import cascade`, beyond starting Python; the best of the rounds."""
    code = "import time; t = time.perf_counter(); import cascade; print(time.perf_counter() - t)"
    return min(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(rounds)) * 1e3


if __name__ == "__main__":
    print(json.dumps({"cache hit, µs of CPU": asyncio.run(cache_hit()), "read and verify a 15-field answer, µs of CPU": asyncio.run(verify()),
                      "import cascade, ms": import_milliseconds()}))  # fmt: skip
