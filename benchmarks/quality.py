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
ANSWER = """
schema: {{type: object, properties: {{reasoning: {{}}, answer: {{}}}}, required: [answer]}}
compare: {{reasoning: {{ignore: {{}}}}, answer: {compare}}}
"""
VERDICT = 'schema: {type: object, properties: {winner: {enum: ["1", "2"]}}, required: [winner], additionalProperties: false}'


@dataclass(frozen=True)
class Task:
    """A ladder over one file: tiers as (model, what has to agree with it), the last without. "then MODEL" is asked late, and "MODEL:form"
    with another form of the prompt, where the data has one."""

    name: str
    file: str
    task: str
    tiers: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def policy(self) -> str:
        hard = "schema" if "schema:" in self.task else ""
        tiers = []
        for i, (model, others) in enumerate(self.tiers):
            gates = [hard] if hard else []
            for k, other in enumerate(others):
                form = other.removeprefix("then ").partition(":")
                more = f", prompt: \"{form[2]} {{{{ prompt }}}}\"" if form[2] else ", fields: [answer]" if "answer:" in self.task else ""
                more += ", late: true" if other.startswith("then ") else ""
                gates.append(f"{{agreement: {{name: agrees{k}, with: data/{form[0]}{more}}}}}")
            tiers.append(f"  - {{name: t{i}, model: data/{model}, gates: [{', '.join(gates)}]}}")
        return POLICY.format(name=self.name, task=self.task, tiers="\n".join(tiers))

    def gold(self, row: dict[str, Any]) -> Any:
        """The row's gold in the shape of an answer."""
        return row["gold"] if "$" in self.task else {"winner" if self.file == "judge_llmbar" else "answer": row["gold"]}


FLASH, MINI, SONNET, GPT4O = "gemini-1.5-flash", "gpt-4o-mini-2024-07-18", "claude-3-5-sonnet-20241022", "gpt-4o-2024-08-06"
LLAMA, HAIKU = "Meta-Llama-3.1-70B-Instruct", "claude-3-haiku-20240307"
PALM, GPT4 = "PaLM2-text-bison-001", "gpt-4-0613"
NUMBER, LITERAL, LETTER = ANSWER.format(compare="{number: {parse: true}}"), ANSWER.format(compare="{literal: {}}"), "compare: {$: letter}"
TASKS = (
    Task("gsm", "gsm", NUMBER, ((MINI, (FLASH,)), (SONNET, ()))),
    Task("gsm-then", "gsm", NUMBER, ((MINI, (FLASH, f"then {LLAMA}")), (SONNET, ()))),
    Task("gsm-two", "gsm", NUMBER, ((FLASH, ()), (MINI, (FLASH,)), (SONNET, ()))),
    Task("gsm-haiku", "gsm", NUMBER, ((HAIKU, (FLASH,)), (SONNET, ()))),
    Task("gsm-hopeless", "gsm", NUMBER, (("gemma-2-2b-it", ()), (FLASH, ()))),
    Task("crux", "crux", LITERAL, ((MINI, (FLASH,)), (GPT4O, ()))),
    Task("crux-haiku", "crux", LITERAL, ((MINI, (FLASH, f"then {HAIKU}")), (GPT4O, ()))),
    Task("crux-llama", "crux", LITERAL, ((MINI, (FLASH, f"then {LLAMA}")), (GPT4O, ()))),
    Task("mmlu", "mmlu_pro", LETTER, (("gemini-1.5-flash-002", (LLAMA,)), ("gpt-4o-2024-05-13", ()))),
    Task("mmlu-then", "mmlu_pro", LETTER, (("gemini-1.5-flash-002", (LLAMA, "then gemini-1.5-pro-002")), ("gpt-4o-2024-05-13", ()))),
    Task("mmlu-pro", "mmlu_pro", LETTER, (("gemini-1.5-flash-002", (LLAMA,)), ("gemini-1.5-pro-002", (LLAMA,)), ("gpt-4o-2024-05-13", ()))),
    Task("llmbar", "judge_llmbar", VERDICT, ((PALM, (f"{PALM}:swapped", f"{PALM}:CoT")), (GPT4, ()))),
)


