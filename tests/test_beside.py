"""Recordings, shadows and audits: what is asked beside the ladder, what is served, what is written down and what it costs."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from test_ladder import BAD, GOOD, INPUTS, OTHER, TWO, Models, answer, gated, ladder

from cascade.app import Cascade
from cascade.decide import decide, each_paying, spent
from cascade.errors import ConfigurationError, Overloaded
from cascade.outcome import Outcome
from cascade.recording import UNKNOWN, Recording
from cascade.replay.seen import reference
from cascade.types import Answer, Call, Checked, Compared, Event, Failed, Finish, Tried

AGREES = gated("{agreement: {with: openai/big, fields: [item]}}")


def told(trail: tuple[Event, ...]) -> list[str]:
    """One word for each event."""
    words = {Tried: "tried", Failed: "failed"}
    found = []
    for e in trail:
        if isinstance(e, Checked):
            found.append(f"{e.tier}.{e.gate} {'ok' if e.passed else 'no'}")
        elif isinstance(e, Compared):
            found.append(f"{e.tier} {'same' if e.same else 'differs'} {' '.join(e.fields)}".strip())
        else:
            gate = getattr(e, "gate", None)
            found.append(f"{e.tier}{'/' + gate if gate else ''} {words[type(e)]}")  # type: ignore[index]
    return found


def recorded(cascade: Cascade) -> Outcome:
    return asyncio.run(cascade.arecord(INPUTS, id="a"))


def test_an_accepted_answer_does_not_end_a_recording() -> None:
    models = Models(small=GOOD, big=OTHER)
    outcome = recorded(ladder(TWO, models))
    assert (outcome.mode, outcome.status, outcome.tier, outcome.output) == ("record", "accepted", "big", {"item": "coffee", "total": 4.5})
    assert told(outcome.trail) == ["small tried", "small.schema ok", "big tried", "big.schema ok", "small differs /item"]
    assert outcome.cost_usd == Decimal("0.00132") == spent(outcome.trail)


def test_a_recording_asks_the_last_tier_as_if_there_were_no_other() -> None:
    models = Models(small=BAD, big=GOOD)
    outcome = recorded(ladder(TWO, models))
    assert models.calls[0].messages == models.calls[1].messages
    assert told(outcome.trail) == ["small tried", "small.schema no", "big tried", "big.schema ok", "small differs /total"]


@pytest.mark.parametrize(("small", "big", "status", "trail"), [
    (Answer("", "refusal"), GOOD, "accepted", ["small tried", "big tried", "big.schema ok"]),
    (Overloaded("busy"), GOOD, "accepted", ["small failed", "big tried", "big.schema ok"]),
    ("no JSON here", GOOD, "accepted", ["small tried", "small.schema no", "big tried", "big.schema ok"]),
    (GOOD, Answer("", "refusal"), "refused", ["small tried", "small.schema ok", "big tried"]),
    (GOOD, Overloaded("busy"), "flagged", ["small tried", "small.schema ok", "big failed"]),
    (GOOD, ConfigurationError("no such model"), "failed", ["small tried", "small.schema ok", "big failed"]),
])  # fmt: skip
def test_what_goes_wrong_in_a_recording(small: Any, big: Any, status: str, trail: list[str]) -> None:
    outcome = recorded(ladder(TWO, Models(small=small, big=big)))
    assert (outcome.status, told(outcome.trail)) == (status, trail)


def test_the_budget_ends_a_recording() -> None:
    outcome = recorded(ladder(TWO, Models(small=GOOD, big=GOOD), "budget: {per_request: 0.002}\n"))
    assert (outcome.status, outcome.error and outcome.error.partition(":")[0]) == ("flagged", "budget")
    assert told(outcome.trail) == ["small tried", "small.schema ok", "big failed"]


def test_a_recording_neither_reads_nor_fills_the_cache() -> None:
    models = Models(small=GOOD, big=GOOD)

    async def thrice() -> None:
        cascade = ladder(TWO, models)
        await cascade.arecord(INPUTS)
        await cascade.arun(INPUTS)
        await cascade.arecord(INPUTS)

    asyncio.run(thrice())
    assert models.asked() == ["small", "big", "small", "small", "big"]


def test_what_the_gate_heard_is_not_paid_again_when_its_model_is_the_next_tier() -> None:
    models = Models(small=GOOD, big=OTHER)
    outcome = answer(ladder(AGREES.replace(", carry: draft", ""), models))
    assert (outcome.tier, outcome.status, models.asked().count("big")) == ("big", "accepted", 1)
    assert [(e.cached, e.cost_usd) for e in outcome.trail if isinstance(e, Tried) and e.tier == "big"] == [(True, 0)]
    assert outcome.cost_usd == Decimal("0.00132")


def test_a_recording_pays_equal_calls_once_and_tells_what_each_tier_costs_alone() -> None:
    models = Models(small=GOOD, big=OTHER)
    outcome = recorded(ladder(AGREES.replace(", carry: draft", ""), models))
    assert models.asked().count("big") == 1
    assert [e.cost_usd for e in outcome.trail if isinstance(e, Tried) and e.gate is None] == [Decimal("0.00012"), Decimal("0")]
    alone = [e.cost_usd for e in each_paying(outcome.trail) if isinstance(e, Tried) and e.gate is None]
    assert alone == [Decimal("0.00012"), Decimal("0.0012")]
    assert reference(Recording(outcome, INPUTS, UNKNOWN, {}), "big").cost == Decimal("0.0012")


def test_gates_see_the_numbers_of_the_answer_and_of_the_gates_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    cascade = ladder(gated('{check: "total > 0"}'), Models(small=GOOD, big=GOOD))
    check = cascade._rungs.verifiers["small", "check"]

    class Watched:
        early = check.early

        async def __call__(self, case: Any, ask: Any) -> Any:
            seen.append(case.signals)
            return await check(case, ask)

    monkeypatch.setitem(cascade._rungs.verifiers, ("small", "check"), Watched())  # type: ignore[arg-type]
    answer(cascade)
    assert seen[0]["schema.score"] == 1.0
    assert "answer.chars" in seen[0]


# ---------------------------------------------------------------- shadows


def test_a_shadow_serves_the_last_tiers_answer_and_fills_the_cache() -> None:
    models = Models(small=GOOD, big=OTHER)

    async def twice() -> tuple[Outcome, Outcome]:
        cascade = ladder(TWO, models, "shadow: 1\naudit: 1\n")
        return await cascade.arun(INPUTS), await cascade.arun(INPUTS)

    first, second = asyncio.run(twice())
    assert (first.mode, first.tier, first.status, first.output["item"]) == ("shadow", "big", "accepted", "coffee")
    assert told(first.trail) == ["small tried", "small.schema ok", "big tried", "big.schema ok", "small differs /item"]
    assert first.cost_usd == Decimal("0.00132")
    assert (second.mode, second.cached, second.output) == (None, True, first.output)
    assert sorted(models.asked()) == ["big", "small"]


def test_the_tiers_of_a_shadow_are_asked_side_by_side() -> None:
    async def both() -> Outcome:
        inside: set[str] = set()
        together = asyncio.Event()

        async def ask(call: Call) -> Answer:
            inside.add(call.model)
            if len(inside) == 2:
                together.set()
            await asyncio.wait_for(together.wait(), 5)
            return Answer(GOOD)

        return await ladder(TWO, ask, "shadow: 1\n").arun(INPUTS)

    assert asyncio.run(both()).status == "accepted"


@pytest.mark.parametrize("small", [Overloaded("busy"), ConfigurationError("no such model"), Answer("", "refusal"), "prose"])
def test_a_cheap_tier_that_fails_does_not_harm_a_shadow(small: Any) -> None:
    outcome = answer(ladder(TWO, Models(small=small, big=GOOD), "shadow: 1\n"))
    assert (outcome.status, outcome.tier, outcome.output) == ("accepted", "big", json.loads(GOOD))


def test_a_shadow_whose_last_tier_is_down_serves_what_the_ladder_would_have_served() -> None:
    three = "  - {name: small, model: openai/small}\n  - {name: other, model: openai/other}\n  - {name: big, model: openai/big}\n"

    async def twice() -> tuple[Outcome, Outcome]:
        cascade = ladder(three, Models(small=GOOD, other=OTHER, big=Overloaded("busy")), "shadow: 1\n")
        return await cascade.arun(INPUTS), await cascade.arun(INPUTS)

    first, second = asyncio.run(twice())
    assert (first.mode, first.status, first.tier, first.output, first.error) == ("shadow", "accepted", "small", json.loads(GOOD), None)
    assert told(first.trail)[-1] == "big failed"
    assert (second.cached, second.tier, [e.tier for e in second.trail]) == (True, "small", ["small", "small"])


def test_the_sync_face_records_too() -> None:
    with ladder(TWO, Models(small=GOOD, big=GOOD)) as cascade:
        outcome = cascade.record(INPUTS, id="7")
    assert (outcome.mode, outcome.id, told(outcome.trail)[-1]) == ("record", "7", "small same")


def test_the_last_tier_of_a_shadow_finds_the_money_first() -> None:
    outcome = answer(ladder(TWO, Models(small=GOOD, big=GOOD), "shadow: 1\nbudget: {per_request: 0.0122}\n"))
    assert (outcome.status, outcome.tier) == ("accepted", "big")
    assert told(outcome.trail) == ["small failed", "big tried", "big.schema ok"]


# ---------------------------------------------------------------- audits


def test_an_audit_writes_down_what_the_last_tier_says_and_serves_the_cheap_answer() -> None:
    models = Models(small=GOOD, big=OTHER)
    cascade = ladder(TWO, models, "audit: 1\n")
    outcome = answer(cascade)
    assert (outcome.mode, outcome.status, outcome.tier, outcome.output) == ("audit", "accepted", "small", json.loads(GOOD))
    assert told(outcome.trail) == ["small tried", "small.schema ok", "small/audit tried", "small differs /item"]
    assert outcome.trail[2].model == "openai/big"  # type: ignore[union-attr]
    assert models.calls[1].messages == models.calls[0].messages
    assert outcome.cost_usd == Decimal("0.00132")
    assert decide(cascade.policy, outcome.trail) == Finish("accepted", 0)


@pytest.mark.parametrize("big", [Overloaded("busy"), ConfigurationError("no such model")])
def test_an_audit_that_fails_leaves_the_answer_as_it_is(big: Exception) -> None:
    cascade = ladder(TWO, Models(small=GOOD, big=big), "audit: 1\n")
    outcome = answer(cascade)
    assert (outcome.status, outcome.tier, outcome.error) == ("accepted", "small", None)
    assert told(outcome.trail) == ["small tried", "small.schema ok", "small/audit failed"]
    assert decide(cascade.policy, outcome.trail) == Finish("accepted", 0)


def test_an_audit_without_money_leaves_the_answer_as_it_is() -> None:
    models = Models(small=GOOD, big=GOOD)
    outcome = answer(ladder(TWO, models, "audit: 1\nbudget: {per_request: 0.002}\n"))
    assert (outcome.status, told(outcome.trail)[-1], models.asked()) == ("accepted", "small/audit failed", ["small"])


def test_what_the_last_tier_answered_is_not_audited() -> None:
    outcome = answer(ladder(TWO, Models(small=BAD, big=GOOD), "audit: 1\n"))
    assert (outcome.mode, outcome.tier) == (None, "big")


def test_a_cache_hit_is_not_audited() -> None:
    models = Models(small=GOOD, big=GOOD)

    async def twice() -> Outcome:
        cascade = ladder(TWO, models, "audit: 1\n")
        await cascade.arun(INPUTS)
        return await cascade.arun(INPUTS)

    assert (asyncio.run(twice()).mode, models.asked()) == (None, ["small", "big"])


@pytest.mark.parametrize("key", ["shadow", "audit"])
def test_the_share_is_kept_and_the_same_requests_are_chosen_again(key: str) -> None:
    def chosen() -> list[bool]:
        cascade = ladder(TWO, Models(small=GOOD, big=GOOD), f"{key}: 0.05\n")

        async def all_of_them() -> list[bool]:
            return [(await cascade.arun({"text": str(n)}, id=str(n))).mode == key for n in range(2000)]

        return asyncio.run(all_of_them())

    first = chosen()
    assert 70 <= sum(first) <= 130
    assert first == chosen()


def test_shadow_and_audit_do_not_change_the_policys_digest() -> None:
    plain, more = (ladder(TWO, Models(small=GOOD), extra).policy for extra in ("", "shadow: 0.1\naudit: 0.2\n"))
    assert (plain.digest, more.shadow, more.audit) == (more.digest, 0.1, 0.2)
