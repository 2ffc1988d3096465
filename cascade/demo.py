"""The demo: a shipped ladder over shipped inputs, replayed from recorded calls of real models, or live on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from cascade import rows, shipped
from cascade.app import Cascade
from cascade.bulk import gather
from cascade.compare import Comparators
from cascade.outcome import Outcome
from cascade.policy import load
from cascade.rows import Row
from cascade.summary import total
from cascade.testing.cassette import RecordMode, cassette
from cascade.types import CacheSettings, Policy, Tried, digest

POLICY = "invoice_local.yaml"
INPUTS = "invoice.inputs.jsonl"
LADDER_TAPE = "demo-ladder.json"
TOP_TAPE = "demo-always-top.json"
CONCURRENCY = 3
ROWS = 24


@dataclass(frozen=True)
class Played:
    """The demo's outcomes: the ladder's, and those of its top tier asked alone; `policy` is the ladder's."""

    policy: Policy
    rows: tuple[Row, ...]
    ladder: tuple[Outcome, ...]
    top: tuple[Outcome, ...]

    def right(self, outcomes: Sequence[Outcome]) -> int:
        """How many outputs are the right ones, compared as the policy compares."""
        same = Comparators.load(self.policy.compare).same
        return sum(o.output is not None and same(o.output, row.gold) for row, o in zip(self.rows, outcomes, strict=True))

    def cost(self, outcomes: Sequence[Outcome]) -> Decimal | None:
        """Dollars, None when a price is missing."""
        return total(o.cost_usd for o in outcomes)

    def price_ratio(self) -> Decimal | None:
        """How many times as dear the tiers above the first are, a token; None when they differ among themselves or have no price."""
        prices = [self.policy.pricing.get(tier.model) for tier in self.policy.tiers]
        first, *above = [price and price["input"] for price in prices]
        return above[0] / first if first and above and above[0] and len(set(above)) == 1 else None

    def break_even(self) -> Decimal | None:
        """The price ratio from which these very verdicts save money: what the first tier cost is weighed against what it kept away
        from the top. None when it kept nothing away."""
        ratio, top = self.price_ratio(), self.cost(self.top)
        spent = {True: Decimal(0), False: Decimal(0)}
        for outcome in self.ladder:
            for event in outcome.trail:
                if isinstance(event, Tried):
                    spent[event.tier == self.policy.tiers[0].name] += event.cost_usd or 0
        kept_away = (top or 0) - spent[False]
        return ratio * spent[True] / kept_away if ratio and kept_away > 0 else None

    def worth_telling(self) -> Outcome:
        """The request with the most happening that still ended well: repaired if there is one, and climbed high."""
        return max(self.ladder, key=lambda o: (o.status == "accepted", any(isinstance(e, Tried) and e.repair for e in o.trail),
                                               len({e.tier for e in o.trail}), len(o.trail)))


def play(record_mode: RecordMode = "none", told: Callable[[], object] = lambda: None) -> Played:
    """Run the demo from its cassettes; `all` records them anew (the local models must be running). `told` hears after each request.

    Raises MissingRecording when the shipped policy or inputs are not those that were recorded.
    """
    tapes = shipped.folder("cassettes")
    policy, requests = _shipped()
    with cassette(tapes / LADDER_TAPE, record_mode):
        ladder = asyncio.run(_answer(policy, requests, told))
    with cassette(tapes / TOP_TAPE, record_mode):
        top = asyncio.run(_answer(only_top(policy), requests, told))
    return Played(policy, requests, ladder, top)


def live(told: Callable[[], object] = lambda: None) -> Played:
    """The same with the local models, which must be running (`cascade local start`)."""
    policy, requests = _shipped()
    return Played(policy, requests, asyncio.run(_answer(policy, requests, told)), asyncio.run(_answer(only_top(policy), requests, told)))


def only_top(policy: Policy) -> Policy:
    """The policy with nothing but its last tier: what always asking the dearest model gives."""
    return replace(policy, tiers=policy.tiers[-1:], digest=digest([policy.digest, "only the last tier"]))


def size() -> int:
    """How many requests the demo makes, the ladder's and the top tier's together."""
    return 2 * len(_shipped()[1])


def _shipped() -> tuple[Policy, tuple[Row, ...]]:
    folder: Path = shipped.folder("policies")
    return load(str(folder / POLICY)), tuple(rows.read(str(folder / INPUTS))[:ROWS])


async def _answer(policy: Policy, requests: Sequence[Row], told: Callable[[], object]) -> tuple[Outcome, ...]:
    outcomes: dict[str, Outcome] = {}
    queue = iter(requests)
    async with Cascade(policy, cache=CacheSettings(backend="off")) as cascade:

        async def work() -> None:
            for row in queue:
                outcomes[row.id] = await cascade.arun(row.inputs, id=row.id)
                told()

        await gather(work() for _ in range(CONCURRENCY))
    return tuple(outcomes[row.id] for row in requests)
