"""The path: up to 40 policies from the safest to the cheapest, by cost and loss on the rows that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cascade.calibrate.evidence import Evidence

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Cuts = tuple[float | None, ...]
MOST = 40
COMBINATIONS = 20_000


@dataclass(frozen=True)
class Served:
    """What a policy of the path does: the index of the tier that is served, and the dollars, per row."""

    tier: NDArray[np.int64]
    cost: Floats


def serve(cuts: Cuts, scores: Sequence[Floats], passed: Bools, cost: Floats) -> Served:
    """`cuts` and `scores` for each tier below the last; a cut of None: the tier is not asked."""
    last = len(cost) - 1
    rows = cost.shape[1]
    tier = np.full(rows, last)
    total = np.zeros(rows)
    waiting = np.ones(rows, bool)
    for k, cut in enumerate(cuts):
        if cut is None:
            continue
        total[waiting] += cost[k, waiting]
        taken = waiting & passed[k] & (scores[k] >= cut)
        tier[taken] = k
        waiting &= ~taken
    total[waiting] += cost[last, waiting]
    return Served(tier, total)


def find(evidence: Evidence, scores: Sequence[Floats], rows: NDArray[np.int64], loss: Floats) -> list[Cuts]:
    """The Pareto path on `rows`, safest first. `loss` (tiers, rows): what serving that tier loses against the last, in answers."""
    lower = len(scores)
    each = max(3, int(COMBINATIONS ** (1 / lower)) - 1) if lower > 1 else 200
    passed, cost = evidence.passed[:, rows], evidence.cost[:, rows]
    grid = [_cuts(score[evidence.passed[k, rows]], min(each, 60 if lower > 1 else 200)) for k, score in enumerate(scores)]
    found: list[tuple[float, float, Cuts]] = []
    for cuts in product(*grid):
        served = serve(cuts, scores, passed, cost)
        found.append((float(served.cost.mean()), float(np.mean(loss[served.tier, np.arange(len(rows))])), cuts))
    found.sort(key=lambda item: (item[0], item[1]))
    front: list[tuple[float, float, Cuts]] = []
    for item in found:
        if not front or item[1] < front[-1][1] - 1e-12:
            front.append(item)
    front.reverse()
    never: Cuts = (None,) * lower
    path = [cuts for _, _, cuts in front if cuts != never]
    if len(path) > MOST - 1:
        path = [path[round(i * (len(path) - 1) / (MOST - 2))] for i in range(MOST - 1)]
    return [never, *path]


def _cuts(score: Floats, most: int) -> list[float | None]:
    """Never, and the quantiles of the scores seen, highest first."""
    values = np.unique(score)
    if len(values) > most:
        values = np.unique(np.quantile(values, np.linspace(0, 1, most)))
    return [None, *(float(v) for v in values[::-1])]
