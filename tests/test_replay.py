"""Replay: what a policy would have done with recordings; held to the engine itself, and the quick walk to the plain one."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import math
import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from typer.testing import CliRunner

from cascade import Cascade, binding, compose
from cascade.cli.app import app
from cascade.decide import decide, spent
from cascade.errors import InputError, ProviderError
from cascade.explore import explore
from cascade.outcome import Outcome
from cascade.policy.load import load_text
from cascade.recording import UNKNOWN, Recording, to_line
from cascade.replay import tango
from cascade.replay.bound import Bound
from cascade.replay.conditions import NAMES, measured, parse
from cascade.replay.fast import Fast
from cascade.replay.files import Result, replay
from cascade.replay.player import Player, table
from cascade.replay.roomy import Roomy
from cascade.replay.seen import reference, see
from cascade.replay.text import as_json, code, markdown, plain
from cascade.replay.walk import NotRecorded, Walker, unasked, walk
from cascade.replay.worst import Worst
from cascade.types import (
    Answer,
    CacheSettings,
    Call,
    Check,
    Checked,
    Compared,
    Event,
    Failed,
    Finish,
    Gate,
    Json,
    Outcomes,
    Policy,
    Repair,
    Template,
    Tier,
    Tried,
    Try,
    Usage,
)
from cascade.verifiers.consistency import ConsistencyVerifier

HEAD = """
version: 1
name: sums
prompt: "Add {{ question }}"
schema: {type: object, properties: {total: {type: integer}}, required: [total]}
providers: {p: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}}
cache: {backend: off}
pricing: {p/small: {input: 1, output: 2}, p/other: {input: 1, output: 2}, p/middle: {input: 4, output: 8}, p/big: {input: 20, output: 80}}
"""
TIERS = """
tiers:
  - {name: small, model: p/small, repair: 1, gates: [schema, {check: {name: even, expression: "total % 2 == 0", threshold: 1.0}}, {agreement: {with: p/other}}]}
  - {name: middle, model: p/middle, gates: [schema, {consistency: {samples: 3}}]}
  - {name: big, model: p/big, gates: [schema]}
"""
COST = {"p/small": Decimal("0.001"), "p/other": Decimal("0.0015"), "p/middle": Decimal("0.004"), "p/big": Decimal("0.03")}
RIGHT = {"p/small": 0.6, "p/other": 0.7, "p/middle": 0.8, "p/big": 0.95}


def sums(tiers: str = TIERS, more: str = "") -> Policy:
    return load_text(HEAD + more + tiers, "sums.yaml")


async def ask(call: Call) -> Answer:
    """Models that say the same to the same call, always: mostly 42, sometimes odd, unreadable, cut off, refused, or down."""
    said = "".join(m.content for m in call.messages)
    draw = random.Random(hashlib.sha256(f"{call.model}{said}{call.sample}".encode()).digest())
    chance = draw.random()
    usage, cost = Usage(len(said), 9), COST[call.model]
    if chance < 0.03:
        raise ProviderError("down")
    if chance < 0.09:
        return Answer('{"total": 4', "length" if chance < 0.06 else "refusal", usage, cost, model=call.model)
    if chance < 0.16:
        return Answer('{"total": "42"}' if chance < 0.12 else "no idea", "stop", usage, cost, model=call.model)
    return Answer(f'{{"total": {42 if draw.random() < RIGHT[call.model] else draw.choice([41, 44])}}}', "stop", usage, cost, model=call.model)


QUESTIONS = [{"question": f"{n} and {42 - n}"} for n in range(120)]


def recorded(policy: Policy, gold: Json = UNKNOWN, questions: list[dict[str, str]] = QUESTIONS) -> list[Recording]:
    """What the engine records."""
    cascade = Cascade(policy, ask=ask, cache=CacheSettings(backend="off"))

    async def all_of() -> list[Recording]:
        return [Recording(await cascade.arecord(q, id=f"r{n}"), q, gold, cascade.digests) for n, q in enumerate(questions)]

    return asyncio.run(all_of())


def served(policy: Policy, questions: list[dict[str, str]] = QUESTIONS) -> list[Outcome]:
    """What the engine does when it is asked."""
    cascade = Cascade(policy, ask=ask, cache=CacheSettings(backend="off"))

    async def all_of() -> list[Outcome]:
        return [await cascade.arun(q, id=f"r{n}") for n, q in enumerate(questions)]

    return asyncio.run(all_of())


RECORDED = recorded(sums(), {"total": 42})
LINES = [to_line(r) for r in RECORDED]


@pytest.fixture
def trails(tmp_path: Path) -> Path:
    path = tmp_path / "trails.jsonl"
    path.write_bytes(b"\n".join(LINES) + b"\n")
    return path


# ---------------------------------------------------------------- against the engine

BUT = {
    "as it was recorded": lambda text: text,
    "without the first tier": lambda text: text.replace(text[text.index("  - {name: small") : text.index("  - {name: middle")], ""),
    "without the last tier": lambda text: text[: text.index("  - {name: big")],
    "without agreement": lambda text: text.replace(", {agreement: {with: p/other}}", ""),
    "agreement may fail": lambda text: text.replace("with: p/other", "with: p/other, threshold: 0.0"),
    "agreement is asked late": lambda text: text.replace("with: p/other", "with: p/other, late: true"),
    "a late agreement decides nothing": lambda text: text.replace("{agreement: {with: p/other}}", "{agreement: {with: p/other, late: true, threshold: 0}}"),
    "samples that agree are enough": lambda text: text.replace("samples: 3}}", "samples: 3, threshold: 0.5, accept_at: 0.6}}"),
    "more samples must agree": lambda text: text.replace("samples: 3", "samples: 3, threshold: 1.0"),
    "middle last": lambda text: text[: text.index("  - {name: middle")] + text[text.index("  - {name: big") :] + text[text.index("  - {name: middle") :
                                                                                                               text.index("  - {name: big")],
    "refusals climb": lambda text: "outcomes: {refusal: next, truncated: stop}\n" + text,
    "failures stop": lambda text: "outcomes: {error: stop, exhausted: error}\n" + text,
    "the last is served": lambda text: "outcomes: {refusal: next, exhausted: last}\n" + text,
    "a budget that binds": lambda text: "budget: {per_request: 0.03}\n" + text,
    "a budget for the first tier": lambda text: "budget: {per_request: 0.004}\n" + text,
    "a budget for nothing": lambda text: "budget: {per_request: 0.0001}\n" + text,
    "a budget that never binds": lambda text: "budget: {per_request: 5}\n" + text,
}


@pytest.mark.parametrize("change", BUT)
def test_a_replay_is_what_the_engine_does(change: str) -> None:
    policy = sums(BUT[change](TIERS))
    walker = Walker(policy)
    for made, outcome in zip(RECORDED, served(policy), strict=True):
        seen = see(policy, walker.walk(made))
        calls = [e for e in outcome.trail if not unasked(e)]
        asked = tuple(dict.fromkeys(e.tier for e in calls if isinstance(e, Tried | Failed) and e.gate is None))
        text = next((e.text for e in reversed(outcome.trail) if isinstance(e, Tried) and e.tier == outcome.tier and e.gate is None), None)
        assert (seen.status, seen.tier, seen.cost, seen.calls, seen.asked) == (outcome.status, outcome.tier, outcome.cost_usd, len(calls), asked), made.outcome.id
        if outcome.status == "accepted":
            assert seen.text == text


@pytest.mark.parametrize("change", BUT)
def test_the_quick_walk_of_real_recordings_says_what_walk_says(change: str) -> None:
    policy = sums(BUT[change](TIERS))
    walker = Walker(policy)
    rows = list(table(policy, LINES))
    assert [row.seen for row in rows] == [see(policy, walker.walk(made)) for made in RECORDED]
    assert [row.reference for row in rows] == [reference(made, "big") for made in RECORDED]


SAME_CALL = """
tiers:
  - {name: small, model: p/small, gates: [schema, {agreement: {with: p/middle}}]}
  - {name: middle, model: p/middle, gates: [schema, {agreement: {with: p/other}}]}
  - {name: big, model: p/big, gates: [schema, {agreement: {with: p/other}}]}
