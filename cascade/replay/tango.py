"""Intervals for pairs: the difference of two proportions, and of two means, seen on the same rows. Pure."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""


def proportions(wins: int, losses: int, n: int, z: float = Z) -> tuple[float, float]:
    """The score interval of (wins - losses) / n, -1 to 1, for paired proportions; (-1, 1) when nothing was seen.

    Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design, Statistics in
    Medicine 1998: all differences that the score test does not refuse. ValueError for counts that cannot be.
    """
    if min(wins, losses) < 0 or wins + losses > n:
        raise ValueError(f"{wins} wins and {losses} losses of {n} rows cannot be")
    if n == 0:
        return -1.0, 1.0
    seen = (wins - losses) / n
    return _edge(wins, losses, n, -1.0, seen, z), _edge(wins, losses, n, 1.0, seen, z)


def _edge(wins: int, losses: int, n: int, outside: float, inside: float, z: float) -> float:
    """Where the score reaches z, between a difference that it refuses and one that it does not. The score falls as the difference grows."""
    if inside == outside or abs(score(wins, losses, n, outside)) <= z:
        return outside
    for _ in range(100):
        middle = (outside + inside) / 2
        if abs(score(wins, losses, n, middle)) > z:
            outside = middle
        else:
            inside = middle
    return (outside + inside) / 2


def score(wins: int, losses: int, n: int, difference: float) -> float:
    """Tango's score for P(win) - P(loss) = difference: how many standard errors the rows lie above it."""
    a = 2 * n
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # the most likely P(loss) under that difference
    spread = n * (2 * q + difference * (1 - difference))
    above = wins - losses - n * difference
    if spread <= 0:
        return 0.0 if above == 0 else math.copysign(math.inf, above)
    return above / math.sqrt(spread)


def means(total: float, squares: float, n: int, z: float = Z) -> tuple[float, float] | None:
    """The normal interval of the mean of n differences, from their sum and their sum of squares; None below two rows."""
    if n < 2:
        return None
    mean = total / n
    half = z * math.sqrt(max(squares - total * mean, 0.0) / (n - 1) / n)
    return mean - half, mean + half
