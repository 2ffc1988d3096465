"""How well log-probability signals tell right answers from wrong ones: a shipped task on a local model, its signals against gold.

    cascade local start qwen2.5-coder-0.5b
    python benchmarks/logprobs.py ticket
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from cascade import compose, providers, rows
from cascade.grade import Grader
from cascade.policy import load
from cascade.reading import reader
from cascade.rows import Row
from cascade.types import Answer, Call, Document, Policy

POLICIES = Path(__file__).resolve().parent.parent / "policies"
AT_A_TIME = 3


async def ask(policy: Policy, inputs: list[Row], url: str, model: str) -> list[Answer]:
    """One answer for each row, temperature 0, with log-probabilities."""
    adapter = providers.build(providers.provider("local", {"kind": "openai", "base_url": url}))
    params = Document({"max_tokens": 400, "temperature": 0, "logprobs": True})
    slots = asyncio.Semaphore(AT_A_TIME)

    async def one(row: Row) -> Answer:
        async with slots:
            return await adapter(Call(f"local/{model}", compose.prompt(policy, row.inputs), policy.schema, params, 0, 600.0))

    try:
        return list(await asyncio.gather(*(one(row) for row in inputs)))
    finally:
        await adapter.close()


def auroc(right: list[float], wrong: list[float]) -> float | None:
    """The probability that a right answer has more of it than a wrong one; ties count half."""
    pairs = [(r > w) + (r == w) / 2 for r in right for w in wrong]
    return sum(pairs) / len(pairs) if pairs else None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("task", choices=["ticket", "invoice", "pairwise"])
    options.add_argument("--rows", type=int, default=48)
    options.add_argument("--url", default="http://127.0.0.1:8602/v1")
    options.add_argument("--model", default="qwen2.5-coder-0.5b")
    given = options.parse_args()
    policy = load(str(POLICIES / f"{given.task}_local.yaml"))
    inputs = rows.read(str(POLICIES / f"{given.task}.inputs.jsonl"))[: given.rows]
    answers = asyncio.run(ask(policy, inputs, given.url, given.model))
    read, grader = reader(policy), Grader.of(policy)
    found = [read(answer.text) for answer in answers]
    right = [one.problem is None and grader.right(one.value, row.gold) for one, row in zip(found, inputs, strict=True)]
    print(f"{given.task}: {len(answers)} answers, {sum(right)} right, {sum(bool(a.signals) for a in answers)} with signals")
    for name in sorted({name for answer in answers for name in answer.signals}):
        known = [(answer.signals[name], good) for answer, good in zip(answers, right, strict=True) if name in answer.signals]
        area = auroc([value for value, good in known if good], [value for value, good in known if not good])
        print(f"  {name:28} {len(known):4} known, AUROC {'-' if area is None else f'{area:.2f}'}")


if __name__ == "__main__":
    main()