"""


@pytest.mark.parametrize("tiers", [SAME_CALL, SAME_CALL.replace(SAME_CALL.splitlines()[3], "  - {name: middle, model: p/middle, gates: [schema]}"),
                                   SAME_CALL.replace(SAME_CALL.splitlines()[2] + "\n", ""), SAME_CALL.replace(SAME_CALL.splitlines()[3] + "\n", "")],
                         ids=["the same", "the first asker dropped", "the lower tier dropped", "the middle tier dropped"])
def test_what_was_asked_once_is_paid_once_by_whoever_is_there(tiers: str) -> None:
    made = recorded(sums(SAME_CALL))
    policy = sums(tiers)
    walker = Walker(policy)
    found = [see(policy, walker.walk(one)) for one in made]
    assert [(s.status, s.tier, s.cost) for s in found] == [(o.status, o.tier, o.cost_usd) for o in served(policy)]
    assert [row.seen for row in table(policy, map(to_line, made))] == found


HEARD_BELOW = """
tiers:
  - {name: small, model: p/small, gates: [schema, {check: "total % 2 == 0"}]}
  - {name: middle, model: p/middle, gates: [schema, {agreement: {with: p/small}}]}
  - {name: surer, model: p/middle, gates: [schema, {agreement: {with: [p/small, p/other]}}]}
  - {name: big, model: p/big, gates: [schema, {agreement: {with: p/middle}}]}
"""


@pytest.mark.parametrize("late", ["", ", late: true"], ids=["beside the tier", "late"])
@pytest.mark.parametrize("dropped", [[], ["small"], ["middle"], ["surer"], ["small", "middle"], ["middle", "surer"]], ids=str)
def test_what_a_tier_below_has_said_is_heard_for_nothing(dropped: list[str], late: str) -> None:
    ladder = HEARD_BELOW.replace("with: p/small}", f"with: p/small{late}}}").replace("p/other]", f"p/other]{late}")
    made = recorded(sums(ladder))
    policy = sums("\n".join(line for line in ladder.splitlines() if not any(f"name: {name}," in line for name in dropped)))
    walker = Walker(policy)
    found = [see(policy, walker.walk(one)) for one in made]
    assert [(s.status, s.tier, s.cost) for s in found] == [(o.status, o.tier, o.cost_usd) for o in served(policy)]
    assert [row.seen for row in table(policy, map(to_line, made))] == found


SAMPLES = """
tiers:
  - {name: small, model: p/small, repair: 1, gates: [schema, {consistency: {samples: 7, threshold: 0.3}}, {check: {name: even, expression: "total % 2 == 0"}}]}
  - {name: middle, model: p/middle, gates: [schema, {consistency: {samples: 4, threshold: 0.5, prompts: ["Sum {{ question }}", "How much is {{ question }}?"]}}]}
  - {name: big, model: p/big, gates: [schema]}
"""


def repaired(outcome: Outcome) -> bool:
    """Whether the first tier's samples looked at an answer and at its repair."""
    return sum(isinstance(e, Checked) and (e.tier, e.gate) == ("small", "consistency") for e in outcome.trail) > 1


@pytest.mark.parametrize("change", [
    lambda text: text, lambda text: text.replace("0.3", "1.0").replace("0.5", "0.75"), lambda text: text.replace("0.5", "0.0"),
    lambda text: "budget: {per_request: 0.02}\n" + text, lambda text: "budget: {per_request: 5}\n" + text,
])  # fmt: skip
def test_samples_that_were_not_needed_are_paid_by_neither_engine_nor_replay(change: Any) -> None:
    made = recorded(sums(SAMPLES))
    policy = sums(change(SAMPLES))
    walker = Walker(policy)
    found = [see(policy, walker.walk(one)) for one in made]
    outcomes = served(policy)
    assert [(s.status, s.tier, s.cost) for s in found] == [(o.status, o.tier, o.cost_usd) for o in outcomes]
    assert [row.seen for row in table(policy, map(to_line, made))] == found
    asked = [sum(isinstance(e, Tried | Failed) and e.gate == "consistency" for e in o.trail) for o in outcomes]
    assert min(asked) < max(asked)
    if change(SAMPLES) == SAMPLES:
        assert any(map(repaired, outcomes))  # which hears the votes of the first answer again, and pays them once
    whole = [e for one in made for e in one.outcome.trail if isinstance(e, Checked) and e.gate == "consistency" and e.score]
    assert {e.signals["votes"] + e.signals["failed"] for e in whole} == {3.0, 6.0}  # a recording has them all


