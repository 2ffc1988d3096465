"""A provider goes down in the middle of a run: the run waits for it, on a clock of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, records
from cascade.around.breaker import breaker
from cascade.around.retry import RetryBudget, retrying
from cascade.bulk import OUTAGE, Durable, Output, Run, outage, run
from cascade.errors import Overloaded
from cascade.outcome import Outcome
from cascade.policy import load
from cascade.rows import Row
from cascade.types import Answer, Call, Failed, Tried, Usage

CONCURRENCY = 8
SECONDS_PER_CALL = 0.5
RATE = CONCURRENCY / SECONDS_PER_CALL


class Loop(asyncio.SelectorEventLoop):
    """Its time passes at once when nothing else is to be done."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class World:
    """A run of `rows` rows over a ladder; `down(model, second)` says whether a call fails."""

    def __init__(self, folder: Path, rows: int, down: Callable[[str, float], bool], tiers: tuple[str, ...] = ("small",), retries: int = 2) -> None:
        self.loop = Loop()
        self.down, self.retries, self.rows = down, retries, [Row(str(n), n, {"text": str(n)}) for n in range(rows)]
        self.calls: list[tuple[float, str, bool]] = []
        policy = folder / "order.yaml"
        policy.write_text(f"""version: 1
name: order
prompt: "{{{{ text }}}}"
cache: {{backend: "off"}}
providers: {{here: {{kind: openai, base_url: "http://127.0.0.1:1/v1", api_key_env: null}}}}
pricing: {{here/small: {{input: 1, output: 1}}, here/big: {{input: 9, output: 9}}}}
tiers: [{", ".join(f"here/{tier}" for tier in tiers)}]
""")
        upstream = breaker(lambda call: self.upstream(call), clock=self.loop.time)
        ask = retrying(upstream, lambda call: self.retries, RetryBudget(), clock=self.loop.time)
        self.cascade = Cascade(load(str(policy)), ask=ask)
        self.output = Output(str(folder / "out.jsonl"), self.cascade.label)
        self.stop = asyncio.Event()

    async def upstream(self, call: Call) -> Answer:
        model = call.model.removeprefix("here/")
        down = self.down(model, self.loop.time())
        self.calls.append((self.loop.time(), model, down))
        late = int(call.messages[-1].content) % 5 - 2
        await asyncio.sleep(0.05 if down else SECONDS_PER_CALL + late / 20)
        if down:
            raise Overloaded("529")
        return Answer("{}", usage=Usage(10, 0, 2), cost_usd=Decimal("0.000012"))

    def go(self) -> Run:
        patience = outage.Outage(clock=self.loop.time)
        try:
            return self.loop.run_until_complete(run(
                self.rows, lambda row: self.cascade.arun(row.inputs, id=row.id), self.output, self.cascade.label,
                concurrency=CONCURRENCY, stop=self.stop, outage=patience))
        finally:
            self.loop.close()
            self.output.close()


def between(first: float, last: float) -> Callable[[str, float], bool]:
    return lambda model, second: model == "small" and first <= second < last


def told(state: Run) -> Counter[Any]:
    return Counter((outcome.status, outcome.tier) for outcome in state.done)


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("rows", [64, 1000])  # the outage meets the last row in flight, or a run that goes on long after it
def test_an_outage_of_half_a_minute_is_waited_for_and_no_row_fails(rows: int, retries: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = rows / RATE - 0.2 if rows == 64 else 10.0
    world = World(tmp_path, rows, between(first, first + 30), retries=retries)
    state = world.go()
    assert (told(state), state.stopped) == (Counter({("accepted", "small"): rows}), None)
    assert len(world.calls) <= 1.2 * rows or rows == 64
    if rows == 1000:
        assert ["down and waited for" in caplog.messages[0], "is back after 3" in caplog.messages[1]] == [True, True]
        after = [sum(second <= at < second + 1 for at, _, down in world.calls if not down) for second in range(45, 50)]
        assert min(after) >= RATE - 1, "at full rate five seconds after the outage"


def test_an_outage_does_not_send_the_run_up_the_ladder(tmp_path: Path) -> None:
    world = World(tmp_path, 1000, between(10, 40), ("small", "big"))
    found = told(world.go())
    assert found.total() == found["accepted", "small"] + found["accepted", "big"] == 1000
    assert 0 < found["accepted", "big"] <= 2 * CONCURRENCY + 30 / outage.PROBE


def test_a_provider_that_never_answered_is_not_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, 1000, lambda model, second: True)
    state = world.go()
    assert (state.stopped or "").startswith(f"{OUTAGE} requests in a row failed")
    assert world.loop.now < 5


