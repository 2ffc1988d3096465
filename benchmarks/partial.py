"""What asking only for the disputed fields saves, and costs: the shipped tasks on two local models, escalated whole and in part.

    cascade local start qwen2.5-coder-0.5b qwen2.5-coder-1.5b
    python benchmarks/partial.py [--tasks ticket invoice] [--limit N] [--write docs/benchmarks-partial.md]
    cascade local stop

Both ways share the small model's answers, and a call that both make is made once and counted in each; so what differs is the escalation
alone. Dollars are the shipped local policies' (0.1 for a million tokens and a billion parameters), seconds those of the calls.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import orjson

from cascade import compose, rows
from cascade.app import Cascade
from cascade.grade import Grader
from cascade.outcome import Outcome
from cascade.policy.load import load_text
from cascade.providers import build
from cascade.reading import reader, said
from cascade.replay.tango import proportions
from cascade.types import Answer, Call, Document, Json, Policy, Tried, Usage

POLICIES = Path(__file__).resolve().parent.parent / "policies"
HEAD = """
version: 1
name: {task}_{escalate}
prompt: ../prompts/{task}.j2
system: ../prompts/{task}_system.j2
schema: {task}.schema.json
providers:
  small: {{kind: openai, base_url: "http://127.0.0.1:8602/v1", api_key_env: null, concurrency: 2,
           capabilities: {{sampling: true, seed: true, logprobs: true, schema: full}}}}
  large: {{kind: openai, base_url: "http://127.0.0.1:8603/v1", api_key_env: null, concurrency: 1,
           capabilities: {{sampling: true, seed: true, logprobs: true, schema: full}}}}
pricing:
  small/qwen2.5-coder-0.5b: {{input: 0.049, output: 0.049}}
  large/qwen2.5-coder-1.5b: {{input: 0.154, output: 0.154}}
cache: {{backend: off}}
defaults: {{timeout: 10m, retries: 0, max_tokens: 320}}
"""
TICKET = """
tiers:
  - name: small
    model: small/qwen2.5-coder-0.5b
    params: {{temperature: 0.7, seed: 11}}
    gates:
      - schema
      - check: {{name: account_stated, expression: "account is None or account in inputs.body"}}
      - check: {{name: rules, expression: "(category == 'billing') == (area == 'subscription')"}}
      - check: {{name: low, expression: "category not in ['question', 'feature_request'] or priority == 'low'"}}
      - consistency: {{samples: 2, threshold: 1.0}}
  - name: large
    model: large/qwen2.5-coder-1.5b
    params: {{temperature: 0}}
    escalate: {escalate}
    gates:
      - schema
      - check: {{name: account_stated, expression: "account is None or account in inputs.body"}}
      - check: {{name: rules, expression: "(category == 'billing') == (area == 'subscription')"}}
      - check: {{name: low, expression: "category not in ['question', 'feature_request'] or priority == 'low'"}}
compare: {{account: {{text: {{casefold: true}}}}}}
"""
INVOICE = """
tiers:
  - name: small
    model: small/qwen2.5-coder-0.5b
    params: {{temperature: 0}}
    gates:
      - schema
      - check: {{name: sums, expression: "abs(sum(line.amount for line in lines) - total) <= 0.01"}}
      - check: {{name: stated, expression: "vendor.lower() in inputs.text.lower() and invoice_number in inputs.text"}}
      - check: {{name: lines_stated, expression: "all(line.description.lower() in inputs.text.lower() for line in lines)"}}
  - name: large
    model: large/qwen2.5-coder-1.5b
    params: {{temperature: 0}}
    escalate: {escalate}
    gates:
      - schema
      - check: {{name: sums, expression: "abs(sum(line.amount for line in lines) - total) <= 0.01"}}
      - check: {{name: stated, expression: "vendor.lower() in inputs.text.lower() and invoice_number in inputs.text"}}
      - check: {{name: lines_stated, expression: "all(line.description.lower() in inputs.text.lower() for line in lines)"}}
compare:
  vendor: {{text: {{casefold: true}}}}
  invoice_number: {{text: {{casefold: true}}}}
  total: {{number: {{tolerance: 0.005}}}}
  lines.description: {{text: {{casefold: true}}}}
  lines.amount: {{number: {{tolerance: 0.005}}}}
"""
STEADY = TICKET.replace("temperature: 0.7, seed: 11", "temperature: 0").replace("      - consistency: {{samples: 2, threshold: 1.0}}\n", "")
TASKS = {"ticket": ("ticket", TICKET), "ticket-steady": ("ticket", STEADY), "invoice": ("invoice", INVOICE)}
"""What is measured: the shipped task, and its tiers."""
WAYS = ("whole", "partial")


def policy(task: str, escalate: str) -> Policy:
    """The task's ladder; only `escalate` differs."""
    shipped, tiers = TASKS[task]
    return load_text((HEAD + tiers).format(task=shipped, escalate=escalate), str(POLICIES / f"{task}_{escalate}.yaml"))


