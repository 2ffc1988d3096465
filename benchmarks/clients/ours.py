"""cascade: prompt rendering, schema gate, trail, prices and cache write."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from harness import Ask, run
from task import CHEAP, DEAR, SCHEMA, TEMPLATE

from cascade import Cascade


async def make(url: str) -> Ask:
    folder = Path(tempfile.mkdtemp())
    (folder / "prompt.j2").write_text(TEMPLATE)
    policy = {
        "version": 1, "name": "order", "prompt": "prompt.j2", "schema": SCHEMA,
        "providers": {"stub": {"kind": "openai", "base_url": f"{url}/v1", "capabilities": {"schema": "strict"}}},
        "pricing": {f"stub/{model}": {"input": price, "output": price * 5} for model, price in ((CHEAP, 0.1), (DEAR, 2))},
        "cache": {"path": str(folder / "cache")},
        "tiers": [f"stub/{CHEAP}", f"stub/{DEAR}"],
    }  # fmt: skip
    (folder / "policy.json").write_text(json.dumps(policy))
    cascade = Cascade.load(folder / "policy.json")

    async def ask(text: str) -> dict[str, object]:
        outcome = await cascade.arun({"text": text})
        assert outcome.status == "accepted"
        return outcome.output

    return ask


if __name__ == "__main__":
    run(make)
