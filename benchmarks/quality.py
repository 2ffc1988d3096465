"""Quality for money on recorded answers of real models: the engine itself records, calibrates and serves them; no model is asked.

    python benchmarks/quality.py --data FOLDER [--repeats 1000] [--write docs/benchmarks.md]

FOLDER holds gsm.jsonl.gz, crux.jsonl.gz and mmlu_pro.jsonl.gz (rows: id, inputs.prompt, gold, answers by model with text, tokens and
dollars). Every ladder is recorded through `Cascade.arecord`; then thresholds are learned on random parts of the rows and looked at on
the rows they have not seen.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from cascade.app import Cascade
from cascade.calibrate import evidence as facts
from cascade.calibrate import learn, path, region
from cascade.calibrate.evidence import Evidence
from cascade.errors import ProviderError
from cascade.policy.load import load_text
from cascade.recording import Recording
from cascade.types import Answer, CacheSettings, Call, Usage

JSON_TASK = """
schema: {{type: object, properties: {{reasoning: {{}}, answer: {{}}}}, required: [answer]}}
compare: {{reasoning: {{ignore: {{}}}}, answer: {compare}}}
"""
POLICY = """
version: 1
name: {name}
prompt: "{{{{ prompt }}}}"
providers: {{data: {{kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}}}}
cache: {{backend: off}}
{task}
tiers:
{tiers}
"""


@dataclass(frozen=True)
class Task:
    """A ladder over one file: tiers as (model, agreement models), the last without."""

    name: str
    file: str
    compare: str
    tiers: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def policy(self) -> str:
        tiers = []
        for i, (model, others) in enumerate(self.tiers):
            gates = "".join(f", {{agreement: {{name: agrees{k}, with: data/{other}, fields: [answer]}}}}" for k, other in enumerate(others))
            tiers.append(f"  - {{name: t{i}, model: data/{model}, gates: [schema{gates}]}}")
        return POLICY.format(name=self.name, task=JSON_TASK.format(compare=self.compare), tiers="\n".join(tiers))


FLASH, MINI, SONNET, GPT4O = "gemini-1.5-flash", "gpt-4o-mini-2024-07-18", "claude-3-5-sonnet-20241022", "gpt-4o-2024-08-06"
LLAMA, HAIKU = "Meta-Llama-3.1-70B-Instruct", "claude-3-haiku-20240307"
NUMBER, LITERAL = "{number: {parse: true}}", "{literal: {}}"
TASKS = (
    Task("gsm", "gsm", NUMBER, ((MINI, (FLASH,)), (SONNET, ()))),
    Task("gsm-two", "gsm", NUMBER, ((FLASH, ()), (MINI, (FLASH,)), (SONNET, ()))),
    Task("gsm-haiku", "gsm", NUMBER, ((HAIKU, (FLASH,)), (SONNET, ()))),
    Task("crux", "crux", LITERAL, ((MINI, (FLASH,)), (GPT4O, ()))),
    Task("crux-three", "crux", LITERAL, ((MINI, (FLASH, LLAMA)), (GPT4O, ()))),
    Task("gsm-hopeless", "gsm", NUMBER, (("gemma-2-2b-it", ()), (FLASH, ()))),
)


def rows(folder: Path, file: str) -> list[dict[str, Any]]:
    """The rows of a file."""
    with gzip.open(folder / f"{file}.jsonl.gz") as lines:
        return [orjson.loads(line) for line in lines]


def record(task: Task, data: list[dict[str, Any]]) -> Evidence:
    """Every tier and gate asked of the recorded answers, by the engine."""
    answers = {row["inputs"]["prompt"]: row["answers"] for row in data}

    async def ask(call: Call) -> Answer:
        said = answers[call.messages[-1].content].get(call.model.partition("/")[2])
        if said is None:
            raise ProviderError("no answer was recorded")
        usage = Usage(said["input_tokens"], said["output_tokens"])
        return Answer(said["text"], usage=usage, cost_usd=Decimal(repr(said["cost_usd"])), model=call.model)

    policy = load_text(task.policy, f"{task.name}.yaml")
    cascade = Cascade(policy, ask=ask, cache=CacheSettings(backend="off"))

    async def all_rows() -> list[Recording]:
        outcomes = [await cascade.arecord(row["inputs"], id=row["id"]) for row in data]
        return [Recording(o, row["inputs"], {"answer": row["gold"]}, cascade.digests) for o, row in zip(outcomes, data, strict=True)]

    return facts.gather(policy, ((f"{task.file}:{i}", r) for i, r in enumerate(asyncio.run(all_rows()), 1)))


def subset(evidence: Evidence, at: np.ndarray, fit: int) -> Evidence:
    """The evidence of these rows, the first `fit` of them for fitting."""
    fitting = np.zeros(len(at), bool)
    fitting[:fit] = True
    return replace(
        evidence, ids=tuple(evidence.ids[i] for i in at), inputs=(), value=(), passed=evidence.passed[:, at], same=evidence.same[:, at],
        right=evidence.right[:, at], declared=evidence.declared[:, at], call_cost=evidence.call_cost[:, at], fitting=fitting,
        signals=tuple(tuple(tier[i] for i in at) for tier in evidence.signals))  # fmt: skip


@dataclass(frozen=True)
class Held:
    """What a policy does on rows it has not seen: saving against always-last, difference in accuracy."""

    saving: float
    delta: float


def look(evidence: Evidence, fits: Any, cuts: path.Cuts, at: np.ndarray) -> Held:
    """A policy on the rows `at`."""
    scores = [fit.predict([evidence.signals[k][i] for i in at]) for k, fit in enumerate(fits)]
    served = path.serve(cuts, scores, evidence, at)
    right = evidence.right[served.tier, at] - evidence.right[-1, at].astype(float)
    return Held(1 - served.cost.sum() / evidence.cost[-1, at].sum(), float(right.mean()))


def tuned(evidence: Evidence, least: float, repeats: int, folds: int = 5) -> Held:
    """Cross-validated, without a bound: the cheapest policy that loses no more than `least` on four folds, looked at on the fifth."""
    n = len(evidence.ids)
    found = []
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(n)
        for k in range(folds):
            test = order[k::folds]
            train = np.setdiff1d(order, test)
            part = subset(evidence, train, len(train))
            fits, oof, _ = learn._scores(part, "gold")
            cuts = path.find(part, oof, np.arange(len(train)), learn._risk(part, oof))
            loss = learn._loss(part, "gold")
            served = [path.serve(c, oof, part) for c in cuts]
            good = [i for i, s in enumerate(served) if -loss[s.tier, np.arange(len(train))].mean() >= least - 1e-12]
            found.append(look(evidence, fits, cuts[min(good, key=lambda i: served[i].cost.mean())], test))
    return Held(float(np.mean([h.saving for h in found])), float(np.mean([h.delta for h in found])))


def certified(evidence: Evidence, n: int, loss: float, repeats: int) -> tuple[float, float]:
    """Mean certified saving on unseen rows, and how often the promise did not hold in the whole file (of all calibrations)."""
    savings, broken = [], 0
    total = len(evidence.ids)
    for repeat in range(repeats):
        at = np.random.default_rng(10_000 + repeat).permutation(total)[:n]
        part = subset(evidence, at, max(n // 3, min(100, n // 2)))
        result = learn.calibrate(part, learn.Goal(max_loss=loss, reference="gold"))
        chosen = result.thresholds.chosen
        if chosen is None:
            savings.append(0.0)
            continue
        cuts = tuple(result.thresholds.steps[chosen].thresholds.values())
        fits, _, _ = learn._scores(part, "gold")
        held = look(evidence, fits, cuts, np.arange(total))
        savings.append(held.saving)
        broken += held.delta < -loss - 1e-12
    return float(np.mean(savings)), broken / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1000, help="random calibrations a ladder (default 1000)")
    parser.add_argument("--only", help="one ladder")
    parser.add_argument("--write", type=Path, help="the page to write")
    args = parser.parse_args()
    page = "\n".join(_page(args.data, args.repeats, args.only))
    if args.write:
        args.write.write_text(page + "\n", encoding="utf-8")
    print(page)


def _page(folder: Path, repeats: int, only: str | None) -> Iterator[str]:
    yield HEAD.format(repeats=repeats)
    yield ("| ladder | rows | agree only: saving, Δ | always cheap: saving, Δ | tuned to Δ ≥ 0 | tuned to Δ ≥ −1 "
           "| certified ε = 2 %, n = 150 | 300 | 500 | violations |")
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for task in TASKS:
        if only and task.name != only:
            continue
        started = time.perf_counter()
        evidence = record(task, rows(folder, task.file))
        everything = np.arange(len(evidence.ids))
        level, point = tuned(evidence, 0.0, 4), tuned(evidence, -0.01, 4)
        lower = len(task.tiers) - 1
        cheap = path.serve((*[None] * (lower - 1), 0.0), [np.ones(len(everything))] * lower, evidence)
        agree = np.array([s.get("agrees0.score", 0.0) >= 1 for s in evidence.signals[lower - 1]])
        votes = path.serve((*[None] * (lower - 1), 0.5), [agree.astype(float)] * lower, evidence)

        def told(served: path.Served, evidence: Evidence = evidence, everything: np.ndarray = everything) -> str:
            delta = (evidence.right[served.tier, everything] - evidence.right[-1].astype(float)).mean()
            return f"{100 * (1 - served.cost.sum() / evidence.cost[-1].sum()):.0f} %, {100 * delta:+.1f}"

        sizes = [n for n in (150, 300, 500) if n <= 0.8 * len(everything)]
        found = {n: certified(evidence, n, 0.02, repeats if n == 300 else max(50, repeats // 5)) for n in sizes}
        cells = [f"{100 * found[n][0]:.0f} %" if n in found else "–" for n in (150, 300, 500)]
        worst = max(v for _, v in found.values())
        yield (f"| {task.name} | {len(everything)} | {told(votes)} | {told(cheap)} "
               f"| {100 * level.saving:.0f} %, {100 * level.delta:+.1f} "
               f"| {100 * point.saving:.0f} %, {100 * point.delta:+.1f} | {' | '.join(cells)} | {100 * worst:.1f} % |")
        print(f"{task.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    yield f"\nFewest rows that certify at all: {', '.join(f'{region.needed(e, 0.95)} for {100 * e:g} %' for e in (0.05, 0.02, 0.01))}."


HEAD = """# Quality for money, measured

Written by `python benchmarks/quality.py --data FOLDER --repeats {repeats} --write docs/benchmarks.md`. The answers are recorded answers of real
models of late 2024; costs are list prices of that time. The engine records, learns and serves; nothing is asked anew.

Each cell is the saving against always asking the last tier, and the difference in accuracy in points. "Tuned" is cross-validated (five
folds, four times) and has no bound: the cheapest policy that holds the target on four folds, looked at on the fifth. "Certified" is the mean
saving, on the whole file, of random calibrations with n rows (a third of them fits, at least 100) at 95 % confidence; a calibration that
certifies nothing counts as 0. "Violations" is the share of these calibrations whose ladder really loses more than ε on the whole file.
"""

if __name__ == "__main__":
    main()
