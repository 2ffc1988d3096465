"""cascade: prompt rendering, schema gate, trail, prices and a write to the disk cache."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from harness import Client, run
from task import CHEAP, DEAR, MAX_TOKENS, SCHEMA, TEMPLATE

from cascade import Cascade
from cascade.types import Tried


async def make(url: str) -> Client:
    folder = Path(tempfile.mkdtemp())
    (folder / "prompt.j2").write_text(TEMPLATE)
    policy = {
        "version": 1, "name": "order", "prompt": "prompt.j2", "schema": SCHEMA,
        "providers": {"stub": {"kind": "openai", "base_url": f"{url}/v1", "capabilities": {"schema": "strict"}}},
        "pricing": {f"stub/{model}": {"input": price, "output": price * 5} for model, price in ((CHEAP, 0.1), (DEAR, 2))},
        "defaults": {"max_tokens": MAX_TOKENS}, "cache": {"path": str(folder / "cache")},
        "tiers": [f"stub/{CHEAP}", f"stub/{DEAR}"],
    }  # fmt: skip
    (folder / "policy.json").write_text(json.dumps(policy))
    cascade = Cascade.load(folder / "policy.json")

    async def ask(text: str) -> tuple[object, int]:
        outcome = await cascade.arun({"text": text})
        assert outcome.status == "accepted"
        assert outcome.cost_usd
        tries = [event.usage for event in outcome.trail if isinstance(event, Tried) and event.usage]
        return outcome.output, sum(usage.input + usage.output for usage in tries)

    return Client(ask, cascade.aclose)


if __name__ == "__main__":
    run(make)
