"""A circuit breaker per model: after a row of failures the provider is left alone for a while, then probed with one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cascade.errors import CircuitOpen, Overloaded, ProviderError, TimedOut, Unreachable
from cascade.types import Answer, Ask, Call

OUTAGE = (Overloaded, Unreachable, TimedOut)
"""Failures that speak of the provider's health; a bad reply or a rate limit does not."""


State = Literal["closed", "open", "half_open"]


@dataclass
class Circuit:
    """One model's. `opened` and `clock` in seconds; it rests for `rest` of them."""

    rest: float
    clock: Callable[[], float]
    failures: int = 0
    opened: float | None = None
    probing: bool = False

    @property
    def state(self) -> State:
        """half_open: it has rested, and the next call is a probe."""
        if self.opened is None:
            return "closed"
        return "open" if self.probing or self.clock() - self.opened < self.rest else "half_open"


def breaker(ask: Ask, *, failures: int = 5, rest: float = 2.0, clock: Callable[[], float] = time.monotonic,
            circuits: dict[str, Circuit] | None = None) -> Ask:
    """An Ask that, after `failures` outages in a row of one model, raises CircuitOpen at once for `rest` seconds.

    Then one call goes through as a probe: if it is answered the circuit closes, else it rests again. `circuits` gets them, by model.
    """
    circuits = {} if circuits is None else circuits

    async def guarded(call: Call) -> Answer:
        circuit = circuits.setdefault(call.model, Circuit(rest, clock))
        if circuit.opened is not None:
            if circuit.state == "open":
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
