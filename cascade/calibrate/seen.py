"""What each certified policy did on the rows that test it, in the numbers that a monitor will see of live traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cascade.calibrate.evidence import Evidence
from cascade.calibrate.path import Cuts
from cascade.monitor import observe
from cascade.thresholds import Seen

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def count(evidence: Evidence, cuts: Cuts, scores: Sequence[Floats], rows: NDArray[np.int64],
          declared: Mapping[str, Mapping[str, float]] | None = None) -> dict[str, Seen]:
    """By the names of `monitor.observe`. `scores` are for each tier below the last and all rows; those of `rows` are counted.

    `declared` are the point's gates: there a gate that fails is the last that is looked at.
    """
    found: dict[str, Seen] = {}
    waiting = np.ones(len(rows), bool)
    differ = np.zeros(len(rows), bool)
    for k, cut in enumerate(cuts):
        if cut is None:
            continue
        tier, passed = evidence.policy.tiers[k], evidence.passed[k, rows]
        taken = waiting & passed & (scores[k][rows] >= cut)
        found[observe.accepted(tier.name)] = _share(waiting, taken)
        rules = [not gate.asks for gate in tier.gates]
        if any(rules) and not (declared and rules != sorted(rules, reverse=True)):
            found[observe.gates(tier.name)] = _share(waiting, passed)
        looked = waiting & passed
        for gate in tier.gates:
            if gate.asks and cut != 0:
                found[observe.score(tier.name, gate.name)] = _score(evidence, k, gate.name, rows[looked])
                if declared:
                    looked = looked & _at_least(evidence, k, gate.name, rows, declared[tier.name][gate.name])
        differ |= taken & ~evidence.same[k, rows]
        waiting &= ~taken
    for k, cut in enumerate(cuts):
        if cut is not None:
            both = waiting & _answered(evidence, k, rows) & _answered(evidence, -1, rows)
            found[observe.same(evidence.names[k])] = _share(both, evidence.same[k, rows])
    return {observe.DIFFERS: _share(np.ones(len(rows), bool), differ), **found}


def _share(of: Bools, yes: Bools) -> Seen:
    return Seen(int(of.sum()), float((of & yes).sum()))


def _score(evidence: Evidence, k: int, gate: str, rows: NDArray[np.int64]) -> Seen:
    values = [value for i in rows if (value := evidence.signals[k][i].get(f"{gate}.score")) is not None]
    return Seen(len(values), float(sum(values)))


def _at_least(evidence: Evidence, k: int, gate: str, rows: NDArray[np.int64], threshold: float) -> Bools:
    return np.array([evidence.signals[k][i].get(f"{gate}.score", -1.0) >= threshold for i in rows], dtype=bool)


def _answered(evidence: Evidence, k: int, rows: NDArray[np.int64]) -> Bools:
    """Whether there was a whole answer, be it readable or not."""
    return np.array([bool(evidence.signals[k][i]) for i in rows], dtype=bool)
