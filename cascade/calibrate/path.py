"""The path: up to 40 policies from the safest to the cheapest, by cost and loss on the rows that fit.

A tier is a sequential test: before each gate that asks models when its turn comes, P(right) as known so far may be too low (climb now) or
high enough (accept now); only between the two is the gate asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cascade.calibrate.evidence import OWN, Evidence

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MOST = 40
COMBINATIONS = 20_000
BEFORE = 10
"""So many lower and upper thresholds are tried before each late gate."""
OPEN = (0.0, math.inf)
"""Thresholds under which a late gate is always asked."""


class Rung(NamedTuple):
    """How a tier is used: accepted from P(right) `cut` on; 0: what it says is served, and no other model is asked. `before` holds, for each
    late gate, the P(right) below which the request climbs without it, and that from which the answer is accepted without it."""

    cut: float
    before: tuple[tuple[float, float], ...] = ()


Rungs = tuple[Rung | None, ...]
"""For each tier below the last; None: it is not asked."""
Scores = Sequence[Floats]
"""For each tier below the last, shape (stages, rows): P(right) before each late gate, and at last."""


@dataclass(frozen=True)
class Served:
    """What a policy of the path does: the index of the tier that is served, and the dollars, per row; `stages` (tiers, rows): how many
    stages of each tier are asked, see `Evidence.calls`."""

    tier: Ints
    cost: Floats
    stages: Ints


class Ladder:
    """Some rows of the evidence (default: all), laid out once. `scores` are of those rows."""

    def __init__(self, evidence: Evidence, scores: Scores, rows: Ints | None = None) -> None:
        at = slice(None) if rows is None else rows
        self.scores, self.passed, self.declared, self.reached = scores, evidence.passed[:, at], evidence.declared[:, at], evidence.reached[:, at]
        dollars = evidence.call_cost[:, at]
        self.size, self.last = dollars.shape[1], len(evidence.calls) - 1
        tiers = [{call for stage in stages for call in stage} for stages in evidence.calls]
        shared = {call for k, calls in enumerate(tiers) for other in tiers[:k] for call in calls & other}

        def asked(calls: Sequence[int]) -> tuple[Floats, list[tuple[int, Floats]]]:
            """Dollars of what this tier alone asks, and the others one by one."""
            return dollars[[call for call in calls if call not in shared]].sum(axis=0), [(call, dollars[call]) for call in calls if call in shared]

        self.stages = [[asked(calls) for calls in stages] for stages in evidence.calls]
        self.alone = [asked(stages[0][:OWN]) for stages in evidence.calls]

    def serve(self, rungs: Rungs) -> Served:
        """What the policy does. A call that a tier below has made already costs nothing."""
        return self._climb([None if rung is None else (rung.cut == 0, *self._decided(k, rung)) for k, rung in enumerate(rungs)])

    def as_declared(self, asked: Sequence[bool]) -> Served:
        """What the policy does as it was declared, with those of the tiers below the last that are `asked`."""
        return self._climb([(False, self.declared[k], self.reached[k]) if yes else None for k, yes in enumerate(asked)])

    def _decided(self, k: int, rung: Rung) -> tuple[Bools, Ints]:
        """Which of the tier's answers are accepted, and how many stages it takes."""
        passed, stages = self.passed[k], np.ones(self.size, np.int64)
        if rung.cut == 0:
            return passed, stages
        scores = self.scores[k]
        if all(pair == OPEN for pair in rung.before):
            return passed & (scores[-1] >= rung.cut), stages + len(rung.before) * passed
        accepted, waiting = np.zeros(self.size, bool), passed.copy()
        for score, (floor, sure) in zip(scores, rung.before, strict=False):
            accepted |= waiting & (score >= sure)
            waiting &= (score >= floor) & (score < sure)
            stages += waiting
        return accepted | (waiting & (scores[-1] >= rung.cut)), stages

    def _climb(self, decided: Sequence[tuple[bool, Bools, Ints] | None]) -> Served:
        tier, total = np.full(self.size, self.last), np.zeros(self.size)
        stages = np.zeros((self.last + 1, self.size), np.int64)
        waiting = np.ones(self.size, bool)
        made: dict[int, Bools] = {}
        everything = (False, waiting, np.full(self.size, len(self.stages[-1])))
        for k, one in enumerate((*decided, everything)):
            if one is None:
                continue
            alone, accepted, reached = one
            for stage, (dollars, shared) in enumerate([self.alone[k]] if alone else self.stages[k]):
                asked = waiting if stage == 0 else waiting & (reached > stage)
                total += np.where(asked, dollars, 0.0)
                for call, price in shared:
                    known = made.get(call)
                    total += np.where(asked if known is None else asked & ~known, price, 0.0)
                    made[call] = asked if known is None else asked | known
            stages[k] = np.where(waiting, reached, 0)
            if k < self.last:
                taken = waiting & accepted
                tier[taken] = k
                waiting = waiting & ~taken
        return Served(tier, total, stages)


