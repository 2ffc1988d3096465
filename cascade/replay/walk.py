"""What a policy would have done with a recorded request: `decide` itself, driven over what was recorded. Pure; no model is asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TypeAlias

from cascade import sharing, signals, verifiers
from cascade.budget import Purse
from cascade.decide import answered, decide, verdicts
from cascade.errors import BudgetExceeded, InputError
from cascade.extract import Extracted
from cascade.grade import Grader
from cascade.reading import reader
from cascade.recording import Recording
from cascade.replay.worst import Worst
from cascade.types import (
    Answer,
    Check,
    Checked,
    Compared,
    Event,
    Failed,
    Finish,
    FinishReason,
    Gate,
    Policy,
    Repair,
    Skipped,
    Tier,
    Trail,
    Tried,
    Try,
)
from cascade.verifiers._votes import NoVote
from cascade.verifiers.calibrated import score
from cascade.verifiers.consistency import ConsistencyVerifier

NEVER_ASKED = frozenset({"budget", "run_budget", "configuration"})
"""Failures that say nothing of the model: the recording's own money or settings were at fault."""
UNASKED = frozenset({"budget", "run_budget"})
"""Failures of calls that were not made."""
ZERO = Decimal(0)


class NotRecorded(InputError):
    """The policy takes a step that the recording does not hold; the message says which, and in which row."""


Stop: TypeAlias = Callable[[str, Sequence[tuple[str, FinishReason] | None]], list[int]]
"""How many samples a gate asks at a time, by the answer's text and by what the samples say: text and finish, None for a call that failed."""


def walk(policy: Policy, recording: Recording) -> Trail:
    """The trail that the policy would have left; `decide` ends it with what is served.

    The tier's first answer is its recorded one, gates give the scores they gave, held against this policy's thresholds. Calls are paid as
    the engine pays them: those of gates that ask early with the tier, each recorded call once. NotRecorded when a step is missing.
    """
    return Walker(policy).walk(recording)


