"""Statistics that take one value at a time and stay small: percentiles, acceptance over time, reliability, and intervals. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) when nothing was seen."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if hits == 0 else max(0.0, middle - half)), (1.0 if hits == n else min(1.0, middle + half))


def difference(a: int, n: int, b: int, m: int) -> tuple[float, float]:
    """The 95 % interval of b/m - a/n, two independent shares (Newcombe 1998, method 10)."""
    p, q = a / n, b / m
    (low_p, high_p), (low_q, high_q) = wilson(a, n), wilson(b, m)
    return (q - p) - math.hypot(q - low_q, high_p - p), (q - p) + math.hypot(high_q - q, p - low_p)


class Spread:
    """Percentiles of values >= 0, each true to one per cent; memory grows with the logarithm of their range, not with their number."""

    GROWTH = math.log(1.02)

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.zeros = self.n = 0
        self.most = 0.0

    def add(self, value: float) -> None:
        """One more value; a negative one counts as 0."""
        self.n += 1
        self.most = max(self.most, value)
        if value <= 1e-12:
            self.zeros += 1
            return
        at = math.floor(math.log(value) / self.GROWTH)
        self.counts[at] = self.counts.get(at, 0) + 1

    def percentile(self, share: float) -> float | None:
        """The smallest value that `share` (0..1) of all do not pass; None when there is no value."""
        if not self.n:
            return None
        rank, seen = max(1, math.ceil(share * self.n)), self.zeros
        if seen >= rank:
            return 0.0
        for at in sorted(self.counts):
            seen += self.counts[at]
            if seen >= rank:
                return min(self.most, math.exp((at + 0.5) * self.GROWTH))
        return self.most


class OverTime:
    """Hits and counts in the order they come, in at most 60 buckets of equal size: when they are full, neighbours are put together."""

    MOST = 60

    def __init__(self) -> None:
        self.size, self.n = 1, 0
        self.buckets: list[list[int]] = []

    def add(self, hit: bool) -> None:
        """One more, a hit or not."""
        if self.n == self.size * self.MOST:
            self.buckets = [[a[0] + b[0], a[1] + b[1]] for a, b in zip(self.buckets[::2], self.buckets[1::2], strict=True)]
            self.size *= 2
        if self.n % self.size == 0:
            self.buckets.append([0, 0])
        self.n += 1
        self.buckets[-1][0] += hit
        self.buckets[-1][1] += 1

    def thirds(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """(hits, n) of the first and of the last third, to a bucket; None below 3 buckets."""
        third = len(self.buckets) // 3
        if not third:
            return None
        first, last = self.buckets[:third], self.buckets[-third:]
        return (sum(b[0] for b in first), sum(b[1] for b in first)), (sum(b[0] for b in last), sum(b[1] for b in last))


@dataclass(frozen=True)
class Bin:
    """Answers whose predicted P(right) lies near `predicted`; `right` of `n` were."""

    predicted: float
    right: int
    n: int


class Reliability:
    """Predicted P against what came true, in a thousand fine cells, put together to bins of about equal counts."""

    def __init__(self) -> None:
        self.cells: dict[int, list[float]] = {}

    def add(self, predicted: float, right: bool) -> None:
        """One more pair; `predicted` in 0..1."""
        cell = self.cells.setdefault(min(999, int(predicted * 1000)), [0.0, 0.0, 0.0])
        cell[0] += predicted
        cell[1] += right
        cell[2] += 1

    def bins(self, most: int = 10) -> tuple[Bin, ...]:
        """At most `most` bins; equal predictions are never split, so counts may differ."""
        n = sum(cell[2] for cell in self.cells.values())
        found: list[Bin] = []
        sums, seen = [0.0, 0.0, 0.0], 0.0
        for at in sorted(self.cells):
            sums = [a + b for a, b in zip(sums, self.cells[at], strict=True)]
            seen += self.cells[at][2]
            if seen >= n * (len(found) + 1) / most or seen == n:
                found.append(Bin(sums[0] / sums[2], int(sums[1]), int(sums[2])))
                sums = [0.0, 0.0, 0.0]
        return tuple(found)