class Memory:
    """An Ask that makes equal calls once, so that both ways see the same answers, and keeps them in a file, so that a run that was
    stopped goes on. Each answer has the seconds its call took as a signal: one at a time on the large model, without the wait."""

    def __init__(self, of: Policy, path: Path, at_a_time: Mapping[str, asyncio.Semaphore]) -> None:
        self.adapters = {name: build(of.providers[name], of.pricing) for name in at_a_time}
        self.at_a_time = at_a_time
        self.path = path
        kept = (orjson.loads(line) for line in path.read_bytes().splitlines()) if path.exists() else ()
        self.kept = dict(kept)
        self.known: dict[Call, asyncio.Task[Answer]] = {}

    async def __call__(self, call: Call) -> Answer:
        if call not in self.known:
            self.known[call] = asyncio.create_task(self._answer(call))
        return await self.known[call]

    async def _answer(self, call: Call) -> Answer:
        if call.digest in self.kept:
            text, finish, tokens_in, tokens_out, cost, seconds = self.kept[call.digest]
            return Answer(text, finish, Usage(tokens_in, tokens_out), Decimal(cost), model=call.model, signals={"call_seconds": seconds})
        name = call.model.partition("/")[0]
        async with self.at_a_time[name]:
            answer = await self.adapters[name](call)
        assert answer.usage is not None, "the local server counts tokens"
        row = [answer.text, answer.finish, answer.usage.input, answer.usage.output, str(answer.cost_usd), answer.seconds]
        with self.path.open("ab") as file:
            file.write(orjson.dumps([call.digest, row]) + b"\n")
        return replace(answer, signals={"call_seconds": answer.seconds})

    async def close(self) -> None:
        for adapter in self.adapters.values():
            await adapter.close()


@dataclass
class Way:
    """What one way of escalating came to, over the requests that escalated, and how right it was over all."""

    calls: int = 0
    input: int = 0
    output: int = 0
    seconds: float = 0.0
    cost: Decimal = Decimal(0)
    parts: int = 0
    fell_back: int = 0
    accepted: int = 0
    right: int = 0
    right_escalated: int = 0
    verdicts: list[bool] = field(default_factory=list)

    def add(self, outcome: Outcome, right: bool) -> None:
        above = [e for e in outcome.trail if isinstance(e, Tried) and e.gate is None and e.tier == "large"]
        for event in above:
            assert event.usage is not None, "Memory gives it"
            assert event.cost_usd is not None, "the policy prices them"
            self.calls += 1
            self.input += event.usage.input
            self.output += event.usage.output
            self.seconds += event.signals["call_seconds"]
            self.cost += event.cost_usd
        self.parts += any(e.part for e in above)
        self.fell_back += len(above) > 1
        self.accepted += outcome.status == "accepted"
        self.right += right
        self.right_escalated += right and bool(above)
        self.verdicts.append(right)


@dataclass
class Found:
    """A task's figures: `cost_small` is what both ways paid below, `among` are the requests that were asked in part, `wrong` counts of
    these the fields that are not gold's: below, and as served."""

    task: str
    rows: int
    escalated: int
    right_below: int
    cost_small: Decimal
    ways: dict[str, Way]
    among: dict[str, Way]
    wrong: dict[str, Counter[str]]


async def measured(task: str, limit: int | None, answers: Path, at_a_time: Mapping[str, asyncio.Semaphore]) -> Found:
    """Each row both ways, which one first taking turns: the server keeps the prompt's beginning for the second."""
    policies = {way: policy(task, way) for way in WAYS}
    memory = Memory(policies["whole"], answers, at_a_time)
    cascades = {way: Cascade(p, ask=memory) for way, p in policies.items()}
    grader, read = Grader.of(policies["whole"]), reader(policies["whole"])
    found = Found(task, 0, 0, 0, Decimal(0), {way: Way() for way in WAYS}, {way: Way() for way in WAYS},
                  {way: Counter() for way in ("small", *WAYS)})  # fmt: skip
    requests = rows.read(str(POLICIES / f"{TASKS[task][0]}.inputs.jsonl"))[:limit]
    for name in at_a_time:  # the first call of all reads the examples, which all calls have in common
        warm = Call("", compose.prompt(policies["whole"], requests[0].inputs), None, Document({"max_tokens": 1, "temperature": 0}))
        await memory(replace(warm, model=policies["whole"].tier(name).model))

    few = asyncio.Semaphore(4)

    async def both(i: int, row: rows.Row) -> dict[str, Outcome]:
        async with few:
            return {way: await cascades[way].arun(row.inputs, id=row.id) for way in (WAYS if i % 2 else WAYS[::-1])}

    running = [asyncio.create_task(both(i, row)) for i, row in enumerate(requests)]
    for row, task_ in zip(requests, running, strict=True):
        outcomes = await task_
        trail = outcomes["partial"].trail
        asked = [e for e in trail if isinstance(e, Tried) and e.gate is None and e.tier == "large"]
        first = next(i for i, e in enumerate(trail) if isinstance(e, Tried) and e.gate is None)
        below = said(policies["partial"], trail, first, read).read
        found.rows += 1
        found.escalated += bool(asked)
        found.right_below += below.problem is None and grader.right(below.value, row.gold)
        found.cost_small += sum((e.cost_usd or Decimal(0) for e in trail if isinstance(e, Tried) and e.tier == "small"), Decimal(0))
        for way, outcome in outcomes.items():
            right = outcome.output is not None and grader.right(outcome.output, row.gold)
            found.ways[way].add(outcome, right)
            if asked and asked[0].part:
                found.among[way].add(outcome, right)
                found.wrong[way].update(_wrong(grader, outcome.output, row.gold))
        if asked and asked[0].part:
            found.wrong["small"].update(_wrong(grader, below.value, row.gold))
        how = ", ".join(asked[0].part) or "whole" if asked else "stays"
        print(f"{task} {row.id}: {how}; {len(asked)} calls above", file=sys.stderr, flush=True)
    await memory.close()
    return found