class Walker:
    """`walk` for many recordings of one policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.read: Callable[[str], Extracted] = reader(policy)
        self.grader = Grader.of(policy)
        self.worst = Worst(policy) if policy.budget_per_request is not None else None
        self.early = {tier.name: [(gate, verifiers.models(gate.kind, gate.options)) for gate in tier.gates if gate.early]
                      for tier in policy.tiers}
        calls = sharing.calls(policy)
        self.gates = {(tier.name, gate.name) for tier in policy.tiers for gate in tier.gates}
        self.recorded = sharing.calls(policy, recorded=True)
        self.heard_by_gate = {name: frozenset(vote for vote, call in calls.votes.items() if call == own and vote[0] != name)
                              for name, own in calls.own.items()}  # fmt: skip
        self.heard_by_tier = {name: frozenset(tier for tier, call in calls.own.items() if call == own and tier != name)
                              for name, own in calls.own.items()}  # fmt: skip
        self.known_votes = {vote: frozenset(tier for tier, own in calls.own.items() if own == call and tier != vote[0])
                            for vote, call in calls.votes.items()}  # fmt: skip
        self.stops = {(tier.name, gate.name): self._stop(gate) for tier in policy.tiers for gate in tier.gates
                      if gate.kind == "consistency" and gate.enough is not None}

    def walk(self, recording: Recording) -> Trail:
        """See `walk`."""
        return _Walk(self, recording).to_the_end()

    def key(self, event: Tried) -> Hashable | None:
        """The key of the call behind an event of the recording; None for one of a tier or gate that this policy does not have."""
        if event.gate is None:
            return self.recorded.own.get(event.tier)
        found = self.recorded.votes.get((event.tier, event.gate, event.model))
        return (event.tier, event.gate) if found is None and (event.tier, event.gate) in self.gates else found

    def _stop(self, gate: Gate) -> Stop:
        verifier = verifiers.build(gate.kind, gate.options, self.policy.schema, self.policy.compare)
        assert isinstance(verifier, ConsistencyVerifier)
        is_json = self.policy.schema is not None

        def asked(text: str, votes: Sequence[tuple[str, FinishReason] | None]) -> list[int]:
            read = self.read(text)
            if read.problem is not None:
                return []
            return verifier.batches(read.value, is_json, [NoVote() if v is None else Answer(*v) for v in votes], gate.threshold)

        return asked


class _Walk:
    """One request on its way over a recording."""

    def __init__(self, walker: Walker, recording: Recording) -> None:
        self.walker = walker
        self.policy = walker.policy
        self.tape = recording.outcome.trail
        self.id = recording.outcome.id
        self.inputs = recording.inputs
        self.trail: list[Event] = []
        self.paid: set[int] = set()
        self.starved: set[tuple[str, str]] = set()
        self.at = -1  # where on the tape the last answer stands
        budget = self.policy.budget_per_request
        self.purse = None if budget is None else Purse(budget, "request")

    def to_the_end(self) -> Trail:
        while True:
            step = decide(self.policy, self.trail)
            if isinstance(step, Finish):
                return tuple(self.trail)
            tier = self.policy.tier(step.tier)
            if isinstance(step, Try):
                self._answer(tier, 0)
            elif isinstance(step, Repair):
                self._answer(tier, step.n)
            else:
                self._check(tier, step)

    # ------------------------------------------------------------ answers

    def _answer(self, tier: Tier, repair: int) -> None:
        reserved = self._reserve_own(tier, repair)
        event = None if reserved is None else self._recorded(tier, repair)
        if event is not None:
            self.trail.append(event)
        if repair == 0:
            for gate, models in self.walker.early[tier.name]:
                self._pay_votes(tier, gate, models)
        if reserved is not None and event is not None and self.purse is not None:
            self.purse.settle(reserved, event.cost_usd)

    def _recorded(self, tier: Tier, repair: int) -> Tried | Failed:
        at = next((i for i, e in enumerate(self.tape) if isinstance(e, Tried | Failed) and e.gate is None and e.tier == tier.name
                   and e.repair == repair), None)
        if at is None:
            what = f"tier {tier.name} was never asked" if not repair else f"answer {repair} of tier {tier.name} was never repaired"
            raise NotRecorded(f"{what} in row {self.id}; record again with this policy")
        event = self.tape[at]
        assert isinstance(event, Tried | Failed)
        if isinstance(event, Failed) and event.error in NEVER_ASKED:
            raise NotRecorded(f"tier {tier.name} gave no answer in row {self.id} because of the recording's {_cause(event)}; record that row again")
        self.at = at
        self.paid.add(at)
        if isinstance(event, Tried) and not repair:
            if self._heard(tier):
                return replace(event, cost_usd=ZERO, seconds=0.0, cached=True)
            paid = self._first(event.model, self.walker.recorded.own[tier.name]) if event.cached else None
            if paid is not None:
                first = self.tape[paid]
                assert isinstance(first, Tried)
                self.paid.add(paid)
                return replace(event, cost_usd=first.cost_usd, seconds=first.seconds, cached=first.cached)
        return event

    def _first(self, model: str, call: Hashable) -> int | None:
        """Where on the tape that call was answered first, by a tier or for a gate, if it is not paid yet. Of tiers and gates that this policy
        does not have only the model is known."""
        for i, event in enumerate(self.tape):
            if isinstance(event, Tried) and event.model == model and not event.repair and not event.sample and event.gate != "audit":
                key = self.walker.key(event)
                if key is None or key == call:
                    return None if i in self.paid else i
        return None

    def _heard(self, tier: Tier) -> bool:
        """Whether a gate or a tier has asked the tier's very call before: then its answer is there already."""
        votes, tiers = self.walker.heard_by_gate[tier.name], self.walker.heard_by_tier[tier.name]
        return bool(votes or tiers) and any(
            isinstance(e, Tried) and ((e.tier, e.gate, e.model) in votes if e.gate else e.tier in tiers and not e.repair) for e in self.trail)

    # ------------------------------------------------------------ what gates asked

    def _pay_votes(self, tier: Tier, gate: Gate, models: Sequence[str]) -> None:
        """What an agreement asks. A call that a tier or another gate had made for the recording is this gate's if those are not there."""
        own: dict[tuple[str, int], int] = {}
        for i, event in self._votes(tier.name, gate.name, range(len(self.tape))):
            own.setdefault((event.model, event.sample), i)
        known = {model for model in models if self._known(tier, gate, model)}
        self.paid.update(i for (model, _), i in own.items() if model in known)
        taken = [i for i in own.values() if i not in self.paid]
        for model in models:
            if model not in known and all(model != m for m, _ in own):
                lent = self._first(model, self.walker.recorded.votes[tier.name, gate.name, model])
                taken += [] if lent is None else [lent]
        self._pay(tier, gate, taken)

    def _known(self, tier: Tier, gate: Gate, model: str) -> bool:
        """Whether a tier below made this very call: its answer is the vote, and costs nothing."""
        tiers = self.walker.known_votes[tier.name, gate.name, model]
        return bool(tiers) and any(isinstance(e, Tried) and e.gate is None and not e.repair and e.tier in tiers for e in self.trail)

    def _votes(self, tier: str, gate: str, where: Sequence[int]) -> Iterator[tuple[int, Tried | Failed]]:
        for i in where:
            event = self.tape[i]
            if isinstance(event, Tried | Failed) and event.gate == gate and event.tier == tier:
                yield i, event

    def _pay(self, tier: Tier, gate: Gate, places: list[int]) -> None:
        reserved: list[tuple[Decimal, Tried | Failed]] = []
        for i in places:
            event = self.tape[i]
            assert isinstance(event, Tried | Failed)
            if isinstance(event, Failed) and event.error in UNASKED:
                raise NotRecorded(f"gate {gate.name} of tier {tier.name} could not ask in row {self.id} because of the recording's "
                                  f"{_cause(event)}; record that row again")
            event = replace(event, tier=tier.name, gate=gate.name)
            try:
                if self.purse is not None and self.walker.worst is not None:
                    most = self.walker.worst.of_gate(tier, gate, event, self.inputs)
                    self.purse.reserve(most)
                    reserved.append((most, event))
            except BudgetExceeded as err:
                self.starved.add((tier.name, gate.name))
                event = Failed(tier.name, event.model, "budget", str(err), sample=event.sample, gate=gate.name)
            self.paid.add(i)
            self.trail.append(event)
        for most, event in reserved:
            assert self.purse is not None
            self.purse.settle(most, event.cost_usd)

    # ------------------------------------------------------------ checks

    def _check(self, tier: Tier, step: Check) -> None:
        gate = next(g for g in tier.gates if g.name == step.gate)
        if gate.kind == "calibrated":
            found = self._weighed(tier, gate)
        else:
            places = self._round()
            looked = next((e for e in (self.tape[i] for i in places) if isinstance(e, Checked) and (e.tier, e.gate) == (tier.name, gate.name)), None)
            if looked is None:
                tried = self.tape[self.at]
                which = f"repair {tried.repair}" if isinstance(tried, Tried) and tried.repair else "the answer"
                raise NotRecorded(f"gate {gate.name} never looked at {which} of tier {tier.name} in row {self.id}; record again with this policy")
            if gate.kind == "agreement" and not gate.early:
                self._pay_votes(tier, gate, verifiers.models(gate.kind, gate.options))
            for together in self._asked(tier, gate, places):
                self._pay(tier, gate, [i for i in together if i not in self.paid])
            starved = (tier.name, gate.name) in self.starved
            found = replace(looked, score=None, reason=f"{gate.name} could not tell: the budget was spent") if starved else looked
        passed = found.score is not None and found.score >= gate.threshold
        self.trail.append(replace(found, threshold=gate.threshold, passed=passed))

    def _asked(self, tier: Tier, gate: Gate, places: range) -> list[list[int]]:
        """The places of the calls that the gate makes for this answer, those made together in a list of their own: of samples, which were
        all asked for the recording, those that it takes to decide."""
        stops = self.walker.stops.get((tier.name, gate.name))
        if stops is None:
            return [[i for i, _ in self._votes(tier.name, gate.name, places)]]
        last = {event.sample: i for i, event in self._votes(tier.name, gate.name, range(places.stop))}
        order = [last[sample] for sample in sorted(last)]
        tried = self.tape[self.at]
        assert isinstance(tried, Tried)
        sizes = stops(tried.text, [(e.text, e.finish) if isinstance(e, Tried) else None for e in map(self.tape.__getitem__, order)])
        return [order[sum(sizes[:k]) : sum(sizes[: k + 1])] for k in range(len(sizes))]

    def _round(self) -> range:
        """Where on the tape all stands that belongs to the last answer: up to the next one of any tier."""
        end = self.at + 1
        while end < len(self.tape):
            event = self.tape[end]
            if isinstance(event, Skipped) or (isinstance(event, Tried | Failed) and event.gate is None):
                break
            end += 1
        return range(self.at + 1, end)

    def _weighed(self, tier: Tier, gate: Gate) -> Checked:
        """What a calibrated gate says: it was not recorded, it is computed from what was."""
        at = answered(self.trail)
        assert at is not None, "a check follows an answer"
        tried = self.trail[at]
        assert isinstance(tried, Tried)
        read = self.walker.read(tried.text)
        size = self.walker.grader.size(read.value)
        weighed = 0.0 if read.problem else score(gate.options, signals.gather(tried, read.notes, size, verdicts(self.trail, at)))
        return Checked(tier.name, gate.name, weighed, gate.threshold, False)

    # ------------------------------------------------------------ money

    def _reserve_own(self, tier: Tier, repair: int) -> Decimal | None:
        """The worst case of the tier's call, set aside; None when the budget does not reach, which is written down."""
        if self.purse is None or self.walker.worst is None:
            return ZERO
        most = self.walker.worst.of_tier(tier, self.inputs, self.trail, repair)
        try:
            self.purse.reserve(most)
        except BudgetExceeded as err:
            self.trail.append(Failed(tier.name, tier.model, "budget", str(err), repair=repair))
            return None
        return most


def _cause(failed: Failed) -> str:
    return {"budget": "budget_per_request", "run_budget": "budget per run"}.get(failed.error, failed.error)


def unasked(event: Event) -> bool:
    """Whether the event is about a call that was never made, or about none at all."""
    return isinstance(event, Checked | Skipped | Compared) or (isinstance(event, Failed) and event.error in UNASKED)
