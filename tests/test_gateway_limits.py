"""What a key may: its budget holds under concurrency, over workers and kills; its rate; its policies; and it can be taken back while serving."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import gateway_process
import httpx2
import openai
import pytest
from test_gateway import CHAT, PROVIDER, QUESTION, Serving

from cascade import Cascade
from cascade.budget import Purse
from cascade.errors import InputError, Unpaid
from cascade.gateway.keys import Key, Keys, new
from cascade.gateway.rates import _take
from cascade.gateway.rows import UNIT, units
from cascade.gateway.spending import Limit, Short, Spending, _told, limit
from cascade.gateway.state import State
from cascade.policy.load import load_text
from cascade.types import Answer, CacheSettings, Call, Usage

A, B = f"a {'0' * 64}", f"b {'1' * 64}"


# ---------------------------------------------------------------- the file

GOOD = [
    (A, Key("a")),
    (f"{A} budget=20/day", Key("a", Decimal(20), "day")),
    (f"{A}  rate=60/minute   budget=0.5/month", Key("a", Decimal("0.5"), "month", 60)),
    (f"{A} models=chat,sums budget=1e2/total", Key("a", Decimal(100), "total", None, ("chat", "sums"))),
]


@pytest.mark.parametrize(("line", "key"), GOOD)
def test_a_line_says_what_a_key_may(tmp_path: Path, line: str, key: Key) -> None:
    (tmp_path / "keys").write_text(line)
    assert Keys(str(tmp_path / "keys"), ["chat", "sums"]).all() == (key,)


WRONG = [
    (f"{A} budget=20", ":1: budget=20: write dollars per day, month, total"),
    (f"{A}\n{B} budget=-1/day", ":2: budget=-1/day: write dollars"),
    (f"{A} budget=NaN/day", "write dollars"),
    (f"{A} rate=0/minute", "rate=0/minute: write requests a minute"),
    (f"{A} rate=10/second", "write requests a minute"),
    (f"{A} models=chat,odd", "there is no policy 'odd'; there are: chat, sums"),
    (f"{A} rate=1/minute rate=2/minute", "rate= stands there twice"),
    (f"{A} colour=red", "colour=red: a line is NAME SHA256"),
    (f"{A}\nb {'0' * 64}", ":2: the key of a stands there already"),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=[says for _, says in WRONG])
def test_a_wrong_limit_is_told_by_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InputError) as caught:
        Keys(str(tmp_path / "keys"), ["chat", "sums"])
    assert says in str(caught.value)


def test_a_key_is_taken_back_by_its_line_and_a_spoilt_file_leaves_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (one, line_one), (two, line_two) = new("a"), new("b")
    file, at = tmp_path / "keys", [0.0]
    file.write_text(f"{line_one}\n{line_two}\n")
    keys = Keys(str(file), clock=lambda: at[0])
    file.write_text(line_one)
    assert keys.of(two) == Key("b"), "it is looked at once a second"
    at[0] = 1.5
    assert (keys.of(two), keys.of(one)) == (None, Key("a"))
    file.write_text("nonsense here")
    at[0] = 3.0
    assert keys.of(one) == Key("a")
    assert keys.problem.startswith(f"{file}:1: a line is NAME SHA256")
    at[0] = 5.0
    keys.of(one)
    assert caplog.text.count("the keys stay as they were") == 1
    file.write_text(f"{line_one} rate=5/minute")
    at[0] = 7.0
    assert (keys.of(one), keys.problem) == (Key("a", rate=5), "")


# ---------------------------------------------------------------- periods

NOW = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "account"),
    [
        (Key("a"), None),
        (Key("a", Decimal(1), "day"), Limit("key:a", "2026-12-31", 10**12, ends=datetime(2027, 1, 1, tzinfo=UTC))),
        (Key("a", Decimal(1), "month"), Limit("key:a", "2026-12", 10**12, ends=datetime(2027, 1, 1, tzinfo=UTC))),
        (Key("a", Decimal(1), "total"), Limit("key:a", "total", 10**12)),
    ],
)
def test_a_budget_is_of_the_day_the_month_or_for_ever(key: Key, account: Limit | None) -> None:
    assert limit(key, NOW) == account


# ---------------------------------------------------------------- the account

LIMIT = Limit("key:a", "total", 1000)


@pytest.fixture
def states(tmp_path: Path) -> Iterator[tuple[State, State]]:
    found = State(tmp_path), State(tmp_path)
    yield found
    for state in found:
        state.close()


def test_two_workers_never_set_aside_more_than_there_is(states: tuple[State, State]) -> None:
    async def spend(spending: Spending, name: str) -> bool:
        if await spending.reserve(name, (LIMIT,), 100) is not None:
            return False
        await spending.settle(name, 70)
        return True

    async def go() -> int:
        one, two = (Spending(state) for state in states)
        done = await asyncio.gather(*(spend(worker, f"{i}{n}") for i, worker in enumerate((one, two)) for n in range(40)))
        spent = await one.spent()
        assert spent == {("key:a", "total"): sum(done) * 70 * UNIT}
        return sum(done) * 70

    assert 0 < asyncio.run(go()) <= 1000


def test_a_request_fits_into_all_its_limits_or_is_set_aside_in_none(states: tuple[State, State]) -> None:
    async def go() -> None:
        spending = Spending(states[0])
        small = Limit("run:chat", "r1", 50)
        short = await spending.reserve("x", (LIMIT, small), 100)
        assert short is not None
        assert (short.limit, short.spent, short.held) == (small, 0, 0)
        assert await spending.reserve("y", (LIMIT,), 1000) is None

    asyncio.run(go())


HOLDS = """
import asyncio, sys
from cascade.gateway.spending import Limit, Spending
from cascade.gateway.state import State
spending = Spending(State(sys.argv[1]))
async def go():
    assert await spending.reserve("x", (Limit("key:a", "total", 1000),), 600) is None
    print("held", flush=True)
    await asyncio.sleep(60)
