"""Limits of one provider: calls at a time, requests and tokens per minute; the calls at a time adapt to 429s."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable

from cascade.errors import RateLimited
from cascade.types import Answer, Ask, Call, Provider

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]


class Slots:
    """How many calls may be in flight. A 429 halves what is, once for all calls that began before it was noticed; each full round of answers
    adds one, up to `most`."""

    def __init__(self, most: float = math.inf) -> None:
        self.most = most
        self.now = float(most)
        self.taken = 0
        self.cuts = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        if self.taken + 1 <= self.now and not self._queue:
            self.taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            else:
                self._queue.remove(turn)
            raise

    def give(self) -> None:
        self.taken -= 1
        while self._queue and self.taken + 1 <= self.now:
            turn = self._queue.popleft()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)

    def faster(self) -> None:
        self.now = min(self.most, self.now + 1 / self.now)

    def slower(self, cuts: int) -> None:
        """`cuts` as they were when the call began that met the 429."""
        if cuts == self.cuts:
            self.cuts += 1
            self.now = max(1.0, min(self.now, self.taken) / 2)


class PerMinute:
    """A token bucket: `rate` a minute, at most a minute's worth at once. A claim may take it below zero and then waits its turn; one for
    more than a minute's worth waits until the bucket is full, and those after it until it is paid."""

    def __init__(self, rate: int, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self.rate = rate
        self.left = float(rate)
        self._seen = clock()
        self._clock = clock
        self._sleep = sleep

    async def claim(self, amount: float) -> None:
        now = self._clock()
        self.left = min(float(self.rate), self.left + (now - self._seen) * self.rate / 60)
        self._seen = now
        short = min(amount, float(self.rate)) - self.left
        self.left -= amount
        if short > 0:
            await self._sleep(short * 60 / self.rate)

    def give_back(self, amount: float) -> None:
        self.left = min(float(self.rate), self.left + amount)


def limited(ask: Ask, provider: Provider, *, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> Ask:
    """An Ask that keeps to the provider's `concurrency`, `requests_per_minute` and `tokens_per_minute`, and asks less at a time after a 429.

    Waiting here does not count against the call's own deadline (a queue is no failure), only against the request's.
    Tokens are claimed as an estimate (a quarter of the prompt's characters, and max_tokens) and settled by the answer's usage.
    """
    slots = Slots(provider.concurrency or math.inf)
    requests = PerMinute(provider.requests_per_minute, clock, sleep) if provider.requests_per_minute else None
    tokens = PerMinute(provider.tokens_per_minute, clock, sleep) if provider.tokens_per_minute else None

    async def polite(call: Call) -> Answer:
        await slots.take()
        cuts = slots.cuts
        try:
            if requests:
                await requests.claim(1)
            claimed = _tokens(call) if tokens else 0
            if tokens:
                await tokens.claim(claimed)
            answer = await ask(call)
            if tokens and answer.usage:
                tokens.give_back(claimed - answer.usage.input - answer.usage.output)
        except RateLimited:
            slots.slower(cuts)
            raise
        else:
            slots.slower(cuts) if any(r.error == RateLimited.kind for r in answer.retries) else slots.faster()
            return answer
        finally:
            slots.give()

    return polite


def _tokens(call: Call) -> int:
    most = call.params.json.get("max_tokens") or 0
    return sum(m.size for m in call.messages) // 4 + int(most)
