"""How a request ended, with its trail; everything else it can tell is a view of that trail."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Generic

from typing_extensions import TypeVar

from cascade.errors import NotAccepted
from cascade.story import one_line, story
from cascade.types import Mode, Status, Trail

T = TypeVar("T", default=Any)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """A request's end: the served `output` (a JSON value, text without a schema, or the model asked for) and its `trail`.

    `status`: accepted · flagged (no tier passed; `output` is the best) · refused · failed (`error` says why) · invalid (bad input).
    `policy` is `name@digest`. `cost_usd` is what this request paid, None when that is not known (`unpriced` names the models without
    a price). `seconds` is wall time. `cached`: served from the cache, or shared with an equal request in flight; nothing was paid.
    `mode` says why more was asked than the ladder needed: a recording, a shadow (the last tier's answer is served) or an audit.
    `alarm`: what the monitor had to say when this was served, see `cascade.monitor`.
    """

    policy: str
    status: Status
    output: T | Any = None
    tier: str | None = None
    cost_usd: Decimal | None = Decimal(0)
    unpriced: tuple[str, ...] = ()
    seconds: float = 0.0
    trail: Trail = ()
    error: str | None = None
    id: str | None = None
    cached: bool = False
    mode: Mode | None = None
    alarm: str | None = None

    def explain(self) -> str:
        """The request's story as a text table: each try, verdict, reason, dollars and seconds."""
        told = story(self.status, self.tier, self.cost_usd, self.seconds, self.trail, self.error)
        return told if self.alarm is None else f"{told}\nalarm: {one_line(self.alarm, 400)}"

    def raise_for_status(self) -> Outcome[T]:
        """This outcome if it was accepted; raises NotAccepted otherwise."""
        if self.status != "accepted":
            raise NotAccepted(f"{self.status}: {self.error}" if self.error else self.status, self)
        return self
