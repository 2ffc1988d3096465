"""Rows to numbers: how right, how dear, how often escalated; and the same rows under another policy, in pairs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from cascade.replay import tango
from cascade.replay.seen import Reference, Seen
from cascade.report.spread import wilson
from cascade.types import Policy

ZERO = Decimal(0)
Interval = tuple[float, float]
"""A two-sided 95 % interval."""


class Row(NamedTuple):
    """One row under one policy. `right`: by gold, None without. `same`: as the recorded last tier's answer, None when that gave none."""

    id: str
    seen: Seen
    reference: Reference
    right: bool | None
    same: bool | None


@dataclass(frozen=True)
class Share:
    """`hits` of `n`, with Wilson's interval."""

    hits: int
    n: int

    @property
    def value(self) -> float | None:
        """0 to 1; None when nothing was seen."""
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        return wilson(self.hits, self.n) if self.n else None


@dataclass(frozen=True)
class Scored:
    """A policy on recordings. Dollars are None when a price is unknown (`unpriced` rows). `accuracy` is of the rows with gold: an answer
    that was not served is not right. `same` and `baseline` are held against `reference`, the last tier that was recorded, asked alone."""

    policy: str
    rows: int
    accuracy: Share
    same: Share
    cost: Decimal | None
    baseline: Decimal | None
    reference: str
    unpriced: int
    calls: int
    escalated: int
    statuses: Mapping[str, int]
    asked: Mapping[str, int]
    served: Mapping[str, int]
    checked: Mapping[str, Mapping[str, int]]
    failed: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...] = ()

    @property
    def cost_per_request(self) -> Decimal | None:
        return None if self.cost is None or not self.rows else self.cost / self.rows

    @property
    def saving(self) -> float | None:
        """Share of what always asking the last tier costs, that is not paid; below 0 the policy is dearer."""
        return None if self.cost is None or not self.baseline else float(1 - self.cost / self.baseline)

    def status(self, name: str) -> float:
        """The share of requests that ended so."""
        return self.statuses.get(name, 0) / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Difference:
    """A row on which two policies serve different answers, or end otherwise."""

    id: str
    this: Row
    other: Row


@dataclass(frozen=True)
class Paired:
    """A policy minus another on the same rows. `accuracy` (of `graded` rows: `wins` where only this one is right) has Tango's interval, -1 to
    1; `cost` is dollars a request with a normal interval, None when a price is unknown. `differing` rows, of which `shown` are the first."""

    other: str
    graded: int
    wins: int
    losses: int
    cost: Decimal | None
    cost_interval: Interval | None
    differing: int
    shown: tuple[Difference, ...] = ()

    @property
    def accuracy(self) -> float | None:
        return (self.wins - self.losses) / self.graded if self.graded else None

    @property
    def accuracy_interval(self) -> Interval | None:
        return tango.proportions(self.wins, self.losses, self.graded) if self.graded else None


class Counting:
    """A score in the making, one row at a time; it keeps sums, never rows."""

    def __init__(self, policy: Policy, notes: Sequence[str] = ()) -> None:
        self.policy = policy
        self.notes = tuple(notes)
        self.rows = self.unpriced = self.calls = self.escalated = self.right = self.graded = self.same = self.compared = 0
        self.cost: Decimal | None = ZERO
        self.baseline: Decimal | None = ZERO
        self.statuses: Counter[str] = Counter()
        self.served: Counter[str | None] = Counter()
        self.asked: Counter[tuple[str, ...]] = Counter()
        self.checks: Counter[tuple[tuple[str, str, bool], ...]] = Counter()

    def add(self, row: Row) -> None:
        """Count one more."""
        seen = row.seen
        self.rows += 1
        self.statuses[seen.status] += 1
        self.served[seen.tier] += 1
        self.asked[seen.asked] += 1
        self.checks[seen.checks] += 1
        self.calls += seen.calls
        if seen.cost is None:
            self.unpriced += 1
            self.cost = None
        elif self.cost is not None:
            self.cost += seen.cost
        paid = row.reference.cost
        self.baseline = None if self.baseline is None or paid is None else self.baseline + paid
        if row.right is not None:
            self.graded += 1
            self.right += row.right
        if row.same is not None:
            self.compared += 1
            self.same += row.same

    def scored(self, reference: str) -> Scored:
        """The numbers so far."""
        tiers = [tier.name for tier in self.policy.tiers]
        asked = {name: sum(n for names, n in self.asked.items() if name in names) for name in tiers}
        checked: dict[str, dict[str, int]] = {name: {} for name in tiers}
        failed: dict[str, dict[str, int]] = {name: {} for name in tiers}
        for checks, n in self.checks.items():
            for tier, gate, passed in checks:
                checked[tier][gate] = checked[tier].get(gate, 0) + n
                failed[tier][gate] = failed[tier].get(gate, 0) + (0 if passed else n)
        return Scored(
            policy=f"{self.policy.name}@{self.policy.digest[:6]}", rows=self.rows, accuracy=Share(self.right, self.graded),
            same=Share(self.same, self.compared), cost=self.cost, baseline=self.baseline, reference=reference, unpriced=self.unpriced,
            calls=self.calls, escalated=sum(n for names, n in self.asked.items() if len(names) > 1), statuses=dict(self.statuses.most_common()),
            asked=asked, served={name: self.served[name] for name in tiers}, checked=checked, failed=failed, notes=self.notes)  # fmt: skip


@dataclass
class Pairing:
    """Two policies on the same rows, one row at a time."""

    other: str
    keep: int = 20
    rows: int = 0
    graded: int = 0
    wins: int = 0
    losses: int = 0
    differing: int = 0
    total: Decimal | None = ZERO
    squares: float = 0.0
    flips: list[Difference] = field(default_factory=list)
    others: list[Difference] = field(default_factory=list)

    def add(self, this: Row, other: Row) -> Difference | None:
        """Count one more pair; what differs, if anything."""
        self.rows += 1
        if this.seen.cost is None or other.seen.cost is None:
            self.total = None
        elif self.total is not None:
            more = this.seen.cost - other.seen.cost
            self.total += more
            self.squares += float(more) ** 2
        if this.right is not None:
            self.graded += 1
            self.wins += this.right and not other.right
            self.losses += bool(other.right) and not this.right
        if (this.seen.status, this.seen.tier, this.seen.text) == (other.seen.status, other.seen.tier, other.seen.text):
            return None
        self.differing += 1
        found = Difference(this.id, this, other)
        kept = self.flips if this.right is not other.right else self.others
        if len(kept) < self.keep:
            kept.append(found)
        return found

    def paired(self) -> Paired:
        """The numbers so far; rows on which one is right and the other is not are shown first."""
        mean = interval = None
        if self.total is not None and self.rows:
            mean, interval = self.total / self.rows, tango.means(float(self.total), self.squares, self.rows)
        shown = tuple([*self.flips, *self.others][: self.keep])
        return Paired(self.other, self.graded, self.wins, self.losses, mean, interval, self.differing, shown)
