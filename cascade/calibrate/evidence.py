"""Recordings to arrays: for each row and tier its signals, whether it passed the hard gates, whether it was right, what it cost."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cascade import binding, sharing, signals
from cascade.decide import verdicts
from cascade.errors import InputError
from cascade.grade import Grader
from cascade.reading import reader
from cascade.recording import UNKNOWN, Recording
from cascade.types import Failed, Json, Policy, Tier, Tried

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
FIT_SHARE = 1 / 3
FEWEST_TO_FIT = 100
OWN = 2
"""The first of a tier's calls: its answer and its repairs."""


@dataclass(frozen=True)
class Evidence:
    """Shapes (rows,) and (tiers, rows); tiers are the ladder's, the last is the reference.

    `value` holds each tier's answer, None when there was none. `right` is against gold, -1 where that is not known. `same` is against
    the last tier. `declared`: it is accepted by its gates at the policy's own thresholds. `fitting` marks the rows that fit scores and the
    path; the others certify. `calls` are the numbers of each tier's calls by stage: first its own answer, its repairs and what is asked beside
    them, then what each gate of `late` asks when its turn comes. `call_cost` (calls, rows) are their dollars: a call that two tiers make is
    paid once. `reached`: how many stages the declared gates come to.
    """

    policy: Policy
    ids: tuple[str, ...]
    inputs: tuple[Mapping[str, Json], ...]
    value: tuple[tuple[Json, ...], ...]
    signals: tuple[tuple[Mapping[str, float], ...], ...]
    passed: Bools
    same: Bools
    right: NDArray[np.int8]
    declared: Bools
    reached: NDArray[np.int8]
    calls: tuple[tuple[tuple[int, ...], ...], ...]
    call_cost: Floats
    fitting: Bools

    @property
    def names(self) -> tuple[str, ...]:
        """The tiers below the last, cheapest first."""
        return tuple(tier.name for tier in self.policy.tiers[:-1])

    @cached_property
    def cost(self) -> Floats:
        """Shape (tiers, rows): dollars of each tier with its gates, when it is asked alone."""
        return np.array([self.call_cost[[call for stage in stages for call in stage]].sum(axis=0) for stages in self.calls])

    @cached_property
    def late(self) -> tuple[tuple[str, ...], ...]:
        """By tier below the last: the gates that are asked one after the other, each only when the answer's fate is still open."""
        return tuple(tier.late for tier in self.policy.tiers[:-1])

    @cached_property
    def own_cost(self) -> Floats:
        """Shape (tiers, rows): dollars of each tier's answer and its repairs, without what its gates ask."""
        return np.array([self.call_cost[list(stages[0][:OWN])].sum(axis=0) for stages in self.calls])


