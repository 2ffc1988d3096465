"""The decision table: for each story so far, the step that comes next. Read by test_decide.py and by its mutation test."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

from cascade.types import (
    Check,
    Checked,
    Compared,
    Document,
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
SURE = Tier("sure", "p/q", (SCHEMA, replace(JUDGE, accept_at=0.9), Gate("second", "judge", 0.5)))
TOOLED = Tier("tooled", "p/t", (SCHEMA, Gate("tools", "tools", repairable=True), replace(JUDGE, asks=True)), repair=1, escalate="partial")
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


def said(tier: str, text: str, *part: str, finish: Any = "stop", repair: int = 0) -> Tried:
    return Tried(tier, "p/x", text, finish, cost_usd=Decimal("0.01"), repair=repair, part=part)


def disputes(tier: str, *fields: str, gate: str = "schema", score: float | None = 0.2) -> Checked:
    return Checked(tier, gate, score, 1.0, False, "wrong", fields)


P = policy()
S, M, B = "small", "middle", "big"
SMALL_TWICE = [tried(S), no(S), tried(S, repair=1), no(S)]
UP_TO_BIG = [*SMALL_TWICE, tried(M), ok(M), no(M, "judge"), tried(B)]

FIELDS = Document({"type": "object", "required": ["a", "b"], "properties": {
    "a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "array", "items": {"type": "string"}}, "d": {"type": "string"}}})  # fmt: skip
PARTLY = replace(policy(replace(SMALL, repair=0), replace(MIDDLE, escalate="partial", repair=1), replace(BIG, escalate="partial")), schema=FIELDS)
FIRST = said(S, '{"a": "x", "b": "y", "c": ["z"], "d": "w"}')
A_PART = [FIRST, disputes(S, "/b"), said(M, '{"b": "Y"}', "/b")]
A_PART_FAILED = [*A_PART, disputes(M, "/a")]

CALLS = tried("tooled", "tool_calls")

TABLE = [
    Case("calls of tools are not held against a schema", policy(TOOLED, BIG), [CALLS], Check("tooled", "tools")),
    Case("calls that are wrong are repaired", policy(TOOLED, BIG), [CALLS, no("tooled", "tools")], Repair("tooled", 1)),
    Case("what asks models looks at calls of tools, too", policy(TOOLED, BIG), [CALLS, ok("tooled", "tools")], Check("tooled", "judge")),
    Case("calls of tools are accepted", policy(TOOLED, BIG), [CALLS, ok("tooled", "tools"), ok("tooled", "judge")], Finish("accepted", 0)),
    Case("without a gate that looks at them, too", policy(BIG), [tried(B, "tool_calls")], Finish("accepted", 0)),
    Case("calls of tools are not asked for in part", replace(policy(replace(TOOLED, repair=0), replace(BIG, escalate="partial")), schema=FIELDS),
         [said("tooled", '{"tool_calls": [], "a": 1, "b": 2}', finish="tool_calls"), disputes("tooled", "/b", gate="judge")], Try(B)),
    Case("calls of tools are better than what was cut off", policy(BIG, TRUST), [tried(B, "tool_calls"), tried("trust", "length")],
         Finish("flagged", 0, "exhausted")),
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
    Case("a score high enough is acceptance, and the gates after it are not asked", policy(SURE, BIG),
         [tried("sure"), ok("sure"), Checked("sure", "judge", 0.9, 0.8, True)], Finish("accepted", 0)),
    Case("a score that passes and is not as high leads to the next gate", policy(SURE, BIG),
         [tried("sure"), ok("sure"), Checked("sure", "judge", 0.89, 0.8, True)], Check("sure", "second")),
    Case("a score below the threshold is no acceptance, whatever else is declared", policy(SURE, BIG),
         [tried("sure"), ok("sure"), no("sure", "judge", 0.79)], Try(B)),
    Case("an advisory gate that fails leads to the next one all the same", policy(WEIGHED, BIG),
         [tried("weighed"), ok("weighed"), no("weighed", "judge")], Check("weighed", "calibrated")),
    Case("an advisory gate that could not tell leads to the next one too", policy(WEIGHED, BIG),
         [tried("weighed"), ok("weighed"), no("weighed", "judge", None)], Check("weighed", "calibrated")),
    Case("the gate that weighs has the last word", policy(WEIGHED, BIG),
         [tried("weighed"), ok("weighed"), ok("weighed", "judge"), no("weighed", "calibrated")], Try(B)),
    Case("in part: only the fields that the failing gate names are asked for", PARTLY, [FIRST, disputes(S, "/b")], Try(M, ("/b",))),
    Case("an array is asked for in one piece", PARTLY, [FIRST, disputes(S, "/c/0", "/b")], Try(M, ("/b", "/c"))),
    Case("more than half of the fields is the whole", PARTLY, [FIRST, disputes(S, "/a", "/b", "/c")], Try(M)),
    Case("a gate that names no field leaves the whole open", PARTLY, [FIRST, ok(S), no(S, "judge")], Try(M)),
    Case("one failing gate that names none is enough, whatever an advisory one named",
         replace(policy(WEIGHED, replace(BIG, escalate="partial")), schema=FIELDS),
         [replace(FIRST, tier="weighed"), ok("weighed"), disputes("weighed", "/b", gate="judge"), no("weighed", "calibrated")], Try(B)),
    Case("what a gate disputed and let pass is not asked for", PARTLY,
         [FIRST, replace(ok(S), fields=("/d",)), disputes(S, "/b", gate="judge")], Try(M, ("/b",))),
    Case("a gate that names the answer as a whole, too", PARTLY, [FIRST, disputes(S, "/b", "")], Try(M)),
    Case("a field that the schema does not know, too", PARTLY, [FIRST, disputes(S, "/b", "/q")], Try(M)),
    Case("an answer that could not be read has no parts", PARTLY, [said(S, "none"), disputes(S, "/b")], Try(M)),
    Case("nor has one that is no object", PARTLY, [said(S, "[1]"), disputes(S, "/b")], Try(M)),
    Case("nor a truncated one", PARTLY, [said(S, '{"a"', finish="length")], Try(M)),
    Case("without an answer below the whole is asked", PARTLY, [failed(S)], Try(M)),
    Case("a skipped tier has no answer either", PARTLY, [Skipped(S, "failed before")], Try(M)),
    Case("a tier that does not say partial is asked for the whole", replace(P, schema=FIELDS),
         [FIRST, disputes(S, "/b"), said(S, FIRST.text, repair=1), disputes(S, "/b")], Try(M)),
    Case("without a schema there are no parts", replace(PARTLY, schema=None), [FIRST, disputes(S, "/b")], Try(M)),
    Case("a tier without gates is asked for the whole: nobody would look at what comes of it",
         replace(policy(replace(SMALL, repair=0), replace(TRUST, escalate="partial")), schema=FIELDS), [FIRST, disputes(S, "/b")], Try("trust")),
    Case("a part goes through the tier's gates", PARTLY, A_PART, Check(M, "schema")),
    Case("a part that passes them is accepted", PARTLY, [*A_PART, ok(M), ok(M, "judge")], Finish("accepted", 2)),
    Case("a part that fails is followed by the whole on the same tier, not by a repair", PARTLY, A_PART_FAILED, Try(M)),
    Case("on the last tier too", PARTLY, [failed(S), FIRST, disputes(S, "/b"), failed(M), said(B, '{"b": "Y"}', "/b"), disputes(B, "/a")], Try(B)),
    Case("a part that could not be judged is followed by the whole", PARTLY, [*A_PART, ok(M), no(M, "judge", None)], Try(M)),
    Case("the whole that follows a part is repaired like any other", PARTLY,
         [*A_PART_FAILED, said(M, FIRST.text), disputes(M, "/a")], Repair(M, 1)),
    Case("the whole that follows a part and fails climbs, and what it disputes is asked for in part", PARTLY,
         [*A_PART_FAILED, said(M, FIRST.text), disputes(M, "/a"), said(M, FIRST.text, repair=1), disputes(M, "/d")], Try(B, ("/d",))),
    Case("the whole that follows a part and gives no answer climbs; what the part came to is kept", PARTLY,
         [*A_PART_FAILED, failed(M)], Try(B, ("/a",))),
    Case("a part that got no answer climbs, and the answer below is still the one that is kept", PARTLY,
         [FIRST, disputes(S, "/b"), failed(M)], Try(B, ("/b",))),
    Case("a truncated part climbs to the whole", PARTLY, [FIRST, disputes(S, "/b"), said(M, '{"b', "/b", finish="length")], Try(B)),
    Case("a refused part stops", PARTLY, [FIRST, disputes(S, "/b"), said(M, "no", "/b", finish="refusal")], Finish("refused", None, "refusal")),
    Case("no money for the whole: the best is served", PARTLY, [*A_PART, ok(M), no(M, "judge"), failed(M, "budget")], Finish("flagged", 2, "budget")),
    Case("the part is served if it got further than the whole", PARTLY,
         [FIRST, disputes(S, "/b"), failed(M), said(B, '{"b": "Y"}', "/b"), disputes(B, "/a"), failed(B)], Finish("flagged", 3, "exhausted")),
    Case("an audit changes nothing of what was decided", P,
         [tried(S), ok(S), ok(S, "judge"), tried(S, gate="audit"), Compared(S, B, False)], Finish("accepted", 0)),
]
