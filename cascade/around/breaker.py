"""A circuit breaker per model: after a row of failures the provider is left alone for a while, then probed with one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cascade.errors import CircuitOpen, Overloaded, ProviderError, TimedOut, Unreachable
from cascade.types import Answer, Ask, Call

OUTAGE = (Overloaded, Unreachable, TimedOut)
"""Failures that speak of the provider's health; a bad reply or a rate limit does not."""


@dataclass
class _Circuit:
    failures: int = 0
    opened: float | None = None
    probing: bool = False


def breaker(ask: Ask, *, failures: int = 5, rest: float = 2.0, clock: Callable[[], float] = time.monotonic) -> Ask:
    """An Ask that, after `failures` outages in a row of one model, raises CircuitOpen at once for `rest` seconds.

    Then one call goes through as a probe: if it is answered the circuit closes, else it rests again.
    """
    circuits: dict[str, _Circuit] = {}

    async def guarded(call: Call) -> Answer:
        circuit = circuits.setdefault(call.model, _Circuit())
        if circuit.opened is not None:
            if circuit.probing or clock() - circuit.opened < rest:
                raise CircuitOpen(f"{call.model} failed {failures} times in a row and is not asked for {rest:g} s")
            circuit.probing = True
        try:
            answer = await ask(call)
        except OUTAGE:
            circuit.failures += 1
            if circuit.failures >= failures:
                circuit.opened = clock()
            raise
        except ProviderError:
            circuit.failures, circuit.opened = 0, None
            raise
        else:
            circuit.failures, circuit.opened = 0, None
            return answer
        finally:
            circuit.probing = False

    return guarded
