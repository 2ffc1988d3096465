"""The cache in a real Redis: shared, paid once, and never in the way when Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import real_redis
import stub
from test_cli import Cli, cli  # noqa: F401

from cascade import redis_store
from cascade.app import Cascade
from cascade.around.lease import once
from cascade.cache import sealed
from cascade.errors import ConfigurationError, Overloaded
from cascade.outcome import Outcome
from cascade.policy import load_text
from cascade.providers.scripted import Scripted
from cascade.redis_store import Address, RedisStore, address
from cascade.types import Answer, Call, Json

HERE = Path(__file__).parent
PASSWORD = "canary-pass-4711"


@pytest.fixture(scope="module")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_redis.Server]:
    with real_redis.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(running_redis: real_redis.Server) -> real_redis.Server:
    running_redis.client().flushall()
    return running_redis


@pytest.fixture
def store(redis: real_redis.Server) -> Iterator[RedisStore]:
    store = RedisStore(redis.where)
    yield store
    store.close()


def a_policy(where: Address, more: str = "") -> str:
    return f'version: 1\nname: p\nprompt: "Say {{{{ x }}}}"\ncache: {{backend: "{where}"}}\ntiers: [openai/gpt-6-luna]\n{more}'


def a_cascade(where: Address, ask: Any, more: str = "") -> Cascade:
    return Cascade(load_text(a_policy(where, more), "p.yaml"), ask=ask)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cascade.cache" and record.levelno >= logging.WARNING]


# ---------------------------------------------------------------- the address


@pytest.mark.parametrize(
    ("text", "means", "shown"),
    [
        ("redis://localhost", Address("localhost"), "redis://localhost:6379/0"),
        ("redis://localhost/", Address("localhost"), "redis://localhost:6379/0"),
        ("redis://10.0.0.1:7000/3", Address("10.0.0.1", 7000, 3), "redis://10.0.0.1:7000/3"),
        ("rediss://me@cache.example:6380/1", Address("cache.example", 6380, 1, True, "me"), "rediss://me@cache.example:6380/1"),
        ("redis://[::1]:7000", Address("::1", 7000), "redis://[::1]:7000/0"),
    ],
)
def test_an_address_says_where(text: str, means: Address, shown: str) -> None:
    assert (address(text), str(address(text))) == (means, shown)


@pytest.mark.parametrize(
    "text",
    ["redis://", "redis:///1", "redis://h:x/0", "redis://h/one", "redis://h/1/2", "redis://h?db=1", "redis://h#1", "http://h", "redis:h",
     f"redis://:{PASSWORD}@h", f"redis://me:{PASSWORD}@h/1", f"redis://h:{PASSWORD}/0", f"rediss://h/{PASSWORD}", "redis://[h"])  # fmt: skip
def test_a_wrong_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"write redis://host:port/db|password_env") as caught:
        address(text)
    assert PASSWORD not in str(caught.value)
    with pytest.raises(ConfigurationError) as refused:
        redis_store.redis_store(SimpleNamespace(backend=text, namespace="n", password_env=None))  # type: ignore[arg-type]
    assert PASSWORD not in repr(refused.value)


def test_a_missing_password_is_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CASCADE_TEST_REDIS", raising=False)
    with pytest.raises(ConfigurationError, match="set CASCADE_TEST_REDIS, which the policy names as password_env"):
        RedisStore(Address("localhost"), password_env="CASCADE_TEST_REDIS")


def test_redis_py_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'cascade-judge\[redis\]'"):
        RedisStore(Address("localhost"))


# ---------------------------------------------------------------- entries


def test_entries_have_their_time_and_namespace(redis: real_redis.Server) -> None:
    ours, theirs = RedisStore(redis.where), RedisStore(redis.where, "theirs")
    ours.set("k", "v", 60)
    ours.set("for ever", "v", None)
    assert redis.client().get("cascade:answer:k").decode() == sealed("v")
    assert 0 < redis.client().pttl("cascade:answer:k") <= 60_000
    assert redis.client().pttl("cascade:answer:for ever") == -1
    theirs.set("k", "another", None)
    assert (ours.stats()["entries"], theirs.stats()["entries"]) == (2, 1)
    assert ours.acquire("k", "token")
    assert (ours.clear(), ours.get("k"), theirs.get("k")) == (2, None, "another")
    assert (ours.acquire("k", "other"), theirs.acquire("k", "t")) == (False, True), "a lease is not cleared, and has its namespace"


@pytest.mark.parametrize(
    "planted",
    [pickle.dumps(os.getcwd), b"no digest", sealed("value").replace("value", "walue").encode(), sealed("value")[:-1].encode(),
     b"\xff\xfe" + sealed("value").encode(), sealed("value").encode() + b"\0", b"x" * 64, 17, ["a list"]])  # fmt: skip
def test_planted_garbage_is_a_miss_with_a_warning(redis: real_redis.Server, store: RedisStore, planted: Any,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    client = redis.client()
    if isinstance(planted, list):
        client.rpush("cascade:answer:k", *planted)
    else:
        client.set("cascade:answer:k", planted)
    store.set("sound", "täxt", None)
    assert (store.get("k"), store.get("k"), store.get("sound")) == (None, None, "täxt")
    (told,) = warnings(caplog)
    assert str(redis.where) in told
    assert "going on without" in told
    assert store.verify() == (1, 1)
    assert store.stats()["entries"] == 1


def test_an_entry_longer_than_any_of_ours_is_not_read_whole(redis: real_redis.Server, store: RedisStore,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    store.set("k", "x" * 2000, None)
    assert store.get("k") == "x" * 2000
    monkeypatch.setattr(redis_store, "MOST_BYTES", 1000)
    assert store.get("k") is None


def test_a_planted_entry_with_the_right_digest_is_still_no_traceback(redis: real_redis.Server) -> None:
    asked = Scripted({"openai/gpt-6-luna": "hello"})
    with a_cascade(redis.where, asked) as cascade:
        assert cascade.run({"x": "y"}).output == "hello"
        for key in redis.client().keys("cascade:answer:*"):
            redis.client().set(key, sealed("{not json"))
        assert cascade.run({"x": "y"}).output == "hello"
    assert len(asked.calls) == 2


def test_a_tier_that_failed_is_skipped_by_another_process_and_garbage_there_is_a_miss(redis: real_redis.Server) -> None:
    more = 'gates: [{check: "len(output) > 3"}]\n'
    text = a_policy(redis.where, more).replace("[openai/gpt-6-luna]", "[openai/gpt-6-luna, openai/gpt-6-sol]")
    replies = {"openai/gpt-6-luna": "no", "openai/gpt-6-sol": "well then"}

    def run() -> tuple[str | None, int]:
        ask = Scripted(replies)
        with Cascade(load_text(text, "p.yaml"), ask=ask) as cascade:
            return cascade.run({"x": "y"}).tier, len(ask.calls)

    client = redis.client()
    assert run() == ("gpt-6-sol", 2)
    assert run() == ("gpt-6-sol", 0)
    served = f"cascade:answer:{key_of(Cascade(load_text(text, 'p.yaml'), ask=Scripted({})))}"
    assert client.delete(served) == 1
    assert run() == ("gpt-6-sol", 1), "the first tier failed before"
    client.delete(served)
    (failed,) = client.keys("cascade:answer:*")
    for junk in ("{", "[1]", '{"a": 1}'):
        client.set(failed, sealed(junk))
        client.delete(served)
        assert run() == ("gpt-6-sol", 2)


# ---------------------------------------------------------------- secrets


def test_a_password_comes_from_the_environment_and_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with real_redis.running(tmp_path / "redis", PASSWORD) as server:
        monkeypatch.setenv("CASCADE_TEST_REDIS", PASSWORD)
        server.client().acl_setuser("me", enabled=True, passwords=[f"+{PASSWORD}"], keys=["mine:*"], commands=["+@all"])
        whole = RedisStore(server.where, password_env="CASCADE_TEST_REDIS")
        whole.set("k", "v", None)
        assert whole.get("k") == "v"
        mine = RedisStore(address(f"redis://me@127.0.0.1:{server.where.port}"), "mine", "CASCADE_TEST_REDIS")
        mine.set("k", "my", None)
        assert mine.get("k") == "my"
        assert warnings(caplog) == []
        foreign = RedisStore(mine.where, "others", "CASCADE_TEST_REDIS")
        assert foreign.get("k") is None
        monkeypatch.setenv("CASCADE_TEST_REDIS", PASSWORD + "-wrong")
        wrong = RedisStore(mine.where, "mine", "CASCADE_TEST_REDIS")
        assert wrong.get("k") is None
        with pytest.raises(OSError, match="AuthenticationError"):
            RedisStore(mine.where, "mine", "CASCADE_TEST_REDIS").stats()
    assert [line.split(" (")[0].split(" the ")[0] for line in warnings(caplog)] == ["cannot read", "cannot reach"]
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(vars(whole)["where"])


def test_settings_of_the_cache_are_no_part_of_the_policys_digest(redis: real_redis.Server) -> None:
    text = a_policy(redis.where)
    assert load_text(text, "p.yaml").digest == load_text(text.replace(str(redis.where), "disk"), "p.yaml").digest


def test_what_redis_says_is_told_without_the_password_and_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_TEST_REDIS", PASSWORD)
    store = RedisStore(Address("localhost"), password_env="CASCADE_TEST_REDIS")
    assert store._clean(OSError(f"no {PASSWORD}\n\x1b[31m")) == "OSError: no ***  [31m"


# ---------------------------------------------------------------- leases


def test_a_lease_is_one_holders_until_it_is_given_back_or_ends(redis: real_redis.Server) -> None:
    first, second = RedisStore(redis.where), RedisStore(redis.where, lease=5.0)
    client, key = redis.client(), "cascade:lease:k"
    assert (first.acquire("k", "a"), second.acquire("k", "b"), first.acquire("k", "a")) == (True, False, True)
    assert 9_000 < client.pttl(key) <= 10_000
    second.release("k", "b")
    second.end("k", "b")
    second.close()  # waits for both
    assert client.get(key) == b"a", "nobody gives back what is another's"
    client.pexpire(key, 1_000)
    assert (first.extend("k", "a"), second.extend("k", "b")) == (True, False)
    assert 9_000 < client.pttl(key) <= 10_000
    first.release("k", "a")
    first.close()
    assert second.acquire("k", "b")
    assert client.pttl(key) <= 5_000
    second.end("k", "b")
    second.close()
    assert (first.acquire("k", "a"), client.get(key)) == (None, b"over")
    assert 0 < client.pttl(key) <= 2_000
    client.set(key, "a list of another program", px=1)
    client.delete(key)
    client.rpush(key, "x")
    assert first.acquire("k", "a") is None


async def made_once(store: RedisStore, make: Callable[[float], Any], look: Callable[[], Any], left: bool = True,
                    patience: float = 60.0) -> Any:
    async def looking() -> Any:
        return look()

    return await once(store, "k", looking, make, lambda _: left, lambda: patience)


def test_who_has_waited_long_enough_asks_too(redis: real_redis.Server, store: RedisStore) -> None:
    assert store.acquire("k", "someone")
    waits: list[float] = []

    async def make(waited: float) -> str:
        waits.append(waited)
        return "made"

    assert asyncio.run(made_once(store, make, lambda: None, patience=0.05)) == "made"
    assert waits[0] >= 0.05
    assert redis.client().get("cascade:lease:k") == b"someone"


def test_what_another_left_is_taken_even_at_the_last_moment(redis: real_redis.Server, store: RedisStore) -> None:
    async def make(waited: float) -> str:
        raise AssertionError("paid twice")

    looks = iter([None, None, "left"])
    assert store.acquire("k", "someone")
    assert asyncio.run(made_once(store, make, lambda: next(looks))) == "left"
    redis.client().delete("cascade:lease:k")
    assert asyncio.run(made_once(store, make, lambda: "left")) == "left"
    store.close()
    assert redis.client().get("cascade:lease:k") is None


@pytest.mark.parametrize(("left", "error", "stands"), [(True, None, None), (False, None, b"over"), (True, ValueError("no"), b"over")])
def test_a_lease_says_whether_there_is_something_to_wait_for(redis: real_redis.Server, store: RedisStore, left: bool,
                                                             error: Exception | None, stands: bytes | None) -> None:
    async def make(waited: float) -> str:
        assert len(redis.client().get("cascade:lease:k")) == 32
        if error:
            raise error
        return "made"

    with contextlib.suppress(ValueError):
        assert asyncio.run(made_once(store, make, lambda: None, left)) == "made"
    store.close()
    assert redis.client().get("cascade:lease:k") == stands


def test_a_cancelled_holder_gives_the_lease_to_the_next(redis: real_redis.Server, store: RedisStore) -> None:
    async def main() -> None:
        started = asyncio.Event()

        async def make(waited: float) -> str:
            started.set()
            await asyncio.Event().wait()
            return "never"

        task = asyncio.ensure_future(made_once(store, make, lambda: None))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    store.close()
    assert redis.client().get("cascade:lease:k") is None


def test_a_lease_is_extended_while_its_holder_lives(redis: real_redis.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisStore(redis.where, lease=0.3)
    held: list[bool] = []

    async def make(waited: float) -> str:
        loop, often = asyncio.get_running_loop(), asyncio.Event()

        def extend(key: str, token: str) -> bool:
            held.append(RedisStore.extend(store, key, token))
            if len(held) == 4:
                loop.call_soon_threadsafe(often.set)
            return held[-1]

        monkeypatch.setattr(store, "extend", extend)
        await asyncio.wait_for(often.wait(), 20)
        return "made"

    assert asyncio.run(made_once(store, make, lambda: None)) == "made"
    assert held[:4] == [True] * 4, "it has been held for longer than it lasts by itself"


def test_waiting_takes_from_the_requests_deadline(redis: real_redis.Server) -> None:
    async def never(call: Call) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    with a_cascade(redis.where, never, "defaults: {deadline: 0.2s}\n") as cascade:
        redis.client().set(f"cascade:lease:{key_of(cascade)}", "someone")
        outcome = cascade.run({"x": "y"})
    assert (outcome.status, outcome.trail[-1].reason) == ("failed", "the request's deadline of 0.1 s is over")  # type: ignore[union-attr]


def test_an_outcome_that_is_not_kept_leaves_nobody_waiting(redis: real_redis.Server) -> None:
    with a_cascade(redis.where, Scripted({"openai/gpt-6-luna": Overloaded("529")})) as cascade:
        assert cascade.run({"x": "y"}).status == "failed"
        lease = f"cascade:lease:{key_of(cascade)}"
    assert redis.client().get(lease) == b"over"
    with a_cascade(redis.where, Scripted({"openai/gpt-6-luna": "hello"})) as cascade:
        assert cascade.run({"x": "y"}).status == "accepted", "and nobody was waited for"


def key_of(cascade: Cascade) -> str:
    from cascade.app import _canonical, _key

    return _key(cascade.policy, _canonical({"x": "y"}))


# ---------------------------------------------------------------- processes


@pytest.fixture
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


def a_process(redis: real_redis.Server, server: stub.Stub, tmp_path: Path) -> subprocess.Popen[str]:
    policy = tmp_path / "shared.yaml"
    policy.write_text(a_policy(redis.where).replace("{{ x }}", "{{ text }}"))  # no schema: jsonschema with formats takes seconds to import
    process = subprocess.Popen([sys.executable, str(HERE / "asks_once.py"), str(policy), server.url], cwd=HERE.parent, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)})  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def told(process: subprocess.Popen[str]) -> list[Any]:
    out, _ = process.communicate(timeout=60)
    found: list[Any] = json.loads(out)
    return found


TEA = stub.said({"item": "tea"})


def test_processes_that_ask_the_same_at_once_pay_once(tmp_path: Path, redis: real_redis.Server, server: stub.Stub) -> None:
    server.default = stub.Reply(TEA.body, drip=0.03)  # half a second: all three are there before it ends
    processes = [a_process(redis, server, tmp_path) for _ in range(3)]
    for process in processes:
        go(process)
    rows = sorted((told(process) for process in processes), key=str)
    free, paid = ["accepted", '{"item": "tea"}', True, "0"], ["accepted", '{"item": "tea"}', False, "0.0001"]
    assert rows == [paid, free, free]
    assert len(server.requests) == 1
    assert redis.client().keys("cascade:lease:*") == []


def test_a_killed_holder_delays_the_others_no_longer_than_its_lease(tmp_path: Path, redis: real_redis.Server, server: stub.Stub) -> None:
    arrived = threading.Event()
    server.requests = Noticed(arrived)
    server.replies.append(stub.Reply(hang=True))
    server.default = TEA
    holder, other = a_process(redis, server, tmp_path), a_process(redis, server, tmp_path)
    go(holder)
    assert arrived.wait(20)
    holder.kill()
    holder.wait()
    (lease,) = redis.client().keys("cascade:lease:*")
    assert 0 < redis.client().pttl(lease) <= redis_store.LEASE_SECONDS * 1000
    redis.client().pexpire(lease, 200)  # as if its time were nearly over
    go(other)
    assert told(other) == ["accepted", '{"item": "tea"}', False, "0.0001"]
    assert len(server.requests) == 2
    assert redis.client().keys("cascade:lease:*") == []


class Noticed(list[Any]):
    """A list that says when something comes in."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self.event = event

    def append(self, item: Any) -> None:
        super().append(item)
        self.event.set()


