"""Outcomes -> numbers, in one pass that keeps sums and the five slowest and dearest requests, never rows. Pure.

Knows no file and no page. A cost is None when it is unknown, never 0.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from cascade.decide import each_paying
from cascade.outcome import Outcome
from cascade.report.spread import Bin, OverTime, Reliability, Spread, difference, wilson
from cascade.summary import Summary, Tally, plus
from cascade.types import WHOLE, Checked, Compared, Event, Failed, Gate, Json, Policy, Tried

ENOUGH = 30
"""Audited or shadowed requests from which their premium cost is used instead of an estimate."""
TOP = 5
PERCENTILES = (0.5, 0.9, 0.95, 0.99)
Basis = Literal["measured", "estimated", "unknown"]
_ZERO = Decimal(0)


@dataclass
class Cost:
    """A mean in the making: dollars over `n` requests whose cost is known; `unknown` counts the others."""

    dollars: Decimal = _ZERO
    n: int = 0
    unknown: int = 0

    def add(self, cost: Decimal | None) -> None:
        """One more request's cost."""
        if cost is None:
            self.unknown += 1
        else:
            self.dollars += cost
            self.n += 1

    @property
    def mean(self) -> Decimal | None:
        """Dollars a request, None when no cost is known."""
        return self.dollars / self.n if self.n else None


@dataclass
class GateNumbers:
    """A gate of a tier. `stopped`: answers that it alone kept from being accepted, as far as was looked; `right` and `wrong` of those
    are known from comparisons with the last tier. `hung` of `sampled` decisions may have hung on the last sample."""

    tier: str
    gate: str
    checked: int = 0
    failed: int = 0
    unsure: int = 0
    stopped: int = 0
    wrong: int = 0
    right: int = 0
    calls: int = 0
    dollars: Decimal | None = _ZERO
    seconds: float = 0.0
    sampled: int = 0
    hung: int = 0