def test_a_shadow_of_the_engine_is_replayed_too() -> None:
    policy = sums(more="shadow: 1.0\n")
    cascade = Cascade(policy, ask=ask, cache=CacheSettings(backend="off"))

    async def all_of() -> list[Outcome]:
        return [await cascade.arun(q, id=f"r{n}") for n, q in enumerate(QUESTIONS)]

    lines = [to_line(Recording(o, q, UNKNOWN, cascade.digests)) for o, q in zip(asyncio.run(all_of()), QUESTIONS, strict=True)]
    found = [(row.seen.status, row.seen.tier, row.seen.cost) for row in table(policy, lines)]
    assert found == [(o.status, o.tier, o.cost_usd) for o in served(sums())]


def test_a_calibrated_gate_is_computed_from_what_was_recorded() -> None:
    weigh = Gate("calibrated", "calibrated", 0.5, {"signals": ["agreement.score", "answer.chars"], "mean": [0.5, 3.0], "scale": [0.5, 1.0], "weights": [2.0, 0.1],
                                                   "intercept": 0.0, "optional": ["agreement.score"]})
    base = sums()
    small = base.tiers[0]
    policy = replace(base, tiers=(replace(small, gates=(*(replace(g, advisory=g.asks) for g in small.gates), weigh)), *base.tiers[1:]))
    walker = Walker(policy)
    found = [see(policy, walker.walk(made)) for made in RECORDED]
    assert [(s.status, s.tier, s.cost) for s in found] == [(o.status, o.tier, o.cost_usd) for o in served(policy)]
    assert {s.tier for s in found} >= {"small", "middle"}
    assert [row.seen for row in table(policy, LINES)] == found


# ---------------------------------------------------------------- the quick walk against the plain one, on anything

NAMES_OF_TIERS = ("a", "b", "c")
SCORES = st.sampled_from([None, 0.0, 0.3, 0.67, 1.0])
COSTS = st.sampled_from(["0", "0.00001", "0.0023", "1.5", None])
WEIGH = {"signals": ["answer.size", "agrees.score"], "mean": [2.0, 0.5], "scale": [1.0, 0.4], "weights": [0.3, 1.0], "intercept": -0.2, "optional": ["agrees.score"]}


@st.composite
def ladders(draw: st.DrawFn) -> Policy:
    tiers = []
    for name in NAMES_OF_TIERS[: draw(st.integers(1, 3))]:
        gates = [Gate("schema", "schema", 1.0, repairable=True), Gate("agrees", "agreement", 0.5, {"with": f"p/{name}x"}, asks=True),
                 Gate("samples", "consistency", 0.67, {"samples": 3}, asks=True), Gate("rule", "python", 0.5, {"function": "m:f"}, repairable=draw(st.booleans()))]
        kept = draw(st.permutations(gates))[: draw(st.integers(0, 4))]
        tiers.append(Tier(name, f"p/{name}", tuple(kept), repair=draw(st.integers(0, 2))))
    return Policy("p", Template("x {{ q }}", "x.j2"), tuple(tiers))


@st.composite
def changed(draw: st.DrawFn, policy: Policy) -> Policy:
    """Another policy over the same parts: an order, a subset, other thresholds and outcomes, advice weighed."""
    tiers = []
    for tier in draw(st.permutations(policy.tiers))[: draw(st.integers(1, len(policy.tiers)))]:
        gates = [replace(g, threshold=draw(st.sampled_from([0.0, 0.5, 0.67, 1.0])), advisory=g.asks and draw(st.booleans()),
                         accept_at=draw(st.sampled_from([None, None, 0.5, 1.0]))) for g in tier.gates]  # fmt: skip
        gates = draw(st.permutations(gates))[: draw(st.integers(0, len(gates)))] if draw(st.booleans()) else gates
        if draw(st.booleans()):
            gates = [*gates, Gate("calibrated", "calibrated", draw(st.sampled_from([0.3, 0.6, 0.9])), WEIGH)]
        if len(gates) > 1 and draw(st.booleans()):
            gates = [*gates[:-1], Gate("calibrated.x", "calibrated", 0.2, WEIGH, accept_at=draw(st.sampled_from([0.4, 0.8]))), gates[-1]]
        tiers.append(replace(tier, gates=tuple(gates)))
    outcomes = Outcomes(draw(st.sampled_from(["stop", "next"])), draw(st.sampled_from(["stop", "next"])), draw(st.sampled_from(["stop", "next"])),
                        draw(st.sampled_from(["best", "last", "error"])))
    return replace(policy, tiers=tuple(tiers), outcomes=outcomes)


@st.composite
def explored(draw: st.DrawFn, policy: Policy, plain_rows: bool) -> Recording:
    """A trail as `explore` leaves it, with made-up answers."""
    trail: list[Event] = []
    waiting: list[Event] = []
    costs = COSTS.filter(lambda c: c is not None) if plain_rows else COSTS

    def dollars() -> Decimal | None:
        cost = draw(costs)
        return None if cost is None else Decimal(cost)

    def call(tier: Tier, model: str, gate: str | None = None, repair: int = 0, sample: int = 0) -> Event:
        odd = 0 if plain_rows else draw(st.integers(0, 9))
        if odd == 1 or (odd == 2 and gate):
            return Failed(tier.name, model, "timeout", "late", dollars(), sample=sample, gate=gate, repair=repair)
        finish = draw(st.sampled_from(["refusal", "length", "filter"])) if odd == 3 else "stop"
        text = draw(st.sampled_from(['{"a": 1}', '{"a": 2}', "prose", "```json\n{}\n```"]))
        return Tried(tier.name, model, text, finish, Usage(5, draw(st.integers(1, 9))), dollars(), 0.1, sample, gate, repair)

    while not isinstance(step := explore(policy, trail), Finish):
        tier = policy.tier(step.tier)
        if isinstance(step, Check):
            gate = next(g for g in tier.gates if g.name == step.gate)
            trail += [e for e in waiting if e.gate == gate.name]  # type: ignore[union-attr]
            waiting = [e for e in waiting if e.gate != gate.name]  # type: ignore[union-attr]
            if gate.kind == "consistency" and draw(st.booleans()):
                trail += [call(tier, tier.model, gate.name, sample=n) for n in (1, 2)]
            score = draw(SCORES)
            trail.append(Checked(tier.name, gate.name, score, gate.threshold, score is not None and score >= gate.threshold))
            continue
        if isinstance(step, Try):
            trail += waiting
            waiting = [call(tier, f"p/{tier.name}x", g.name) for g in tier.gates if g.kind == "agreement"]
        trail.append(call(tier, tier.model, repair=step.n if isinstance(step, Repair) else 0))
    trail += waiting
    trail.append(Compared(policy.tiers[0].name, policy.tiers[-1].name, True))
    return Recording(Outcome("p@", "accepted", None, None, spent(trail), trail=tuple(trail), id="x", mode="record"), {"q": "?"}, UNKNOWN, binding.digests(policy))


