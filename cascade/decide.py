"""What comes next: `decide(policy, trail)` holds all escalation logic. Pure: no model, clock, disk or network is known here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import assert_never

from cascade import partial
from cascade.reading import said
from cascade.types import WHOLE, Check, Checked, Compared, Event, Failed, Finish, Gate, Policy, Repair, Skipped, Step, Tier, Tried, Try

STOPPING = frozenset({"budget", "run_budget", "deadline", "configuration"})
"""Kinds of Failed after which no further tier is asked: a dearer model would not help."""


def decide(policy: Policy, trail: Sequence[Event]) -> Step:
    """The next step of a request whose story so far is `trail`; total over every trail the engine can make."""
    last = latest(trail)
    if last is None:
        return Try(policy.tiers[0].name)
    if isinstance(last, Checked):
        return _after_check(policy, trail, last)
    if isinstance(last, Tried):
        return _after_answer(policy, trail, last)
    if isinstance(last, Skipped):
        return _climb(policy, trail, last.tier)
    if isinstance(last, Failed):
        if last.error in STOPPING:
            return exhausted(policy, trail, last.error)
        if policy.outcomes.error == "stop":
            return Finish("failed", None, last.error)
        return _climb(policy, trail, last.tier)
    assert_never(last)


def _after_answer(policy: Policy, trail: Sequence[Event], tried: Tried) -> Step:
    """Refusal and truncation are outcomes of their own; a whole answer goes to its first gate."""
    if tried.finish in ("refusal", "filter"):
        return Finish("refused", None, tried.finish) if policy.outcomes.refusal == "stop" else _climb(policy, trail, tried.tier)
    if tried.finish == "length":
        return Finish("failed", None, "truncated") if policy.outcomes.truncated == "stop" else _climb(policy, trail, tried.tier)
    gates = looking(policy.tier(tried.tier), tried)
    return Check(tried.tier, gates[0].name) if gates else Finish("accepted", answered(trail))


def _after_check(policy: Policy, trail: Sequence[Event], checked: Checked) -> Step:
    """Passed (or only advisory): the next gate, or accepted, at the last one or at a score that is enough for that. Not passed: the whole
    if only a part was asked, a repair while it may help, else climb."""
    tier, answer = policy.tier(checked.tier), answered(trail)
    gates = looking(tier, None if answer is None else trail[answer])
    at = next(i for i, gate in enumerate(gates) if gate.name == checked.gate)
    if checked.passed or gates[at].advisory:
        done = at + 1 == len(gates) or gates[at].accepts(checked.score)
        return Finish("accepted", answer) if done else Check(tier.name, gates[at + 1].name)
    if partial_tier(trail) == tier.name:
        return Try(tier.name)  # what is wrong may stand in what it was not asked for
    if may_repair(trail, tier, gates[at], checked):
        return Repair(tier.name, repairs_of(trail, tier.name) + 1)
    return _climb(policy, trail, tier.name)


def _climb(policy: Policy, trail: Sequence[Event], name: str) -> Step:
    above = next_tier(policy, name)
    return Try(above.name, disputed(policy, trail, above)) if above else exhausted(policy, trail, "exhausted")


def disputed(policy: Policy, trail: Sequence[Event], tier: Tier) -> tuple[str, ...]:
    """The fields that are all this tier is asked for; () for a whole answer. Every gate that the last answer failed has to name fields."""
    at = answered(trail)
    if tier.escalate != "partial" or not tier.gates or policy.schema is None or at is None or calls_tools(trail[at]):
        return ()
    failing = [checked for checked in verdicts(trail, at) if not checked.passed]
    if not failing or not all(checked.fields for checked in failing):
        return ()
    return partial.units(policy.schema, said(policy, trail, at).read.value, [field for checked in failing for field in checked.fields])


def exhausted(policy: Policy, trail: Sequence[Event], why: str) -> Finish:
    """No tier is left to ask: the best answer is served as flagged, unless there is none or the policy wants an error."""
    usable = [i for i, e in enumerate(trail) if isinstance(e, Tried) and e.gate is None and e.finish in (*WHOLE, "length")]
    if not usable:
        return _without_answer(trail, why)
    if why == "configuration" or policy.outcomes.exhausted == "error":
        return Finish("failed", None, why)
    best = usable[-1] if policy.outcomes.exhausted == "last" else max(usable, key=lambda i: (standing(policy, trail, i), i))
    return Finish("flagged", best, why)


def _without_answer(trail: Sequence[Event], why: str) -> Finish:
    asked = [e for e in trail if isinstance(e, Tried | Failed) and e.gate is None]
    refusals = [e for e in asked if isinstance(e, Tried)]
    if refusals and why == "exhausted":
        return Finish("refused", None, refusals[-1].finish)
    failures = [e for e in asked if isinstance(e, Failed)]
    return Finish("failed", None, failures[-1].error if failures else why)


# ---------------------------------------------------------------- reading a trail


def latest(trail: Sequence[Event]) -> Checked | Tried | Failed | Skipped | None:
    """The last event that is neither a gate's own call nor a comparison."""
    for event in reversed(trail):
        if isinstance(event, Checked | Skipped) or (not isinstance(event, Compared) and event.gate is None):
            return event
    return None


