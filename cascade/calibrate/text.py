"""A calibration's result for people: what was used, what is promised, what each tier serves, what would be next. Pure."""

from __future__ import annotations

import numpy as np

from cascade.calibrate import region
from cascade.calibrate.learn import Result
from cascade.thresholds import Point


def told(result: Result, file: str) -> str:
    """Several lines of text."""
    found, evidence = result.thresholds, result.evidence
    c = found.certificate
    n = len(evidence.ids)
    gold = int((evidence.right[-1] >= 0).sum())
    certified = sum(step.certified for step in found.steps)
    lines = [f"{n} recordings, {gold} with gold: {c['rows_fit']} fit scores and a path of policies, {c['rows_certify']} test these"
             + ("; all test the policy as it is declared" if result.declared else ""),
             f"right is {'gold' if result.reference == 'gold' else 'the answer of ' + c['last']}; "
             f"{certified} {'policy is' if certified == 1 else 'policies are'} certified", *_tiers(result)]
    if result.more_rows:
        need, there = region.needed(c["max_loss"], c["confidence"]), n if result.declared else c["rows_certify"]
        return "\n".join([*lines, f"infeasible: a loss of {100 * c['max_loss']:g} % at {100 * c['confidence']:g} % confidence needs {need} rows "
                          f"that test, and there are {there}: record about {result.more_rows} more. Nothing was written"])
    lines.append(found.statement)
    lines += _yardsticks(result)
    if result.next is not None and result.next.unlabelled:
        name = "the policy as declared" if result.next.point.gates is not None else "the next policy"
        lines.append(f"{name} needs {len(result.next.unlabelled)} labels: fill the column right in to_label.csv (a, b, both, neither) "
                     "and run the same command with --labels to_label.csv")
    elif result.next is not None:
        lines.append(_next(result, result.next.point))
    lines += _reliability(result)
    lines.append(f"written to {file}; to use it, write into the policy: thresholds: {file.rpartition('/')[2]}")
    return "\n".join(lines)


def _tiers(result: Result) -> list[str]:
    """What the chosen policy serves, and beside it the yardsticks."""
    evidence = result.evidence
    if result.chosen is None:
        return []
    step, served = result.chosen.point, result.chosen.served
    lines = []
    for k, tier in enumerate(evidence.policy.tiers):
        cut = step.thresholds.get(tier.name)
        rule = ("last tier" if k == len(evidence.names) else "never asked" if cut is None else "no other model is asked" if cut == 0
                else "its gates, as declared" if step.gates else f"P(right) >= {cut:.3f}{_before(step, tier.name)}")
        lines.append(f"  {tier.name}: serves {100 * float((served.tier == k).mean()):.0f} % ({rule})")
    always, here = float(evidence.cost[-1].mean()), float(served.cost.mean())
    below = sorted({call for stages in evidence.calls[:-1] for stage in stages for call in stage})
    cheap = float(evidence.call_cost[below].sum(axis=0).mean())
    lines.append(f"  cost against always {evidence.policy.tiers[-1].name}: {100 * here / always:.0f} % "
                 f"(asking every tier below and nothing else: {100 * cheap / always:.0f} %)" if always else "  costs nothing")
    return lines


def _before(step: Point, tier: str) -> str:
    """When its late gates are asked."""
    return "".join(f"; {gate} is asked {f'from {floor:.3f}' if floor else ''}{' ' if floor and sure else ''}{f'below {sure:.3f}' if sure else ''}"
                   for gate, (floor, sure) in step.before.get(tier, {}).items())


def _yardsticks(result: Result) -> list[str]:
    """What chance and foresight would save at the accuracy of the chosen policy, on the rows with gold."""
    evidence = result.evidence
    known = np.flatnonzero((evidence.right >= 0).all(axis=0))
    if result.chosen is None or result.reference != "gold" or not len(known):
        return []
    right, cost = evidence.right[:, known] == 1, evidence.own_cost[:, known]
    always, last = float(evidence.cost[-1, known].mean()), float(right[-1].mean())
    tier = result.chosen.served.tier[known]
    lost = last - float(right[tier, np.arange(len(known))].mean())
    mixing = max((share * (1 - float(cost[k].mean()) / always) for k in range(len(evidence.names))
                  if (share := _mixed(last - float(right[k].mean()), lost)) is not None), default=0.0)
    cheapest = np.where(right, cost, np.inf).min(axis=0)
    oracle = 1 - float(np.where(right.any(axis=0), cheapest, cost.min(axis=0)).mean()) / always
    return [f"  at the same accuracy a random mix of tiers would save {100 * max(mixing, 0.0):.0f} %; an oracle that knows which tier is right, "
            f"{100 * oracle:.0f} %"]


def _mixed(gap: float, lost: float) -> float | None:
    """The share of requests that may go to a tier that is right less often by `gap`, so that `lost` is lost in all."""
    return 1.0 if gap <= lost else lost / gap if lost > 0 else None


def _next(result: Result, point: Point) -> str:
    c = result.thresholds.certificate
    rate = (point.harm - point.benefit) / point.rows if point.rows else 1.0
    name = "the policy as declared" if point.gates is not None else "the next policy"
    head = (f"{name} (${point.cost_per_request:.6f} a request) is not certified: {point.harm} harm, {point.benefit} benefit, "
            f"p = {point.p:.3f}{_where(result)}")
    if c["min_accuracy"] is not None or rate >= c["max_loss"]:
        return f"{head}: on these rows it loses too much; more rows would hardly help"
    for more in (1.25, 1.5, 2, 3, 4, 6, 8):
        n = round(point.rows * more)
        counts = np.array([round(point.harm * more)]), np.array([round(point.benefit * more)])
        if region.likely(*counts, n, c["max_loss"], 1 - c["confidence"]).all():
            return f"{head}; about {n - point.rows} more certifying rows like these would certify it"
    return head


def _where(result: Result) -> str:
    """The segment that stands in the way."""
    segment = None if result.next is None else result.next.segment
    return "" if segment is None else f" for {result.thresholds.certificate['by']} {segment}"


def _reliability(result: Result) -> list[str]:
    """Predicted against found, on rows that no fit has seen, five bins of equal count a tier."""
    evidence = result.evidence
    lines = []
    for k, name in enumerate(evidence.names):
        rows = np.flatnonzero(~evidence.fitting & evidence.passed[k])
        if len(rows) < 20:
            continue
        label = np.where(evidence.right[k] >= 0, evidence.right[k] == 1, evidence.same[k]) if result.reference == "gold" else evidence.same[k]
        predicted = result.scores[k][-1]
        order = rows[np.argsort(predicted[rows], kind="stable")]
        bins = [f"{predicted[part].mean():.2f}/{label[part].mean():.2f} ({len(part)})" for part in np.array_split(order, 5)]
        lines.append(f"  {name}: P(right) predicted/found: {'  '.join(bins)}")
    return lines