def rows(folder: Path, file: str) -> list[dict[str, Any]]:
    """The rows of a file."""
    with gzip.open(folder / f"{file}.jsonl.gz") as lines:
        return [orjson.loads(line) for line in lines]


def said(row: dict[str, Any], model: str, form: str) -> dict[str, Any] | None:
    """What the model was recorded to say of the row. A judge's verdict is the data's own reading of its text: which answer it prefers."""
    if "answers" in row:
        found: dict[str, Any] | None = row["answers"].get(model)
        return found
    given, swapped = row["judges"][model]["CoT" if form == "CoT" else "Vanilla"]
    verdict = swapped if form == "swapped" else given
    text = orjson.dumps({"winner": verdict["winner"]}).decode() if verdict["winner"] else verdict["text"]
    return {**verdict, "text": text}


def record(task: Task, data: list[dict[str, Any]]) -> Evidence:
    """Every tier and gate asked of the recorded answers, by the engine."""
    by_prompt = {row["inputs"]["prompt"]: row for row in data}

    async def ask(call: Call) -> Answer:
        prompt, form = call.messages[-1].content, ""
        if prompt not in by_prompt:
            form, _, prompt = prompt.partition(" ")
        found = said(by_prompt[prompt], call.model.partition("/")[2], form)
        if found is None:
            raise ProviderError("no answer was recorded")
        usage = Usage(found["input_tokens"], found["output_tokens"])
        return Answer(found["text"], usage=usage, cost_usd=Decimal(repr(found["cost_usd"])), model=call.model)

    policy = load_text(task.policy, f"{task.name}.yaml")
    cascade = Cascade(policy, ask=ask, cache=CacheSettings(backend="off"))

    async def all_rows() -> list[Recording]:
        outcomes = [await cascade.arecord(row["inputs"], id=row["id"]) for row in data]
        return [Recording(o, row["inputs"], task.gold(row), cascade.digests) for o, row in zip(outcomes, data, strict=True)]

    return facts.gather(policy, ((f"{task.file}:{i}", r) for i, r in enumerate(asyncio.run(all_rows()), 1)))


def subset(evidence: Evidence, at: np.ndarray, fit: int) -> Evidence:
    """The evidence of these rows, the first `fit` of them for fitting."""
    fitting = np.zeros(len(at), bool)
    fitting[:fit] = True
    return replace(
        evidence, ids=tuple(evidence.ids[i] for i in at), inputs=(), passed=evidence.passed[:, at], same=evidence.same[:, at],
        right=evidence.right[:, at], declared=evidence.declared[:, at], reached=evidence.reached[:, at],
        call_cost=evidence.call_cost[:, at], fitting=fitting,
        value=tuple(tuple(tier[i] for i in at) for tier in evidence.value),
        signals=tuple(tuple(tier[i] for i in at) for tier in evidence.signals))  # fmt: skip


@dataclass(frozen=True)
class Held:
    """What a policy does on rows it has not seen: saving against always-last, difference in accuracy."""

    saving: float
    delta: float


def look(evidence: Evidence, fits: Any, rungs: path.Rungs, at: np.ndarray) -> Held:
    """A policy on the rows `at`."""
    scores = []
    for k, stages in enumerate(fits):
        signals = [evidence.signals[k][i] for i in at]
        scores.append(np.array([fit.predict(learn._known(signals, evidence.late[k][stage:])) for stage, fit in enumerate(stages)]))
    return _held(evidence, path.serve(rungs, scores, evidence, at), at)


def _held(evidence: Evidence, served: path.Served, at: np.ndarray) -> Held:
    right = evidence.right[served.tier, at] - evidence.right[-1, at].astype(float)
    return Held(1 - served.cost.sum() / evidence.cost[-1, at].sum(), float(right.mean()))