def answered(trail: Sequence[Event]) -> int | None:
    """The index of the last answer of a tier itself."""
    for i in range(len(trail) - 1, -1, -1):
        event = trail[i]
        if isinstance(event, Tried) and event.gate is None:
            return i
    return None


def partial_tier(trail: Sequence[Event]) -> str | None:
    """The tier that gave the last answer, if it was asked for a part only."""
    at = answered(trail)
    tried = None if at is None else trail[at]
    return tried.tier if isinstance(tried, Tried) and tried.part else None


def verdicts(trail: Sequence[Event], answer: int) -> list[Checked]:
    """The checks of the answer at that index, in order."""
    found = []
    for event in trail[answer + 1 :]:
        if isinstance(event, Checked):
            found.append(event)
        elif isinstance(event, Skipped | Compared) or event.gate is None:
            break
    return found


def standing(policy: Policy, trail: Sequence[Event], answer: int) -> float:
    """How far an answer got through its tier's gates, 0 to 1; a truncated answer stands below all others (-1)."""
    tried = trail[answer]
    assert isinstance(tried, Tried)
    if tried.finish not in WHOLE:
        return -1.0
    gates = looking(policy.tier(tried.tier), tried)
    return sum(c.passed for c in verdicts(trail, answer)) / len(gates) if gates else 1.0


def repairs_of(trail: Sequence[Event], tier: str) -> int:
    """How many repairs this tier has answered."""
    return sum(isinstance(e, Tried) and e.gate is None and e.tier == tier and e.repair > 0 for e in trail)


def calls_tools(event: Event) -> bool:
    """Whether it is an answer that calls tools: a step on the way to one."""
    return isinstance(event, Tried) and event.finish == "tool_calls"


def looking(tier: Tier, answer: Event | None) -> Sequence[Gate]:
    """The tier's gates that look at this answer, in order. Where tools are called, the rules of the task (a schema, checks) have nothing to
    look at yet: those that ask models do, and `tools`."""
    if answer is None or not calls_tools(answer):
        return tier.gates
    return [gate for gate in tier.gates if gate.asks or gate.kind == "tools"]


def may_repair(trail: Sequence[Event], tier: Tier, gate: Gate, checked: Checked) -> bool:
    """Whether what that gate found may be mended by the same tier, and a repair is left."""
    return gate.repairable and checked.score is not None and repairs_of(trail, tier.name) < tier.repair


def next_tier(policy: Policy, name: str) -> Tier | None:
    """The tier above the one of that name."""
    names = [tier.name for tier in policy.tiers]
    at = names.index(name) + 1
    return policy.tiers[at] if at < len(names) else None


def spent(trail: Iterable[Event]) -> Decimal | None:
    """Dollars of all events; None as soon as one of them is unknown."""
    total = Decimal(0)
    for event in trail:
        if isinstance(event, Skipped | Compared):
            continue
        if event.cost_usd is None:
            return None
        total += event.cost_usd
    return total


def each_paying(trail: Sequence[Event]) -> Sequence[Event]:
    """The trail as if every call were paid where it is used: one that was there already (a vote below is the answer above) at the dollars of
    the first."""
    if not any(isinstance(e, Tried) and e.cached for e in trail):
        return trail
    first: dict[object, Tried] = {}
    found: list[Event] = []
    for event in trail:
        if isinstance(event, Tried):
            paid = first.setdefault((event.model, event.text, event.usage), event)
            event = replace(event, cost_usd=paid.cost_usd) if event.cached and not paid.cached else event
        found.append(event)
    return found


def unpriced(trail: Iterable[Event]) -> tuple[str, ...]:
    """Models whose tokens are known and their price is not, each once."""
    return tuple(dict.fromkeys(e.model for e in trail if isinstance(e, Tried) and e.usage and e.cost_usd is None))
