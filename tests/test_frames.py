"""`map_batches`: batches of every kind of data frame, and what eight processes may spend together."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import real_redis
import stub

from cascade.bulk import map_batches
from cascade.divide import divided
from cascade.errors import BudgetExceeded, ConfigurationError, InputError
from cascade.policy import load_text
from cascade.redis_purse import SharedPurse
from cascade.types import CacheSettings

HERE = Path(__file__).parent
REPLIES = '{tea: ["{\\"item\\": \\"tea\\"}", "{\\"thing\\": 1}"]}'


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Accepts the first request and flags the others."""
    path = tmp_path / "order.yaml"
    path.write_text(f"""version: 1
name: order
prompt: "Extract the order. {{{{ text }}}} {{{{ n }}}}"
schema: {{type: object, properties: {{item: {{type: string}}}}, required: [item]}}
cache: {{backend: "off"}}
providers: {{play: {{kind: scripted, replies: {REPLIES}}}}}
pricing: {{play/tea: {{input: 1, output: 1}}}}
tiers: [play/tea]
""")
    return path


def frame(columns: dict[str, list[Any]]) -> Any:
    return pytest.importorskip("pandas", reason="needs pandas, which comes with the extra ray").DataFrame(columns)


def table(columns: dict[str, list[Any]]) -> Any:
    return pytest.importorskip("pyarrow", reason="needs pyarrow, which comes with the extra ray").table(columns)


def arrays(columns: dict[str, list[Any]]) -> Any:
    numpy = pytest.importorskip("numpy")
    return {name: numpy.array(column, dtype=object if isinstance(column[0], list) else None) for name, column in columns.items()}


def listed(batch: Any) -> dict[str, list[Any]]:
    if hasattr(batch, "to_pydict"):
        return dict(batch.to_pydict())
    return {name: list(batch[name]) for name in (batch if isinstance(batch, dict) else batch.columns)}


@pytest.mark.parametrize("kind", [dict, arrays, frame, table], ids=["lists", "numpy", "pandas", "pyarrow"])
def test_a_batch_comes_back_in_order_with_its_outcomes_beside_it(kind: Callable[[Any], Any], policy: Path) -> None:
    answers = map_batches(policy, concurrency=1)()
    found = answers(kind({"text": ["täe", "x", "y"], "n": [1, 2, 3]}))
    answers.close()
    assert type(found) is type(kind({"text": ["x"]}))
    got = listed(found)
    errors = [error if isinstance(error, str) else None for error in got.pop("error")]
    assert {name: [None if value is None or value != value else value for value in column] for name, column in got.items()} == {
        "text": ["täe", "x", "y"], "n": [1, 2, 3], "status": ["accepted", "flagged", "flagged"],
        "output": ['{"item":"tea"}', '{"thing":1}', '{"thing":1}'], "tier": ["tea", "tea", "tea"], "cost_usd": got["cost_usd"]}
    assert ([error and error.partition(":")[0] for error in errors], got["cost_usd"][0] > 0) == ([None, "exhausted", "exhausted"], True)


def test_numbers_and_what_is_missing_reach_the_template_as_json_has_them(policy: Path) -> None:
    numpy = pytest.importorskip("numpy")
    deep = numpy.empty(2, object)
    deep[:] = [numpy.array([[1, 2]]), numpy.array([[3, 4]])]
    with stub.running() as server:
        server.default = stub.chat("tea")
        policy.write_text(f"""version: 1
name: p
prompt: "{{{{ n | tojson }}}} {{{{ deep | tojson }}}}"
cache: {{backend: "off"}}
providers: {{here: {{kind: openai, base_url: "{server.url}/v1", api_key_env: null}}}}
tiers: [here/m]
""")
        answers = map_batches(policy, concurrency=1)()
        found = answers({"n": numpy.array([1.5, math.nan]), "deep": deep})
        answers.close()
    assert [asked.json["messages"][0]["content"] for asked in server.requests] == ["1.5 [[1, 2]]", "null [[3, 4]]"]
    assert (found["status"], found["output"], [math.isnan(cost) for cost in found["cost_usd"]]) == (["accepted"] * 2, ['"tea"'] * 2, [True] * 2)


def test_a_row_that_is_no_input_is_invalid_and_a_batch_that_cannot_be_is_refused(policy: Path) -> None:
    answers = map_batches(policy)()
    got = answers({"text": ["a", "b"], "n": [object(), 1]})
    assert (got["status"], got["error"][0].partition(":")[0]) == (["invalid", "accepted"], "inputs must be plain JSON values")
    assert answers({"text": ["a"]})["error"][0].endswith("'n' is undefined; the inputs have: inputs, text")
    with pytest.raises(InputError, match="the batch has a column 'status' already"):
        answers({"text": ["a"], "n": [1], "status": ["x"]})
    with pytest.raises(InputError, match="the batch has no column 'word'; it has: text, n"):
        map_batches(policy, inputs=["word"])()({"text": ["a"], "n": [1]})
    assert answers({"text": [], "n": []}) == {name: [] for name in ("text", "n", "status", "output", "tier", "cost_usd", "error")}


def test_columns_that_are_no_inputs_stay_out_of_the_request(policy: Path) -> None:
    found = map_batches(policy, inputs=["text", "n"])()({"text": ["a"], "n": [1], "note": [object()]})
    assert found["status"] == ["accepted"]


# ---------------------------------------------------------------- limits


LIMITED = 'version: 1\nname: p\nprompt: "{{ x }}"\nproviders: {here: {kind: openai, base_url: "http://127.0.0.1:1", MORE}}\ntiers: [here/m]\n'


