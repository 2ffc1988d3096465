"""Recordings to thresholds: fit scores and a path on one third of the rows, certify on the others, safest first, stop at the first failure.

Fixed-sequence testing after "Learn then Test" (Angelopoulos, Bates, Candès, Jordan, Lei 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cascade import binding
from cascade.calibrate import path, region, score, seen
from cascade.calibrate.evidence import Evidence
from cascade.errors import InputError
from cascade.thresholds import Point, Score, Thresholds

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """`max_loss` (share of requests) against the last tier, with `confidence`; `reference` gold, or "last": the last tier's answer is
    right by definition. `min_accuracy` instead asks for an absolute accuracy; `max_cost` (dollars a request) for the best below it."""

    max_loss: float = 0.01
    confidence: float = 0.95
    reference: str | None = None
    min_accuracy: float | None = None
    max_cost: float | None = None


@dataclass(frozen=True)
class Result:
    """What was learned. `unlabelled` are the row numbers whose gold the next policy needs; `infeasible` says how many rows are missing."""

    thresholds: Thresholds
    evidence: Evidence
    scores: tuple[Floats, ...]
    reference: str
    next: Point | None = None
    unlabelled: tuple[int, ...] = ()
    more_rows: int | None = None
    notes: tuple[str, ...] = field(default=())


def calibrate(evidence: Evidence, goal: Goal) -> Result:
    """The thresholds for a goal. InputError when nothing can be learned from this evidence, saying what is needed."""
    reference = goal.reference or ("gold" if (evidence.right[-1] >= 0).any() else "last")
    known = evidence.right[-1] >= 0
    if reference == "gold" and not known.any():
        raise InputError("no row has a gold: add some to the input and record again, or calibrate against the last tier with --reference last")
    if goal.min_accuracy is not None and reference != "gold":
        raise InputError("--min-accuracy is about right answers: it needs rows with gold")
    fits, oof, full = _scores(evidence, reference)
    fitting = np.flatnonzero(evidence.fitting)
    cuts = path.find(evidence, [s[fitting] for s in oof], fitting, _risk(evidence, oof)[:, fitting])
    cuts = _from_the_most_promising(evidence, goal, reference, oof, cuts)
    steps, chosen, unlabelled, failed = _certify(evidence, goal, reference, full, cuts)
    names = evidence.names
    rows = int((~evidence.fitting).sum())
    scores = {name: Score(f.signals, tuple(f.mean.tolist()), tuple(f.scale.tolist()), tuple(f.weights.tolist()), f.intercept, f.optional)
              for name, f in zip(names, fits, strict=True)}
    thresholds = Thresholds(evidence.policy.name, binding.digests(evidence.policy), "", scores, tuple(steps), chosen,
                            _certificate(evidence, goal, reference, rows, len(cuts)), _baseline(evidence))
    thresholds = replace(thresholds, statement=statement(thresholds))
    need = region.needed(goal.max_loss, goal.confidence)
    more = None
    if goal.min_accuracy is None and goal.max_cost is None and rows < need:
        more = int(np.ceil((need - rows) * 1.5))
    return Result(thresholds, evidence, full, reference, failed, unlabelled, more)


def _scores(evidence: Evidence, reference: str) -> tuple[list[score.Fit], list[Floats], tuple[Floats, ...]]:
    """Fits on the fitting rows; their out-of-fold scores on these; and the scores of all rows."""
    fits, oof, full = [], [], []
    for k in range(len(evidence.names)):
        label = _label(evidence, k, reference)
        usable = np.flatnonzero(evidence.fitting & evidence.passed[k])
        rows = [evidence.signals[k][i] for i in usable]
        fit = score.fit(rows, label[usable]) if len(usable) >= 10 else score.fit([{}], np.array([False]))
        all_rows = fit.predict(evidence.signals[k])
        held = all_rows.copy()
        if len(usable) >= 10:
            held[usable] = score.out_of_fold(rows, label[usable])
        fits.append(fit)
        oof.append(held)
        full.append(all_rows)
    return fits, oof, tuple(full)


def _label(evidence: Evidence, k: int, reference: str) -> NDArray[np.bool_]:
    """Right against gold where that is known, else the same as the last tier."""
    right = evidence.right[k]
    known = (right >= 0) & (reference == "gold")
    return np.asarray(np.where(known, right == 1, evidence.same[k]), dtype=np.bool_)


def _risk(evidence: Evidence, oof: list[Floats]) -> Floats:
    """(tiers, rows): 1 - P(right), by fits that had not seen the row: smoother than the few losses that a hundred rows hold."""
    return np.array([*(1 - s for s in oof), np.zeros(len(evidence.ids))])


def _from_the_most_promising(evidence: Evidence, goal: Goal, reference: str, oof: list[Floats], cuts: list[path.Cuts]) -> list[path.Cuts]:
    """The path from the policy on that most is to be expected of: saving times the probability to be certified, both by the rows that fit.

    A sequence may begin anywhere as long as the rows that certify have no say in it. Begun at its safest end it mostly breaks off early,
    at a policy that accepts little and has met its first harm before its first benefit.
    """
    rows = np.flatnonzero(evidence.fitting)
    held = int((~evidence.fitting).sum())
    if goal.max_cost is not None or goal.min_accuracy is not None or not len(rows) or held < region.needed(goal.max_loss, goal.confidence):
        return cuts
    loss, risk = _loss(evidence, reference)[:, rows], _risk(evidence, oof)[:, rows]
    at = np.arange(len(rows))
    scores, always = [s[rows] for s in oof], float(evidence.cost[-1, rows].mean())
    tables = []
    for cut in cuts:
        served = path.serve(cut, scores, evidence.passed[:, rows], evidence.cost[:, rows])
        seen = loss[served.tier, at]
        tables.append((float((seen > 0).mean()), float((seen < 0).mean()), float(risk[served.tier, at].mean()), always - float(served.cost.mean())))
    harm_rate = sum(t[0] for t in tables) / max(sum(t[2] for t in tables), 1e-9)  # harm for each expected wrong answer
    draw = np.random.default_rng(0)
    worth = []
    for harm, benefit, wrong, saving in tables:
        expected = (harm + harm_rate * wrong) / 2
        harms, benefits = draw.poisson(expected * held, 200), draw.poisson(benefit * held, 200)
        sure = np.mean([h <= region.most_harm(min(int(b), held), held, goal.max_loss, goal.confidence) for h, b in zip(harms, benefits, strict=True)])
        worth.append(saving * float(sure))
    return cuts[int(np.argmax(worth)) :]


def _loss(evidence: Evidence, reference: str) -> Floats:
    """(tiers, rows): last right minus tier right; a disagreement counts as 1 where gold is not known."""
    loss = (~evidence.same).astype(np.float64)
    if reference == "gold":
        known = evidence.right[-1] >= 0
        loss[:, known] = (evidence.right[-1, known] - evidence.right[:, known]).astype(np.float64)
    loss[-1] = 0.0
    return loss


def _certify(evidence: Evidence, goal: Goal, reference: str, full: tuple[Floats, ...],
             cuts: list[path.Cuts]) -> tuple[list[Point], int | None, tuple[int, ...], Point | None]:
    """The certified steps, the index of the chosen one, rows to label, and the first step that failed."""
    held = np.flatnonzero(~evidence.fitting)
    premium = float(evidence.cost[-1].mean())
    steps: list[Point] = []
    for cut in cuts:
        here = path.serve(cut, [s[held] for s in full], evidence.passed[:, held], evidence.cost[:, held])
        cost = float(path.serve(cut, full, evidence.passed, evidence.cost).cost.mean())
        point, unlabelled = _test(evidence, goal, reference, held, here.tier, dict(zip(evidence.names, cut, strict=True)), cost)
        if goal.max_cost is None and unlabelled:
            return steps, _cheapest(steps, premium), unlabelled, point
        if goal.max_cost is None and not point.certified:
            return steps, _cheapest(steps, premium), (), point
        steps.append(replace(point, seen=seen.count(evidence, cut, [s[held] for s in full], held)))
    if goal.max_cost is not None:
        within = [i for i, step in enumerate(steps) if step.cost_per_request <= goal.max_cost]
        best = min(within, key=lambda i: (steps[i].harm - steps[i].benefit, steps[i].cost_per_request), default=None)
        if best is None:
            least = min(step.cost_per_request for step in steps)
            raise InputError(f"no policy costs ${goal.max_cost:g} a request or less; the cheapest costs ${least:.6f}")
        return steps, best if any(steps[best].thresholds.values()) else None, (), None
    return steps, _cheapest(steps, premium), (), None


def _test(evidence: Evidence, goal: Goal, reference: str, held: NDArray[np.int64], tier: NDArray[np.int64],
          thresholds: Mapping[str, float | None], cost: float) -> tuple[Point, tuple[int, ...]]:
    last = len(evidence.policy.tiers) - 1
    other = (tier != last) & ~evidence.same[tier, held]
    n = len(held)
    unlabelled: tuple[int, ...] = ()
    if reference != "gold":
        harm, benefit = int(other.sum()), 0
    else:
        right, reference_right = evidence.right[tier, held], evidence.right[-1, held]
        known = reference_right >= 0
        unlabelled = tuple(int(i) for i in held[other & ~known])
        harm = int((other & known & (reference_right == 1) & (right == 0)).sum()) + len(unlabelled)
        benefit = int((other & known & (reference_right == 0) & (right == 1)).sum())
    if goal.min_accuracy is not None:
        known = evidence.right[-1, held] >= 0
        right_count, n = int((evidence.right[tier, held] == 1)[known].sum()), int(known.sum())
        p = region.p_value_absolute(right_count, n, goal.min_accuracy)
        unlabelled = ()
    else:
        p = region.p_value(harm, benefit, n, goal.max_loss)
    certified = p <= 1 - goal.confidence and goal.max_cost is None
    return Point(thresholds, cost, n, harm, benefit, p, certified), unlabelled if p > 1 - goal.confidence else ()


def _cheapest(steps: list[Point], premium: float) -> int | None:
    """The cheapest certified step; None, "call the last tier", when none is cheaper than that."""
    best = min(range(len(steps)), key=lambda i: steps[i].cost_per_request, default=None)
    return None if best is None or steps[best].cost_per_request >= premium or not any(
        cut is not None for cut in steps[best].thresholds.values()) else best


def _certificate(evidence: Evidence, goal: Goal, reference: str, rows: int, tested: int) -> dict[str, object]:
    return {"max_loss": goal.max_loss, "confidence": goal.confidence, "reference": reference, "last": evidence.policy.tiers[-1].name,
            "min_accuracy": goal.min_accuracy, "max_cost": goal.max_cost, "rows_fit": int(evidence.fitting.sum()), "rows_certify": rows,
            "path": tested, "always_last_cost": float(evidence.cost[-1].mean())}


def _baseline(evidence: Evidence) -> dict[str, object]:
    return {name: {"hard_gates_passed": float(evidence.passed[k].mean()), "same_as_last": float(evidence.same[k].mean())}
            for k, name in enumerate(evidence.names)}


def statement(found: Thresholds) -> str:
    """The sentence that is promised, for people."""
    c = found.certificate
    sure, last = f"{100 * c['confidence']:g} %", c["last"]
    if found.chosen is None:
        return f"Call {last} for every request: no cheaper policy is certified."
    step = found.steps[found.chosen]
    saved = 1 - step.cost_per_request / c["always_last_cost"] if c["always_last_cost"] else 0.0
    cost = f"${step.cost_per_request:.6f} a request, {100 * saved:.0f} % less than always {last}"
    counts = f"{step.rows} held-out rows: {step.harm} harm, {step.benefit} benefit"
    if c["max_cost"] is not None:
        return f"Best found at no more than ${c['max_cost']:g} a request, nothing promised about its quality ({counts}); {cost}."
    sure = f"With {sure} confidence the"
    if c["min_accuracy"] is not None:
        return f"{sure} answers are right on at least {100 * c['min_accuracy']:g} % of requests ({step.rows} held-out rows); {cost}."
    if c["reference"] == "gold":
        return f"{sure} ladder is right at most {100 * c['max_loss']:g} points less often than always {last} ({counts}); {cost}."
    return f"{sure} ladder gives the same answer as {last} on at least {100 * (1 - c['max_loss']):g} % of requests ({counts}); {cost}."