def _wrong(grader: Grader, value: Json, gold: Json) -> set[str]:
    """The members on which they differ."""
    return {at.split("/")[1] for at in grader.differing(value, gold) if at}


# ---------------------------------------------------------------- the page


def fields(found: Found) -> Iterator[str]:
    """One row a field, the most often wrong below first."""
    yield "| field | small | whole | partial |"
    yield "| --- | ---: | ---: | ---: |"
    for name, below in found.wrong["small"].most_common():
        yield f"| `{name}` | {below} | {found.wrong['whole'][name]} | {found.wrong['partial'][name]} |"


def table(ways: dict[str, Way], rows: int) -> Iterator[str]:
    """One row a way."""
    yield "| escalation | calls | tokens in | tokens out | seconds | dollars above | asked in part | fell back to the whole | accepted | right |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for way in WAYS:
        one = ways[way]
        yield (f"| {way} | {one.calls} | {one.input:,} | {one.output:,} | {one.seconds:.0f} | ${one.cost:.6f} | {one.parts} | {one.fell_back} "
               f"| {one.accepted} of {rows} | {one.right} of {rows} |")  # fmt: skip


def sentence(ways: dict[str, Way], rows: int) -> str:
    """Partial against whole, in one."""
    whole, part = ways["whole"], ways["partial"]
    wins = sum(p and not w for p, w in zip(part.verdicts, whole.verdicts, strict=True))
    losses = sum(w and not p for p, w in zip(part.verdicts, whole.verdicts, strict=True))
    low, high = proportions(wins, losses, rows)
    dear = _change(part.input + 5 * part.output, whole.input + 5 * whole.output)
    return (f"Partial against whole: tokens in {_change(part.input, whole.input)}, tokens out {_change(part.output, whole.output)}, "
            f"seconds {_change(part.seconds, whole.seconds)}, dollars {_change(float(part.cost), float(whole.cost))} "
            f"({dear} if a token out cost five times one in); right where whole is not: "
            f"{wins}, the other way round: {losses} ({100 * (wins - losses) / rows:+.1f} points, 95 % {100 * low:+.1f} to {100 * high:+.1f}).")


def _change(new: float, old: float) -> str:
    return f"{100 * (new / old - 1):+.0f} %" if old else "none"


def page(found: Sequence[Found], command: str) -> str:
    lines = ["# Partial escalation, measured", "", f"*Written on {date.today().isoformat()} by `{command}`.*", "",
             (Path(__file__).resolve().parent / "partial.md").read_text(encoding="utf-8").strip()]
    for one in found:
        asked = len(one.among["partial"].verdicts)
        lines += ["", f"## {one.task}", "",
                  f"{one.rows} requests, {one.escalated} escalated, {asked} of these could be asked in part. The small model alone is right on "
                  f"{one.right_below}; its calls cost ${one.cost_small:.6f} either way.", "", *table(one.ways, one.rows), ""]
        if asked:
            lines += [sentence(one.ways, one.rows), "", f"Only the {asked} requests that were asked in part:", "",
                      *table(one.among, asked), "", sentence(one.among, asked), "",
                      "Fields of these that are wrong: below, and as served.", "", *fields(one)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--limit", type=int, help="only the first N rows of each task")
    parser.add_argument("--write", type=Path, help="the page for the docs")
    parser.add_argument("--answers", type=Path, default=Path(".bench-envs/partial-answers.jsonl"), help="where answers are kept between runs")
    given = parser.parse_args()
    given.answers.parent.mkdir(parents=True, exist_ok=True)

    async def all_of() -> list[Found]:
        at_a_time = {"small": asyncio.Semaphore(4), "large": asyncio.Semaphore(1)}
        return list(await asyncio.gather(*(measured(task, given.limit, given.answers, at_a_time) for task in given.tasks)))

    text = page(asyncio.run(all_of()), f"python benchmarks/{' '.join([Path(__file__).name, *sys.argv[1:]])}")
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