ASKED = tuple(x / 800 for x in range(8, -25, -1))


def tuned(evidence: Evidence, repeats: int, folds: int = 5) -> list[Held]:
    """The held-out curve, without a bound: for each of `ASKED` the cheapest policy that loses no more on four folds, looked at on the fifth."""
    n = len(evidence.ids)
    found: dict[float, list[Held]] = {least: [] for least in ASKED}
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(n)
        for k in range(folds):
            test = order[k::folds]
            train = np.setdiff1d(order, test)
            part = subset(evidence, train, len(train))
            fits, oof, _ = learn._scores(part, "gold")
            found_path = path.find(part, oof, np.arange(len(train)), learn._risk(part, oof))
            loss, ladder = learn._loss(part, "gold"), path.Ladder(part, oof)
            served = [ladder.serve(rungs) for rungs in found_path]
            change = [-loss[s.tier, np.arange(len(train))].mean() for s in served]
            for least, helds in found.items():
                good = [i for i in range(len(found_path)) if change[i] >= least - 1e-12] or [0]
                helds.append(look(evidence, fits, found_path[min(good, key=lambda i: served[i].cost.mean())], test))
    return [Held(float(np.mean([h.saving for h in helds])), float(np.mean([h.delta for h in helds]))) for helds in found.values()]


def at(curve: list[Held], least: float) -> Held:
    """The point of the curve that saves most and loses no more than that; asking the last tier for everything is one, too."""
    return max([Held(0.0, 0.0), *(held for held in curve if held.delta >= least - 1e-12)], key=lambda held: held.saving)


