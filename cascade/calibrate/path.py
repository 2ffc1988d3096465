"""The path: up to 40 policies from the safest to the cheapest, by cost and loss on the rows that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cascade.calibrate.evidence import OWN, Evidence

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Cuts = tuple[float | None, ...]
MOST = 40
COMBINATIONS = 20_000


@dataclass(frozen=True)
class Served:
    """What a policy of the path does: the index of the tier that is served, and the dollars, per row."""

    tier: Ints
    cost: Floats


def serve(cuts: Cuts, scores: Sequence[Floats], evidence: Evidence, rows: Ints | None = None) -> Served:
    """What the policy does on those rows (default: all). `cuts` and `scores` (shape: those rows) are for each tier below the last; a cut
    of None: the tier is not asked; of 0: what it says is served, and no other model is asked about it. A call that a tier below has made
    already costs nothing."""
    at = slice(None) if rows is None else rows
    passed, dollars = evidence.passed[:, at], evidence.call_cost[:, at]
    last = len(evidence.calls) - 1
    tier = np.full(dollars.shape[1], last)
    total = np.zeros(dollars.shape[1])
    waiting = np.ones(dollars.shape[1], bool)
    made: set[int] = set()
    for k, cut in (*enumerate(cuts), (last, 0.0)):
        if cut is None:
            continue
        new = [call for call in (evidence.calls[k][:OWN] if cut == 0 and k < last else evidence.calls[k]) if call not in made]
        made.update(new)
        total += np.where(waiting, dollars[new].sum(axis=0), 0.0)
        if k < last:
            taken = waiting & passed[k] & (scores[k] >= cut if cut else True)
            tier[taken] = k
            waiting &= ~taken
    return Served(tier, total)


def find(evidence: Evidence, scores: Sequence[Floats], rows: Ints, loss: Floats) -> list[Cuts]:
    """The Pareto path on `rows`, safest first. `loss` (tiers, rows): what serving that tier loses against the last, in answers."""
    lower = len(scores)
    each = max(3, int(COMBINATIONS ** (1 / lower)) - 1) if lower > 1 else 200
    grid = [_cuts(score[evidence.passed[k, rows]], min(each, 60 if lower > 1 else 200)) for k, score in enumerate(scores)]
    found: list[tuple[float, float, Cuts]] = []
    for cuts in product(*grid):
        served = serve(cuts, scores, evidence, rows)
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


def _cuts(scores: Floats, most: int) -> list[float | None]:
    """Midpoints between distinct scores, at most so many; first never and always."""
    values = np.unique(scores)
    if not len(values):
        return [None]
    middles = (values[1:] + values[:-1]) / 2
    if len(middles) > most:
        middles = middles[np.unique(np.linspace(0, len(middles) - 1, most).round().astype(int))]
    return [None, 0.0, *(float(cut) for cut in middles)]