def said(call: Any) -> Any:
    try:
        return call()
    except NotRecorded as err:
        return str(err)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_quick_walk_agrees_with_walk_on_every_row(data: st.DataObject) -> None:
    base = data.draw(ladders())
    policy = data.draw(changed(base))
    plain_rows = data.draw(st.booleans())
    made = data.draw(explored(base, plain_rows))
    line = to_line(made)
    walker = Walker(policy)
    slow = said(lambda: (see(policy, walker.walk(made)), reference(made, base.tiers[-1].name)))
    quick = Fast(walker).play(orjson.loads(line), base.tiers[-1].name)
    assert quick is None or quick == slow
    if plain_rows and not isinstance(slow, str) and not any(g.kind == "agreement" for t in policy.tiers for g in t.gates):
        assert quick is not None
    if not Bound(policy).differs(made.digests, made.outcome.trail):
        row = said(lambda: next(iter(table(policy, [line]))))
        assert (row if isinstance(row, str) else (row.seen, row.reference)) == slow


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_walk_ends_where_decide_ends_it_and_pays_no_recorded_call_twice(data: st.DataObject) -> None:
    base = data.draw(ladders())
    policy = data.draw(changed(base))
    made = data.draw(explored(base, False))
    trail = said(lambda: walk(policy, made))
    if isinstance(trail, str):
        return
    assert isinstance(decide(policy, trail), Finish)
    paid = [(e.tier, e.gate, e.model, e.sample, e.repair) for e in trail if isinstance(e, Tried | Failed)]
    there = [(e.tier, e.gate, e.model, e.sample, e.repair) for e in made.outcome.trail if isinstance(e, Tried | Failed)]
    assert all(paid.count(one) <= there.count(one) for one in paid)


def test_most_real_rows_take_the_quick_way() -> None:
    policy = sums()
    fast = Fast(Walker(policy))
    found = [fast.play(orjson.loads(line), "big") for line in LINES]
    whole = [all(e.finish == "stop" for e in r.outcome.trail if isinstance(e, Tried) and e.gate is None)
             and not any(isinstance(e, Failed) and e.gate is None for e in r.outcome.trail) for r in RECORDED]  # fmt: skip
    assert [one is not None for one in found] == whole
    assert sum(whole) > len(whole) / 2


# ---------------------------------------------------------------- budgets


def test_worst_cases_are_the_engines() -> None:
    policy = sums(more="budget: {per_request: 1}\nsystem: \"Be exact, ünïcode.\"\n")
    cascade = Cascade(policy, ask=ask, cache=CacheSettings(backend="off"))
    worst = Worst(policy)

    async def theirs() -> list[Decimal | None]:
        ladder = cascade._wiring().ladder(cascade._rungs)
        return [ladder.worst(Call(tier.model, messages, policy.schema, ladder.params[tier.name])) for tier in policy.tiers]

    messages = compose.prompt(policy, {"question": "ä" * 50})
    assert [worst.of_tier(tier, {"question": "ä" * 50}, [], 0) for tier in policy.tiers] == asyncio.run(theirs())


def test_worst_cases_of_samples_are_those_of_their_own_prompts() -> None:
    policy = sums(SAMPLES, more="budget: {per_request: 1}\n")
    tier = policy.tiers[1]
    ladder, gate = Cascade(policy, ask=ask, cache=CacheSettings(backend="off")), tier.gates[1]
    verifier = ladder._rungs.verifiers[tier.name, gate.name]
    assert isinstance(verifier, ConsistencyVerifier)

    async def theirs() -> list[Decimal | None]:
        call = Call(tier.model, compose.prompt(policy, QUESTIONS[0]), policy.schema, ladder._rungs.params[tier.name])
        return [ladder._wiring().ladder(ladder._rungs).worst(one) for one in verifier.calls(QUESTIONS[0], call)]

    asked = [Tried(tier.name, tier.model, "", sample=n, gate=gate.name) for n in (1, 2, 3)]
    found = [Worst(policy).of_gate(tier, gate, event, QUESTIONS[0]) for event in asked]
    assert found == asyncio.run(theirs())
    assert found[0] != found[1]


@pytest.mark.parametrize(("prompt", "plain"), [("{{ a }} {{ b.c }} {{ inputs['d'] | tojson }}", True), ("{% if a %}{{ a }}{% endif %}", True), ("no holes", True),
                                               ("{% for x in a %}{{ x }}{% endfor %}", False), ("{{ a * 9 }}", False), ("{{ a ~ a }}", False),
                                               ("{{ a | join(b) }}", False), ("{% set x = a %}{{ x }}", False), ("{% include 'x.j2' %}", False), ("{{ a.upper() }}", False),
                                               ("{{ a | tojson(2) }}", False)])
def test_only_templates_that_put_inputs_down_are_bounded_unrendered(prompt: str, plain: bool) -> None:
    policy = replace(sums(more="budget: {per_request: 1}\n"), prompt=Template(prompt, "x.j2"))
    assert Roomy(policy, Worst(policy)).plain is plain


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.none() | st.booleans() | st.integers(-(2**60), 2**60),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4), max_leaves=20))
def test_a_budget_said_to_be_roomy_is_never_reached(value: Json) -> None:
    base = sums(more="budget: {per_request: 1}\n")
    prompt = Template("{{ a }}{{ a | tojson }}{{ inputs.a | string }}", "x.j2")
    for dollars in ("0.2", "0.35", "0.8", "5"):
        policy = replace(base, prompt=prompt, budget_per_request=Decimal(dollars))
        worst = Worst(policy)
        roomy = Roomy(policy, worst)({"a": value}, [{"text": "x"}])
        dearest = sum(worst.of_tier(t, {"a": value}, [], 0) * (1 + t.repair) for t in policy.tiers)
        assert not roomy or dearest <= policy.budget_per_request  # type: ignore[operator]