def serve(rungs: Rungs, scores: Scores, evidence: Evidence, rows: Ints | None = None) -> Served:
    """What the policy does on those rows (default: all); `scores` are of those rows."""
    return Ladder(evidence, scores, rows).serve(rungs)


def find(evidence: Evidence, scores: Scores, rows: Ints, loss: Floats) -> list[Rungs]:
    """The Pareto path on `rows`, safest first. `loss` (tiers, rows): what serving that tier loses against the last, in answers.

    First all combinations of thresholds with every late gate asked; then, gate by gate, what may be decided before it.
    """
    lower, ladder = len(scores), Ladder(evidence, scores, rows)
    each = max(3, int(COMBINATIONS ** (1 / lower)) - 1) if lower > 1 else 200
    late = [len(names) for names in evidence.late]
    grid = [_rungs(score[-1][evidence.passed[k, rows]], min(each, 60 if lower > 1 else 200), late[k]) for k, score in enumerate(scores)]
    at = np.arange(len(rows))

    def front(candidates: Iterable[Rungs]) -> list[Rungs]:
        found = []
        for rungs in dict.fromkeys(candidates):
            served = ladder.serve(rungs)
            found.append((float(served.cost.mean()), float(np.mean(loss[served.tier, at])), rungs))
        return _front(found)

    path = front(product(*grid))
    for k, gates in enumerate(late):
        known = evidence.passed[k, rows]
        for gate in range(gates):
            path = front([*path, *(better for rungs in _thinned(path) for better in _before(rungs, k, gate, scores[k][gate][known]))])
    return [(None,) * lower, *_thinned([rungs for rungs in path if any(rung is not None for rung in rungs)])]


def _front(found: list[tuple[float, float, Rungs]]) -> list[Rungs]:
    """Those that no cheaper one equals, safest first."""
    front: list[tuple[float, float, Rungs]] = []
    for item in sorted(found, key=lambda item: item[:2]):
        if not front or item[1] < front[-1][1] - 1e-12:
            front.append(item)
    return [rungs for _, _, rungs in reversed(front)]


def _thinned(path: list[Rungs]) -> list[Rungs]:
    if len(path) < MOST:
        return path
    return [path[round(i * (len(path) - 1) / (MOST - 2))] for i in range(MOST - 1)]


def _before(rungs: Rungs, k: int, gate: int, scores: Floats) -> Iterator[Rungs]:
    """The policy with other thresholds before that gate of that tier."""
    rung = rungs[k]
    if rung is None or rung.cut == 0:
        return
    middles = _middles(scores, BEFORE)
    for floor, sure in product([0.0, *middles], [*middles, math.inf]):
        if floor < sure and (floor, sure) != OPEN:
            yield (*rungs[:k], Rung(rung.cut, (*rung.before[:gate], (floor, sure), *rung.before[gate + 1 :])), *rungs[k + 1 :])


def _rungs(scores: Floats, most: int, late: int) -> list[Rung | None]:
    """Never, always, and midpoints between distinct scores, at most so many."""
    return [None, Rung(0.0), *(Rung(cut, (OPEN,) * late) for cut in _middles(scores, most))] if len(scores) else [None]


def _middles(scores: Floats, most: int) -> list[float]:
    values = np.unique(scores)
    middles = (values[1:] + values[:-1]) / 2
    if len(middles) > most:
        middles = middles[np.unique(np.linspace(0, len(middles) - 1, most).round().astype(int))]
    return [float(middle) for middle in middles]
