"""Outcomes to numbers: who was asked, who was accepted, why the rest climbed, what it cost. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from cascade.outcome import Outcome
from cascade.types import Checked, Compared, Failed, Skipped, Tried


@dataclass
class TierSummary:
    """One tier over many requests. `dollars` includes its gates' calls, None when a price is unknown; `seconds` is the sum of its calls."""

    name: str
    model: str = ""
    asked: int = 0
    accepted: int = 0
    repaired: int = 0
    why: Counter[str] = field(default_factory=Counter)
    dollars: Decimal | None = Decimal(0)
    seconds: float = 0.0
    calls: int = 0


@dataclass(frozen=True)
class Summary:
    """Many requests at a glance."""

    tiers: tuple[TierSummary, ...]
    requests: int
    statuses: Counter[str]
    escalated: int
    cached: int
    dollars: Decimal | None
    unpriced: tuple[str, ...]
    seconds: float
    calls: int


def summarise(outcomes: Iterable[Outcome], order: Sequence[str] = ()) -> Summary:
    """The numbers of some outcomes; `order` is the ladder's tier names, cheapest first (else order of appearance)."""
    outcomes = list(outcomes)
    tiers = {name: TierSummary(name) for name in order}
    for outcome in outcomes:
        _add(tiers, outcome)
    costs = [outcome.cost_usd for outcome in outcomes]
    first = next(iter(tiers), None)
    return Summary(
        tuple(tiers.values()),
        len(outcomes),
        Counter(outcome.status for outcome in outcomes),
        sum(outcome.tier is not None and outcome.tier != first for outcome in outcomes),
        sum(outcome.cached for outcome in outcomes),
        total(costs),
        tuple(dict.fromkeys(model for outcome in outcomes for model in outcome.unpriced)),
        sum(outcome.seconds for outcome in outcomes),
        sum(tier.calls for tier in tiers.values()),
    )


def total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """The sum, None as soon as one of them is unknown."""
    sum_ = Decimal(0)
    for cost in costs:
        if cost is None:
            return None
        sum_ += cost
    return sum_


def _add(tiers: dict[str, TierSummary], outcome: Outcome) -> None:
    asked: set[str] = set()
    failed: dict[str, str] = {}
    for event in outcome.trail:
        if isinstance(event, Compared):
            continue
        tier = tiers.setdefault(event.tier, TierSummary(event.tier))
        if isinstance(event, Skipped):
            tier.why["known failure"] += 1
            continue
        tier.seconds += event.seconds
        tier.dollars = None if tier.dollars is None or event.cost_usd is None else tier.dollars + event.cost_usd
        if isinstance(event, Checked):
            if not event.passed:
                failed[tier.name] = event.gate if event.score is not None else f"{event.gate} (could not tell)"
            continue
        if event.gate is None:
            asked.add(tier.name)
            tier.model = event.model
            failed.pop(tier.name, None)
            if isinstance(event, Failed):
                failed[tier.name] = event.error
            elif event.finish != "stop":
                failed[tier.name] = {"length": "truncated", "refusal": "refusal", "filter": "filter"}[event.finish]
        if not (isinstance(event, Tried) and event.cached):
            tier.calls += 1
    for name in asked:
        tiers[name].asked += 1
    for name, why in failed.items():
        tiers[name].why[why] += 1
    if outcome.status == "accepted" and outcome.tier:
        tiers[outcome.tier].accepted += 1
        tiers[outcome.tier].repaired += any(isinstance(e, Tried) and e.tier == outcome.tier and e.repair for e in outcome.trail)
