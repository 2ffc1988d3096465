"""The decision table: for each story so far, the step that comes next. Read by test_decide.py and by its mutation test."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

from cascade.types import (
    Check,
    Checked,
    Compared,
    Event,
    Failed,
    Finish,
    Gate,
    Outcomes,
    Policy,
    Repair,
    Skipped,
    Step,
    Template,
    Tier,
    Tried,
    Try,
)


class Case(NamedTuple):
    says: str
    policy: Policy
    trail: list[Event]
    step: Step


SCHEMA = Gate("schema", "schema", repairable=True)
JUDGE = Gate("judge", "judge", 0.8)
SMALL = Tier("small", "p/s", (SCHEMA, JUDGE), repair=1)
MIDDLE = Tier("middle", "p/m", (SCHEMA, JUDGE))
BIG = Tier("big", "p/b", (SCHEMA,))
TRUST = Tier("trust", "p/t")
WEIGHED = Tier("weighed", "p/w", (SCHEMA, replace(JUDGE, advisory=True), Gate("calibrated", "calibrated", 0.7)))


def policy(*tiers: Tier, **outcomes: Any) -> Policy:
    return Policy("p", Template("x", "x.j2"), tiers or (SMALL, MIDDLE, BIG), outcomes=replace(Outcomes(), **outcomes))


def tried(tier: str, finish: Any = "stop", repair: int = 0, gate: str | None = None) -> Tried:
    return Tried(tier, "p/x", "text", finish, cost_usd=Decimal("0.01"), repair=repair, gate=gate)


def ok(tier: str, gate: str = "schema") -> Checked:
    return Checked(tier, gate, 1.0, 1.0, True)


def no(tier: str, gate: str = "schema", score: float | None = 0.2) -> Checked:
    return Checked(tier, gate, score, 1.0, False, "wrong")


def failed(tier: str, error: str = "overloaded", gate: str | None = None, repair: int = 0) -> Failed:
    return Failed(tier, "p/x", error, "down", gate=gate, repair=repair)


P = policy()
S, M, B = "small", "middle", "big"
SMALL_TWICE = [tried(S), no(S), tried(S, repair=1), no(S)]
UP_TO_BIG = [*SMALL_TWICE, tried(M), ok(M), no(M, "judge"), tried(B)]

TABLE = [
    Case("a request begins at the first tier", P, [], Try(S)),
    Case("an answer goes to its tier's first gate", P, [tried(S)], Check(S, "schema")),
    Case("a passed gate leads to the next gate", P, [tried(S), ok(S)], Check(S, "judge")),
    Case("the last gate passed is acceptance", P, [tried(S), ok(S), ok(S, "judge")], Finish("accepted", 0)),
    Case("a tier without gates is accepted as it answers", policy(TRUST), [tried("trust")], Finish("accepted", 0)),
    Case("a failed gate whose reasons help is repaired first", P, [tried(S), no(S)], Repair(S, 1)),
    Case("a repaired answer goes through all gates again", P, [tried(S), ok(S), no(S), tried(S, repair=1)], Check(S, "schema")),
    Case("a repaired answer that passes is accepted, and it is the one served", P,
         [tried(S), no(S), tried(S, repair=1), ok(S), ok(S, "judge")], Finish("accepted", 2)),
    Case("repairs are counted: the second failure climbs", P, SMALL_TWICE, Try(M)),
    Case("two repairs may be declared", policy(replace(SMALL, repair=2), BIG), SMALL_TWICE, Repair(S, 2)),
    Case("repairs of the tier below do not count for this one", policy(SMALL, replace(MIDDLE, repair=1), BIG),
         [*SMALL_TWICE, tried(M), no(M)], Repair(M, 1)),
    Case("a gate whose reasons do not help is not repaired", P, [tried(S), ok(S), no(S, "judge")], Try(M)),
    Case("a gate that could not tell climbs without a repair", P, [tried(S), no(S, score=None)], Try(M)),
    Case("a tier without repairs climbs at once", P, [*SMALL_TWICE, tried(M), no(M)], Try(B)),
    Case("a repair that gave no answer climbs", P, [tried(S), no(S), failed(S, repair=1)], Try(M)),
    Case("a provider's failure climbs", P, [failed(S)], Try(M)),
    Case("a provider's failure stops where the policy says so", policy(error="stop"), [failed(S)], Finish("failed", None, "overloaded")),
    Case("a failed vote of a gate is not the tier's failure", P, [tried(S), failed(S, gate="judge")], Check(S, "schema")),
    Case("a gate's own call is not the tier's answer", P, [tried(S), tried(S, gate="judge")], Check(S, "schema")),
    Case("an early vote before the answer changes nothing", P, [tried(S, gate="judge")], Try(S)),
    Case("votes between the checks change nothing", P, [tried(S), ok(S), tried(S, gate="judge"), ok(S, "judge")], Finish("accepted", 0)),
    Case("a skipped tier leads to the next", P, [Skipped(S, "failed before")], Try(M)),
    Case("two skipped tiers lead to the third", P, [Skipped(S, ""), Skipped(M, "")], Try(B)),
    Case("a refusal stops", P, [tried(S, "refusal")], Finish("refused", None, "refusal")),
    Case("a filtered answer stops like a refusal", P, [tried(S, "filter")], Finish("refused", None, "filter")),
    Case("a refusal climbs where the policy says so", policy(refusal="next"), [tried(S, "refusal")], Try(M)),
    Case("refused on the last tier is refused", policy(refusal="next"), [Skipped(S, ""), Skipped(M, ""), tried(B, "refusal")],
         Finish("refused", None, "refusal")),
    Case("a truncated answer climbs unchecked", P, [tried(S, "length")], Try(M)),
    Case("a truncated answer stops where the policy says so", policy(truncated="stop"), [tried(S, "length")],
         Finish("failed", None, "truncated")),
    Case("at the end the best answer is flagged: it passed the most of its gates", P, [*UP_TO_BIG, no(B)],
         Finish("flagged", 4, "exhausted")),
    Case("of equals the dearer one is served", policy(SMALL, BIG), [tried(S), no(S), tried(S, repair=1), no(S), tried(B), no(B)],
         Finish("flagged", 4, "exhausted")),
    Case("gates passed by the dearer answer are not credited to the cheaper one", policy(SMALL, MIDDLE),
         [tried(S), ok(S), no(S, "judge"), tried(M), ok(M), no(M, "judge")], Finish("flagged", 3, "exhausted")),
    Case("the policy may want the last answer instead", policy(exhausted="last"), [*UP_TO_BIG, no(B)],
         Finish("flagged", len(UP_TO_BIG) - 1, "exhausted")),
    Case("the policy may want an error instead", policy(exhausted="error"), [*UP_TO_BIG, no(B)], Finish("failed", None, "exhausted")),
    Case("a truncated answer is served only if there is nothing else", policy(SMALL, BIG),
         [tried(S), no(S), tried(S, repair=1), no(S), tried(B, "length")], Finish("flagged", 2, "exhausted")),
    Case("a truncated answer is better than none", policy(BIG), [tried(B, "length")], Finish("flagged", 0, "exhausted")),
    Case("no answer at all is a failure named after the last one", policy(SMALL, BIG), [failed(S), failed(B, "timeout")],
         Finish("failed", None, "timeout")),
    Case("the last tier down: the answer below is flagged", policy(BIG, TRUST), [tried(B), no(B), failed("trust")],
         Finish("flagged", 0, "exhausted")),
    Case("the budget ends the climb with the best answer so far", P, [tried(S), no(S), failed(S, "budget", repair=1)],
         Finish("flagged", 0, "budget")),
    Case("no money for the first call is a failure", P, [failed(S, "budget")], Finish("failed", None, "budget")),
    Case("the run's budget ends it likewise", P, [tried(S), ok(S), no(S, "judge"), failed(M, "run_budget")],
         Finish("flagged", 0, "run_budget")),
    Case("an answer paid for and accepted is served though the budget is gone", P,
         [tried(S), ok(S), failed(S, "budget", gate="judge"), ok(S, "judge")], Finish("accepted", 0)),
    Case("the deadline ends the climb", P, [tried(S), ok(S), no(S, "judge"), failed(M, "deadline")], Finish("flagged", 0, "deadline")),
    Case("a wrong configuration is never escalated", P, [tried(S), ok(S), no(S, "judge"), failed(M, "configuration")],
         Finish("failed", None, "configuration")),
    Case("a stopping failure is stronger than outcomes.error", policy(error="stop"), [tried(S), no(S), failed(S, "budget", repair=1)],
         Finish("flagged", 0, "budget")),
    Case("refused and then out of money is a failure, not a refusal", policy(refusal="next"),
         [tried(S, "refusal"), failed(M, "budget")], Finish("failed", None, "budget")),
    Case("an advisory gate that fails leads to the next one all the same", policy(WEIGHED, BIG),
         [tried("weighed"), ok("weighed"), no("weighed", "judge")], Check("weighed", "calibrated")),
    Case("an advisory gate that could not tell leads to the next one too", policy(WEIGHED, BIG),
         [tried("weighed"), ok("weighed"), no("weighed", "judge", None)], Check("weighed", "calibrated")),
    Case("the gate that weighs has the last word", policy(WEIGHED, BIG),
         [tried("weighed"), ok("weighed"), ok("weighed", "judge"), no("weighed", "calibrated")], Try(B)),
    Case("an audit changes nothing of what was decided", P,
         [tried(S), ok(S), ok(S, "judge"), tried(S, gate="audit"), Compared(S, B, False)], Finish("accepted", 0)),
]
