"""The wrappers around a call, each alone: time, sleep and upstream are given, so nothing waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from cascade.around.breaker import breaker
from cascade.around.limit import PerMinute, Slots, limited
from cascade.around.retry import RetryBudget, retrying
from cascade.around.single_flight import SingleFlight, single_flight
from cascade.errors import BadReply, CircuitOpen, OutOfCredit, Overloaded, ProviderError, RateLimited, TimedOut, Unreachable
from cascade.types import Answer, Call, Document, Message, Provider, Usage

CALL = Call("p/m", (Message("user", "hello"),), params=Document({"max_tokens": 10}), timeout=30.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Upstream:
    """Answers or raises in turn; the last for ever."""

    def __init__(self, *turns: Any) -> None:
        self.turns = list(turns)
        self.calls: list[Call] = []

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, Exception):
            raise turn
        return Answer(str(turn), cost_usd=Decimal("0.01"))


def later(error: type[ProviderError], seconds: float) -> ProviderError:
    err = error("wait")
    err.retry_after = seconds
    return err


def patient(upstream: Upstream, clock: Clock, retries: int = 2, budget: RetryBudget | None = None) -> Any:
    return retrying(upstream, lambda _: retries, budget or RetryBudget(), sleep=clock.sleep, clock=clock, jitter=lambda: 1.0)


# ---------------------------------------------------------------- retry


def test_transient_errors_are_asked_again_and_told() -> None:
    clock, upstream = Clock(), Upstream(Overloaded("529"), Unreachable("refused"), "yes")
    answer = asyncio.run(patient(upstream, clock)(CALL))
    assert (answer.text, [r.error for r in answer.retries], clock.slept) == ("yes", ["overloaded", "unreachable"], [0.5, 1.0])


@pytest.mark.parametrize("error", [BadReply("html"), TimedOut("slow"), OutOfCredit("quota"), CircuitOpen("open")], ids=lambda e: e.kind)
def test_other_errors_are_not(error: ProviderError) -> None:
    upstream = Upstream(error, "yes")
    with pytest.raises(type(error)):
        asyncio.run(patient(upstream, Clock())(CALL))
    assert len(upstream.calls) == 1


def test_retries_end_and_the_error_knows_them() -> None:
    clock, upstream = Clock(), Upstream(Overloaded("529"))
    with pytest.raises(Overloaded) as caught:
        asyncio.run(patient(upstream, clock)(CALL))
    assert len(upstream.calls) == 3
    assert len(caught.value.retries) == 2


def test_retry_after_is_kept_to() -> None:
    clock = Clock()
    asyncio.run(patient(Upstream(later(RateLimited, 7), "yes"), clock)(CALL))
    assert clock.slept == [7]


def test_a_retry_after_beyond_the_deadline_ends_the_call_at_once() -> None:
    clock, upstream = Clock(), Upstream(later(RateLimited, 3600), "yes")
    with pytest.raises(RateLimited):
        asyncio.run(patient(upstream, clock)(CALL))
    assert (clock.slept, len(upstream.calls)) == ([], 1)


def test_all_attempts_share_one_deadline() -> None:
    clock, upstream = Clock(), Upstream(later(Overloaded, 20), "yes")
    asyncio.run(patient(upstream, clock)(CALL))
    assert [call.timeout for call in upstream.calls] == [30.0, 10.0]


def test_an_outage_is_not_answered_with_a_storm() -> None:
    clock, upstream, budget = Clock(), Upstream(Overloaded("529")), RetryBudget(share=0.2, spare=10)
    ask = patient(upstream, clock, budget=budget)

    async def hundred() -> None:
        for _ in range(100):
            with pytest.raises(Overloaded):
                await ask(CALL)

    asyncio.run(hundred())
    assert 120 <= len(upstream.calls) <= 130  # 20 % of 100, and the 10 that are spare at the start


# ---------------------------------------------------------------- breaker


def test_the_circuit_opens_rests_probes_and_closes() -> None:
    clock, upstream = Clock(), Upstream(*[Overloaded("529")] * 6, "yes")
    ask = breaker(upstream, failures=5, rest=10, clock=clock)

    async def story() -> list[str]:
        told = []
        for at in (0, 0, 0, 0, 0, 1, 2, 11, 12, 22, 23):
            clock.now = at
            try:
                told.append((await ask(CALL)).text)
            except ProviderError as err:
                told.append(err.kind)
        return told

    assert asyncio.run(story()) == [*["overloaded"] * 5, *["circuit_open"] * 2, "overloaded", "circuit_open", "yes", "yes"]


def test_each_model_has_its_own_circuit() -> None:
    upstream = Upstream(Overloaded("529"))
    ask = breaker(upstream, failures=1, clock=Clock())

    async def kinds() -> list[str]:
        told = []
        for model in ("p/a", "p/a", "p/b"):
            try:
                await ask(Call(model, ()))
            except ProviderError as err:
                told.append(err.kind)
        return told

    assert asyncio.run(kinds()) == ["overloaded", "circuit_open", "overloaded"]


def test_only_one_probe_at_a_time() -> None:
    clock = Clock()
    gate: list[asyncio.Event] = []

    async def slow(call: Call) -> Answer:
        if not gate:
            raise Overloaded("529")
        await gate[0].wait()
        return Answer("yes")

    ask = breaker(slow, failures=1, rest=10, clock=clock)

    async def story() -> list[Any]:
        with pytest.raises(Overloaded):
            await ask(CALL)
        clock.now = 11
        gate.append(asyncio.Event())
        probes = [asyncio.create_task(ask(CALL)) for _ in range(3)]
        await asyncio.sleep(0)
        gate[0].set()
        return [r.text if isinstance(r, Answer) else r.kind for r in await asyncio.gather(*probes, return_exceptions=True)]  # type: ignore[union-attr]

    assert asyncio.run(story()) == ["yes", "circuit_open", "circuit_open"]


# ---------------------------------------------------------------- single flight


def held() -> tuple[Callable[[Call], Any], asyncio.Event, list[Call]]:
    event, calls = asyncio.Event(), []

    async def ask(call: Call) -> Answer:
        calls.append(call)
        await event.wait()
        return Answer("yes", cost_usd=Decimal("0.01"))

    return ask, event, calls


def test_equal_calls_in_flight_make_one_call_and_one_pays() -> None:
    async def story() -> tuple[list[Answer], int]:
        upstream, go, calls = held()
        ask = single_flight(upstream)
        tasks = [asyncio.create_task(ask(CALL)) for _ in range(50)]
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*tasks), len(calls)

    answers, calls = asyncio.run(story())
    assert calls == 1
    assert sum(a.cost_usd or 0 for a in answers) == Decimal("0.01")
    assert sum(a.cached for a in answers) == 49


def test_samples_and_other_calls_are_not_shared() -> None:
    async def story() -> int:
        upstream, go, calls = held()
        ask = single_flight(upstream)
        others = [CALL, Call("p/m", CALL.messages, params=CALL.params, sample=1), Call("p/n", CALL.messages, params=CALL.params)]
        tasks = [asyncio.create_task(ask(call)) for call in others]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*tasks)
        return len(calls)

    assert asyncio.run(story()) == 3


def test_one_who_gives_up_leaves_the_call_to_the_others_and_the_last_one_ends_it() -> None:
    async def story() -> tuple[str, bool]:
        upstream, go, _ = held()
        flights: SingleFlight[str, Answer] = SingleFlight()
        first, second = (asyncio.create_task(flights.share("k", lambda: upstream(CALL))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        go.set()
        answer, _ = await second
        ended = asyncio.Event()

        async def forever() -> Answer:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        last = asyncio.create_task(flights.share("j", forever))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return answer.text, ended.is_set()

    assert asyncio.run(story()) == ("yes", True)


def test_an_error_reaches_all_and_is_not_kept() -> None:
    upstream = Upstream(Overloaded("529"), "yes")

    async def story() -> list[str]:
        ask = single_flight(upstream)
        first = await asyncio.gather(ask(CALL), ask(CALL), return_exceptions=True)
        return [type(r).__name__ for r in first] + [(await ask(CALL)).text]

    assert asyncio.run(story()) == ["Overloaded", "Overloaded", "yes"]


# ---------------------------------------------------------------- limits


def test_no_more_calls_at_a_time_than_allowed() -> None:
    most = seen = 0

    async def busy(call: Call) -> Answer:
        nonlocal most, seen
        seen += 1
        most = max(most, seen)
        await asyncio.sleep(0)
        seen -= 1
        return Answer("yes")

    async def story() -> None:
        ask = limited(busy, Provider("p", "openai", concurrency=4))
        await asyncio.gather(*(ask(CALL) for _ in range(20)))

    asyncio.run(story())
    assert most == 4


@pytest.mark.parametrize(("most", "taken", "now"), [(8, 8, 4), (8, 3, 1.5), (8, 1, 1), (math.inf, 6, 3)])
def test_a_429_halves_the_calls_at_a_time_once_for_all_that_were_in_flight(most: float, taken: int, now: float) -> None:
    async def story() -> list[float]:
        slots = Slots(most)
        for _ in range(taken):
            await slots.take()
        told = []
        for cuts in (0, 0, 1):
            slots.slower(cuts)
            told.append(slots.now)
        for _ in range(100):
            slots.faster()
        return [*told, slots.now == 8]

    assert asyncio.run(story()) == [now, now, max(1, now / 2), most == 8]


def test_without_a_limit_a_provider_that_says_429_is_asked_less_at_a_time_until_it_answers() -> None:
    seen, open_at_once = 0, 3

    async def choosy(call: Call) -> Answer:
        nonlocal seen
        seen += 1
        full = seen > open_at_once
        try:
            await asyncio.sleep(0)
            if full:
                raise RateLimited("429")
            return Answer("yes")
        finally:
            seen -= 1

    async def story() -> list[int]:
        ask, refused = limited(choosy, Provider("p", "openai")), []
        for _ in range(6):
            found = await asyncio.gather(*(ask(CALL) for _ in range(24)), return_exceptions=True)
            refused.append(sum(isinstance(one, RateLimited) for one in found))
        return refused

    refused = asyncio.run(story())
    assert refused[0] == 21
    assert max(refused[2:]) <= 3, refused


def test_a_waiter_that_gives_up_frees_its_place() -> None:
    async def story() -> int:
        slots = Slots(1)
        await slots.take()
        waiting = asyncio.create_task(slots.take())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        slots.give()
        return slots.taken

    assert asyncio.run(story()) == 0


def test_requests_and_tokens_per_minute_are_waited_for() -> None:
    clock = Clock()
    ask = limited(Upstream("yes"), Provider("p", "openai", requests_per_minute=2, tokens_per_minute=10_000), clock=clock, sleep=clock.sleep)

    async def four() -> None:
        for _ in range(4):
            await ask(CALL)

    asyncio.run(four())
    assert clock.slept == pytest.approx([30, 30])


def test_tokens_claimed_and_not_used_are_given_back() -> None:
    clock = Clock()

    async def upstream(call: Call) -> Answer:
        return Answer("yes", usage=Usage(3, 1))

    bucket = PerMinute(100, clock, clock.sleep)
    asyncio.run(bucket.claim(60))
    bucket.give_back(56)
    assert bucket.left == 96
    ask = limited(upstream, Provider("p", "openai", tokens_per_minute=100), clock=clock, sleep=clock.sleep)

    async def five() -> None:
        for _ in range(5):
            await ask(Call("p/m", CALL.messages, params=Document({"max_tokens": 50})))

    asyncio.run(five())
    assert clock.slept == []


def test_a_call_of_more_tokens_than_a_minute_has_is_paid_in_full_by_those_after_it() -> None:
    clock = Clock()
    bucket = PerMinute(100, clock, clock.sleep)

    async def three() -> None:
        await bucket.claim(250)  # a full bucket is enough to go
        await bucket.claim(50)
        await bucket.claim(250)

    asyncio.run(three())
    assert clock.slept == pytest.approx([120, 60])
