"""Eight processes for test_frames.py that answer batches by one policy at once. Prints their pids, then a JSON line for each that ends: its dollars
and statuses. The imports are done once; each process is a fork."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator

from cascade.bulk import map_batches

for name in ("openai.resources.chat", "openai.types.chat", "cascade.providers.openai", "cascade.verifiers.schema"):
    importlib.import_module(name)

WORKERS, ROWS = 8, 40


def answers(number: int) -> Iterator[bytes]:
    """What one process has to say."""
    batch = {"text": [f"<{number}-{row}>" for row in range(ROWS)]}
    found = Batches()(batch)
    spent = sum(cost for cost in found["cost_usd"])
    yield json.dumps({"spent": spent, "statuses": Counter(found["status"]), "errors": sorted({error[:60] for error in found["error"] if error})}).encode()


Batches = map_batches(sys.argv[1], workers=WORKERS, concurrency=4)
pids = []
for number in range(WORKERS):
    pid = os.fork()
    if pid == 0:
        for line in answers(number):
            os.write(1, line + b"\n")
        os._exit(0)
    pids.append(pid)
print(json.dumps(pids), flush=True)
for pid in pids:
    os.waitpid(pid, 0)