@dataclass
class Sameness:
    """A tier's answers that its gates accepted, held against the last tier's answer."""

    tier: str
    same: int = 0
    n: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Wilson)."""
        return wilson(self.same, self.n)


@dataclass(frozen=True)
class Saving:
    """What the requests of the ladder cost, and what the last tier alone would have cost for them.

    `basis` measured: the last tier was asked on every one of them, or on a sample (audits, shadows) of `sample` requests.
    estimated: from its mean cost on the `sample` requests that climbed to it, which may be dearer than the rest. unknown: neither.
    `premium_tier` is None when rows do not tell which tier is last.
    """

    spent: Decimal | None
    premium: Decimal | None
    basis: Basis
    requests: int
    sample: int
    premium_tier: str | None
    why: str = ""

    @property
    def saved(self) -> Decimal | None:
        """Dollars, negative when the ladder cost more; None when unknown."""
        return None if self.spent is None or self.premium is None else self.premium - self.spent

    @property
    def share(self) -> float | None:
        """saved / premium."""
        return float(self.saved / self.premium) if self.saved is not None and self.premium else None


@dataclass(frozen=True)
class Drift:
    """Acceptance without going to the last tier, first third against last third of the rows, with the interval of the difference."""

    first: tuple[int, int]
    last: tuple[int, int]
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Told:
    """A request worth telling: its id, dollars, seconds and story."""

    id: str
    cost_usd: Decimal | None
    seconds: float
    status: str
    story: str


@dataclass(frozen=True)
class Numbers:
    """All that a report says. `would` is what the ladder would have done on explored rows (shadows, recordings); `repairs` is (asked,
    accepted after). Percentiles are keyed p50 … p99. `right` holds (right, n) per tier where gold is known."""

    policies: tuple[str, ...]
    summary: Summary
    would: Summary
    explored: int
    audited: int
    saving: Saving
    would_saving: Saving
    gates: tuple[GateNumbers, ...]
    sameness: tuple[Sameness, ...]
    right: dict[str, tuple[int, int]]
    repairs: dict[str, tuple[int, int]]
    downstream: dict[str, Cost]
    own: dict[str, Cost]
    cost_percentiles: dict[str, float | None]
    latency_percentiles: dict[str, float | None]
    slowest: tuple[Told, ...]
    dearest: tuple[Told, ...]
    over_time: tuple[tuple[int, int], ...]
    drift: Drift | None
    reliability: tuple[Bin, ...]
    alarms: Counter[str] = field(default_factory=Counter)

    @property
    def verification(self) -> Decimal | None:
        """Dollars that gates spent."""
        total: Decimal | None = _ZERO
        for gate in self.gates:
            total = plus(total, gate.dollars)
        return total

    @property
    def per_accepted(self) -> Decimal | None:
        """What the ladder spent for one accepted answer; None when unknown, or when nothing was accepted."""
        accepted = sum(tier.accepted for tier in self.summary.tiers)
        return self.saving.spent / accepted if accepted and self.saving.spent is not None else None


Right = Callable[[str, Json], bool | None]
"""(an answer's text, its gold) -> whether it is right, None when that cannot be said."""


class Counting:
    """Numbers in the making. `policy` gives the ladder's order and which gates are advisory; `right` grades answers by gold."""

    def __init__(self, policy: Policy | None = None, right: Right | None = None) -> None:
        names = [tier.name for tier in policy.tiers] if policy else []
        self.policy, self.grade = policy, right
        self.sure_at = {(t.name, g.name): g for t in policy.tiers for g in t.gates if g.accept_at is not None} if policy else {}
        self.advisory = {(t.name, g.name) for t in policy.tiers for g in t.gates if g.advisory} if policy else None
        self.last: str | None = names[-1] if names else None
        self.sure = policy is not None
        self.policies: dict[str, None] = {}
        self.ladder, self.would = Tally(names), Tally(names)
        self.gates: dict[tuple[str, str], GateNumbers] = {}
        self.sameness: dict[str, Sameness] = {}
        self.right: dict[str, list[int]] = {}
        self.repairs: dict[str, list[int]] = {}
        self.own: dict[str, Cost] = {}
        self.downstream: dict[str, Cost] = {}
        self.spent, self.climbed_spent = Cost(), Cost()
        self.audits, self.shadows = Cost(), Cost()
        self.explored = self.audited = 0
        self.costs, self.latencies = Spread(), Spread()
        self.time = OverTime()
        self.reliability = Reliability()
        self.slow: list[tuple[float, int, Outcome]] = []
        self.dear: list[tuple[float, int, Outcome]] = []
        self.alarms: Counter[str] = Counter()

    def add(self, outcome: Outcome, gold: Json = None) -> None:
        """Count one more. `gold` None is no gold."""
        self.policies[outcome.policy] = None
        self.ladder.add(outcome)
        if outcome.alarm:
            self.alarms[outcome.alarm] += 1
        if outcome.status == "invalid":
            return
        self._extremes(outcome)
        if outcome.cached:
            return
        if outcome.mode in ("record", "shadow"):
            self._explored(outcome, gold)
        elif outcome.trail:
            self._ordinary(outcome)

    def numbers(self) -> Numbers:
        """The numbers so far."""
        thirds = self.time.thirds()
        (a, n), (b, m) = thirds or ((0, 1), (0, 1))
        return Numbers(
            tuple(self.policies), self.ladder.summary(), self.would.summary(), self.explored, self.audited, self._saving(), self._would_saving(),
            tuple(self.gates.values()), tuple(self.sameness.values()), {k: (v[0], v[1]) for k, v in self.right.items()},
            {k: (v[0], v[1]) for k, v in self.repairs.items()}, self.downstream, self.own,
            _percentiles(self.costs), _percentiles(self.latencies), _told(self.slow), _told(self.dear),
            tuple((b[0], b[1]) for b in self.time.buckets),
            Drift((a, n), (b, m), *difference(a, n, b, m)) if thirds else None, self.reliability.bins(), self.alarms)

    # ------------------------------------------------------------ one row

    def _extremes(self, outcome: Outcome) -> None:
        self.latencies.add(outcome.seconds)
        _keep(self.slow, outcome.seconds, self.ladder.requests, outcome)
        if outcome.cost_usd is not None:
            self.costs.add(float(outcome.cost_usd))
            _keep(self.dear, float(outcome.cost_usd), self.ladder.requests, outcome)

    def _ordinary(self, outcome: Outcome) -> None:
        beside: Decimal | None = _ZERO
        ladder: list[Event] = []
        for event in outcome.trail:
            if isinstance(event, Compared):
                self._know_last(event.against)
                self._same(event)
            elif isinstance(event, Tried | Failed) and event.gate == "audit":
                beside = plus(beside, event.cost_usd)
                if isinstance(event, Tried):
                    self.audited += 1
                    self.audits.add(event.cost_usd)
            else:
                ladder.append(event)
        cost = outcome.cost_usd
        self.spent.add(None if cost is None or beside is None else cost - beside)
        self._climb(ladder, outcome.status == "accepted", outcome.tier)
        if self.last is None and outcome.error == "exhausted" and ladder:
            self._know_last(ladder[-1].tier)
        compared = {e.tier: e.same for e in outcome.trail if isinstance(e, Compared)}
        self._gates(ladder, compared)
        self._predictions(outcome.trail, compared)
        first = next(iter(self.ladder.tiers), None)
        self.time.add(outcome.status == "accepted" and outcome.tier == first)

    def _explored(self, outcome: Outcome, gold: Json) -> None:
        self.explored += 1
        trail = outcome.trail
        compared = {e.tier: e.same for e in trail if isinstance(e, Compared)}
        for event in trail:
            if isinstance(event, Compared):
                self._know_last(event.against)
        top = self.last or (outcome.tier if outcome.status == "accepted" else None)
        events, stood = climbed(trail, self._advisory(trail), self.sure_at)
        cost = _sum(events)
        self.would.add(replace(outcome, mode=None, trail=events, tier=stood, status="accepted" if stood else "flagged", cost_usd=cost))
        self._climb(list(events), stood is not None, stood, would=True)
        self._gates(list(events), compared)
        self._predictions(trail, compared, gold)
        premium = [e for e in each_paying(trail) if isinstance(e, Tried | Failed) and e.gate is None and e.tier == top]
        paid = _sum(premium)
        if premium and paid is not None and cost is not None:
            self.shadows.add(paid)
            self.climbed_spent.add(cost)
        if stood in compared:
            self._same(Compared(stood, top or "", compared[stood]))
        if gold is not None and self.grade:
            for tier, text in {e.tier: e.text for e in trail if isinstance(e, Tried) and e.gate is None and not e.part}.items():
                right = self.grade(text, gold)
                if right is not None:
                    seen = self.right.setdefault(tier, [0, 0])
                    seen[0] += right
                    seen[1] += 1

    def _know_last(self, tier: str) -> None:
        if not self.sure:
            self.last, self.sure = tier, True

    def _same(self, event: Compared) -> None:
        seen = self.sameness.setdefault(event.tier, Sameness(event.tier))
        seen.same += event.same
        seen.n += 1

    def _advisory(self, trail: Sequence[Event]) -> set[tuple[str, str]]:
        """Gates that only inform: the policy's word, or, without it, those that asked models where a calibrated gate weighs them."""
        if self.advisory is not None:
            return self.advisory
        weighed = {e.tier for e in trail if isinstance(e, Checked) and e.gate == "calibrated"}
        return {(e.tier, e.gate) for e in trail if isinstance(e, Tried) and e.gate and e.tier in weighed} if weighed else set()

    def _climb(self, events: list[Event], accepted: bool, tier: str | None, would: bool = False) -> None:
        """What each tier cost by itself, what it cost to go on from it, and whether repairs helped."""
        own: dict[str, Decimal | None] = {}
        total: dict[str, Decimal | None] = {}
        repaired: set[str] = set()
        for event, alone in zip(events, each_paying(events), strict=True):
            if not isinstance(event, Tried | Failed | Checked):
                continue
            total[event.tier] = plus(total.get(event.tier, _ZERO), event.cost_usd)
            if isinstance(alone, Tried | Failed) and alone.gate is None:
                own[event.tier] = plus(own.get(event.tier, _ZERO), alone.cost_usd)
                if alone.repair:
                    repaired.add(event.tier)
        if not would:
            for name, cost in own.items():
                self.own.setdefault(name, Cost()).add(cost)
        after: Decimal | None = _ZERO
        names = list(total)
        for i, name in reversed(list(enumerate(names))):
            if i + 1 < len(names):
                self.downstream.setdefault(name, Cost()).add(after)
            after = plus(after, total[name])
        for name in repaired:
            seen = self.repairs.setdefault(name, [0, 0])
            seen[0] += 1
            seen[1] += accepted and tier == name

    def _gates(self, events: list[Event], compared: dict[str, bool]) -> None:
        votes: Counter[tuple[str, str]] = Counter()
        stop: Checked | None = None
        for event in events:
            if isinstance(event, Tried | Failed) and event.gate is None:
                self._stopped(stop, compared)
                stop = None
                votes.clear()
            elif isinstance(event, Tried | Failed):
                gate = self._gate(event.tier, event.gate or "")
                gate.calls += 1
                gate.dollars = plus(gate.dollars, event.cost_usd)
                gate.seconds += event.seconds
                votes[event.tier, gate.gate] += isinstance(event, Tried)
            elif isinstance(event, Checked):
                stop = None if event.passed else event  # a check after a failed one: that one was advisory
                self._check(event, votes[event.tier, event.gate])
        self._stopped(stop, compared)

    def _check(self, event: Checked, votes: int) -> None:
        gate = self._gate(event.tier, event.gate)
        gate.checked += 1
        gate.failed += not event.passed
        gate.unsure += event.score is None
        gate.dollars = plus(gate.dollars, event.cost_usd)
        gate.seconds += event.seconds
        all_asked = "unasked" not in event.signals  # one that stops when it may always hangs on its last sample
        if event.gate.startswith("consistency") and event.score is not None and votes and all_asked:
            gate.sampled += 1
            gate.hung += hung_on_last(event.score, votes + 1, event.threshold)

    def _stopped(self, stop: Checked | None, compared: dict[str, bool]) -> None:
        if stop is None:
            return
        gate = self._gate(stop.tier, stop.gate)
        gate.stopped += 1
        if stop.tier in compared:
            gate.right += compared[stop.tier]
            gate.wrong += not compared[stop.tier]

    def _gate(self, tier: str, gate: str) -> GateNumbers:
        return self.gates.setdefault((tier, gate), GateNumbers(tier, gate))

    def _predictions(self, trail: Sequence[Event], compared: dict[str, bool], gold: Json = None) -> None:
        texts = {e.tier: e.text for e in trail if isinstance(e, Tried) and e.gate is None and not e.part} if gold is not None and self.grade else {}
        for event in trail:
            if isinstance(event, Checked) and event.gate == "calibrated" and event.score is not None:
                right = self.grade(texts[event.tier], gold) if self.grade and event.tier in texts else None
                right = compared.get(event.tier) if right is None else right
                if right is not None:
                    self.reliability.add(event.score, right)

    # ------------------------------------------------------------ always-premium

    def _saving(self) -> Saving:
        """Requests that reached the last tier cost there what they cost; the others what a sample of them, or else those, cost."""
        requests = self.spent.n + self.spent.unknown
        spent = self.spent.dollars if not self.spent.unknown else None
        last = self._last_seen()
        if not requests:
            return Saving(_ZERO, None, "unknown", 0, 0, last, "no request went up the ladder")
        if last is None:
            return Saving(spent, None, "unknown", requests, 0, None, "only one tier was asked: the rows do not tell which tier is last; "
                                                                     "give --policy")
        reached = self.own.get(last, Cost())
        rest = requests - reached.n - reached.unknown
        sample, basis = reached, "estimated"
        for seen in (self.shadows, self.audits):
            if seen.n >= ENOUGH:
                sample, basis = seen, "measured"
        if rest == 0 and not reached.unknown:
            return Saving(spent, reached.dollars, "measured", requests, reached.n, last)
        if sample.mean is None or reached.unknown:
            return Saving(spent, None, "unknown", requests, 0, last, f"what {last} costs a request is not known from these rows")
        return Saving(spent, reached.dollars + rest * sample.mean, "measured" if basis == "measured" else "estimated", requests, sample.n, last)

    def _would_saving(self) -> Saving:
        n = self.shadows.n
        if not n:
            return Saving(None, None, "unknown", 0, 0, self.last, "no row with every tier asked and priced")
        return Saving(self.climbed_spent.dollars, self.shadows.dollars, "measured", n, n, self.last)

    def _last_seen(self) -> str | None:
        if self.last:
            return self.last
        seen = [name for name, tier in self.ladder.tiers.items() if tier.asked]
        return seen[-1] if len(seen) > 1 else None


# ---------------------------------------------------------------- reading trails


def climbed(trail: Sequence[Event], advisory: set[tuple[str, str]],
            sure_at: Mapping[tuple[str, str], Gate] | None = None) -> tuple[tuple[Event, ...], str | None]:
    """Of an explored trail, the events that the ladder itself would have had, and the tier at which it would have stopped (None: none).
    `sure_at`: the gates that may accept at once."""
    found: list[Event] = []
    tier: str | None = None
    stands = False
    for event in trail:
        if isinstance(event, Compared):
            continue
        if event.tier != tier:
            if stands:
                return tuple(found), tier
            tier, stands, dead = event.tier, False, False
        if isinstance(event, Tried | Failed) and event.gate is None:
            stands = isinstance(event, Tried) and event.finish in WHOLE
            dead = False
        if not dead:
            found.append(event)
        if isinstance(event, Checked) and not event.passed and (event.tier, event.gate) not in advisory:
            stands, dead = False, True
        elif isinstance(event, Checked) and sure_at and (gate := sure_at.get((event.tier, event.gate))) and gate.accepts(event.score):
            dead = True
    return tuple(found), tier if stands else None


def hung_on_last(score: float, n: int, threshold: float) -> bool:
    """Whether the decision of `n` votes may have been another without the last one: it agreed or it did not, and one of the two says so."""
    agreed = round(score * n)
    before = [agreed - 1] if agreed == n else [agreed - 1, agreed]
    return any((max(0, a) / (n - 1) >= threshold) != (score >= threshold) for a in before)


def _sum(events: Sequence[Event]) -> Decimal | None:
    total: Decimal | None = _ZERO
    for event in events:
        if isinstance(event, Tried | Failed | Checked):
            total = plus(total, event.cost_usd)
    return total


def _percentiles(spread: Spread) -> dict[str, float | None]:
    return {f"p{round(q * 100)}": spread.percentile(q) for q in PERCENTILES}


def _keep(heap: list[tuple[float, int, Outcome]], value: float, n: int, outcome: Outcome) -> None:
    if len(heap) < TOP:
        heapq.heappush(heap, (value, -n, outcome))
    elif value > heap[0][0]:
        heapq.heapreplace(heap, (value, -n, outcome))


def _told(heap: list[tuple[float, int, Outcome]]) -> tuple[Told, ...]:
    best = sorted(heap, key=lambda item: item[:2], reverse=True)
    return tuple(Told(str(o.id), o.cost_usd, o.seconds, o.status, o.explain()) for _, _, o in best)
