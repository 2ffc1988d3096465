"""One run of the overhead task's mails, by `cascade run`, by it without a journal, or by the bare engine: prints its figures as one JSON line.

    python bulk.py durable|unkept|bare URL COUNT CONCURRENCY
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness import cpu
from task import CHEAP, DEAR, FIRST, MAX_TOKENS, SCHEMA, TEMPLATE, WARM_UP, mail

from cascade import Cascade
from cascade.cli import main

WARM_UP_ROWS = 200


def policy(url: str, folder: Path) -> str:
    """The overhead task's policy, without a cache: nothing but the journal is kept."""
    (folder / "prompt.j2").write_text(TEMPLATE)
    value = {
        "version": 1, "name": "order", "prompt": "prompt.j2", "schema": SCHEMA, "cache": {"backend": "off"},
        "providers": {"stub": {"kind": "openai", "base_url": f"{url}/v1", "capabilities": {"schema": "strict"}}},
        "pricing": {f"stub/{model}": {"input": price, "output": price * 5} for model, price in ((CHEAP, 0.1), (DEAR, 2))},
        "defaults": {"max_tokens": MAX_TOKENS}, "tiers": [f"stub/{CHEAP}", f"stub/{DEAR}"],
    }  # fmt: skip
    path = folder / "policy.json"
    path.write_text(json.dumps(value))
    return str(path)


def durable(path: str, first: int, count: int, concurrency: int, folder: Path, output: str | None = None) -> Iterator[int | None]:
    """From rows in a file to rows in a file, as the command does it. What is between the first two yields is measured."""
    rows, out = folder / f"in-{first}.jsonl", folder / f"out-{first}.jsonl"
    with rows.open("w") as file:
        file.writelines(json.dumps({"id": f"r{n}", "inputs": {"text": mail(n)}}) + "\n" for n in range(first, first + count))
    yield
    sys.argv = ["cascade", "run", path, str(rows), "-o", output or str(out), "--concurrency", str(concurrency), "--yes"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        main()
    yield
    with out.open("rb") as file:
        yield sum(b'"status":"accepted"' in line for line in file)


def unkept(path: str, first: int, count: int, concurrency: int, folder: Path) -> Iterator[int | None]:
    """As `durable`, with the rows to stdout (a file here) and no journal."""
    with (folder / f"out-{first}.jsonl").open("wb") as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield from durable(path, first, count, concurrency, folder, "-")
        finally:
            os.dup2(kept, 1)


def bare(path: str, first: int, count: int, concurrency: int, folder: Path) -> Iterator[int | None]:
    """The engine in a gather: no rows are read, none is written, nothing is counted."""

    async def all_of_them() -> None:
        cascade = Cascade.load(path)
        queue = iter(range(first, first + count))

        async def work() -> None:
            for n in queue:
                outcome = await cascade.arun({"text": mail(n)}, id=f"r{n}")
                assert outcome.status == "accepted"

        await asyncio.gather(*(work() for _ in range(concurrency)))
        await cascade.aclose()

    yield
    asyncio.run(all_of_them())
    yield
    yield count


def measure(kind: str, url: str, count: int, concurrency: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="bulk-") as name:
        folder = Path(name)
        path = policy(url, folder)
        run = {"durable": durable, "unkept": unkept, "bare": bare}[kind]
        for _ in run(path, WARM_UP, WARM_UP_ROWS, concurrency, folder):
            pass
        steps = run(path, FIRST, count, concurrency, folder)
        next(steps)
        wall, used = time.perf_counter(), cpu()
        next(steps)
        wall, used = time.perf_counter() - wall, cpu() - used
        accepted = next(steps)
    return {"accepted": accepted or 0, "wall": wall, "cpu": used, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
