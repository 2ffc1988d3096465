"""The only owner of retries: transient errors are asked again within the call's total deadline, and within a retry budget."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from cascade.errors import ProviderError
from cascade.types import Answer, Ask, Call, Retry

FIRST_WAIT = 0.5
"""Seconds before the first retry; doubled each time, up to LONGEST_WAIT, with full jitter."""
LONGEST_WAIT = 20.0

Sleep = Callable[[float], Awaitable[object]]


class RetryBudget:
    """Retries may be at most `share` of the calls seen, so that an outage is not answered with a storm; `spare` are free at start."""

    def __init__(self, share: float = 0.2, spare: float = 10.0) -> None:
        self.share = share
        self.most = spare
        self.left = spare

    def earn(self) -> None:
        self.left = min(self.most, self.left + self.share)

    def take(self) -> bool:
        if self.left < 1:
            return False
        self.left -= 1
        return True


def retrying(ask: Ask, retries: Callable[[Call], int], budget: RetryBudget, *, sleep: Sleep = asyncio.sleep,
             clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random) -> Ask:
    """An Ask that asks again after a transient error, as often as `retries(call)` says.

    `call.timeout` bounds all attempts and waits together. A Retry-After longer than what is left ends the call at once.
    """

    async def patient(call: Call) -> Answer:
        budget.earn()
        ends = None if call.timeout is None else clock() + call.timeout
        tries: list[Retry] = []
        left = retries(call)
        while True:
            started = clock()
            attempt = call if ends is None or not tries else replace(call, timeout=max(ends - started, 0.001))
            try:
                answer = await ask(attempt)
            except ProviderError as err:
                wait = _wait(err, len(tries), jitter)
                if not err.transient or left <= 0 or (ends is not None and clock() + wait >= ends) or not budget.take():
                    err.retries = tuple(tries)
                    raise
                tries.append(Retry(err.kind, str(err), clock() - started))
                left -= 1
                await sleep(wait)
            else:
                return replace(answer, retries=tuple(tries)) if tries else answer

    return patient


def _wait(err: ProviderError, tries: int, jitter: Callable[[], float]) -> float:
    """Seconds to wait: what the provider asked for, else exponential backoff with jitter (never less than a tenth of it)."""
    if err.retry_after is not None:
        return err.retry_after
    longest: float = min(LONGEST_WAIT, FIRST_WAIT * 2.0**tries)
    return longest * (0.1 + 0.9 * jitter())
