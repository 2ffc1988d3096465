"""The loop: ask `decide` what comes next, do it, write down what happened. Holds no rule of its own and knows no provider."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from cascade import compose, signals
from cascade.budget import Budget, Purse
from cascade.decide import answered, calls_tools, decide, latest, partial_tier, spent, unpriced, verdicts
from cascade.errors import BudgetExceeded, ConfigurationError, ProviderError
from cascade.explore import explore
from cascade.extract import Extracted
from cascade.grade import Grader
from cascade.outcome import Outcome
from cascade.reading import of_answer, said
from cascade.types import (
    WHOLE,
    Answer,
    Ask,
    Call,
    Case,
    Check,
    Checked,
    Compared,
    Document,
    Event,
    Failed,
    Finish,
    Json,
    Message,
    Mode,
    Policy,
    Repair,
    Step,
    Tier,
    Tried,
    Try,
    Verdict,
    Verifier,
)

log = logging.getLogger("cascade")
ZERO = Decimal(0)
AUDIT = "audit"
"""The gate that calls of an audit are written down for."""
Live = Callable[[str], None]
Rule = Callable[[Policy, Sequence[Event]], Step]
"""What says the next step: `decide`, or `explore` where everything is to be asked."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """A policy with everything it takes to act on it, put together once by `app`.

    `verifiers` by (tier, gate); `params` by tier; `worst` is the most a call can cost in dollars, None when unknown; `read` turns an
    answer's text into its JSON value; `purse` is the run's budget; `grader` compares answers; `paid` is what an account gave for this request.
    """

    policy: Policy
    ask: Ask
    verifiers: Mapping[tuple[str, str], Verifier]
    params: Mapping[str, Document]
    worst: Callable[[Call], Decimal | None]
    read: Callable[[str], Extracted]
    purse: Budget | None = None
    grader: Grader | None = None
    paid: Budget | None = None


async def run(ladder: Ladder, inputs: Mapping[str, Json], *, seed: Sequence[Event] = (), id: str | None = None, live: Live | None = None) -> Outcome:
    """One request up the ladder. `seed` is a trail to go on from; `live` is told the pieces of an answer that nothing will look at, the last
    tier's where it has no gates, as they come.

    Raises InputError or TemplateError (before anything is asked) and MissingRecording; everything else becomes an Outcome.
    """
    climb = _Climb(ladder, inputs, seed)
    climb.live = live
    return await climb.outcome(id)


async def record(ladder: Ladder, inputs: Mapping[str, Json], *, id: str | None = None) -> Outcome:
    """One request put to every tier and gate, one after the other; raises as `run` does.

    The policy's deadline is left out: it is the ladder's, and each call has a timeout of its own.
    """
    climb = _Climb(ladder, inputs, (), explore)
    outcome = await climb.outcome(id)
    return _with_comparisons(ladder, outcome, "record")


async def shadow(ladder: Ladder, inputs: Mapping[str, Json], *, id: str | None = None) -> Outcome:
    """As `record`, with all tiers asked side by side, and the last one first, so that it finds the money; the deadline holds for each.

    A tier that fails in any way, its budget included, leaves the others alone; the last tier's answer is served. Where its provider
    failed, the cheapest answer that passed its gates is served, as the ladder would have done.
    """
    started = time.perf_counter()
    policy, purse = ladder.policy, _own_purse(ladder.policy)
    alone = [replace(ladder, policy=replace(policy, tiers=(tier,))) for tier in policy.tiers]
    heard: dict[Call, Answer] = {}
    climbs = [_Climb(one, inputs, (), explore, purse, policy.deadline, heard) for one in alone]
    tasks = [asyncio.create_task(climb.outcome(id)) for climb in reversed(climbs)]
    try:
        ends = (await asyncio.gather(*tasks))[::-1]
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    whole = _Climb(ladder, inputs, [event for climb in climbs for event in climb.trail], explore)
    whole.started = started
    outcome = await whole.outcome(id)
    stood = next((end for end in ends if end.status == "accepted"), None)
    if stood is not None and isinstance(latest(outcome.trail), Failed):
        outcome = replace(outcome, status="accepted", tier=stood.tier, output=stood.output, error=None)
    return _with_comparisons(ladder, outcome, "shadow")


async def audit(ladder: Ladder, inputs: Mapping[str, Json], outcome: Outcome) -> Outcome:
    """The accepted outcome with the last tier's answer to the bare prompt held against it. The served answer stays as it is.

    Whatever hinders the call (budgets and a wrong configuration too) is written down as a failed call of the gate "audit".
    """
    started = time.perf_counter()
    assert outcome.tier is not None, "only what a tier answered is audited"
    policy, last = ladder.policy, ladder.policy.tiers[-1]
    climb = _Climb(ladder, inputs, outcome.trail)
    call = climb.asking(last)
    event, _ = await climb._ask(call, policy.tier(outcome.tier), AUDIT)
    event = replace(event, gate=AUDIT)  # a configuration error has no gate, because it stops a ladder; this one is at its end
    trail: list[Event] = [*outcome.trail, event]
    theirs = of_answer(event, ladder.read) if isinstance(event, Tried) and event.finish in WHOLE else None
    if theirs is not None and theirs.problem is None:
        trail += _compared(ladder, outcome.tier, outcome.output, theirs.value)
    return replace(outcome, trail=tuple(trail), cost_usd=spent(trail), unpriced=unpriced(trail),
                   seconds=outcome.seconds + time.perf_counter() - started, mode="audit")


def _with_comparisons(ladder: Ladder, outcome: Outcome, mode: Mode) -> Outcome:
    return replace(outcome, trail=(*outcome.trail, *comparisons(ladder, outcome.trail)), mode=mode)


def comparisons(ladder: Ladder, trail: Sequence[Event]) -> list[Compared]:
    """Each lower tier's last answer held against the last tier's, where both are whole and can be read."""
    values: dict[str, Json] = {}
    for event in trail:
        if isinstance(event, Tried) and event.gate is None:
            read = of_answer(event, ladder.read)
            values.pop(event.tier, None)
            if event.finish in WHOLE and read.problem is None:
                values[event.tier] = read.value
    *lower, last = (tier.name for tier in ladder.policy.tiers)
    if last not in values:
        return []
    return [one for name in lower if name in values for one in _compared(ladder, name, values[name], values[last])]


def _compared(ladder: Ladder, tier: str, value: Json, theirs: Json) -> list[Compared]:
    grader, last = _grader(ladder), ladder.policy.tiers[-1].name
    try:
        same = grader.same(value, theirs)
        return [Compared(tier, last, same, () if same else grader.differing(value, theirs))]
    except ValueError as err:  # a user's comparator: an answer that is paid for is not lost for it
        log.warning("the answers of %s and %s cannot be compared: %s", tier, last, err)
        return []


def _grader(ladder: Ladder) -> Grader:
    return ladder.grader or Grader.of(ladder.policy)


def _own_purse(policy: Policy) -> Purse | None:
    return None if policy.budget_per_request is None else Purse(policy.budget_per_request, "request")


class _Climb:
    """One request on its way: the trail so far, and the gates' early calls in flight."""

    def __init__(self, ladder: Ladder, inputs: Mapping[str, Json], seed: Sequence[Event], rule: Rule = decide, purse: Purse | None = None,
                 deadline: float | None = None, heard: dict[Call, Answer] | None = None) -> None:
        self.ladder = ladder
        self.policy = ladder.policy
        self.rule = rule
        self.exploring = rule is explore
        self.deadline = deadline if self.exploring else ladder.policy.deadline
        self.started: float | None = None
        self.inputs = inputs
        self.trail: list[Event] = list(seed)
        self.messages: tuple[Message, ...] = compose.prompt(ladder.policy, inputs)
        self.tools = compose.offered(ladder.policy, inputs)
        self.tier = ladder.policy.tiers[0]
        self.call: Call | None = None  # the tier's first call, without repairs: what samples and votes repeat
        self.asked: Call | None = None  # the call in flight
        self.case: Case | None = None
        self.live: Live | None = None
        self.size = 0  # of the case's value: see signals.of_answer
        self.values: dict[int, Json] = {}
        self.heard = {} if heard is None else heard  # every answer: a repaired one is measured against the same votes
        self.early: dict[Call, asyncio.Task[tuple[Tried | Failed, Answer | Exception]]] = {}
        own = purse or _own_purse(ladder.policy)
        if own is not None and seed:
            own.settle(ZERO, spent(seed))
        self.purses: list[Budget] = [p for p in (ladder.paid, ladder.purse, own) if p is not None]

    async def outcome(self, id: str | None) -> Outcome:
        started = self.started or time.perf_counter()
        try:
            finish = await self._to_the_end()
        finally:
            for task in self.early.values():
                task.cancel()
        trail = tuple(self.trail)
        output = tier = None
        if finish.answer is not None:
            served = trail[finish.answer]
            assert isinstance(served, Tried)
            tier = served.tier
            known = finish.answer in self.values
            output = self.values[finish.answer] if known else said(self.policy, trail, finish.answer, self.ladder.read).read.value
        error = None if finish.status == "accepted" else _why(finish, trail)
        return Outcome(f"{self.policy.name}@{self.policy.digest[:6]}", finish.status, output, tier, spent(trail), unpriced(trail),
                       time.perf_counter() - started, trail, error, id)

    async def _to_the_end(self) -> Finish:
        if self.deadline is None:
            return await self._loop()
        try:
            async with asyncio.timeout(self.deadline) as limit:
                return await self._loop()
        except TimeoutError:
            if not limit.expired():
                raise
            call = self.asked
            tier = self.tier
            self.trail.append(Failed(tier.name, call.model if call else tier.model, "deadline",
                                     f"the request's deadline of {self.deadline:g} s is over", None if call else ZERO))
            step = self.rule(self.policy, self.trail)
            assert isinstance(step, Finish)
            return step

    async def _loop(self) -> Finish:
        while True:
            step = self.rule(self.policy, self.trail)
            if isinstance(step, Check):
                await self._check(step)
            elif isinstance(step, Try):
                await self._try(step)
            elif isinstance(step, Repair):
                await self._repair(step)
            else:
                await self._collect()
                return step

    # ------------------------------------------------------------ asking

    async def _try(self, step: Try) -> None:
        await self._collect()
        tier = self.tier = self.policy.tier(step.tier)
        messages = self.messages if self.exploring else compose.carried(self.policy, self.messages, tier, self.trail)
        call = self.asking(tier, messages)
        if partial_tier(self.trail) != tier.name:  # else the whole follows a part, and the same votes hold
            self.call = call
            self._ask_early(tier, call)
        if step.part:
            call = compose.only(self.policy, replace(call, messages=self.messages), tier, self.trail, step.part)
        elif self.live is not None and not tier.gates and tier is self.policy.tiers[-1]:
            call = replace(call, live=self.live)
        await self._answer(call, tier, 0, step.part)

    def _ask_early(self, tier: Tier, whole: Call) -> None:
        for gate in tier.gates:
            for call in self.ladder.verifiers[tier.name, gate.name].early(self.inputs, whole):
                if call not in self.early and call not in self.heard:
                    self.early[call] = asyncio.create_task(self._ask(call, tier, gate.name))

    async def _repair(self, step: Repair) -> None:
        tier = self.policy.tier(step.tier)
        call = self._base_call(tier)
        await self._answer(replace(call, messages=compose.repaired(call.messages, self.trail)), tier, step.n)

    def _base_call(self, tier: Tier) -> Call:
        """The tier's first call for a whole answer; made anew where a request goes on from a trail."""
        if self.call is None:
            self.call = self.asking(tier)
        return self.call

    def asking(self, tier: Tier, messages: tuple[Message, ...] | None = None) -> Call:
        """The call of the bare prompt, or of these messages."""
        return Call(tier.model, messages or self.messages, self.policy.schema, self.ladder.params[tier.name], 0, tier.timeout, self.tools)

    async def _answer(self, call: Call, tier: Tier, repair: int, part: tuple[str, ...] = ()) -> None:
        self.case = None
        known = self.heard.get(call)
        if known is not None:
            asked = Tried(tier.name, call.model, known.text, known.finish, known.usage, ZERO, 0.0, call.sample, None, repair, True,
                          signals=known.signals)  # fmt: skip
            self.trail.append(_of_part(asked, part))
            return
        event, result = await self._ask(call, tier, None, repair)
        self.trail.append(_of_part(event, part) if isinstance(event, Tried) else event)
        if isinstance(result, Answer):
            self.heard[call] = result  # a gate above that wants this model's vote has it

    async def _ask(self, call: Call, tier: Tier, gate: str | None, repair: int = 0) -> tuple[Tried | Failed, Answer | Exception]:
        """One call, metered: its event, and its answer or why there is none. The budget is asked before the model is."""
        try:
            reserved = self._reserve(call)
        except BudgetExceeded as err:
            kind = "run_budget" if err.scope == "run" else "budget"
            return Failed(tier.name, call.model, kind, str(err), sample=call.sample, gate=gate, repair=repair), err
        started = time.perf_counter()
        cost: Decimal | None = None
        self.asked = call
        try:
            answer = await self.ladder.ask(call)
            cost = ZERO if answer.cached else answer.cost_usd
        except (ProviderError, ConfigurationError) as err:
            self.asked = None
            stop = isinstance(err, ConfigurationError)
            cost = err.cost_usd if isinstance(err, ProviderError) and err.billed else ZERO
            kind = "configuration" if isinstance(err, ConfigurationError) else err.kind
            retries = err.retries if isinstance(err, ProviderError) else ()
            return Failed(tier.name, call.model, kind, str(err), cost, time.perf_counter() - started, call.sample,
                          None if stop else gate, repair, retries), err
        else:
            self.asked = None
        finally:  # a call that was cancelled stays in `asked`: it may have been billed
            for purse in self.purses:
                purse.settle(reserved, cost)
        return Tried(tier.name, call.model, answer.text, answer.finish, answer.usage, cost, time.perf_counter() - started,
                     call.sample, gate, repair, answer.cached, answer.retries, answer.signals), answer

    def _reserve(self, call: Call) -> Decimal:
        if not self.purses:
            return ZERO
        worst = self.ladder.worst(call) or ZERO
        for i, purse in enumerate(self.purses):
            try:
                purse.reserve(worst)
            except BudgetExceeded:
                for taken in self.purses[:i]:
                    taken.settle(worst, ZERO)
                raise
        return worst

    async def _collect(self) -> None:
        """Wait for early calls that no gate asked for: they were paid, so they belong to the trail."""
        for call in list(self.early):
            event, result = await self.early[call]
            del self.early[call]
            self.trail.append(event)
            if isinstance(result, Answer):
                self.heard[call] = result

    # ------------------------------------------------------------ checking

    async def _check(self, step: Check) -> None:
        ladder, tier = self.ladder, self.policy.tier(step.tier)
        gate = next(g for g in tier.gates if g.name == step.gate)
        enough = None if self.exploring else gate.enough
        case = self._with_signals(self.case or self._case(tier), enough)
        votes: list[Tried | Failed | None] = []

        async def ask(call: Call) -> Answer:
            if call in self.heard:
                return self.heard[call]
            slot = len(votes)
            votes.append(None)
            early = self.early.pop(call, None)
            event, result = await (early if early is not None else self._ask(call, tier, gate.name))
            votes[slot] = event
            if isinstance(result, Exception):
                raise result
            self.heard[call] = result
            return result

        started = time.perf_counter()
        try:
            verdict = await ladder.verifiers[tier.name, gate.name](case, ask)
        except (ProviderError, BudgetExceeded) as err:
            verdict = Verdict(None, f"{gate.name} could not tell: {err}")
        except ConfigurationError as err:
            self.trail.extend(v for v in votes if v is not None)
            if not any(isinstance(v, Failed) and v.error == "configuration" for v in votes):
                self.trail.append(Failed(tier.name, tier.model, "configuration", str(err)))
            return
        self.trail.extend(v for v in votes if v is not None)
        passed = verdict.score is not None and verdict.score >= gate.threshold
        self.trail.append(Checked(tier.name, gate.name, verdict.score, gate.threshold, passed, verdict.reason, verdict.fields,
                                  verdict.signals, ZERO, time.perf_counter() - started))

    def _case(self, tier: Tier) -> Case:
        at = answered(self.trail)
        assert at is not None, "a check follows an answer"
        tried = self.trail[at]
        assert isinstance(tried, Tried)
        text, read = said(self.policy, self.trail, at, self.ladder.read)
        self.values[at] = read.value
        self.size = _grader(self.ladder).size(read.value)
        self.case = Case(self.inputs, text, read.value, self._base_call(tier), self.policy.schema, self.policy.compare,
                         read.problem, read.notes, finish=tried.finish)
        return self.case

    def _with_signals(self, case: Case, enough: float | None) -> Case:
        """The case as the next gate sees it: with the score that is enough, and the numbers of the answer and of the gates before."""
        at = answered(self.trail)
        assert at is not None, "a check follows an answer"
        tried = self.trail[at]
        assert isinstance(tried, Tried)
        return replace(case, signals=signals.gather(tried, case.notes, self.size, verdicts(self.trail, at)), enough=enough)


def _of_part(answer: Tried, part: tuple[str, ...]) -> Tried:
    """The answer to these fields alone; calls of tools are a step of their own, whatever was asked for."""
    return answer if calls_tools(answer) or not part else replace(answer, part=part)


def _why(finish: Finish, trail: Sequence[Event]) -> str:
    """One line for people: the finish's kind, and the last thing that went wrong."""
    for event in reversed(trail):
        if isinstance(event, Failed):
            return f"{finish.error}: {event.reason}" if event.error == finish.error else f"{finish.error}: {event.error}: {event.reason}"
        if isinstance(event, Checked) and not event.passed:
            return f"{finish.error}: {event.tier}: {event.reason or event.gate}"
        if isinstance(event, Tried) and event.gate is None and event.finish not in WHOLE:
            return f"{finish.error}: {event.tier}: {'the answer was cut off at max_tokens' if event.finish == 'length' else event.finish}"
    return finish.error or finish.status