asyncio.run(go())
"""


def test_what_a_killed_worker_had_set_aside_counts_as_spent_once(states: tuple[State, State]) -> None:
    spending = Spending(states[0])

    async def short() -> tuple[int, int]:
        found = await spending.reserve("y", (LIMIT,), 500)
        assert found is not None
        return found.spent, found.held

    with subprocess.Popen([sys.executable, "-c", HOLDS, str(states[0].folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert asyncio.run(short()) == (0, 600)
        process.send_signal(signal.SIGKILL)
    assert [asyncio.run(short()) for _ in range(2)] == [(600, 0)] * 2


def test_who_goes_pays_for_what_is_in_flight_and_what_was_answered_costs_what_it_cost(states: tuple[State, State]) -> None:
    from cascade.gateway.spending import Payer

    spending = Spending(states[0])

    async def go() -> None:
        payer = Payer(spending, (LIMIT,), "chat")
        async with payer.paying(900 * UNIT) as purse:
            purse.reserve(500 * UNIT)
            purse.settle(500 * UNIT, 3 * UNIT)
        with contextlib.suppress(asyncio.CancelledError):
            async with payer.paying(900 * UNIT) as purse:
                purse.reserve(200 * UNIT)
                raise asyncio.CancelledError
        await states[0].do(lambda db: None)
        assert await spending.spent() == {("key:a", "total"): 203 * UNIT}

    asyncio.run(go())


# ---------------------------------------------------------------- accounts and shared answers


class Poor:
    @asynccontextmanager
    async def paying(self, worst: Decimal | None) -> AsyncIterator[Purse]:
        await asyncio.sleep(0.01)
        raise Unpaid("no money")
        yield Purse(Decimal(0), "key")


class Rich:
    def __init__(self) -> None:
        self.paid: list[Decimal] = []

    @asynccontextmanager
    async def paying(self, worst: Decimal | None) -> AsyncIterator[Purse]:
        assert worst is not None
        purse = Purse(worst, "key")
        yield purse
        self.paid.append(purse.spent)


def test_a_request_that_joined_another_is_not_refused_for_the_others_account() -> None:
    async def small(call: Call) -> Answer:
        return Answer("four", usage=Usage(1, 1), cost_usd=Decimal("0.0001"), model=call.model)

    cascade, rich = Cascade(load_text(CHAT, "x.yaml"), ask=small, cache=CacheSettings(backend="memory")), Rich()

    async def go() -> None:
        first, second, third = await asyncio.gather(
            *(cascade.arun({"messages": QUESTION}, account=account) for account in (Poor(), rich, rich)), return_exceptions=True)
        assert isinstance(first, Unpaid)
        assert [getattr(one, "output", one) for one in (second, third)] == ["four", "four"]
        await cascade.arun({"messages": QUESTION}, account=Poor())  # from the cache: nothing is to be paid

    asyncio.run(go())
    assert rich.paid == [Decimal("0.0001")]


# ---------------------------------------------------------------- over HTTP


class Keyed(Serving):
    """A gateway with one key a line of limits."""

    def __init__(self, folder: Path, *limits: str) -> None:
        made = [new(f"team-{i}") for i in range(len(limits))]
        (folder / "keys.txt").write_text("".join(f"{line} {may}\n" for (_, line), may in zip(made, limits, strict=True)))
        self.keys = [key for key, _ in made]
        super().__init__(Keys(str(folder / "keys.txt")))
        self.models.said = {"small": "four", "big": "4"}

    def openai(self, i: int = 0, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.keys[i], **{"max_retries": 0, **more})

    def anthropic(self, i: int = 0) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key=self.keys[i], auth_token=None, max_retries=0)


def test_a_key_over_its_budget_is_told_so_in_the_providers_shape(tmp_path: Path) -> None:
    serving = Keyed(tmp_path, "budget=0.01/day", "")
    try:
        with pytest.raises(openai.APIStatusError) as caught:
            serving.openai().chat.completions.create(model="chat", messages=QUESTION)
        assert (caught.value.status_code, caught.value.code, caught.value.response.headers["x-should-retry"]) == (402, "budget", "false")
        assert "this key's budget of $0.01 has $0.000000 spent" in str(caught.value)
        assert "which is more than all of it: allow more" in str(caught.value)
        for stream in (False, True):
            with pytest.raises(anthropic.APIStatusError) as other:
                serving.anthropic().messages.create(model="chat", messages=QUESTION, max_tokens=9, stream=stream)
            assert (other.value.status_code, other.value.body["error"]["type"]) == (402, "billing_error")  # type: ignore[index]
        with pytest.raises(openai.APIStatusError):
            serving.openai().chat.completions.create(model="chat", messages=QUESTION, extra_headers={"Idempotency-Key": "k"})
        assert asyncio.run(serving.gateway.state.do(lambda db: db.execute("SELECT count(*) FROM idempotent").fetchone())) == (0,), "tomorrow it may"
        assert serving.models.calls == []
        assert serving.openai(1).chat.completions.create(model="chat", messages=QUESTION).choices[0].message.content == "four"
    finally:
        serving.close()


def test_a_budget_holds_when_many_ask_at_once(tmp_path: Path) -> None:
    serving = Keyed(tmp_path, "budget=0.05/total")

    async def many() -> list[int]:
        async with httpx2.AsyncClient(timeout=30) as client:
            return [reply.status_code for reply in await asyncio.gather(*(
                client.post(f"{serving.url}/v1/chat/completions", headers={"authorization": f"Bearer {serving.keys[0]}"},
                            json={"model": "chat", "messages": [{"role": "user", "content": f"{i}?"}]}) for i in range(60)))]

    try:
        found = asyncio.run(many())
        spent = asyncio.run(serving.gateway.spending.spent())
    finally:
        serving.close()
    assert set(found) <= {200, 402, 429}
    assert 0 < found.count(200) < 60
    assert spent == {("key:team-0", "total"): found.count(200) * Decimal("0.00011")}


def test_one_too_many_is_told_when_to_come_again_and_the_sdk_does(tmp_path: Path) -> None:
    serving = Keyed(tmp_path, "rate=1/minute", "rate=300/minute")
    try:
        ask: Any = {"model": "chat", "messages": QUESTION}
        serving.openai().chat.completions.create(**ask)
        with pytest.raises(openai.RateLimitError) as caught:
            serving.openai().chat.completions.create(**ask)
        assert (caught.value.code, caught.value.response.headers["x-should-retry"]) == ("rate_limit", "true")
        assert 50 < int(caught.value.response.headers["retry-after"]) <= 60
        with pytest.raises(anthropic.RateLimitError) as other:
            serving.anthropic().messages.create(**ask, max_tokens=9)
        assert other.value.body["error"]["type"] == "rate_limit_error"  # type: ignore[index]
        asyncio.run(serving.gateway.state.do(lambda db: db.execute("UPDATE rate SET left = 0.5, at = at + 1000")))
        asyncio.run(serving.gateway.state.do(lambda db: db.execute("INSERT INTO rate SELECT 'team-1', 0, at - 1000 FROM rate")))
        assert serving.openai(1, max_retries=2).chat.completions.create(**ask).choices[0].message.content == "four"
    finally:
        serving.close()


def test_a_bucket_is_full_at_first_and_fills_by_the_minute() -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE rate (key TEXT PRIMARY KEY, left REAL, at REAL)")
    waits = [(at, _take(db, "a", 2, at)) for at in (0.0, 0.0, 0.0, 15.0, 30.0, 30.0, 10.0, 600.0, 600.0, 600.0)]
    assert waits == [(0.0, 0.0), (0.0, 0.0), (0.0, 30.0), (15.0, 15.0), (30.0, 0.0), (30.0, 30.0), (10.0, 30.0), (600.0, 0.0), (600.0, 0.0), (600.0, 30.0)]
    assert _take(db, "b", 2, 600.0) == 0.0
    assert [_take(db, "b", 2, at) for at in (600.0, 100.0, 115.0, 130.0)] == [0.0, 30.0, 15.0, 0.0]  # the clock was put back


def test_a_key_asks_and_sees_its_own_policies_only(tmp_path: Path) -> None:
    serving = Keyed(tmp_path, "models=echo,sums")
    try:
        client = serving.openai()
        assert [model.id for model in client.models.list()] == ["echo", "sums"]
        for call in (lambda: client.models.retrieve("chat"), lambda: client.chat.completions.create(model="chat", messages=QUESTION)):
            with pytest.raises(openai.NotFoundError, match="there are: echo, sums"):
                call()
    finally:
        serving.close()


@pytest.mark.parametrize(("most", "spent", "held", "ends", "status", "says"), [
    (10, 9, 0, True, 402, "of $10 has $9.000000 spent and $0.000000 set aside, and this request could cost $2.000000; it begins anew on 2026-11-27 at 00:00 UTC"),
    (10, 9, 0, False, 402, "and this request could cost $2.000000"),
    (10, 5, 4, True, 429, "and this request could cost $2.000000: try again when those in flight have ended"),
    (1, 0, 0, True, 402, "$2.000000, which is more than all of it: allow more, or let the policy's max_tokens or budget.per_request be less"),
])  # fmt: skip
def test_who_cannot_pay_is_told_what_would_help(most: int, spent: int, held: int, ends: bool, status: int, says: str) -> None:
    at = datetime(2026, 11, 27, tzinfo=UTC) if ends else None
    reached = Limit("key:a", "2026-11-26", units(Decimal(most)), ends=at)
    told = _told(Short(reached, units(Decimal(spent)), units(Decimal(held)), frozenset()), Decimal(2))
    assert told.status == status
    assert str(told).endswith(says)


def test_what_a_policy_may_spend_in_a_run_holds_for_all_keys_and_a_model_without_a_price_is_refused_where_spending_is_limited(tmp_path: Path) -> None:
    def gateway(text: str) -> Any:
        from cascade.gateway.server import Gateway

        async def ask(call: Call) -> Answer:
            return Answer("four", usage=Usage(1, 1), cost_usd=Decimal("0.0001"), model=call.model)

        return Gateway({"chat": Cascade(load_text(text, "x.yaml"), ask=ask, cache=CacheSettings(backend="off"))})

    async def status(text: str) -> tuple[int, str]:
        transport = httpx2.ASGITransport(gateway(text).app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            reply = await client.post("/v1/chat/completions", json={"model": "chat", "messages": QUESTION})
            return reply.status_code, reply.json().get("error", {}).get("message", "")

    run = CHAT + "budget: {per_run: 0.01}\n"
    code, says = asyncio.run(status(run))
    assert (code, says.partition(" has ")[0]) == (402, "the policy's budget.per_run of $0.01")
    code, says = asyncio.run(status(run.replace("p/big: {input: 10, output: 20}", "")))
    assert (code, says) == (500, "the policy chat asks a model that has no price, and what it spends is limited: give it one under pricing:")
    assert PROVIDER in run


def test_what_a_killed_process_had_in_flight_is_spent_and_blocks_nothing(tmp_path: Path) -> None:
    key, line = new("team")
    (tmp_path / "keys.txt").write_text(f"{line} budget=0.001/total")
    with gateway_process.providing() as provider, gateway_process.running(tmp_path, provider, "--keys", str(tmp_path / "keys.txt")) as gateway:
        provider.hold()

        def ask() -> None:
            with gateway.client(key) as client, contextlib.suppress(openai.APIConnectionError):
                client.chat.completions.create(model="chat", messages=QUESTION)

        asking = threading.Thread(target=ask)
        asking.start()
        assert provider.came.acquire(timeout=10)
        gateway.kill()
        asking.join()
        provider.open.set()
        gateway.start()
        with gateway.client(key) as client:
            assert client.chat.completions.create(model="chat", messages=QUESTION).choices[0].message.content == "answer 2"
        gateway.stop()
    state = State(tmp_path / "state")
    (spent,) = asyncio.run(Spending(state).spent()).values()
    held = asyncio.run(state.read(lambda db: db.execute("SELECT count(*) FROM held").fetchone()))
    state.close()
    size, tokens = len("2 and 2?") + 16, 100
    assert (spent, held) == (Decimal(size + 2 * tokens).scaleb(-6) + Decimal("0.000016"), (0,)), "the worst case of the first, the cost of the second"
