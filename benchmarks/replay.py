"""Rows a second of `cascade replay` on one core, reading the file included; and how much quicker it is than the plain walk.

    python benchmarks/replay.py [--rows 40000]

The recordings are made here by the engine itself: a ladder of two tiers with schema and agreement over made-up answers, no model is asked.
A row has 2-3 kB. Three runs, the quickest counts: other work on the machine only ever slows one down.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import orjson

from cascade.app import Cascade
from cascade.policy.load import load_text
from cascade.recording import Recording, from_line, to_line
from cascade.replay.files import replay
from cascade.replay.grading import Grading
from cascade.replay.seen import reference, see
from cascade.replay.walk import Walker
from cascade.types import Answer, CacheSettings, Call, Policy, Usage

POLICY = """
version: 1
name: orders
prompt: "Read the order. {{ text }}"
schema:
  type: object
  properties: {item: {type: string}, count: {type: integer}, total: {type: number}, note: {type: string}}
  required: [item, count, total]
compare: {item: {text: {casefold: true}}, total: {number: {tolerance: 0.01}}}
providers: {p: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}}
pricing: {p/small: {input: 0.1, output: 0.4}, p/other: {input: 0.1, output: 0.4}, p/big: {input: 3, output: 15}}
cache: {backend: off}
BUDGET
tiers:
  - name: small
    model: p/small
    gates: [schema, {agreement: {with: p/other, fields: [item, count, total]}}]
  - {name: big, model: p/big, gates: [schema]}
"""


def recordings(policy: Policy, rows: int, wrong: float = 0.15) -> list[bytes]:
    """Lines that the engine recorded; each model is wrong on that share of them."""
    draw = random.Random(7)
    words = ["oolong", "sencha", "assam", "darjeeling", "ceylon", "keemun", "gyokuro", "rooibos", "matcha", "lapsang"]

    def truth(text: str) -> dict[str, object]:
        seed = random.Random(text)
        count = seed.randint(1, 90)
        note = " ".join(seed.choices(words, k=12))
        return {"item": seed.choice(words), "count": count, "total": round(count * seed.uniform(2, 30), 2), "note": note}

    async def ask(call: Call) -> Answer:
        said = truth(call.messages[-1].content)
        if draw.random() < wrong * (0.3 if call.model == "p/big" else 1):
            said["total"] = float(draw.randint(1, 9999))
        text = orjson.dumps(said).decode()
        usage = Usage(draw.randint(90, 400), draw.randint(20, 90))
        prices = policy.pricing[call.model]
        cost = (usage.input * prices["input"] + usage.output * prices["output"]).scaleb(-6)
        return Answer(text, usage=usage, cost_usd=Decimal(cost), model=call.model)

    cascade = Cascade(policy, ask=ask, cache=CacheSettings(backend="off"))

    async def record() -> list[bytes]:
        lines = []
        for n in range(rows):
            inputs = {"text": f"order {n}: " + " ".join(draw.choices(words, k=70))}
            outcome = await cascade.arecord(inputs, id=f"r{n}")
            gold = truth(f"Read the order. {inputs['text']}")
            gold.pop("note")
            lines.append(to_line(Recording(outcome, inputs, gold, cascade.digests)))
        return lines

    return asyncio.run(record())


def plain(policy: Policy, path: Path) -> int:
    """The same numbers the slow way: every row as a recording, `walk` over it, the same grading."""
    walker, grading, right = Walker(policy), Grading(policy), 0
    with path.open("rb") as file:
        for line in file:
            made = from_line(line)
            seen, against = see(policy, walker.walk(made)), reference(made, "big")
            right += grading.right(seen.text, made.gold)
            grading.same(seen.text, against.text or "")
    return right


def measure(name: str, text: str, rows: int) -> None:
    """One policy: rows a second of the whole command's work, and of the plain walk."""
    policy = load_text(text, "orders.yaml")
    lines = recordings(policy, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trails.jsonl"
        path.write_bytes(b"\n".join(lines) + b"\n")
        quick, scored = _quickest(lambda: replay(policy, [str(path)]).scored)
        pair, _ = _quickest(lambda: replay(policy, [str(path)], policy))
        slow, right = _quickest(lambda: plain(policy, path), 1)
    assert scored.accuracy.hits == right, "both ways count the same"
    size = sum(map(len, lines)) / rows
    print(f"{name:24} {rows / quick:9,.0f} rows/s  {rows / pair:9,.0f} rows/s with --against  {rows / slow:9,.0f} plain  {slow / quick:5.1f}x  "
          f"({size:,.0f} bytes a row, {100 * scored.escalated / rows:.0f} % escalated)")


def _quickest(work, times: int = 3):  # type: ignore[no-untyped-def]
    found = []
    for _ in range(times):
        started = time.perf_counter()
        result = work()
        found.append(time.perf_counter() - started)
    return min(found), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    rows = parser.parse_args().rows
    measure("schema + agreement", POLICY.replace("BUDGET", ""), rows)
    measure("with a budget", POLICY.replace("BUDGET", "budget: {per_request: 0.25}"), rows)


if __name__ == "__main__":
    main()