# ---------------------------------------------------------------- Redis being away


class Listener:
    """A port of the loopback that takes connections and answers with `say`, or never; counts them."""

    def __init__(self, say: bytes | None) -> None:
        self.say, self.count = say, 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._taken: list[socket.socket] = []
        self.where = Address("127.0.0.1", self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._server.accept()
                self.count += 1
                self._taken.append(taken)
                if self.say is not None:
                    taken.recv(1)  # what comes before it was asked for is noticed at once
                    taken.sendall(self.say)

    def close(self) -> None:
        self._server.close()
        for taken in self._taken:
            taken.close()


def run_many(where: Address, count: int, at_once: int = 1) -> tuple[list[Outcome[Json]], int]:
    """So many requests, and how many calls they made."""
    asked = Scripted({"openai/gpt-6-luna": "hello"})

    async def main() -> list[Outcome[Json]]:
        async with a_cascade(where, asked) as cascade:
            found: list[Outcome[Json]] = []
            for at in range(0, count, at_once):
                found += await asyncio.gather(*(cascade.arun({"x": str(n)}) for n in range(at, at + at_once)))
            return found

    return asyncio.run(main()), len(asked.calls)


@pytest.mark.parametrize("say", [b":5\r\n" * 9, b"*1\r\n:5\r\n" * 9, b"*-7\r\n" * 9, b"-NO way\r\n" * 9], ids=repr)
def test_what_answers_nonsense_is_a_miss(say: bytes, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener(say)
    outcomes, calls = run_many(listener.where, 4, 2)
    listener.close()
    assert ([o.output for o in outcomes], calls) == (["hello"] * 4, 4)
    assert all(str(listener.where) in line for line in warnings(caplog))


@pytest.mark.parametrize("at_once", [1, 30])
@pytest.mark.parametrize("say", [None, b"", b"+", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xfe\r\n" * 9, b"$99999999999\r\n", b":x\r\n", b"*-7\r\n",
                                 b"%1\r\n+a\r\n", b"*1\r\n" * 5000])  # fmt: skip
def test_what_hangs_or_is_no_redis_is_tried_once_and_then_left_alone(say: bytes | None, at_once: int, monkeypatch: pytest.MonkeyPatch,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(redis_store, "SOCKET_SECONDS", 0.05)
    listener = Listener(say)
    outcomes, calls = run_many(listener.where, 30, at_once)
    listener.close()
    assert ([o.output for o in outcomes], calls) == (["hello"] * 30, 30)
    assert listener.count <= (1 if at_once == 1 else redis_store.THREADS)
    (told,) = warnings(caplog)
    assert told.startswith(f"cannot reach the cache in {listener.where} (")
    assert "\n" not in told


def test_a_drip_of_bytes_is_cut_short(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(redis_store, "TOTAL_SECONDS", 0.1)
    listener = Listener(None)
    outcomes, calls = run_many(listener.where, 5)
    listener.close()
    assert ([o.output for o in outcomes], calls) == (["hello"] * 5, 5)
    assert [line.split("(")[1] for line in warnings(caplog)] == ["TimeoutError: no answer within 0.1 s); going on without"]


def test_redis_down_at_the_start_costs_nothing_but_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = Address("127.0.0.1", free.getsockname()[1])
    outcomes, calls = run_many(where, 20)
    assert ([o.status for o in outcomes], calls, len(warnings(caplog))) == (["accepted"] * 20, 20, 1)


def test_redis_dying_in_the_middle_is_gone_without_and_used_again_when_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                                  caplog: pytest.LogCaptureFixture) -> None:
    asked = Scripted({"openai/gpt-6-luna": "hello"})
    now = [1000.0]
    with real_redis.running(tmp_path / "redis") as server, a_cascade(server.where, asked) as cascade:
        monkeypatch.setattr(redis_store, "time", SimpleNamespace(monotonic=lambda: now[0]))

        def run(x: str) -> bool:
            outcome = cascade.run({"x": x})
            assert outcome.output == "hello"
            return outcome.cached

        assert [run("a"), run("a")] == [False, True]
        server.kill()
        assert [run("a"), run("a"), run("b")] == [False, False, False]
        server.start()
        assert run("c") is False, "it is left alone for a while"
        now[0] += redis_store.PAUSE_SECONDS
        assert [run("d"), run("d")] == [False, True]
        assert len(warnings(caplog)) == 1
        server.kill()
        now[0] += 1
        assert run("d") is False
        assert len(warnings(caplog)) == 1, "one warning a minute"
        now[0] += redis_store.WARN_SECONDS
        assert run("d") is False
        assert len(warnings(caplog)) == 2


def test_after_a_pause_one_tries_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(redis_store, "time", SimpleNamespace(monotonic=lambda: now[0]))
    store = RedisStore(Address("127.0.0.1", 1))
    store._failed(OSError("down"))
    assert [store._try(), store._try()] == [False, False]
    now[0] += redis_store.PAUSE_SECONDS
    assert [store._try(), store._try(), store._try()] == [True, False, False]
    store._answered()
    assert [store._try(), store._try()] == [True, True]


def test_a_connection_that_redis_closed_is_opened_again_without_a_word(redis: real_redis.Server, store: RedisStore,
                                                                       caplog: pytest.LogCaptureFixture) -> None:
    store.set("k", "v", None)
    redis.client().client_kill_filter(_type="normal", skipme=True)
    assert (store.get("k"), warnings(caplog)) == ("v", [])


def test_an_entry_whose_time_ends_while_all_are_read_is_not_damaged(redis: real_redis.Server, store: RedisStore,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    store.set("k", "v", None)
    monkeypatch.setattr(store, "_batches", lambda: iter([[b"cascade:answer:k", b"cascade:answer:gone"]]))
    assert store.verify() == (1, 0)


def test_a_full_redis_is_read_and_no_longer_written(redis: real_redis.Server, store: RedisStore, caplog: pytest.LogCaptureFixture) -> None:
    store.set("k", "v", None)
    redis.client().config_set("maxmemory", "1")
    try:
        store.set("l", "w", None)
        assert (store.get("k"), store.get("l")) == ("v", None)
    finally:
        redis.client().config_set("maxmemory", "0")
    assert [line.split(" (")[0] for line in warnings(caplog)] == [f"cannot write the cache in {redis.where}"]


# ---------------------------------------------------------------- the command line


def test_the_cache_commands_work_with_redis(redis: real_redis.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    told = partial(cli, "cache")
    policy = tmp_path / "p.yaml"
    policy.write_text(a_policy(redis.where).replace('"}', '", namespace: mine}'))
    mine = RedisStore(redis.where, "mine")
    for n in range(250):
        mine.set(str(n), "v", None)
    size = 250 * len(sealed("v"))
    place = f"{redis.where} (mine:)"
    assert json.loads(told("stats", "--policy", str(policy), "--json")[1]) == {"path": place, "entries": 250, "bytes": size}
    assert told("stats", "--path", str(redis.where))[:2] == (0, f"0 entries, 0.0 MB in {redis.where} (cascade:)\n")
    redis.client().set("mine:answer:7", hashlib.sha256(b"").hexdigest() + "no")
    assert told("verify", "--policy", str(policy))[:2] == (1, f"249 sound, 1 damaged and removed in {place}\n")
    assert told("clear", "--policy", str(policy))[:2] == (0, f"249 entries removed from {place}\n")
    assert told("stats", "--path", "x", "--policy", str(policy))[::2] == (2, "give --path or --policy, not both\n")
    policy.write_text(policy.read_text().replace(str(redis.where), "memory"))
    assert told("stats", "--policy", str(policy))[::2] == (2, f"{policy}: its cache is memory: there is nothing to look at\n")
    code, out, err = told("stats", "--path", "redis://127.0.0.1:1")
    assert (code, out) == (2, "")
    assert err.startswith("redis://127.0.0.1:1/0 (cascade:): no usable cache: ConnectionError: ")
