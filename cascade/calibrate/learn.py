"""Recordings to thresholds: policies are tested in turn, each on rows that had no say in it, until the first that fails.

The policy as it was declared (its own gates, their own thresholds) has been fitted to nothing, so all rows test it, and it comes first; then
come those learned on a third of the rows, on the others. Fixed-sequence testing after "Learn then Test" (Angelopoulos, Bates, Candès, Jordan,
Lei 2021); what is left for the learned ones when the first fails is a fallback as in Wiens 2003. `docs/design/calibrate.md` has the proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cascade import binding
from cascade.calibrate import path, region, score, seen, segments
from cascade.calibrate.evidence import Evidence
from cascade.errors import InputError
from cascade.thresholds import Point, Score, Thresholds

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SPARE = 1 / 5
"""Of what may go wrong, the part kept for learned policies when the declared one fails; nothing of it where rows are few."""


@dataclass(frozen=True)
class Goal:
    """`max_loss` (share of requests) against the last tier, with `confidence`; `reference` gold, or "last": the last tier's answer is
    right by definition. `min_accuracy` instead asks for an absolute accuracy; `max_cost` (dollars a request) for the best below it."""

    max_loss: float = 0.01
    confidence: float = 0.95
    reference: str | None = None
    min_accuracy: float | None = None
    max_cost: float | None = None
    by: str | None = None
    """An input whose values divide requests into segments: the promise is to hold in each."""


@dataclass(frozen=True)
class Candidate:
    """A policy to be tested: the point it would be, what it serves on all rows, and the numbers of the rows that test it."""

    point: Point
    served: path.Served
    rows: Ints
    unlabelled: tuple[int, ...] = ()
    segment: str | None = None
    """The segment in which the evidence is weakest; None when that is all requests together."""


@dataclass(frozen=True)
class Result:
    """What was learned. `chosen` and `next` (the first that failed) are the candidates with their points tested; `next.unlabelled` are the
    row numbers whose gold it needs. `more_rows` says how many rows are missing before anything can be certified."""

    thresholds: Thresholds
    evidence: Evidence
    scores: path.Scores
    reference: str
    chosen: Candidate | None = None
    next: Candidate | None = None
    more_rows: int | None = None
    declared: bool = False
    """Whether the policy as it was declared was one of those tested."""


def calibrate(evidence: Evidence, goal: Goal) -> Result:
    """The thresholds for a goal. InputError when nothing can be learned from this evidence, saying what is needed."""
    known = evidence.right[-1] >= 0
    reference = goal.reference or ("gold" if known.any() else "last")
    if reference == "gold" and not known.any():
        raise InputError("no row has a gold: add some to the input and record again, or calibrate against the last tier with --reference last")
    if goal.min_accuracy is not None and reference != "gold":
        raise InputError("--min-accuracy is about right answers: it needs rows with gold")
    fits, oof, full = _scores(evidence, reference)
    fitting, held = np.flatnonzero(evidence.fitting), np.flatnonzero(~evidence.fitting)
    found = path.find(evidence, [s[:, fitting] for s in oof], fitting, _risk(evidence, oof)[:, fitting])
    declared = _declared(evidence)
    if goal.max_cost is not None:
        first = [] if declared is None else [replace(declared, rows=held)]
        passed, failed = [_tested(evidence, goal, reference, one, 0.0) for one in (*first, *_learned(evidence, full, found, held))], None
    else:
        passed, failed = _certified(evidence, goal, reference, declared, oof, full, found)
    chosen = _chosen(passed, goal, float(evidence.cost[-1].mean()))
    scores = {name: _written(stages[-1]) for name, stages in zip(evidence.names, fits, strict=True)}
    before = {name: {gate: _written(fit) for gate, fit in zip(late, stages, strict=False)}
              for name, late, stages in zip(evidence.names, evidence.late, fits, strict=True) if late}  # fmt: skip
    steps = tuple(replace(one.point, seen=seen.count(evidence, one.served, one.rows, one.point)) for one in passed)
    thresholds = Thresholds(evidence.policy.name, binding.digests(evidence.policy), "", scores, steps, chosen,
                            _certificate(evidence, goal, reference, len(held), len(found) + (declared is not None)), before)
    thresholds = replace(thresholds, statement=statement(thresholds))
    return Result(thresholds, evidence, full, reference, None if chosen is None else passed[chosen], failed,
                  None if passed else _missing(goal, declared, held), declared is not None)


def _written(fit: score.Fit) -> Score:
    return Score(fit.signals, tuple(fit.mean.tolist()), tuple(fit.scale.tolist()), tuple(fit.weights.tolist()), fit.intercept, fit.optional)


def _floor(goal: Goal, alpha: float) -> int:
    """The fewest rows that can certify anything at that level, without benefit."""
    return region.needed(goal.max_loss if goal.min_accuracy is None else 1 - goal.min_accuracy, 1 - alpha)


def _needed(evidence: Evidence, goal: Goal) -> int:
    """The fewest rows of a segment about which anything can be promised; learned policies are tested by two thirds of them."""
    need = _floor(goal, 1 - goal.confidence)
    return need if any(_votes(evidence).values()) else int(np.ceil(need * 1.5))


def _votes(evidence: Evidence) -> dict[str, bool]:
    """For each lower tier whether other models are asked beside it."""
    return {name: any(gate.kind == "agreement" for gate in evidence.policy.tier(name).gates) for name in evidence.names}


def _missing(goal: Goal, declared: Candidate | None, held: Ints) -> int | None:
    """How many rows are missing before anything at all could be certified."""
    if goal.min_accuracy is not None or goal.max_cost is not None:
        return None
    need = _floor(goal, 1 - goal.confidence)
    if declared is not None:
        return max(need - len(declared.rows), 0) or None
    return int(np.ceil(max(need - len(held), 0) * 1.5)) or None


# ---------------------------------------------------------------- the policies that may be tested


def _declared(evidence: Evidence) -> Candidate | None:
    """The policy as it was written, without the tiers that no other model is asked about; None when none is: a judge's threshold or a
    schema alone was never a good first guess."""
    policy, names = evidence.policy, evidence.names
    asked = _votes(evidence)
    if not any(asked.values()):
        return None
    thresholds = {name: 1.0 if asked[name] else None for name in names}
    gates = {name: {gate.name: gate.threshold for gate in policy.tier(name).gates if gate.asks} for name in names if asked[name]}
    served = path.Ladder(evidence, ()).as_declared(list(asked.values()))
    everything = np.arange(len(evidence.ids))
    return Candidate(Point(thresholds, float(served.cost.mean()), len(everything), 0, 0, 1.0, False, gates=gates), served, everything)


def _learned(evidence: Evidence, full: path.Scores, found: list[path.Rungs], rows: Ints) -> Iterator[Candidate]:
    ladder = path.Ladder(evidence, full)
    for rungs in found:
        served = ladder.serve(rungs)
        thresholds = {name: None if rung is None else rung.cut for name, rung in zip(evidence.names, rungs, strict=True)}
        before = {name: limits for name, late, rung in zip(evidence.names, evidence.late, rungs, strict=True)
                  if rung is not None and (limits := _limits(late, rung))}  # fmt: skip
        yield Candidate(Point(thresholds, float(served.cost.mean()), len(rows), 0, 0, 1.0, False, before=before), served, rows)


def _limits(late: Sequence[str], rung: path.Rung) -> dict[str, tuple[float, float | None]]:
    """What is decided before each late gate, where anything is."""
    return {gate: (floor, None if np.isinf(sure) else sure)
            for gate, (floor, sure) in zip(late, rung.before, strict=False) if (floor, sure) != path.OPEN}  # fmt: skip


def rungs(point: Point, evidence: Evidence) -> path.Rungs:
    """How a learned point uses each tier."""

    def before(tier: str, gate: str) -> tuple[float, float]:
        floor, sure = point.before.get(tier, {}).get(gate, (0.0, None))
        return floor, np.inf if sure is None else sure

    return tuple(None if (cut := point.thresholds[name]) is None else path.Rung(cut, tuple(before(name, gate) for gate in late) if cut else ())
                 for name, late in zip(evidence.names, evidence.late, strict=True))


def _scores(evidence: Evidence, reference: str) -> tuple[list[list[score.Fit]], path.Scores, path.Scores]:
    """For each tier below the last a fit for each stage, on what is known by then and on the fitting rows; their out-of-fold scores on these;
    and the scores of all rows."""
    fits, oof, full = [], [], []
    for k, late in enumerate(evidence.late):
        label = _label(evidence, k, reference)
        usable = np.flatnonzero(evidence.fitting & evidence.passed[k])
        of_tier, held, everywhere = [], [], []
        for stage in range(len(late) + 1):
            signals = _known(evidence.signals[k], late[stage:])
            rows = [signals[int(i)] for i in usable]
            fit = score.fit(rows, label[usable]) if len(usable) >= 10 else score.fit([{}], np.array([False]))
            all_rows = fit.predict(signals)
            everywhere.append(all_rows)
            held.append(all_rows.copy())
            if len(usable) >= 10:
                held[-1][usable] = score.out_of_fold(rows, label[usable])
            of_tier.append(fit)
        fits.append(of_tier)
        oof.append(np.array(held))
        full.append(np.array(everywhere))
    return fits, oof, full


def _known(signals: Sequence[Mapping[str, float]], not_yet: Sequence[str]) -> Sequence[Mapping[str, float]]:
    """The signals without those of these gates."""
    if not not_yet:
        return signals
    theirs = tuple(f"{gate}." for gate in not_yet)
    return [{name: value for name, value in row.items() if not name.startswith(theirs)} for row in signals]


def _label(evidence: Evidence, k: int, reference: str) -> NDArray[np.bool_]:
    """Right against gold where that is known, else the same as the last tier."""
    right = evidence.right[k]
    known = (right >= 0) & (reference == "gold")
    return np.asarray(np.where(known, right == 1, evidence.same[k]), dtype=np.bool_)


def _risk(evidence: Evidence, oof: path.Scores) -> Floats:
    """(tiers, rows): 1 - P(right), by fits that had not seen the row: smoother than the few losses that a hundred rows hold."""
    return np.array([*(1 - s[-1] for s in oof), np.zeros(len(evidence.ids))])


# ---------------------------------------------------------------- testing them in turn


def _certified(evidence: Evidence, goal: Goal, reference: str, declared: Candidate | None, oof: path.Scores, full: path.Scores,
               found: list[path.Rungs]) -> tuple[list[Candidate], Candidate | None]:
    """The certified candidates in the order of testing, and the first that failed."""
    alpha = 1 - goal.confidence
    held = np.flatnonzero(~evidence.fitting)
    if declared is None:
        start = _from_the_most_promising(evidence, goal, reference, oof, found, alpha)
        return _in_turn(evidence, goal, reference, _learned(evidence, full, start, held), alpha)
    spare = alpha * SPARE if len(held) >= 2 * _floor(goal, alpha * SPARE) else 0.0
    tested = _tested(evidence, goal, reference, declared, alpha - spare)
    if tested.point.certified:
        fitting = np.flatnonzero(evidence.fitting)
        known = declared.served.cost[fitting].mean()
        ladder = path.Ladder(evidence, [s[:, fitting] for s in oof], fitting)
        cheaper = [one for one in found if ladder.serve(one).cost.mean() < known]
        passed, failed = _in_turn(evidence, goal, reference, _learned(evidence, full, cheaper, held), alpha)
        return [tested, *passed], failed
    if tested.unlabelled or not spare:
        return [], tested
    start = _from_the_most_promising(evidence, goal, reference, oof, found, spare)
    return _in_turn(evidence, goal, reference, _learned(evidence, full, start, held), spare)


def _in_turn(evidence: Evidence, goal: Goal, reference: str, candidates: Iterable[Candidate],
             alpha: float) -> tuple[list[Candidate], Candidate | None]:
    passed: list[Candidate] = []
    for one in candidates:
        tested = _tested(evidence, goal, reference, one, alpha)
        if not tested.point.certified:
            return passed, tested
        passed.append(tested)
    return passed, None


def _tested(evidence: Evidence, goal: Goal, reference: str, candidate: Candidate, alpha: float) -> Candidate:
    """The candidate with its counts and its p-value; certified when that is at most `alpha`.

    With segments the p-value is the largest of theirs: a promise for all of them is broken if one of it is, and each is tested at `alpha`
    (intersection-union test, Berger 1982), so nothing has to be divided among them.
    """
    rows, tier = candidate.rows, candidate.served.tier[candidate.rows]
    other = (tier != len(evidence.calls) - 1) & ~evidence.same[tier, rows]
    right, reference_right = evidence.right[tier, rows], evidence.right[-1, rows]
    known = reference_right >= 0
    harmed, benefits = other, np.zeros(len(rows), bool)
    unlabelled: tuple[int, ...] = ()
    if reference == "gold":
        harmed = other & (~known | ((reference_right == 1) & (right == 0)))
        benefits = other & (reference_right == 0) & (right == 1)
        unlabelled = tuple(int(i) for i in rows[other & ~known]) if goal.min_accuracy is None else ()

    def p_value(part: Bools) -> float:
        if goal.min_accuracy is not None:
            return region.p_value_absolute(int((right == 1)[known & part].sum()), int((known & part).sum()), goal.min_accuracy)
        return region.p_value(int(harmed[part].sum()), int(benefits[part].sum()), int(part.sum()), goal.max_loss)

    parts: dict[str | None, Bools] = {None: np.ones(len(rows), bool)}
    parts.update(segments.of(evidence, goal.by, rows, _needed(evidence, goal)))
    found = {name: p_value(part) for name, part in parts.items()}
    weakest = max(found, key=found.__getitem__)
    certified = found[weakest] <= alpha and goal.max_cost is None
    n = len(rows) if goal.min_accuracy is None else int(known.sum())
    point = replace(candidate.point, rows=n, harm=int(harmed.sum()), benefit=int(benefits.sum()), p=found[weakest], certified=certified)
    return replace(candidate, point=point, unlabelled=() if certified else unlabelled, segment=weakest)


def _chosen(passed: list[Candidate], goal: Goal, premium: float) -> int | None:
    """The cheapest certified candidate, or the best below the wanted cost; None, "call the last tier", when none is cheaper than that."""
    cost = [one.point.cost_per_request for one in passed]
    if goal.max_cost is not None:
        within = [i for i, dollars in enumerate(cost) if dollars <= goal.max_cost]
        if not within:
            raise InputError(f"no policy costs ${goal.max_cost:g} a request or less; the cheapest costs ${min(cost):.6f}")
        best = min(within, key=lambda i: (passed[i].point.harm - passed[i].point.benefit, cost[i]))
        return best if _asks_below(passed[best]) else None
    best = min(range(len(passed)), key=cost.__getitem__, default=-1)
    return best if best >= 0 and cost[best] < premium and _asks_below(passed[best]) else None


def _asks_below(candidate: Candidate) -> bool:
    return any(cut is not None for cut in candidate.point.thresholds.values())


def _from_the_most_promising(evidence: Evidence, goal: Goal, reference: str, oof: path.Scores, found: list[path.Rungs],
                             alpha: float) -> list[path.Rungs]:
    """The path from the policy on that most is to be expected of: saving times the probability to be certified, both by the rows that fit.

    A sequence may begin anywhere as long as the rows that certify have no say in it. Begun at its safest end it mostly breaks off early,
    at a policy that accepts little and has met its first harm before its first benefit.
    """
    rows = np.flatnonzero(evidence.fitting)
    held = int((~evidence.fitting).sum())
    if goal.min_accuracy is not None or not len(rows) or held < _floor(goal, alpha):
        return found
    loss, risk = _loss(evidence, reference)[:, rows], _risk(evidence, oof)[:, rows]
    at = np.arange(len(rows))
    ladder, always = path.Ladder(evidence, [s[:, rows] for s in oof], rows), float(evidence.cost[-1, rows].mean())
    tables = []
    for one in found:
        served = ladder.serve(one)
        seen = loss[served.tier, at]
        tables.append((float((seen > 0).mean()), float((seen < 0).mean()), float(risk[served.tier, at].mean()), always - float(served.cost.mean())))
    harm_rate = sum(t[0] for t in tables) / max(sum(t[2] for t in tables), 1e-9)  # harm for each expected wrong answer
    draw = np.random.default_rng(0)
    worth = []
    for harm, benefit, wrong, saving in tables:
        expected = (harm + harm_rate * wrong) / 2
        harms, benefits = draw.poisson(expected * held, 200), draw.poisson(benefit * held, 200)
        worth.append(saving * float(region.likely(harms, benefits, held, goal.max_loss, alpha).mean()))
    return found[int(np.argmax(worth)) :]


def _loss(evidence: Evidence, reference: str) -> Floats:
    """(tiers, rows): last right minus tier right; a disagreement counts as 1 where gold is not known."""
    loss = (~evidence.same).astype(np.float64)
    if reference == "gold":
        known = evidence.right[-1] >= 0
        loss[:, known] = (evidence.right[-1, known] - evidence.right[:, known]).astype(np.float64)
    loss[-1] = 0.0
    return loss


def _certificate(evidence: Evidence, goal: Goal, reference: str, rows: int, tested: int) -> dict[str, object]:
    return {"max_loss": goal.max_loss, "confidence": goal.confidence, "reference": reference, "last": evidence.policy.tiers[-1].name,
            "min_accuracy": goal.min_accuracy, "max_cost": goal.max_cost, "rows_fit": int(evidence.fitting.sum()), "rows_certify": rows,
            "path": tested, "by": goal.by, "segments": segments.sizes(evidence, goal.by, _needed(evidence, goal)),
            "always_last_cost": float(evidence.cost[-1].mean())}


def statement(found: Thresholds) -> str:
    """The sentence that is promised, for people."""
    c = found.certificate
    sure, last = f"{100 * c['confidence']:g} %", c["last"]
    if found.chosen is None:
        return f"Call {last} for every request: no cheaper policy is certified."
    step = found.steps[found.chosen]
    saved = 1 - step.cost_per_request / c["always_last_cost"] if c["always_last_cost"] else 0.0
    cost = f"${step.cost_per_request:.6f} a request, {100 * saved:.0f} % less than always {last}"
    rows = f"{step.rows} rows" if step.gates else f"{step.rows} held-out rows"
    counts = f"{rows}: {step.harm} harm, {step.benefit} benefit"
    if c["max_cost"] is not None:
        return f"Best found at no more than ${c['max_cost']:g} a request, nothing promised about its quality ({counts}); {cost}."
    sure = f"With {sure} confidence the"
    if c.get("by"):
        sure = f"{sure} following holds over all requests and for each {c['by']} ({segments.told(c['segments'])}): the"
    if c["min_accuracy"] is not None:
        return f"{sure} answers are right on at least {100 * c['min_accuracy']:g} % of requests ({rows}); {cost}."
    if c["reference"] == "gold":
        return f"{sure} ladder is right at most {100 * c['max_loss']:g} points less often than always {last} ({counts}); {cost}."
    return f"{sure} ladder gives the same answer as {last} on at least {100 * (1 - c['max_loss']):g} % of requests ({counts}); {cost}."