def certified(evidence: Evidence, n: int, loss: float, repeats: int) -> tuple[float, float]:
    """Mean certified saving on unseen rows, and how often the promise did not hold in the whole file (of all calibrations)."""
    savings, broken = [], 0
    total = len(evidence.ids)
    for repeat in range(repeats):
        at = np.random.default_rng(10_000 + repeat).permutation(total)[:n]
        part = subset(evidence, at, max(n // 3, min(100, n // 2)))
        result = learn.calibrate(part, learn.Goal(max_loss=loss, reference="gold"))
        if result.chosen is None:
            savings.append(0.0)
            continue
        point = result.chosen.point
        if point.gates is None:
            fits, _, _ = learn._scores(part, "gold")
            held = look(evidence, fits, learn.rungs(point, part), np.arange(total))
        else:
            asked = [point.thresholds[name] is not None for name in evidence.names]
            held = _held(evidence, path.Ladder(evidence, ()).as_declared(asked), np.arange(total))
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
    yield ("| ladder | rows | agree only: saving, Δ | always cheap: saving, Δ | best, Δ ≥ 0 | best, Δ ≥ −1 "
           "| certified ε = 2 %, n = 150 | 300 | 500 | violations |")
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    beside = ["| ladder | random mixing, Δ ≥ −1 | scorer without votes, Δ ≥ −1 | best, Δ ≥ −1 | oracle |", "| --- | ---: | ---: | ---: | ---: |"]
    for task in TASKS:
        if only and task.name != only:
            continue
        started = time.perf_counter()
        evidence = record(task, rows(folder, task.file))
        everything = np.arange(len(evidence.ids))
        lower = len(task.tiers) - 1
        declared = learn._declared(evidence)
        alone = [tuple(path.Rung(0.0) if i == k else None for i in range(lower)) for k in range(lower)]
        blunt = [_held(evidence, path.serve(rungs, [], evidence), everything) for rungs in alone]
        curve = [*tuned(evidence, 4), *blunt, *([] if declared is None else [_held(evidence, declared.served, everything)])]
        level, point, blind = at(curve, 0.0), at(curve, -0.01), at(tuned(_without_votes(evidence), 4), -0.01)
        cheap = blunt[-1]
        votes = "–" if declared is None else _told(_held(evidence, declared.served, everything))
        sizes = [n for n in (150, 300, 500) if n <= 0.8 * len(everything)]
        found = {n: certified(evidence, n, 0.02, repeats if n == sizes[-1] else max(60, repeats // 10)) for n in sizes}
        cells = [f"{100 * found[n][0]:.0f} %" if n in found else "–" for n in (150, 300, 500)]
        worst = max(v for _, v in found.values())
        yield (f"| {task.name} | {len(everything)} | {votes} | {_told(cheap)} | {_told(level)} | {_told(point)} "
               f"| {' | '.join(cells)} | {100 * worst:.1f} % |")
        mixing = cheap.saving * min(1.0, 0.01 / -cheap.delta) if cheap.delta < 0 else cheap.saving
        beside.append(f"| {task.name} | {100 * max(mixing, 0):.0f} % | {_told(blind)} | {_told(point)} | {_told(_oracle(evidence))} |")
        print(f"{task.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    yield f"\nFewest rows that certify without benefit: {', '.join(f'{region.needed(e, 0.95)} for {100 * e:g} %' for e in (0.05, 0.02, 0.01))}."
    yield BESIDE
    yield from beside


def _told(held: Held) -> str:
    return f"{100 * held.saving:.0f} %, {100 * held.delta:+.1f}"


def _without_votes(evidence: Evidence) -> Evidence:
    """The same ladder whose gates ask no other model: neither paid nor known."""
    votes = {gate.name for tier in evidence.policy.tiers for gate in tier.gates if gate.asks}
    kept = tuple(tuple({name: x for name, x in row.items() if name.partition(".")[0] not in votes} for row in tier) for tier in evidence.signals)
    mine = tuple((stages[0][: facts.OWN], *((),) * (len(stages) - 1)) for stages in evidence.calls)
    return replace(evidence, signals=kept, calls=mine)


def _oracle(evidence: Evidence) -> Held:
    """The cheapest tier that is right, by gold, asked alone; where none is, the cheapest. No verifier reaches it."""
    right, cost = evidence.right == 1, evidence.own_cost
    order = np.where(right, cost, np.inf).argmin(axis=0)
    at = np.arange(len(evidence.ids))
    spent = np.where(right.any(axis=0), cost[order, at], cost.min(axis=0)).sum()
    return Held(float(1 - spent / cost[-1].sum()), float(right.any(axis=0).mean() - right[-1].mean()))


HEAD = """# Quality for money, measured

Written by `python benchmarks/quality.py --data FOLDER --repeats {repeats} --write docs/benchmarks.md`. The answers are recorded answers of real
models of 2023 and 2024; costs are list prices of that time. The engine records, learns and serves; nothing is asked anew.

Each cell is the saving against always asking the last tier, and the difference in accuracy in points. "Agree only" is the ladder as declared,
without labels. "Best" has no bound: the points of the held-out curve that save most at these losses. The curve is the declared ladder, each
lower tier alone, and what is learned, cross-validated (five folds, four times): the cheapest policy that loses no more than x on four folds,
looked at on the fifth, for x from -1 to 3 points. "Certified" is the mean saving, on the whole file, of random calibrations with n rows at 95 %
confidence; one that certifies nothing counts as 0. "Violations" is the share of these calibrations whose ladder really loses more than ε on the
whole file, the largest over n; the largest n that a file allows is repeated {repeats} times.

In `llmbar` the answers are verdicts of judges (which of two outputs is better) against people's; PaLM 2 is asked in both orders and once more with
a chain of thought, GPT-4 is the last tier. In `gsm-then`, `mmlu-then`, `crux-haiku` and `crux-llama` a second voter is asked late.
"""
BESIDE = """
## Beside others

"Random mixing" sends a random share to the cheap tier; "scorer without votes" is a cascade in the way of FrugalGPT (Chen, Zaharia, Zou 2023):
a learned score of the cheap answer alone, no other model asked; "oracle" knows which tier is right, and is a bound, not a goal.
"""

if __name__ == "__main__":
    main()