# ---------------------------------------------------------------- what cannot be replayed


@pytest.mark.parametrize(("change", "says"), [
    (lambda t: t.replace("model: p/big", "model: p/middle"), "tier big has changed"),
    (lambda t: t.replace("name: big", "name: huge"), "tier huge is new, tier huge: gate schema is new"),
    (lambda t: t.replace("{consistency: {samples: 3}}", "{consistency: {samples: 4}}"), "tier middle: gate consistency has changed"),
    (lambda t: t.replace("total % 2 == 0", "total % 2 == 1"), "tier small: gate even has changed"),
    (lambda t: t.replace("gates: [schema]}", "gates: [schema, {agreement: {with: p/other}}]}"), "tier big: gate agreement is new"),
    (lambda t: t.replace("repair: 1, ", ""), "tier small has changed"),
    (lambda t: "compare: {total: {number: {tolerance: 1}}}\n" + t, "compare has changed, and gate agreement was scored by it"),
    (lambda t: 'system: "Be exact."\n' + t, "system is new"),
])  # fmt: skip
def test_a_policy_of_other_parts_is_refused_and_what_changed_is_said(change: Any, says: str) -> None:
    policy = sums(change(TIERS))
    with pytest.raises(InputError) as err:
        list(table(policy, LINES))
    assert str(err.value) == f"recorded with another policy than sums@{policy.digest[:6]}: {says}; record again with this one"


def test_another_prompt_or_schema_is_refused() -> None:
    for old, new, says in (("Add {{", "Sum {{", "prompt has changed"), ("type: integer", "type: number", "schema has changed")):
        with pytest.raises(InputError, match=says):
            list(table(load_text(HEAD.replace(old, new) + TIERS, "sums.yaml"), LINES))


def test_a_rules_threshold_is_no_part_that_binds() -> None:
    policy = sums(TIERS.replace("threshold: 1.0", "threshold: 0.0"))
    assert "tier small: gate even has changed" in binding.changed(RECORDED[0].digests, binding.digests(policy))
    assert all(Bound(policy).differs(made.digests, made.outcome.trail) == [] for made in RECORDED)


def test_other_comparators_grade_anew_where_no_gate_was_scored_by_them() -> None:
    bare = "tiers:\n  - {name: small, model: p/small, repair: 1, gates: [schema]}\n  - {name: big, model: p/big, gates: [schema]}\n"
    strict = [row.right for row in table(sums(bare), LINES)]
    near = [row.right for row in table(sums(bare, "compare: {total: {number: {tolerance: 2}}}\n"), LINES)]
    assert (sum(map(bool, strict)) < sum(map(bool, near)), all(b or not a for a, b in zip(strict, near, strict=True))) == (True, True)


def test_a_missing_step_says_what_is_missing_and_where() -> None:
    made = RECORDED[next(i for i, r in enumerate(RECORDED) if r.outcome.trail[0].event == "tried" and r.outcome.trail[-1].event != "failed")]

    def without(*dropped: Any) -> Recording:
        kept = tuple(e for e in made.outcome.trail if not any(d(e) for d in dropped))
        return replace(made, outcome=replace(made.outcome, trail=kept))

    policy = sums("tiers: [{name: big, model: p/big, gates: [schema]}]\n")
    with pytest.raises(NotRecorded, match=rf"tier big was never asked in row {made.outcome.id}; record again"):
        walk(policy, without(lambda e: e.tier == "big"))
    with pytest.raises(NotRecorded, match=rf"gate schema never looked at the answer of tier big in row {made.outcome.id}"):
        walk(policy, without(lambda e: isinstance(e, Checked) and e.tier == "big"))


def test_a_call_that_the_recordings_own_budget_refused_is_missing() -> None:
    made = replace(RECORDED[0], outcome=replace(RECORDED[0].outcome, trail=(Failed("big", "p/big", "budget", "spent"),)))
    with pytest.raises(NotRecorded, match="because of the recording's budget_per_request; record that row again"):
        walk(sums("tiers: [{name: big, model: p/big, gates: [schema]}]\n"), made)


def test_an_answer_that_was_never_repaired_is_missing() -> None:
    tier = Tier("a", "p/a", (Gate("rule", "python", 0.9, {"function": "m:f"}, repairable=True),), repair=1)
    trail = (Tried("a", "p/a", "x"), Checked("a", "rule", 0.5, 0.4, True))
    made = Recording(Outcome("p@", "accepted", trail=trail, id="7", mode="record"))
    with pytest.raises(NotRecorded, match="answer 1 of tier a was never repaired in row 7"):
        walk(Policy("p", Template("x", "x"), (tier,)), made)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(("wins", "losses", "n", "low", "high"), [(1, 7, 21, -0.517, -0.026)])
def test_tangos_interval_is_the_published_one(wins: int, losses: int, n: int, low: float, high: float) -> None:
    """Airway hyper-responsiveness (Bentur et al. 2009), as in Fagerland, Lydersen, Laake, Statistics in Medicine 2014."""
    assert tuple(round(x, 3) for x in tango.proportions(wins, losses, n)) == (low, high)


@pytest.mark.parametrize(("wins", "losses", "n"), [(40, 20, 160), (3, 9, 50), (1, 0, 30), (12, 12, 400), (5, 60, 70)])
def test_tangos_interval_is_that_of_the_score_test_by_its_definition(wins: int, losses: int, n: int) -> None:
    """The restricted maximum of the multinomial likelihood found by search instead of in closed form, the edges by scipy's root finder."""

    def score(d: float) -> float:
        def minus_log(q: float) -> float:
            cells = ((wins, q + d), (losses, q), (n - wins - losses, 1 - 2 * q - d))
            return -sum(k * math.log(p) if p > 0 else -1e9 * k for k, p in cells if k)

        q = minimize_scalar(minus_log, bounds=(max(0.0, -d), (1 - d) / 2), method="bounded", options={"xatol": 1e-12}).x
        return (wins - losses - n * d) / math.sqrt(n * (2 * q + d - d * d))

    seen = (wins - losses) / n
    edges = (brentq(lambda d: score(d) - tango.Z, -0.999, seen - 1e-9), brentq(lambda d: score(d) + tango.Z, seen + 1e-9, 0.999))
    assert tango.proportions(wins, losses, n) == pytest.approx(edges, abs=1e-5)