def test_one_that_stays_down_ends_the_run_when_the_patience_is_over(tmp_path: Path) -> None:
    world = World(tmp_path, 1000, between(10, 1e9))
    state = world.go()
    assert (state.stopped or "").startswith(f"{OUTAGE} requests in a row failed")
    assert 0 <= world.loop.now - 10 - outage.PATIENCE < 60
    assert told(state)["accepted", "small"] == pytest.approx(10 * RATE, abs=CONCURRENCY)


def test_rows_that_fail_without_an_outage_have_failed(tmp_path: Path) -> None:
    failing = iter(range(1, 10**6))
    world = World(tmp_path, 200, lambda model, second: next(failing) % 20 == 0, retries=0)
    state = world.go()
    assert (told(state), state.stopped) == (Counter({("accepted", "small"): 190, ("failed", None): 10}), None)
    assert len(world.calls) == 200


def test_an_interrupt_in_an_outage_ends_the_run_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, 1000, between(10, 1e9))
    world.loop.call_at(100, world.stop.set)
    state = world.go()
    assert state.stopped == "interrupted"
    assert world.loop.now < 101 + outage.LOOK
    assert told(state).keys() == {("accepted", "small")}


@pytest.mark.parametrize(("asked_again", "spent"), [(False, "0.5"), (True, "1.0")])
def test_what_a_row_that_was_held_back_has_cost_is_in_the_books_once(asked_again: bool, spent: str, tmp_path: Path) -> None:
    row, failed = Row("a", 1, {}), Outcome("p@1", "failed", cost_usd=Decimal("0.5"), error="timeout: no answer", id="a")

    async def main() -> bytes:
        out = Durable(str(tmp_path / "out.jsonl"), "p@1", lambda: [row], total=1)
        out.before(row)
        await out.begin(row)
        out.leave(row, failed)
        if asked_again:
            await out.begin(row)
        out.write(failed, row)
        assert out.standing().spent_usd == Decimal(spent)
        out.close()
        return out.path.read_bytes()

    assert records.from_line(asyncio.run(main())).status == "failed"
    again = Durable(str(tmp_path / "out.jsonl"), "p@1", lambda: [row], total=1)
    assert again.standing().spent_usd == Decimal(spent)
    again.close()


def test_a_model_that_few_rows_come_to_is_found_to_be_back_by_a_row_that_needs_it(tmp_path: Path) -> None:
    world, asked = climbing(tmp_path, 35)
    assert told(world.go()) == {("accepted", "small"): 585, ("accepted", "big"): 15}
    assert world.loop.now < 35 + 600 / RATE + 2 * outage.PROBE
    assert sum(n > 2 for n in asked.values()) <= CONCURRENCY


def test_a_model_that_few_rows_come_to_is_waited_for_once(tmp_path: Path) -> None:
    world, _ = climbing(tmp_path, 1e9)
    found = told(world.go())
    assert (found["accepted", "small"], found["accepted", "big"] + found["flagged", "small"]) == (585, 15)
    assert world.loop.now < outage.PATIENCE + 60


def test_no_more_rows_are_held_back_than_may_be() -> None:
    patience = outage.Outage(most=3)
    answered = Outcome("p@1", "accepted", trail=(Tried("big", "p/big", "x"),))
    failed = Outcome("p@1", "failed", trail=(Failed("big", "p/big", "timeout", "no answer"),))
    assert [patience.heard(n, Row(str(n), n, {}), answered if n == 1 else failed, n > 1) for n in range(1, 6)] == [False, True, True, True, True]
    assert [row.id for row, _ in patience.failed] == ["2", "3", "4", "5"]


def climbing(folder: Path, back: float) -> tuple[World, dict[str, int]]:
    """600 rows of which one in 40 comes to the big model, which is down from the fifth second on; and how often each was asked."""
    world = World(folder, 600, lambda model, second: model == "big" and 5 <= second < back, ("small", "big"))
    asked: dict[str, int] = {}
    upstream = world.upstream

    async def answer(call: Call) -> Answer:
        text = call.messages[-1].content
        asked[text] = asked.get(text, 0) + 1
        found = await upstream(call)
        return found if call.model == "here/big" or int(text) % 40 else Answer("no", finish="length", usage=Usage(10, 0, 2), cost_usd=Decimal(0))

    world.upstream = answer  # type: ignore[method-assign]
    return world, asked