@pytest.mark.parametrize(("more", "workers", "share"), [
    ("concurrency: 7", 3, (2, None, None)), ("requests_per_minute: 600, tokens_per_minute: 1000", 8, (None, 75, 125)), ("concurrency: 8", 8, (1, None, None)),
])
def test_limits_are_divided_and_rounded_down(more: str, workers: int, share: tuple[int | None, ...]) -> None:
    one = divided(load_text(LIMITED.replace("MORE", more) + "budget: {per_run: 2}\n", "p.yaml"), workers)
    here = one.providers["here"]
    assert (here.concurrency, here.requests_per_minute, here.tokens_per_minute) == share
    assert one.budget_per_run is not None
    assert Decimal("1.99999999") < one.budget_per_run * workers <= 2


@pytest.mark.parametrize(("more", "arguments", "says"), [
    ("concurrency: 7", {"workers": 8}, "providers.here.concurrency is 7, which 8 workers cannot divide; take at most 7"),
    ("concurrency: 7", {}, "providers.here.concurrency is divided among the processes that answer batches; say how many: map_batches(…, workers=N)"),
    ("api_key_env: null", {}, "budget.per_run is divided among the processes that answer batches; say how many: map_batches(…, workers=N)"),
])
def test_what_cannot_be_divided_is_refused_before_any_batch(more: str, arguments: dict[str, int], says: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(LIMITED.replace("MORE", more) + "budget: {per_run: 1}\n")
    with pytest.raises(InputError) as refused:
        map_batches(path, **arguments)
    assert str(refused.value) == f"{path}: {says}"


# ---------------------------------------------------------------- a budget that processes share


@pytest.fixture(scope="module")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_redis.Server]:
    with real_redis.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_a_shared_purse_reserves_and_settles_across_processes(running_redis: real_redis.Server) -> None:
    settings = CacheSettings(f"{running_redis.where}")
    one = SharedPurse.begin(settings, Decimal("0.000010"))
    two: SharedPurse = pickle.loads(pickle.dumps(one))
    other = SharedPurse.begin(settings, Decimal("1"))
    one.reserve(Decimal("0.000006"))
    with pytest.raises(BudgetExceeded, match=r"could cost \$0\.000006, the run's budget has \$0\.000004 left") as refused:
        two.reserve(Decimal("0.0000055"))
    assert refused.value.scope == "run"
    two.reserve(Decimal("0.000004"))
    one.settle(Decimal("0.000006"), Decimal("0.0000015"))  # pays back 0.0000045
    two.settle(Decimal("0.000004"), None)  # unknown: all of it
    two.reserve(Decimal("0.0000045"))
    two.settle(Decimal("0.0000045"), Decimal("0.000005"))  # dearer than its worst case
    with pytest.raises(BudgetExceeded, match=r"has \$-0\.000001 left|has \$-0\.000000 left"):
        one.reserve(Decimal("0.000000001"))
    other.reserve(Decimal("1"))


def test_a_purse_that_is_lost_or_away_gives_nothing(tmp_path: Path) -> None:
    with real_redis.running(tmp_path / "redis") as server:
        purse = SharedPurse.begin(CacheSettings(f"{server.where}"), Decimal(1))
        purse.reserve(Decimal("0.1"))
        server.client().flushall()
        with pytest.raises(BudgetExceeded, match="cannot be reached, or is gone"):
            purse.reserve(Decimal("0.1"))
        purse.settle(Decimal("0.1"), Decimal(0))
        assert server.client().keys() == [], "what is paid back makes no new budget"
        server.kill()
        with pytest.raises(BudgetExceeded, match="cannot be reached, or is gone"):
            purse.reserve(Decimal("0.1"))
        with pytest.raises(ConfigurationError, match="the run's budget cannot be kept in redis://127"):
            SharedPurse.begin(CacheSettings(f"{server.where}"), Decimal(1))


PAID = Decimal("0.000013")
"""What the stub charges: 13 tokens at a dollar a million."""


@pytest.mark.parametrize("backend", ["redis", "off"])
def test_eight_processes_one_of_them_killed_never_spend_more_than_the_budget(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    budget = Decimal("0.002")
    where = request.getfixturevalue("running_redis").where if backend == "redis" else "off"
    with stub.running() as server:
        server.default = stub.Reply(stub.chat("tea").body, drip=0.0001)
        path = tmp_path / "p.yaml"
        path.write_text(f"""version: 1
name: p
prompt: "Say {{{{ text }}}}"
cache: {{backend: "{where}"}}
defaults: {{retries: 0, max_tokens: 10}}
providers: {{here: {{kind: openai, base_url: "{server.url}/v1", api_key_env: null}}}}
pricing: {{here/m: {{input: 1, output: 1}}}}
budget: {{per_run: {budget}}}
tiers: [here/m]
""")
        process = subprocess.Popen([sys.executable, str(HERE / "shares_budget.py"), str(path)], stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, "PYTHONPATH": str(HERE.parent)})
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())
        while not server.requests and process.poll() is None:
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
        told = [json.loads(line) for line in process.communicate()[0].splitlines()]
        charged = len(server.requests) * PAID
    assert charged <= budget
    assert charged > budget * (Decimal("0.5") if backend == "off" else Decimal("0.75")), "the money there was is spent"
    assert len(told) == 7
    assert sum(Decimal(str(one["spent"])) for one in told) <= charged
    assert all(one["statuses"].get("failed") for one in told), "40 rows of eight are more than there is money for"
