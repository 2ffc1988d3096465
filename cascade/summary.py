"""Outcomes to numbers: who was asked, who was accepted, why the rest climbed, what it cost. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from cascade.outcome import Outcome
from cascade.types import WHOLE, Checked, Compared, Failed, Skipped, Tried


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
    """Many requests at a glance. `dollars` is all that was paid; `beside` is the part of it that no ladder needed (audits, shadows,
    recordings), which no tier's numbers hold."""

    tiers: tuple[TierSummary, ...]
    requests: int
    statuses: Counter[str]
    escalated: int
    cached: int
    dollars: Decimal | None
    unpriced: tuple[str, ...]
    seconds: float
    calls: int
    beside: Decimal | None = Decimal(0)


class Tally:
    """A summary in the making, one outcome at a time; it keeps sums, never outcomes.

    What was asked beside the ladder is not the ladder's: an audit's call (gate "audit"), and the whole of a shadow or a recording,
    where every tier is asked whatever the gates say. Its dollars are in `dollars` and in `beside`, its requests and statuses in the
    totals; no tier is called asked, accepted or escalated for it.
    """

    def __init__(self, order: Sequence[str] = ()) -> None:
        self.tiers = {name: TierSummary(name) for name in order}
        self.requests = self.cached = self.other_calls = 0
        self.statuses: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.dollars: Decimal | None = Decimal(0)
        self.beside: Decimal | None = Decimal(0)
        self.unpriced: dict[str, None] = {}
        self.seconds = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        self.requests += 1
        self.statuses[outcome.status] += 1
        self.cached += outcome.cached
        self.seconds += outcome.seconds
        self.dollars = plus(self.dollars, outcome.cost_usd)
        self.unpriced.update(dict.fromkeys(outcome.unpriced))
        if outcome.mode in ("record", "shadow"):
            self.beside = plus(self.beside, outcome.cost_usd)
            self.other_calls += sum(isinstance(e, Failed) or (isinstance(e, Tried) and not e.cached) for e in outcome.trail)
            return
        if outcome.tier is not None:
            self.served[outcome.tier] += 1
        self._add(outcome)

    def summary(self) -> Summary:
        """The numbers so far."""
        first = next(iter(self.tiers), None)
        return Summary(
            tuple(self.tiers.values()), self.requests, self.statuses, sum(n for tier, n in self.served.items() if tier != first), self.cached,
            self.dollars, tuple(self.unpriced), self.seconds, sum(tier.calls for tier in self.tiers.values()) + self.other_calls, self.beside)

    def _add(self, outcome: Outcome) -> None:
        asked: set[str] = set()
        failed: dict[str, str] = {}
        for event in outcome.trail:
            if isinstance(event, Compared):
                continue
            if isinstance(event, Tried | Failed) and event.gate == "audit":
                self.beside = plus(self.beside, event.cost_usd)
                self.other_calls += 1
                continue
            tier = self.tiers.setdefault(event.tier, TierSummary(event.tier))
            if isinstance(event, Skipped):
                tier.why["known failure"] += 1
                continue
            tier.seconds += event.seconds
            tier.dollars = plus(tier.dollars, event.cost_usd)
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
                elif event.finish not in WHOLE:
                    failed[tier.name] = {"length": "truncated", "refusal": "refusal", "filter": "filter"}[event.finish]
            if not (isinstance(event, Tried) and event.cached):
                tier.calls += 1
        for name in asked:
            self.tiers[name].asked += 1
        if outcome.status == "accepted" and outcome.tier:
            failed.pop(outcome.tier, None)  # an advisory gate may have said no
            tier = self.tiers.setdefault(outcome.tier, TierSummary(outcome.tier))
            tier.accepted += 1
            tier.repaired += any(isinstance(e, Tried) and e.tier == outcome.tier and e.repair for e in outcome.trail)
        for name, why in failed.items():
            self.tiers[name].why[why] += 1


def summarise(outcomes: Iterable[Outcome], order: Sequence[str] = ()) -> Summary:
    """The numbers of some outcomes; `order` is the ladder's tier names, cheapest first (else order of appearance)."""
    tally = Tally(order)
    for outcome in outcomes:
        tally.add(outcome)
    return tally.summary()


def plus(a: Decimal | None, b: Decimal | None) -> Decimal | None:
    """The sum of two costs, None when one is unknown."""
    return None if a is None or b is None else a + b


def total(costs: Iterable[Decimal | None]) -> Decimal | None:
    """The sum, None as soon as one of them is unknown."""
    sum_: Decimal | None = Decimal(0)
    for cost in costs:
        sum_ = plus(sum_, cost)
    return sum_
