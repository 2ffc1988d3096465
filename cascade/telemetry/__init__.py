"""Where what happens is told to, while it happens: nobody, or OpenTelemetry once `cascade.telemetry.otel` is instrumented."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from cascade.outcome import Outcome
from cascade.types import Ask, Json, Policy


class Telemetry(Protocol):
    """Hears of requests and of calls."""

    async def request(self, policy: Policy, answer: Callable[[], Awaitable[Outcome[Json]]]) -> Outcome[Json]:
        """What `answer` gives, told as one request."""
        ...

    def traced(self, ask: Ask, policy: Policy) -> Ask:
        """An Ask around `ask` that tells of each call."""
        ...


active: Telemetry | None = None
"""Set before the first request; None: nobody listens, and nothing is paid for it."""