@pytest.mark.parametrize(("wins", "losses", "n", "found"), [(0, 0, 0, (-1.0, 1.0)), (5, 0, 5, (0.131035, 1.0)), (0, 5, 5, (-1.0, -0.131035)), (0, 0, 44, (-0.080296, 0.080296))])
def test_tangos_interval_at_its_ends(wins: int, losses: int, n: int, found: tuple[float, float]) -> None:
    assert tango.proportions(wins, losses, n) == pytest.approx(found, abs=1e-6)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_tangos_interval_turns_with_its_sign_and_holds_what_was_seen(wins: int, losses: int, rest: int) -> None:
    n = wins + losses + rest
    low, high = tango.proportions(wins, losses, n)
    other = tango.proportions(losses, wins, n)
    assert (-high, -low) == pytest.approx(other, abs=1e-9)
    assert n == 0 or -1 <= low <= (wins - losses) / n + 1e-12 <= high + 2e-12 <= 1 + 2e-12


@pytest.mark.parametrize("counts", [(-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        tango.proportions(*counts)


def test_the_interval_of_a_mean_is_statsmodels() -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    values = [0.1, -0.3, 0.25, 0.4, 0.0, 0.9]
    found = tango.means(sum(values), sum(v * v for v in values), len(values))
    assert found == pytest.approx(DescrStatsW(values).zconfint_mean(0.05))
    assert tango.means(1.0, 1.0, 1) is None


# ---------------------------------------------------------------- scores


def test_a_score_counts_what_the_rows_say(trails: Path) -> None:
    policy = sums()
    rows = list(table(policy, LINES))
    scored = replay(policy, [str(trails)]).scored
    costs = [row.seen.cost for row in rows]
    always = [spent(e for e in r.outcome.trail if not isinstance(e, Compared) and e.tier == "big") for r in RECORDED]
    assert (scored.rows, scored.cost, scored.baseline) == (120, sum(costs), sum(always))
    assert (scored.accuracy.hits, scored.accuracy.n) == (sum(row.right for row in rows), 120)
    assert (scored.same.hits, scored.same.n) == (sum(bool(row.same) for row in rows), sum(row.same is not None for row in rows))
    assert scored.served == {t: sum(row.seen.tier == t for row in rows) for t in ("small", "middle", "big")}
    assert scored.escalated == sum(len(row.seen.asked) > 1 for row in rows)
    assert sum(scored.statuses.values()) == 120
    assert scored.failed["small"]["even"] == sum(check == ("small", "even", False) for row in rows for check in row.seen.checks)
    assert scored.saving == pytest.approx(1 - float(sum(costs) / sum(always)))
    accepted = {r.outcome.id: json.loads(o.text)["total"] for r, o in zip(RECORDED, [row.seen for row in rows], strict=True) if o.status == "accepted"}
    assert all(row.right is (accepted[row.id] == 42) for row in rows if row.id in accepted)


def test_what_was_not_served_is_not_right(trails: Path) -> None:
    rows = list(table(sums(), LINES))
    assert {row.right for row in rows if row.seen.text is None} == {False}
    assert {row.same for row in rows if row.seen.text is None} <= {False, None}


def test_rows_without_gold_count_in_cost_and_not_in_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\n".join(to_line(r if i < 20 else replace(r, gold=UNKNOWN)) for i, r in enumerate(RECORDED)) + b"\n")
    result = replay(sums(), [str(path)])
    assert (result.scored.rows, result.scored.accuracy.n) == (120, 20)
    assert "100 of 120 rows have no gold: they count in cost, not in accuracy" in plain(result)


def test_an_unknown_price_makes_the_cost_unknown_and_never_0(tmp_path: Path) -> None:
    trail = tuple(replace(e, cost_usd=None) if isinstance(e, Tried) and e.tier == "big" else e for e in RECORDED[0].outcome.trail)
    path = tmp_path / "t.jsonl"
    path.write_bytes(to_line(replace(RECORDED[0], outcome=replace(RECORDED[0].outcome, trail=trail))) + b"\n")
    scored = replay(sums("tiers: [{name: big, model: p/big, gates: [schema]}]\n"), [str(path)]).scored
    assert (scored.cost, scored.cost_per_request, scored.saving, scored.unpriced) == (None, None, None, 1)


def against(trails: Path, **more: Any) -> Result:
    cheap = sums(BUT["without agreement"](TIERS))
    return replay(sums(), [str(trails)], cheap, **more)


def test_pairs_are_counted_on_the_same_rows(trails: Path) -> None:
    heard: list[Any] = []
    result = against(trails, different=heard.append)
    assert result.paired is not None
    assert result.other is not None
    this, other = list(table(sums(), LINES)), list(table(sums(BUT["without agreement"](TIERS)), LINES))
    pairs = list(zip(this, other, strict=True))
    assert (result.paired.wins, result.paired.losses) == (sum(a.right and not b.right for a, b in pairs), sum(b.right and not a.right for a, b in pairs))
    assert result.paired.accuracy == pytest.approx(result.scored.accuracy.hits / 120 - result.other.accuracy.hits / 120)
    assert result.paired.cost == sum(a.seen.cost - b.seen.cost for a, b in pairs) / 120  # type: ignore[operator]
    ends = [(a.seen.status, a.seen.tier, a.seen.text) != (b.seen.status, b.seen.tier, b.seen.text) for a, b in pairs]
    assert [one.id for one in heard] == [a.id for (a, _), differs in zip(pairs, ends, strict=True) if differs]
    assert (result.paired.differing, len(result.paired.shown)) == (sum(ends), min(20, sum(ends)))
    flips = [one for one in heard if one.this.right is not one.other.right][:20]
    assert list(result.paired.shown[: len(flips)]) == flips


def test_a_policy_against_itself_differs_in_nothing(trails: Path) -> None:
    paired = replay(sums(), [str(trails)], sums()).paired
    assert paired is not None
    assert (paired.wins, paired.losses, paired.cost, paired.differing, paired.accuracy) == (0, 0, 0, 0, 0.0)


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize(("text", "name", "sign", "limit"), [("accuracy<0.95", "accuracy", "<", "0.95"), (" cost_delta >= -1e-3 ", "cost_delta", ">=", "-0.001"),
                                                            ("saving<=95%", "saving", "<=", "0.95"), ("cost>.5", "cost", ">", "0.5")])
def test_conditions_are_read(text: str, name: str, sign: str, limit: str) -> None:
    found = parse(text, True)
    assert (found.name, found.sign, found.limit) == (name, sign, Decimal(limit))


@pytest.mark.parametrize(("text", "says"), [("acuracy<1", "unknown name 'acuracy', did you mean 'accuracy'?"), ("accuracy", "write NAME<NUMBER"), ("accuracy<nan", "write NAME<NUMBER"),
                                            ("accuracy==1", "write NAME<NUMBER"), ("zzz<1", "there are accuracy,"), ("cost<1e999", "too large"), ("", "write NAME<NUMBER")])
def test_conditions_that_mean_nothing_are_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"--fail-if") as err:
        parse(text, True)
    assert says in str(err.value)


def test_a_difference_needs_another_policy() -> None:
    with pytest.raises(InputError, match="--against OTHER"):
        parse("accuracy_delta<0", False)


def test_a_condition_names_the_measured_value_and_knows_its_edge(trails: Path) -> None:
    result = against(trails)
    values = measured(result.scored, result.paired)
    assert set(values) == set(NAMES)
    for name, value in values.items():
        assert value is not None
        assert parse(f"{name}<{Decimal(str(value)) + Decimal('0.01'):f}", True).holds(result.scored, result.paired) is not None
        assert parse(f"{name}<{value:f}" if isinstance(value, Decimal) else f"{name}<{value!r}", True).holds(result.scored, result.paired) is None
        assert parse(f"{name}>{Decimal(str(value)) - Decimal('0.01'):f}", True).holds(result.scored, result.paired) is not None


# ---------------------------------------------------------------- the command


def files(tmp_path: Path) -> tuple[str, str, str]:
    (tmp_path / "sums.yaml").write_text(HEAD + TIERS)
    (tmp_path / "cheap.yaml").write_text(HEAD + BUT["without agreement"](TIERS))
    (tmp_path / "trails.jsonl").write_bytes(b"\n".join(LINES) + b"\n")
    return str(tmp_path / "sums.yaml"), str(tmp_path / "trails.jsonl"), str(tmp_path / "cheap.yaml")


def run(*args: str, input: bytes | None = None) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["replay", *args], input=input)
    if isinstance(found.exception, InputError):
        return 2, found.stdout, str(found.exception)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.stdout, found.stderr


def test_the_command_prints_a_table_json_and_markdown(tmp_path: Path) -> None:
    policy, trails, other = files(tmp_path)
    code_, out, err = run(policy, trails)
    assert (code_, err, "right by gold" in out, "same as big" in out, "rows end otherwise" in out) == (0, "", True, True, False)
    code_, out, err = run(policy, trails, "--against", other, "--json")
    told = json.loads(out)
    assert (code_, err, told["rows"], told["paired"]["graded"], told["values"]["accuracy"]) == (0, "", 120, 120, told["accuracy"]["value"])
    code_, out, _ = run(policy, trails, "--against", other, "--markdown")
    assert code_ == 0
    assert out.startswith("### cascade replay: `sums@")
    assert (out.count("<details>"), out.count("</details>")) == (2, 2)
    heads = [line for line in out.splitlines() if line.startswith("| ")]
    assert all(line.count("|") - line.count("\\|") == heads[0].count("|") for line in heads[: heads.index(next(h for h in heads if "policy" in h))])


def test_failing_conditions_give_exit_code_1_and_name_the_value(tmp_path: Path) -> None:
    policy, trails, _ = files(tmp_path)
    code_, out, err = run(policy, trails, "--fail-if", "accuracy<1.01", "--fail-if", "accuracy<0", "--markdown")
    value = measured(replay(sums(), [trails]).scored, None)["accuracy"]
    assert (code_, f"**Failed:** `accuracy<1.01: accuracy is {value:.6g}`" in out, "accuracy<0:" in out) == (1, True, False)
    assert err == f"failed: accuracy<1.01: accuracy is {value:.6g}\n"
    assert run(policy, trails, "--fail-if", "accuracy<0")[0] == 0


def test_a_value_that_is_not_known_is_never_a_pass(tmp_path: Path) -> None:
    policy, trails, _ = files(tmp_path)
    Path(trails).write_bytes(b"\n".join(to_line(replace(r, gold=UNKNOWN)) for r in RECORDED) + b"\n")
    code_, _, err = run(policy, trails, "--fail-if", "accuracy<0.01")
    assert (code_, err) == (2, "--fail-if 'accuracy<0.01': accuracy is not known: no row has gold: give it to cascade record")


def test_diff_writes_every_row_that_ends_otherwise(tmp_path: Path) -> None:
    policy, trails, other = files(tmp_path)
    code_, _, err = run(policy, trails, "--against", other, "--diff", str(tmp_path / "d.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert (code_, err) == (0, f"{len(rows)} rows in {tmp_path / 'd.jsonl'}\n")
    assert len(rows) > 3
    assert all(set(row) == {"id", "this", "other"} and row["this"] != row["other"] for row in rows)


def test_recordings_come_from_stdin_and_from_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, trails, _ = files(tmp_path)
    half = tmp_path / "half.jsonl"
    half.write_bytes(b"\n".join(LINES[:50]) + b"\n")
    assert json.loads(run(policy, "-", "--json", input=b"\n".join(LINES) + b"\n")[1])["rows"] == 120
    half2 = tmp_path / "half2.jsonl"
    half2.write_bytes(b"\n".join(LINES[50:]) + b"\n")
    assert json.loads(run(policy, str(half), str(half2), "--json")[1]) == json.loads(run(policy, trails, "--json")[1])


NOT_WHOLE = json.loads(LINES[0])
ORDINARY = {k: v for k, v in NOT_WHOLE.items() if k not in ("mode", "digests", "inputs", "gold")}


def row(**more: Any) -> bytes:
    return orjson.dumps({**NOT_WHOLE, **more})


def checked_as(score: Any) -> list[dict[str, Any]]:
    return [{**e, "score": score} if e["event"] == "checked" else e for e in NOT_WHOLE["trail"]]


@pytest.mark.parametrize(("text", "says"), [
    (b"", "t.jsonl: no recording is in it: make some with cascade record, or with shadow: in the policy"),
    (orjson.dumps(ORDINARY) + b"\n", "t.jsonl: no recording is in it"),
    (b"\n".join([LINES[0], LINES[0]]) + b"\n", "t.jsonl:2: id 'r0' stands in an earlier line already"),
    (LINES[0] + b"\n" + LINES[1][:-30], "t.jsonl:2: the last line is torn (is a record still writing?): run the same cascade record again"),
    (b"hello\n", "t.jsonl:1: not a JSON line:"),
    (row(format=9) + b"\n", 't.jsonl:1: not a row of cascade: "format" is 9, this version reads 1'),
    (row(gold={"totl": 42}) + b"\n", "t.jsonl:1: gold has 'totl', which the schema has not; did you mean 'total'?"),
    (row(gold=None) + b"\n", "t.jsonl:1: gold is null, the schema wants an object with total"),
    (LINES[0].replace(b'"score":1.0', b'"score":NaN') + b"\n", "NaN and Infinity are no JSON: a number that is not known is null"),
    (row(trail=checked_as("high")) + b"\n", "t.jsonl:1: the score of gate schema is 'high'; a score is a number from 0 to 1, or null"),
    (row(trail=[{"event": "tried"}]) + b"\n", "t.jsonl:1: a row of cascade that is not whole:"),
    (row(trail=7) + b"\n", "t.jsonl:1: a row of cascade that is not whole:"),
    (row(trail=[]) + b"\n", "t.jsonl:1: tier small was never asked in row r0; record again with this policy"),
    (row(id=None) + b"\n", 't.jsonl:1: a recording without an "id"'),
    (row(digests={}) + b"\n", "t.jsonl:1: recorded with another policy than sums@"),
    (row(digests={**NOT_WHOLE["digests"], "schema": 7}) + b"\n", 't.jsonl:1: a recording that is not whole: "digests" are texts'),
    (b"[1]\n", "t.jsonl:1: not a row of cascade"),
    (b"\xff\xfe\n", "t.jsonl:1: not a JSON line"),
])  # fmt: skip
def test_bad_input_is_one_line_with_its_place(text: bytes, says: str, tmp_path: Path) -> None:
    policy, _, _ = files(tmp_path)
    (tmp_path / "t.jsonl").write_bytes(text)
    code_, out, err = run(policy, str(tmp_path / "t.jsonl"))
    assert (code_, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(str(tmp_path))
    assert says in err


def test_a_bad_line_among_good_ones_is_found_by_the_quick_walk_too(tmp_path: Path) -> None:
    policy, _, _ = files(tmp_path)
    for bad, says in ((row(id="new", trail=checked_as("high")), "the score of gate"), (row(id="new", gold={"x": 1}), "gold has 'x'"), (row(id="new", trail=[]), "tier small was never asked")):
        (tmp_path / "t.jsonl").write_bytes(b"\n".join([*LINES[:3], bad]) + b"\n")
        code_, _, err = run(policy, str(tmp_path / "t.jsonl"))
        assert (code_, err.partition("t.jsonl:4: ")[2][: len(says)]) == (2, says), err


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    policy, _, _ = files(tmp_path)
    assert run(policy, str(tmp_path / "none.jsonl"))[::2] == (2, f"{tmp_path / 'none.jsonl'}: No such file or directory")


@pytest.mark.parametrize(("args", "says"), [(["--json", "--markdown"], "one of them"), (["--diff", "x"], "--against OTHER"), (["--fail-if", "zz<1"], "unknown name")])
def test_options_that_do_not_go_together_are_refused(args: list[str], says: str, tmp_path: Path) -> None:
    policy, trails, _ = files(tmp_path)
    code_, out, err = run(policy, trails, *args)
    assert (code_, out, says in err) == (2, "", True)


def test_ordinary_rows_among_recordings_are_passed_over_and_counted(tmp_path: Path) -> None:
    policy, _, _ = files(tmp_path)
    (tmp_path / "t.jsonl").write_bytes(b"\n".join([orjson.dumps(ORDINARY), *LINES[1:5]]) + b"\n")
    code_, out, _ = run(policy, str(tmp_path / "t.jsonl"))
    assert (code_, "1 rows are no recordings and were passed over" in out) == (0, True)


def test_foreign_text_does_not_break_out_of_markdown() -> None:
    evil = "a|b`c @everyone\n# <script>"
    assert code(evil) == "`a\\|b'c @everyone # <script>`"
    lines = [to_line(replace(r, outcome=replace(r.outcome, id=f"{evil}{i}"))) for i, r in enumerate(RECORDED)]
    player = Player([sums(), sums(BUT["without agreement"](TIERS))])
    from cascade.replay.score import Counting, Pairing

    pairing, countings = Pairing("o@1"), [Counting(one.policy) for one in player.played]
    for line in lines:
        rows = player.line(line)
        assert rows is not None
        pairing.add(*rows)
        for counting, one in zip(countings, rows, strict=True):
            counting.add(one)
    told = markdown(Result(countings[0].scored("big"), countings[1].scored("big"), pairing.paired(), 0))
    assert "@everyone" in told
    assert all("@everyone" not in line.split("`")[0::2][0] and line.count("`") % 2 == 0 for line in told.splitlines())


def test_numbers_as_json_are_exact(trails: Path) -> None:
    from cascade import records

    result = against(trails)
    told = records.dumps(as_json(result)).decode()
    assert f'"cost_usd":{format(result.scored.cost, "f")}' in told
    assert "NaN" not in told


def test_carry_and_partial_are_said_to_be_approximations(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(LINES) + b"\n")
    told = plain(replay(sums(TIERS.replace("name: middle,", "name: middle, carry: errors,")), [str(tmp_path / "t.jsonl")]))
    assert "tier middle has carry: errors; its answers were recorded without what it would have been told" in told
    parts = sums(TIERS.replace("name: middle,", "name: middle, escalate: partial,"))
    result = replay(parts, [str(tmp_path / "t.jsonl")])
    assert "tier middle has escalate: partial; its answers were recorded whole" in plain(result)
    assert result.scored.cost == replay(sums(), [str(tmp_path / "t.jsonl")]).scored.cost


def test_stdin_is_read_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + b"\n\n".join(LINES) + b"\n")))
    assert replay(sums(), ["-"]).scored.rows == 120

