"""What each certified policy did on the rows that test it, in the numbers that a monitor will see of live traffic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascade.calibrate.evidence import Evidence
from cascade.calibrate.path import Served
from cascade.monitor import observe
from cascade.thresholds import Point, Seen
from cascade.types import Gate

Bools = NDArray[np.bool_]


def count(evidence: Evidence, served: Served, rows: NDArray[np.int64], point: Point) -> dict[str, Seen]:
    """By the names of `monitor.observe`. Of what the point serves on all rows, `rows` are counted.

    With the point's gates as they were declared, a gate that fails or accepts is the last that is looked at.
    """
    found: dict[str, Seen] = {}
    differ = np.zeros(len(rows), bool)
    asked = [k for k, name in enumerate(evidence.names) if point.thresholds[name] is not None]
    for k in asked:
        tier, passed, late = evidence.policy.tiers[k], evidence.passed[k, rows], evidence.late[k]
        stages, taken = served.stages[k, rows], served.tier[rows] == k
        found[observe.accepted(tier.name)] = _share(stages > 0, taken)
        rules = [not gate.asks for gate in tier.gates]
        if any(rules) and not (point.gates and rules != sorted(rules, reverse=True)):
            found[observe.gates(tier.name)] = _share(stages > 0, passed)
        looked = (stages > 0) & passed
        for gate in tier.gates:
            if gate.asks and point.thresholds[tier.name] != 0:
                turn = looked & (stages > 1 + late.index(gate.name)) if gate.name in late else looked
                found[observe.score(tier.name, gate.name)] = _score(evidence, k, gate.name, rows[turn])
                if point.gates:
                    looked = looked & _goes_on(evidence, k, gate, rows, point.gates[tier.name][gate.name])
        differ |= taken & ~evidence.same[k, rows]
    climbed = served.tier[rows] == len(evidence.names)
    for k in asked:
        both = climbed & _answered(evidence, k, rows) & _answered(evidence, -1, rows)
        found[observe.same(evidence.names[k])] = _share(both, evidence.same[k, rows])
    return {observe.DIFFERS: _share(np.ones(len(rows), bool), differ), **found}


def _share(of: Bools, yes: Bools) -> Seen:
    return Seen(int(of.sum()), float((of & yes).sum()))


def _score(evidence: Evidence, k: int, gate: str, rows: NDArray[np.int64]) -> Seen:
    values = [value for i in rows if (value := evidence.signals[k][i].get(f"{gate}.score")) is not None]
    return Seen(len(values), float(sum(values)))


def _goes_on(evidence: Evidence, k: int, gate: Gate, rows: NDArray[np.int64], threshold: float) -> Bools:
    """Whether the gates after this one are asked."""
    scores = [evidence.signals[k][i].get(f"{gate.name}.score", -1.0) for i in rows]
    return np.array([score >= threshold and not gate.accepts(score) for score in scores], dtype=bool)


def _answered(evidence: Evidence, k: int, rows: NDArray[np.int64]) -> Bools:
    """Whether there was a whole answer, be it readable or not."""
    return np.array([bool(evidence.signals[k][i]) for i in rows], dtype=bool)
