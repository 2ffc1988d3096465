"""`cascade run --engine ray` on a real cluster of this machine: workers are killed, money runs out, nothing is lost or paid twice."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import real_redis
import stub
from test_cli import Cli, cli, server  # noqa: F401  # fixtures
from test_docs import ROOT, blocks

from cascade.budget import Purse
from cascade.bulk import Durable, Journal, on_ray, shards
from cascade.bulk.journal import standing
from cascade.errors import InputError
from cascade.policy import load, load_text
from cascade.rows import Row, stream

SECONDS = re.compile(rb'"seconds":[0-9.e-]+')
QUICK = stub.chat('{"item": "tea"}')
SLOW = stub.Reply(QUICK.body, drip=0.001)
PAID = Decimal("0.000013")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs Ray: pip install 'cascade-judge[ray]'")
    with on_ray.cluster() as ray:
        yield ray


@pytest.fixture(scope="module")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_redis.Server]:
    with real_redis.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


def written(server: stub.Stub, rows: int, cache: str = "off", more: str = "", different: int | None = None) -> tuple[str, str]:
    """A policy on the stub and its input in this folder; of the texts so many are `different`."""
    Path("order.yaml").write_text(f"""version: 1
name: order
prompt: "Extract the order. {{{{ text }}}}"
schema: {{type: object, properties: {{item: {{type: string}}}}, required: [item], additionalProperties: false}}
cache: {{backend: "{cache}"}}
defaults: {{retries: 0, max_tokens: 20}}
providers: {{here: {{kind: openai, base_url: "{server.url}/v1", api_key_env: null}}}}
pricing: {{here/small: {{input: 1, output: 1}}}}
tiers: [here/small]
{more}""")
    Path("in.jsonl").write_text("".join(f'{{"id": "r{n}", "text": "<{n % (different or rows)}>"}}\n' for n in range(rows)))
    return "order.yaml", "in.jsonl"


def charges(server: stub.Stub) -> Counter[str]:
    return Counter("r" + re.findall(r"<(\d+)>", request.raw.decode())[0] for request in server.requests)


def lines(path: str) -> list[bytes]:
    return SECONDS.sub(b'"seconds":0', Path(path).read_bytes()).splitlines(keepends=True)


def statuses(path: str = "out.jsonl") -> Counter[str]:
    return Counter(json.loads(line)["status"] for line in lines(path))


class Meanwhile(threading.Thread):
    """Does something as soon as something else holds."""

    def __init__(self, when: Callable[[], bool], do: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.when, self.do, self.done = when, do, False
        self.start()

    def run(self) -> None:
        while not self.when():
            time.sleep(0.005)
        self.do()
        self.done = True


RAY = ("-o", "out.jsonl", "--engine", "ray", "--workers", "2", "--concurrency", "4")


def test_a_worker_is_killed_and_nothing_is_lost_doubled_or_paid_twice(
    cluster: Any, running_redis: real_redis.Server, cli: Cli, server: stub.Stub
) -> None:
    given = written(server, 20, str(running_redis.where))
    server.will(*[QUICK] * 6)
    server.default = stub.Reply(QUICK.body, drip=0.015)  # four seconds: all four that may be in flight still are when the worker dies

    def kill() -> None:
        os.kill(standing(Path("out.jsonl.shards/000000.jsonl.journal")).pid or 0, signal.SIGKILL)
        server.default = QUICK

    killed = Meanwhile(lambda: len(server.requests) == 10, kill)
    code, out, err = cli("run", *given, *RAY)
    held = lines("out.jsonl")
    doubtful = [json.loads(line)["id"] for line in held if json.loads(line)["status"] == "in_doubt"]
    assert (code, out, killed.done, "a worker died; another one goes on with rows 1 to 10" in err) == (3, "", True, True), err
    assert [json.loads(line)["id"] for line in held] == [f"r{n}" for n in range(20)]
    once = Counter(f"r{n}" for n in range(20))
    assert (len(doubtful), charges(server)) == (2, once)
    assert cli("run", "--status", "out.jsonl")[1].startswith(f"{20 - len(doubtful)} done, 0 to do, {len(doubtful)} in doubt of 20 rows; spent ")

    running_redis.client().flushall()  # with the leases of the dead
    code, _, err = cli("run", *given, *RAY, "--in-doubt", "retry")
    whole = lines("out.jsonl")
    assert (code, f"20 of 20 rows in out.jsonl, {20 - len(doubtful)} of them from before" in err) == (0, True), err
    assert charges(server) == once + Counter(doubtful)

    running_redis.client().flushall()
    assert cli("run", *given, "-o", "local.jsonl")[0] == 0
    assert whole == lines("local.jsonl")
    assert [a for a, b in zip(held, whole, strict=True) if a != b] == [a for a in held if b'"in_doubt"' in a]


def test_workers_pay_equal_rows_once_and_together_keep_to_the_budget(
    cluster: Any, running_redis: real_redis.Server, cli: Cli, server: stub.Stub
) -> None:
    running_redis.client().flushall()
    server.default = SLOW
    budget = Decimal("0.0005")
    given = written(server, 60, str(running_redis.where), f"budget: {{per_run: {budget}}}\n", different=30)
    code, out, err = cli("run", *given, *RAY, "--json")
    told, paid = json.loads(out), len(server.requests) * PAID
    assert (code, told["stopped"].partition(" $")[0], PAID < paid <= budget) == (3, "run_budget: the next call could cost", True), err
    assert (max(charges(server).values()), told["spent_usd"], statuses()) == (1, float(paid), {"accepted": told["done"]})
    assert cli("run", "--status", "out.jsonl")[1].startswith(f"{told['done']} done, {60 - told['done']} to do, 0 in doubt of 60 rows; spent ")
    server.default = QUICK
    workers = [a_worker(60, shard=shard, purse=Purse(Decimal(1), "run")) for shard in (0, 1)]
    assert (workers, charges(server)) == ([on_ray.Ended(ended.before) for ended in workers], Counter(f"r{n}" for n in range(30)))
    assert sum(ended.before for ended in workers) == told["done"]


def test_ctrl_c_finishes_what_is_in_flight(cluster: Any, cli: Cli, server: stub.Stub) -> None:
    given = written(server, 40)
    server.default = SLOW
    Meanwhile(lambda: len(server.requests) > 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    code, out, err = cli("run", *given, *RAY)
    asked = len(server.requests)
    assert (code, out, "stopped early: interrupted" in err, asked < 40, statuses()) == (3, "", True, True, {"accepted": asked}), err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's own
def test_the_example_of_ray_data_in_the_docs_runs(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = blocks("docs/ray.md")
    exec(compile(code, "docs/ray.md", "exec"), {"__name__": "example"})


# ---------------------------------------------------------------- without a cluster


def test_ray_missing_is_one_line(cli: Cli, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli("run", *written(server, 2), *RAY) == (2, "", "--engine ray needs Ray: pip install 'cascade-judge[ray]'\n")
    server.default = QUICK
    assert cli("run", "order.yaml", "in.jsonl", "-o", "out.jsonl")[0] == 0, "nothing was begun, so it can be done without"


@pytest.mark.parametrize(("address", "why"), [("127.0.0.1:1", "[Errno 111] Connection refused"), ("nonsense", "Invalid address format: nonsense")])
def test_a_cluster_that_is_not_there_is_one_line(address: str, why: str, cli: Cli, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'cascade-judge[ray]'")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cli("run", *written(server, 2), *RAY) == (2, "", f"no Ray cluster at RAY_ADDRESS={address}: {why}\n")


def test_one_engine_does_not_go_on_with_what_the_other_began(cli: Cli, server: stub.Stub) -> None:
    server.default = QUICK
    given = written(server, 2)
    assert cli("run", *given, "-o", "out.jsonl")[0] == 0
    assert cli("run", *given, *RAY)[::2] == (2, "out.jsonl: begun without --engine ray; go on without it, or choose another output\n")
    Path("other.jsonl.shards").mkdir()
    assert cli("run", *given, "-o", "other.jsonl")[::2] == (2, "other.jsonl: begun with --engine ray; go on with that, or choose another output\n")


def a_worker(rows: int, *, shard: int = 0, asked: int | None = None, force: bool = False, purse: Purse | None = None) -> on_ray.Ended:
    """What an actor does, in this process: it goes through a shard, by default the only one."""
    folder = shards.Shards("out.jsonl", rows, 1, force)
    worker = on_ray.Worker(on_ray.job(load("order.yaml"), 1, 1, "hold", force), purse, 0.0)
    found = list(folder.split(stream("in.jsonl"), rows if asked is None else asked))
    try:
        return worker.answer(found[shard])
    finally:
        worker.close()
        folder.close()


def test_a_worker_goes_on_where_another_one_stopped_and_refuses_what_was_edited(cli: Cli, server: stub.Stub) -> None:
    server.default = QUICK
    written(server, 5)
    assert (a_worker(5, asked=2), len(server.requests)) == (on_ray.Ended(0), 2)
    assert (a_worker(5), len(server.requests)) == (on_ray.Ended(2), 5)
    assert (a_worker(5, asked=1), statuses("out.jsonl.shards/000000.jsonl")) == (on_ray.Ended(5), {"accepted": 5})
    Path("in.jsonl").write_text(Path("in.jsonl").read_text().replace("<3>", "<33>"))
    assert a_worker(5).error == ("input line 4: row 'r3' has changed since it was asked. "
                                 "Choose another output file, or ask the changed rows anew by --force")
    assert (a_worker(5, force=True), charges(server)["r33"]) == (on_ray.Ended(4), 1)
    Path("order.yaml").write_text(Path("order.yaml").read_text().replace("Extract", "Read"))
    assert "written by order@" in str(a_worker(5).error)


def test_a_worker_waits_for_one_that_is_about_to_die_and_ends_when_it_does_not(cli: Cli, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.default = QUICK
    written(server, 2)
    a_worker(2, asked=1)
    held = Journal("out.jsonl.shards/000000.jsonl.journal", {})
    monkeypatch.setattr(on_ray, "LOOK", 0.001)
    monkeypatch.setattr(on_ray, "PATIENCE", 0.0)
    assert (a_worker(2).error or "").endswith(f"locked by pid {os.getpid()}: another run is writing it")
    monkeypatch.setattr(on_ray, "PATIENCE", 60.0)
    tried: list[object] = []
    monkeypatch.setattr(on_ray, "Durable", lambda *given, **named: tried.append(given) or Durable(*given, **named))
    Meanwhile(lambda: len(tried) > 1, held.close)
    assert (a_worker(2), len(server.requests)) == (on_ray.Ended(1), 2)


LIMITED = 'version: 1\nname: p\nprompt: "{{ x }}"\nproviders: {here: {kind: openai, base_url: "http://127.0.0.1:1", MORE}}\ntiers: [here/m]\n'


def test_a_worker_tells_why_it_stopped(cli: Cli, server: stub.Stub) -> None:
    written(server, 2)
    server.default = stub.failure(401)
    ended = a_worker(2)
    assert (ended.configuration, ended.error, (ended.stopped or "").partition(":")[0]) == (True, None, "configuration")
    Path("order.yaml").write_text(Path("order.yaml").read_text().replace("api_key_env: null", "api_key_env: NO_SUCH_KEY"))
    ended = a_worker(2, force=True)
    assert (ended.stopped, ended.error) == ("an error", 'provider "here" has no key: set the environment variable NO_SUCH_KEY')


def test_the_till_sets_aside_and_settles() -> None:
    till = on_ray.Till(Decimal(1))
    assert till.reserve(Decimal("0.7")) is None
    assert till.reserve(Decimal("0.4")) == Decimal("0.3")
    till.settle(Decimal("0.7"), Decimal("0.2"))
    assert till.reserve(Decimal("0.8")) is None
    till.settle(Decimal("0.8"), None)
    assert till.reserve(Decimal("0.1")) == 0


@pytest.mark.parametrize(("more", "concurrency", "workers", "found"), [
    ("concurrency: 3", 16, 8, (3, "providers.here.concurrency")), ("concurrency: 8", 16, 8, (8, None)),
    ("requests_per_minute: 9", 4, 8, (4, "--concurrency")), ("tokens_per_minute: 2, concurrency: 9", 4, 8, (2, "providers.here.tokens_per_minute")),
])
def test_no_more_workers_than_can_divide_the_limits(more: str, concurrency: int, workers: int, found: tuple[int, str | None]) -> None:
    policy = load_text(LIMITED.replace("MORE", more), "p.yaml")
    most, limit = on_ray.share(policy, concurrency, workers)
    assert (most, limit) == found
    assert on_ray.job(policy, concurrency, most).concurrency * most <= concurrency


class Hired(on_ray.Crew):
    """A crew that only notes with what pauses it hires."""

    def hire(self, pause: float = 0.0) -> None:
        self.idle.append(pause)


@pytest.mark.parametrize(("limit", "pauses"), [("concurrency: 9", [0.0, 0.0]), ("requests_per_minute: 9", [60.0, 60.0]), ("tokens_per_minute: 9", [60.0, 60.0])])
def test_rows_of_which_three_workers_die_end_the_run_and_a_successor_waits_until_the_minute_is_over(limit: str, pauses: list[float]) -> None:
    policy = load_text(LIMITED.replace("MORE", limit), "p.yaml")
    shard = shards.Shard("out.jsonl.shards/000002.jsonl", 20, tuple(rows(10)), 10)
    said: list[str] = []
    crew = Hired(None, on_ray.job(policy, 4, 2), None, said.append)
    assert [crew._died(shard, "killed") for _ in range(3)] == [[shard], [shard], []]
    assert (crew.idle, crew.progress.stopped) == (pauses, "3 workers died of rows 21 to 30, one after the other: killed")
    assert said == ["a worker died; another one goes on with rows 21 to 30"] * 2


def test_a_torn_line_of_a_worker_that_nobody_followed_stays_out_of_the_output(cli: Cli, server: stub.Stub) -> None:
    server.default = QUICK
    written(server, 3)
    a_worker(3)
    folder = shards.Shards("out.jsonl", 3, 1)
    whole = folder.path(0).read_bytes()
    folder.path(0).write_bytes(whole[:-5])
    assert [outcome.id for outcome in folder.merge()] == ["r0", "r1"]
    assert Path("out.jsonl").read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    folder.close()


def rows(count: int) -> list[Row]:
    return [Row(f"r{n}", n + 1, {}) for n in range(count)]


@pytest.mark.parametrize(("total", "workers", "blocks"), [
    (10, 2, [5, 5]), (11, 2, [6, 5]), (1, 4, [1]), (7, 3, [3, 3, 1]), (2500, 2, [1000, 1000, 500]),
])
def test_blocks_follow_one_another_and_are_as_long_as_the_first_run_made_them(total: int, workers: int, blocks: list[int], tmp_path: Path) -> None:
    output = str(tmp_path / "out.jsonl")
    first = shards.Shards(output, total, workers)
    found = list(first.split(rows(total), total))
    assert ([len(one.rows) for one in found], [row for one in found for row in one.rows]) == (blocks, rows(total))
    with pytest.raises(InputError, match=f"out.jsonl: locked by pid {os.getpid()}: another run is writing it"):
        shards.Shards(output, total, workers)
    Path(f"{first.path(0)}.journal").touch()
    first.close()
    again = shards.Shards(output, total, workers + 5)
    assert [one.path for one in again.split(rows(total), total)] == [one.path for one in found]
    again.close()


def test_of_rows_that_are_not_asked_only_blocks_that_were_begun_are_looked_at(tmp_path: Path) -> None:
    folder = shards.Shards(str(tmp_path / "out.jsonl"), 9, 3)
    Path(f"{folder.path(2)}.journal").touch()
    assert [(one.first, one.asked) for one in folder.split(rows(9), 2)] == [(0, 2), (6, 0)]
    folder.close()


def test_an_input_that_lost_whole_blocks_is_refused(tmp_path: Path) -> None:
    folder = shards.Shards(str(tmp_path / "out.jsonl"), 9, 3)
    Path(f"{folder.path(2)}.journal").touch()
    folder.close()
    with pytest.raises(InputError, match="rows from number 7 on were asked, and are not in the input any more"):
        shards.Shards(str(tmp_path / "out.jsonl"), 6, 3)
    shards.Shards(str(tmp_path / "out.jsonl"), 6, 3, force=True).close()
    shards.Shards(str(tmp_path / "out.jsonl"), 7, 3).close()