def gather(policy: Policy, recordings: Iterable[tuple[str, Recording]]) -> Evidence:
    """The evidence of recordings, each with its place (`file:line`). InputError says what cannot be used, and what is needed."""
    _suitable(policy)
    read, grader, now = reader(policy), Grader.of(policy), binding.digests(policy)
    calls = sharing.calls(policy)
    seen: dict[str, str] = {}
    rows = []
    for place, recording in recordings:
        id = str(recording.outcome.id)
        if id in seen:
            raise InputError(f"{place}: id {id!r} stands already in {seen[id]}; each request counts once")
        seen[id] = place
        if differs := binding.changed(recording.digests, now):
            raise InputError(f"{place}: recorded with another policy: {', '.join(differs[:5])}. Record again with this policy")
        if recording.gold is not UNKNOWN and (problem := grader.problem(recording.gold)):
            raise InputError(f"{place}: {problem}")
        rows.append((id, recording, [_tier(policy, k, recording, read, grader, calls, place) for k in range(len(policy.tiers))]))
    if not rows:
        raise InputError("there is no recording in it: make some with cascade record")
    rows.sort(key=lambda row: _order(row[0]))
    _asked(policy, rows)
    _told_apart(policy, rows, grader)
    k = len(policy.tiers)
    right = np.full((k, len(rows)), -1, np.int8)
    same = np.zeros((k, len(rows)), bool)
    for i, (id, recording, tiers) in enumerate(rows):
        for j, tier in enumerate(tiers):
            try:
                same[j, i] = tier.answered and tiers[-1].answered and grader.same(tier.value, tiers[-1].value)
                if recording.gold is not UNKNOWN:
                    right[j, i] = tier.answered and grader.right(tier.value, recording.gold)
            except ValueError as err:  # a user's comparator
                raise InputError(f"{seen[id]}: {err}") from err
    numbers: dict[Hashable, int] = {}
    of_tier = tuple(tuple(tuple(numbers.setdefault(call, len(numbers)) for call in stage) for stage in _calls_of(tier, calls))
                    for tier in policy.tiers)  # fmt: skip
    call_cost = np.zeros((len(numbers), len(rows)))
    for i, (_, _, tiers) in enumerate(rows):
        for tier in tiers:
            for call, cost in tier.costs.items():
                call_cost[numbers[call], i] = max(call_cost[numbers[call], i], cost)
    fitting = np.zeros(len(rows), bool)
    fitting[: max(round(len(rows) * FIT_SHARE), min(FEWEST_TO_FIT, len(rows) // 2))] = True
    return Evidence(
        policy, tuple(row[0] for row in rows), tuple(row[1].inputs for row in rows),
        tuple(tuple(row[2][j].value for row in rows) for j in range(k)), tuple(tuple(row[2][j].signals for row in rows) for j in range(k)),
        np.array([[row[2][j].passed for row in rows] for j in range(k)]), same, right,
        np.array([[row[2][j].declared for row in rows] for j in range(k)]),
        np.array([[row[2][j].reached for row in rows] for j in range(k)], np.int8), of_tier, call_cost, fitting,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Answer:
    answered: bool
    value: Json
    signals: Mapping[str, float]
    passed: bool
    declared: bool
    reached: int
    costs: Mapping[Hashable, float]
    asked: bool


def _calls_of(tier: Tier, calls: sharing.Calls) -> list[tuple[Hashable, ...]]:
    """Its own call, its repairs and those beside it; then, gate by gate, what is asked when its turn comes (votes, samples, judges)."""

    def asked(gate: str) -> list[Hashable]:
        return [call for vote, call in calls.votes.items() if vote[:2] == (tier.name, gate)] or [(tier.name, gate)]

    late = tier.late
    beside = [call for gate in tier.gates if gate.asks and gate.name not in late for call in asked(gate.name)]
    return [tuple(dict.fromkeys((calls.own[tier.name], (tier.name, "repair"), *beside))), *(tuple(asked(name)) for name in late)]


def _tier(policy: Policy, k: int, recording: Recording, read: object, grader: Grader, calls: sharing.Calls, place: str) -> _Answer:
    tier = policy.tiers[k]
    trail = recording.outcome.trail
    costs: dict[Hashable, float] = defaultdict(float)
    at = None
    asked = False
    for i, event in enumerate(trail):
        if event.tier != tier.name or not isinstance(event, Tried | Failed) or event.gate == "audit":
            continue
        if event.cost_usd is None:
            raise InputError(f"{place}: tier {tier.name} has no price: give one under pricing: in the policy, and record again")
        costs[_call(event, calls)] += float(event.cost_usd)
        if event.gate is None:
            asked = True
            at = i if isinstance(event, Tried) and event.finish == "stop" else None
    if at is None:
        return _Answer(False, None, {}, False, False, 1, costs, asked)
    tried = trail[at]
    assert isinstance(tried, Tried)
    found = read(tried.text)  # type: ignore[operator]
    checks = verdicts(trail, at)
    numbers = signals.gather(tried, found.notes, grader.size(found.value), checks)
    hard = {gate.name for gate in tier.gates if not gate.asks}
    passed = found.problem is None and hard <= {c.gate for c in checks if c.passed}
    scores = {c.gate: c.score for c in checks}
    return _Answer(found.problem is None, found.value, numbers, passed, *_declared(tier, scores), costs, asked)


def _declared(tier: Tier, scores: Mapping[str, float | None]) -> tuple[bool, int]:
    """Whether the gates accept at their own thresholds, and how many stages they come to."""
    late, stages = tier.late, 1
    for gate in tier.gates:
        stages += gate.name in late
        score = scores.get(gate.name)
        if score is None or score < gate.threshold:
            return False, stages
        if gate.accepts(score):
            break
    return True, stages


def _call(event: Tried | Failed, calls: sharing.Calls) -> Hashable:
    """The key under which the event is paid."""
    if event.gate is not None:
        return calls.votes.get((event.tier, event.gate, event.model), (event.tier, event.gate))
    return (event.tier, "repair") if event.repair else calls.own[event.tier]


def _suitable(policy: Policy) -> None:
    """What no certificate could be written for, told before the work."""
    where = policy.path or policy.name
    if len(policy.tiers) < 2:
        raise InputError(f"{where}: one tier alone has nothing to calibrate: declare a cheaper one before it")
    for tier in policy.tiers:
        if tier.carry != "nothing":
            raise InputError(f"{where}: tier {tier.name} has carry: {tier.carry}, so an escalated request would be asked otherwise than it was "
                             "recorded, and nothing could be promised; set carry: nothing")
        if tier.escalate == "partial":
            raise InputError(f"{where}: tier {tier.name} has escalate: partial, so its answers are others than those recorded; set escalate: whole")


def _asked(policy: Policy, rows: Sequence[tuple[str, Recording, list[_Answer]]]) -> None:
    for j, tier in enumerate(policy.tiers):
        if not any(row[2][j].asked for row in rows):
            raise InputError(f"tier {tier.name} was never asked in these recordings: record again with this policy")
    if not any(row[2][-1].answered for row in rows):
        raise InputError(f"the last tier, {policy.tiers[-1].name}, never gave an answer that could be read: there is nothing to compare with")


def _told_apart(policy: Policy, rows: Sequence[tuple[str, Recording, list[_Answer]]], grader: Grader) -> None:
    """Where every answer is the same nothing was seen of how models err, and nothing could be promised for traffic where they do."""
    values = [tier.value for _, _, tiers in rows for tier in tiers if tier.answered]
    if len(rows) > 1 and all(grader.same(value, values[0]) for value in values):
        raise InputError(f"all {len(values)} answers of these {len(rows)} rows are the same, so they show nothing of how the models of {policy.name} "
                         "differ: record other inputs, or look whether the prompt shows them to the model")


def _order(id: str) -> str:
    """Rows are split by a hash of their id: which rows certify cannot be chosen."""
    return hashlib.sha256(b"calibrate 1" + id.encode()).hexdigest()
