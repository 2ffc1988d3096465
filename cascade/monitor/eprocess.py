"""Tests that may be looked at after every observation: is the mean of numbers in [0, 1] still inside an interval? Pure.

Each bet is a test supermartingale after Waudby-Smith & Ramdas (Estimating means of bounded random variables by betting, JRSS B 2024):
wealth is multiplied by 1 + stake (x - edge), which has expectation 1 or less as long as the mean is inside. A change after a long good
time must not have to win back what was lost before it, so wealth is spread over starting times as well (the e-detectors of Shin, Ramdas
& Rinaldo 2024, with weights that sum to 1, so that a false alarm is rare for ever and not only on average). By Ville's inequality the
evidence reaches 1/a with probability a or less, however long it is watched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ODDS = (1.5, 3.0, 6.0)
"""The alternatives bet on: so many times the odds of the interval's edge."""
SPREAD = 100
"""Half of the wealth starts at once, half of the rest within so many observations, and so on as 1/n."""


@dataclass(frozen=True, slots=True)
class Bet:
    """Against "the mean is `edge` or less" when `stake` is positive, "… or more" when it is negative. What one number x multiplies
    wealth by, `1 + stake * (x - edge)`, is never negative."""

    edge: float
    stake: float

    def factor(self, x: float) -> float:
        """What x in [0, 1] multiplies this bet's wealth by."""
        return 1.0 + self.stake * (x - self.edge)


def bets(low: float, high: float) -> tuple[Bet, ...]:
    """The bets against a mean inside [low, high]; none on a side that ends at 0 or 1."""
    up = [Bet(high, _stake(high, odds)) for odds in ODDS] if 0 < high < 1 else []
    down = [Bet(low, _stake(low, 1 / odds)) for odds in ODDS] if 0 < low < 1 else []
    return (*up, *down)


def _stake(edge: float, odds: float) -> float:
    """The stake at which a yes or no is weighed by its likelihood under `odds` times the odds of the edge."""
    there = odds * edge / (1 - edge + odds * edge)
    return (there - edge) / (edge * (1 - edge))


@dataclass(frozen=True, slots=True)
class State:
    """What has been seen: `n` numbers, their `total`, and the wealth of each bet that has started."""

    n: int
    total: float
    wealth: tuple[float, ...]

    @property
    def evidence(self) -> float:
        """The e-value: 1 at the start, large when the mean is outside. What has not started counts as it was put in."""
        return sum(self.wealth) + _waiting(self.n) if self.wealth else 1.0


def start(count: int) -> State:
    """The state of so many bets before anything is seen."""
    return State(0, 0.0, ((1 - _waiting(0)) / count,) * count if count else ())


def after(state: State, n: int, total: float, factors: Sequence[float]) -> State:
    """The state after n more numbers with that total; `factors`, one a bet, are the products of what each number multiplied it by."""
    fresh = (_waiting(state.n) - _waiting(state.n + n)) / len(factors) if factors else 0.0
    wealth = tuple(had * factor + fresh for had, factor in zip(state.wealth, factors, strict=True))
    return State(state.n + n, state.total + total, wealth)


def _waiting(n: int) -> float:
    """The share of wealth whose bets start after n numbers."""
    return SPREAD / (2 * (n + SPREAD))


def interval(n: int, total: float, error: float) -> tuple[float, float]:
    """Where the mean of numbers in [0, 1] lies with probability 1 - error, n of them having this total; (0, 1) for n = 0.

    Two-sided Chernoff bound in its exact form (Hoeffding, JASA 1963, theorem 1): all means whose relative entropy to the one seen is at
    most ln(2/error)/n. Holds in finite samples for whatever in [0, 1], yes and no included.
    """
    if n == 0:
        return 0.0, 1.0
    seen, most = min(max(total / n, 0.0), 1.0), math.log(2 / error) / n

    def edge(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if _entropy(seen, middle) <= most else (inside, middle)
        return outside

    return edge(seen, 0.0), edge(seen, 1.0)


def most(n: int, yes: int, error: float) -> float:
    """The most that a share can be, `yes` of n having been seen: with probability 1 - error it is less. Exact (Clopper & Pearson 1934)."""
    if yes >= n:
        return 1.0
    ways = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(yes + 1)]
    low, high = yes / n, 1.0
    for _ in range(50):
        p = (low + high) / 2
        tail = sum(math.exp(way + i * math.log(p) + (n - i) * math.log1p(-p)) for i, way in enumerate(ways))
        low, high = (p, high) if tail > error else (low, p)
    return high


def _entropy(p: float, q: float) -> float:
    """The relative entropy of a coin p to a coin q, in nats."""
    if q <= 0 or q >= 1:
        return 0.0 if p == q else math.inf
    return (p * math.log(p / q) if p else 0.0) + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)
