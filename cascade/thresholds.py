"""NAME.thresholds.json: what calibration learned, what it promises, what both are bound to; and a policy with it applied. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from cascade import binding
from cascade.errors import InputError
from cascade.types import Gate, Json, Policy, Tier

FORMAT = 1
GATE = "calibrated"


@dataclass(frozen=True)
class Score:
    """P(right) of a tier's answer: a logistic regression on its signals. Lists are in the order of `signals`."""

    signals: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """The sum `total` of a number in [0, 1] over so many held-out rows; a yes counts 1."""

    rows: int
    total: float


@dataclass(frozen=True)
class Point:
    """One policy: a threshold for each tier below the last, None = this tier is not asked at all, 0 = no other model is asked about it.
    `before` (by tier and gate): the P(right) below which the request climbs without asking that gate, and the one from which the answer is
    accepted without it (None: never).

    `gates` (by tier: gate and threshold) are those of the policy as it was declared: then they decide, and no score does. `harm` and
    `benefit` are of `rows` rows that had no say in it; `p` is the exact p-value; `cost_per_request` is in dollars on all rows. `seen` is
    what a monitor compares live traffic with, by the names of `monitor.observe`.
    """

    thresholds: Mapping[str, float | None]
    cost_per_request: float
    rows: int
    harm: int
    benefit: int
    p: float
    certified: bool
    seen: Mapping[str, Seen] = field(default_factory=dict)
    gates: Mapping[str, Mapping[str, float]] | None = None
    before: Mapping[str, Mapping[str, tuple[float, float | None]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Thresholds:
    """A calibration's result. `chosen` is an index into `steps` (safest first), None: call the last tier. `statement` is for people.
    `before` (by tier and gate) are the scores that decide whether that gate is asked; `scores` by tier decide at last."""

    policy: str
    digests: Mapping[str, str]
    statement: str
    scores: Mapping[str, Score]
    steps: tuple[Point, ...]
    chosen: int | None
    certificate: Mapping[str, Json] = field(default_factory=dict)
    before: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)


def dumps(thresholds: Thresholds) -> bytes:
    """The file's text."""
    return orjson.dumps({"format": FORMAT, **asdict(thresholds)}, option=orjson.OPT_INDENT_2) + b"\n"


def loads(text: bytes) -> Thresholds:
    """The thresholds of a file's text. InputError says what is wrong with it."""
    try:
        row = orjson.loads(text)
        if row.get("format") != FORMAT:
            raise InputError(f'"format" is {row.get("format")!r}, this version reads {FORMAT}')
        scores = {name: _score(given) for name, given in row["scores"].items()}
        found = Thresholds(row["policy"], row["digests"], row["statement"], scores, tuple(_point(step) for step in row["steps"]),
                           row["chosen"], row["certificate"],
                           {tier: {gate: _score(given) for gate, given in gates.items()} for tier, gates in row.get("before", {}).items()})
    except orjson.JSONDecodeError as err:
        raise InputError(f"not JSON: {err}") from err
    except (KeyError, TypeError, AttributeError) as err:
        raise InputError(f"not a thresholds file of cascade calibrate: {type(err).__name__}: {err}") from err
    _check(found)
    return found


def _score(given: Mapping[str, Any]) -> Score:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Score(**fields)


def _point(given: Mapping[str, Any]) -> Point:
    seen = {name: Seen(**value) for name, value in given.get("seen", {}).items()}
    if not all(0 <= value.total <= value.rows for value in seen.values()):
        raise TypeError("seen: a total is between 0 and its rows")
    before = {tier: {gate: (floor, sure) for gate, (floor, sure) in gates.items()} for tier, gates in given.get("before", {}).items()}
    if not all(_probability(floor) and (sure is None or (_probability(sure) and floor < sure)) for gates in before.values()
               for floor, sure in gates.values()):  # fmt: skip
        raise TypeError("before: two probabilities each, the lower one first")
    return Point(**{**given, "seen": seen, "before": before})


def _probability(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given <= 1


def _check(found: Thresholds) -> None:
    early = {f"{tier}: {gate}": score for tier, gates in found.before.items() for gate, score in gates.items()}
    for name, score in {**found.scores, **early}.items():
        sizes = {len(score.signals), len(score.mean), len(score.scale), len(score.weights)}
        numbers = (*score.mean, *score.scale, *score.weights, score.intercept)
        if len(sizes) != 1 or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers) or 0 in score.scale:
            raise InputError(f"scores.{name}: not the numbers of one regression")
    if found.chosen is not None and not (isinstance(found.chosen, int) and 0 <= found.chosen < len(found.steps)):
        raise InputError(f"chosen is {found.chosen!r}, and there are {len(found.steps)} steps")
    for step in found.steps:
        if lacking := [gate for tier, gates in step.before.items() for gate in gates if gate not in found.before.get(tier, {})]:
            raise InputError(f"before: there is no score for {lacking[0]}")


def problems(policy: Policy, thresholds: Thresholds) -> list[str]:
    """Why these thresholds do not hold for this policy (asked without thresholds); [] when they do."""
    told = [f"tier {tier.name} has {key}: {value}, and was certified without" for tier in policy.tiers[1:]
            for key, value in (("carry", tier.carry), ("escalate", tier.escalate)) if value not in ("nothing", "whole")]  # fmt: skip
    return binding.changed(thresholds.digests, binding.digests(policy)) + told


def apply(policy: Policy, thresholds: Thresholds, point: int | None = -1) -> Policy:
    """The policy with the thresholds of a step (default: the chosen one; None: only the last tier) in place.

    Of a learned step, gates that ask models only advise, and a last gate weighs all signals; one before a late gate may do so, too, on what is
    known by then. Tiers that are never to be asked are left out.
    The caller takes care of the digest.
    """
    at = thresholds.chosen if point == -1 else point
    if at is None:
        return replace(policy, tiers=policy.tiers[-1:])
    step = thresholds.steps[at]
    if step.gates is not None:
        tiers = [_declared(tier, step.gates[tier.name]) for tier in policy.tiers[:-1] if tier.name in step.gates]
    else:
        tiers = [_scored(tier, thresholds, step, cut) for tier in policy.tiers[:-1]
                 if (cut := step.thresholds.get(tier.name)) is not None and tier.name in thresholds.scores]
    return replace(policy, tiers=(*tiers, policy.tiers[-1]))


def _declared(tier: Tier, thresholds: Mapping[str, float]) -> Tier:
    return replace(tier, gates=tuple(replace(gate, threshold=thresholds.get(gate.name, gate.threshold)) for gate in tier.gates))


def _scored(tier: Tier, thresholds: Thresholds, step: Point, cut: float) -> Tier:
    """Rules first, then what is asked beside the tier, then what is asked when its turn comes: in the order in which it was learned."""
    rules = [gate for gate in tier.gates if not gate.asks]
    if cut == 0:
        return replace(tier, gates=tuple(rules))
    before, late = step.before.get(tier.name, {}), tier.late
    asking = [replace(gate, advisory=True, accept_at=None) for gate in tier.gates if gate.asks]
    gates = [*rules, *(gate for gate in asking if gate.name not in late)]
    for gate in (gate for gate in asking if gate.name in late):
        if gate.name in before:
            floor, sure = before[gate.name]
            gates.append(_weighing(f"{GATE}.{gate.name}", thresholds.before[tier.name][gate.name], floor, sure))
        gates.append(gate)
    return replace(tier, gates=(*gates, _weighing(GATE, thresholds.scores[tier.name], cut)))


def _weighing(name: str, score: Score, threshold: float, accept_at: float | None = None) -> Gate:
    options: dict[str, Any] = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(score).items()}
    return Gate(name[:80], GATE, threshold, options, accept_at=accept_at)
