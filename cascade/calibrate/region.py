"""The exact paired test of non-inferiority: is the cascade right at most `loss` less often than the reference?

Of n rows, `harm` are those where only the reference is right, `benefit` those where only the cascade is; all others say nothing. Tables
are ordered by the score of Tango (Equivalence test and confidence interval for the difference in proportions for the paired-sample
design, Statistics in Medicine 1998); the p-value is the exact tail, maximised over the nuisance P(benefit). Finite samples, no asymptotics.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
GRID = 80
"""Values of P(benefit) looked at, denser towards 0; the best two are refined."""


def needed(loss: float, confidence: float) -> int:
    """The fewest rows that can certify anything: ln(1/(1 - confidence)) / -ln(1 - loss), without a single harm."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-loss))


def score(harm: Floats, benefit: Floats, n: int, loss: float) -> Floats:
    """Tango's score of tables at the boundary P(harm) - P(benefit) = loss; the smaller, the stronger the evidence for less."""
    a = 2.0 * n
    b = -harm - benefit + (2 * n - harm + benefit) * loss
    c = -benefit * loss * (1 - loss)
    q = (np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    spread = np.sqrt(n * np.maximum(2 * q + loss * (1 - loss), 1e-300))
    return np.asarray((harm - benefit - n * loss) / spread, dtype=np.float64)


class _Tables(NamedTuple):
    """All tables that are better than the boundary, by benefit; those of benefit b begin at `starts[b]`."""

    harm: Floats
    benefit: Floats
    ways: Floats
    score: Floats
    starts: NDArray[np.int64]


@lru_cache(maxsize=4)
def _tables(n: int, loss: float) -> _Tables:
    benefit, harm = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    kept = (harm + benefit <= n) & (harm - benefit < n * loss)
    harm, benefit = harm[kept], benefit[kept]
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, n + 1)))])
    rest = (n - harm - benefit).astype(int)
    ways = logs[n] - logs[harm.astype(int)] - logs[benefit.astype(int)] - logs[rest]
    return _Tables(harm, benefit, ways, score(harm, benefit, n, loss), np.searchsorted(benefit, np.arange(n + 2.0)))


@lru_cache(maxsize=65536)
def p_value(harm: int, benefit: int, n: int, loss: float) -> float:
    """The largest probability, over all traffic on which the cascade loses `loss` or more, of a table at least as good as this one.

    1.0 where the table is no evidence at all. ValueError for counts that cannot be.
    """
    if not (harm >= 0 and benefit >= 0 and harm + benefit <= n and 0 < loss < 1):
        raise ValueError(f"harm {harm} and benefit {benefit} of {n} rows at a loss of {loss} cannot be")
    if n == 0 or harm - benefit >= n * loss:
        return 1.0
    tables = _tables(n, loss)
    seen = score(np.array([float(harm)]), np.array([float(benefit)]), n, loss)[0]
    inside = tables.score <= seen + 1e-12
    h, b, ways = tables.harm[inside], tables.benefit[inside], tables.ways[inside]
    starts = np.searchsorted(b, np.arange(n + 2.0))

    def tail(q: float) -> float:
        far = 9 * math.sqrt(n * q * (1 - q)) + 9  # tables farther out have less than 1e-15 together
        few, many = max(0, math.floor(n * q - far)), min(n, math.ceil(n * q + far))
        near = slice(starts[few], starts[many + 1])
        harms, benefits, none = h[near], b[near], 1 - 2 * q - loss
        rest = n - harms - benefits
        logp = ways[near] + harms * math.log(q + loss)
        logp += benefits * math.log(q) if q > 0 else np.where(benefits > 0, -math.inf, 0.0)
        logp += rest * math.log(none) if none > 0 else np.where(rest > 0, -math.inf, 0.0)
        return float(np.exp(logp).sum()) + 1e-15

    most = (1 - loss) / 2
    grid = [most * (i / GRID) ** 2 for i in range(GRID + 1)]
    tails = [tail(q) for q in grid]
    best = max(tails)
    for i in sorted(range(len(grid)), key=tails.__getitem__)[-2:]:
        low, high = grid[max(i - 1, 0)], grid[min(i + 1, GRID)]
        for _ in range(14):  # ternary search: the tail is smooth in q
            left, right = low + (high - low) / 3, high - (high - low) / 3
            at_left, at_right = tail(left), tail(right)
            best = max(best, at_left, at_right)
            low, high = (left, high) if at_left < at_right else (low, right)
    return min(1.0, best)


def likely(harm: NDArray[np.int64], benefit: NDArray[np.int64], n: int, loss: float, alpha: float) -> Bools:
    """Whether tables would be certified, by the normal approximation of the score: for plans, never for a certificate."""
    return np.asarray(score(harm.astype(float), benefit.astype(float), n, loss) <= NormalDist().inv_cdf(alpha) - 0.1)


def p_value_absolute(right: int, n: int, target: float) -> float:
    """The exact binomial p-value of "accuracy is below target": P(at least `right` of n) when it is exactly that."""
    if n == 0:
        return 1.0
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, n + 1)))])
    k = np.arange(right, n + 1)
    logp = logs[n] - logs[k] - logs[n - k] + k * math.log(target) + (n - k) * math.log1p(-target)
    return min(1.0, float(np.exp(logp).sum()))


@lru_cache(maxsize=4096)
def most_harm(benefit: int, n: int, loss: float, confidence: float) -> int:
    """The exact region: the most harm that is certified at this benefit, -1 when none is."""
    low, high = -1, n - benefit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if p_value(middle, benefit, n, loss) <= 1 - confidence else (low, middle - 1)
    return low
