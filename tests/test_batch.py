"""`cascade run --engine batch` against a server of both Batch APIs: what is asked, paid, kept and told, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import batch_stub
import pytest
from batch_stub import BatchStub
from test_cli import Cli, cli, rows  # noqa: F401  # a fixture

from cascade import prices, providers
from cascade.bulk import batched
from cascade.providers.anthropic_batch import AnthropicBatches
from cascade.providers.batch import Limits, lines
from cascade.providers.openai_batch import OpenAIBatches
from cascade.types import Usage

SCHEMA = "{type: object, properties: {item: {type: string}}, required: [item], additionalProperties: false}"
PRICES = {"small": Decimal("0.0000065"), "big": Decimal("0.000065")}  # 13 tokens at half of 1 and of 10 dollars a million
SECONDS = re.compile(rb'"seconds":[0-9.e-]+')
RUN = ("run", "order.yaml", "in.jsonl", "-o", "out.jsonl", "--engine", "batch")


@pytest.fixture(scope="module")
def running() -> Iterator[BatchStub]:
    with batch_stub.running() as server:
        yield server


@pytest.fixture
def server(running: BatchStub) -> BatchStub:
    running.reset()
    return running


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: float) -> None:
        await asyncio.sleep(0.001)

    monkeypatch.setattr(batched, "PACE", batched.Pace(settle=0.02, sleep=at_once))


def policy(server: BatchStub, tiers: str = "[o/small, a/big]", more: str = "") -> None:
    Path("order.yaml").write_text(f"""version: 1
name: order
prompt: "Extract. {{{{ text }}}}"
schema: {SCHEMA}
cache: {{backend: "off"}}
providers:
  o: {{kind: openai, base_url: "{server.url}/v1", capabilities: {{batch: true}}}}
  a: {{kind: anthropic, base_url: "{server.url}", capabilities: {{batch: true}}}}
  live: {{kind: openai, base_url: "{server.url}/v1"}}
pricing:
  o/small: {{input: 1, output: 1, batch: 0.5}}
  o/big: {{input: 10, output: 10, batch: 0.5}}
  a/small: {{input: 1, output: 1, batch: 0.5}}
  a/big: {{input: 10, output: 10, batch: 0.5}}
  live/local: {{input: 0.5, output: 0.5}}
tiers: {tiers}
{more}""")


def inputs(count: int) -> None:
    Path("in.jsonl").write_text("".join(f'{{"id": "r{n}", "text": "<{n}>"}}\n' for n in range(count)))


def output(path: str = "out.jsonl") -> list[bytes]:
    """The rows without their measured seconds."""
    return SECONDS.sub(b'"seconds":0', Path(path).read_bytes()).splitlines()


def trail(id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = next(row["trail"] for row in map(json.loads, output()) if row["id"] == id)
    return found


def fails_small(*numbers: int) -> Callable[[str, str], str]:
    """The small model fails the schema on these rows."""
    def says(model: str, prompt: str) -> str:
        bad = model == "small" and any(f"<{n}>" in prompt for n in numbers)
        return '{"thing": 1}' if bad else '{"item": "tea\u2028"}'
    return says


def status(cli: Cli) -> dict[str, Any]:
    code, out, _ = cli("run", "--status", "out.jsonl", "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


# ---------------------------------------------------------------- the ladder


def test_failures_of_a_batch_go_into_the_next_tiers_batch_and_rows_are_as_from_a_local_run_at_half_the_price(cli: Cli, server: BatchStub) -> None:
    policy(server)
    inputs(5)
    server.says = fails_small(1, 3)
    code, _, err = cli(*RUN)
    assert (code, rows()) == (0, {f"r{n}": "accepted" for n in range(5)})
    assert "batch batch_1 (o/small, 5 requests): completed, 5 done, 0 failed" in err
    assert "batch batch_2 (a/big, 2 requests): ended, 2 done, 0 failed" in err
    assert (sorted(server.charged.values()), sum(server.live.values())) == ([1] * 7, 0)
    by_batch = [json.loads(line) for line in output()]
    assert cli("run", "order.yaml", "in.jsonl", "-o", "local.jsonl")[0] == 0
    locally = [json.loads(line) for line in output("local.jsonl")]
    assert [row["cost_usd"] for row in by_batch] == [row["cost_usd"] / 2 for row in locally]
    assert [priceless(row) for row in by_batch] == [priceless(row) for row in locally]


def priceless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: priceless(inner) for key, inner in value.items() if key != "cost_usd"}
    return [priceless(inner) for inner in value] if isinstance(value, list) else value


def test_judges_and_samples_and_repairs_go_by_batch_too(cli: Cli, server: BatchStub) -> None:
    Path("judge.j2").write_text("{{ answer }} right?")
    policy(server, """
  - model: o/small
    repair: 1
    gates: [schema, consistency: {samples: 3, fields: [item], threshold: 0.6}, judge: {model: a/big, threshold: 0.5}]
""")
    inputs(2)

    def says(model: str, prompt: str) -> str:
        nonce = re.search(r"[0-9a-f]{32}", prompt)
        if model == "big" and nonce:
            return json.dumps({"nonce": nonce[0], "critique": "fine", "verdict": "pass", "score": 1.0, "reason": "fine"})
        return '{"item": "tea"}' if "is missing" in prompt or "<1>" in prompt else '{"thing": 1}'

    server.says = says
    cli(*RUN)
    kinds = [[(event["event"], event.get("gate"), event.get("repair")) for event in trail(id)] for id in ("r0", "r1")]
    assert sum(server.live.values()) == 0
    assert ("tried", None, 1) in kinds[0]
    assert {("tried", "consistency", 0), ("tried", "judge", 0)} <= set(kinds[1])
    assert sum(server.charged.values()) == sum(event["event"] == "tried" and not event["cached"] for id in ("r0", "r1") for event in trail(id))


def test_a_tier_without_a_batch_api_is_asked_live_within_the_same_run(cli: Cli, server: BatchStub) -> None:
    policy(server, "[live/local, o/small, a/big]")
    inputs(4)
    server.says = lambda model, prompt: '{"thing": 1}' if model != "big" and "<2>" in prompt else '{"item": "tea"}'
    assert cli(*RUN)[0] == 0
    assert (sum(server.live.values()), sum(server.charged.values())) == (4, 2)
    assert [event["model"] for event in trail("r2") if event["event"] == "tried"] == ["live/local", "o/small", "a/big"]


def test_a_wave_waits_for_live_calls_whose_rows_may_come_with_it(cli: Cli, server: BatchStub) -> None:
    policy(server, "[live/local, o/small]")
    inputs(3)
    server.says = lambda model, prompt: '{"thing": 1}' if model == "local" else '{"item": "tea"}'
    server.slow = lambda prompt: 0.15 if "<2>" in prompt else 0
    assert (cli(*RUN)[0], [len(batch.requests) for batch in server.batches.values()]) == (0, [3])


@pytest.mark.parametrize(("limits", "sizes"), [(Limits(3, 10**6), [3, 3, 1]), (Limits(100, 1300), [2, 2, 2, 1]), (Limits(7, 10**6), [7])])
@pytest.mark.parametrize(("api", "tier"), [(OpenAIBatches, "[o/small]"), (AnthropicBatches, "[a/small]")])
def test_a_wave_is_as_many_batches_as_the_providers_limits_ask_for(
    cli: Cli, server: BatchStub, monkeypatch: pytest.MonkeyPatch, api: type, tier: str, limits: Limits, sizes: list[int]
) -> None:
    monkeypatch.setattr(api, "limits", limits)
    policy(server, tier)
    inputs(7)
    assert cli(*RUN)[0] == 0
    assert sorted(len(batch.requests) for batch in server.batches.values()) == sorted(sizes)
    assert sum(server.charged.values()) == 7
    assert all(len(raw) <= limits.bytes for raw in server.files.values() if b"custom_id" in raw and b'"method"' in raw)


def test_a_second_window_of_rows_begins_as_soon_as_the_first_is_answered(cli: Cli, server: BatchStub) -> None:
    policy(server, "[o/small]")
    inputs(5)
    assert cli(*RUN, "--concurrency", "2")[0] == 0
    assert sorted(len(batch.requests) for batch in server.batches.values()) == [1, 2, 2]
    assert list(rows()) == [f"r{n}" for n in range(5)]


def test_no_deadline_and_no_timeout_holds_for_a_batch(cli: Cli, server: BatchStub) -> None:
    policy(server, "[o/small]", "defaults: {deadline: 0.01, timeout: 0.01}\n")
    inputs(2)
    server.looks = 20
    assert (cli(*RUN)[0], rows()) == (0, {"r0": "accepted", "r1": "accepted"})


def test_equal_rows_are_paid_once_also_by_a_run_that_goes_on(cli: Cli, server: BatchStub) -> None:
    policy(server)
    Path("in.jsonl").write_text("".join(f'{{"id": "r{n}", "text": "<1>"}}\n' for n in range(3)))
    server.says = fails_small(1)
    assert cli(*RUN, "--limit", "1")[0] == 0
    assert cli(*RUN)[0] == 0
    costs = [row["cost_usd"] for row in map(json.loads, output())]
    assert (costs, sum(server.charged.values())) == ([float(PRICES["small"] + PRICES["big"]), 0, 0], 2)


def test_the_cache_serves_and_learns_from_batches(cli: Cli, server: BatchStub, tmp_path: Path) -> None:
    policy(server)
    Path("order.yaml").write_text(Path("order.yaml").read_text().replace('{backend: "off"}', f'{{path: "{tmp_path / "cache"}"}}'))
    inputs(2)
    assert cli(*RUN)[0] == 0
    assert cli("run", "order.yaml", "in.jsonl", "-o", "again.jsonl", "--engine", "batch")[0] == 0
    assert (sum(server.charged.values()), [json.loads(line)["cached"] for line in output("again.jsonl")]) == (2, [True, True])


# ---------------------------------------------------------------- money


def test_batch_rates_come_from_the_table(cli: Cli, server: BatchStub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-secret")
        monkeypatch.setenv(f"{name}_BASE_URL", server.url + ("/v1" if name == "OPENAI" else ""))
    policy(server, "[openai/gpt-6-luna, anthropic/claude-haiku-5-5]")
    Path("order.yaml").write_text(Path("order.yaml").read_text().partition("pricing:")[0] + "tiers: [openai/gpt-6-luna, anthropic/claude-haiku-5-5]\n")
    inputs(1)
    server.says = lambda model, prompt: '{"thing": 1}' if model == "gpt-6-luna" else '{"item": "tea"}'
    assert cli(*RUN)[0] == 0
    found = [event["cost_usd"] for event in trail("r0") if event["event"] == "tried"]
    assert found == [float(prices.cost(Usage(10, 3), f"{table}/{model}", table=table, service_tier="batch") or 0)
                     for table, model in (("openai", "gpt-6-luna"), ("anthropic", "claude-haiku-5-5"))]  # fmt: skip
    assert found == [(10 * 0.05 + 3 * 0.25) / 1e6] * 2
    assert "sk-secret" not in Path("out.jsonl.batches").read_text() + Path("out.jsonl").read_text()


@pytest.mark.parametrize(("own", "tier", "cost"), [
    ({"input": 1, "output": 1, "batch": "0.5"}, "batch", "0.0000065"),
    ({"input": 1, "output": 1}, "batch", None),
    ({"input": 1, "output": 1}, "default", "0.000013"),
    ({"input": 1, "output": 1, "cached": "0.1", "batch": "0.5"}, "batch", "0.0000047"),
])
def test_a_policys_prices_hold_for_batches_only_with_their_share(own: dict[str, Any], tier: str, cost: str | None) -> None:
    pricing = {"here/small": {name: Decimal(value) for name, value in own.items()}}
    assert prices.cost(Usage(10, 3, cached=4), "here/small", pricing, None, tier) == (None if cost is None else Decimal(cost))


def test_a_batch_rate_that_the_table_does_not_know_is_unknown() -> None:
    assert prices.cost(Usage(10, 3), "groq/llama-3.3-70b-versatile", table="groq", service_tier="batch") is None
    assert prices.cost(Usage(10, 3), "groq/llama-3.3-70b-versatile", table="groq") is not None


@pytest.mark.parametrize(("settings", "has"), [
    ({"kind": "openai"}, True),
    ({"kind": "anthropic"}, True),
    ({"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}, False),
    ({"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "capabilities": {"batch": True}}, True),
    ({"kind": "openai", "capabilities": {"batch": False}}, False),
    ({"kind": "azure"}, False),
    ({"kind": "vllm"}, False),
])
def test_who_has_a_batch_api(settings: dict[str, Any], has: bool) -> None:
    assert providers.capabilities(providers.provider("p", settings), "p/gpt-6-luna").batch == has


def test_a_kind_without_a_batch_api_cannot_be_said_to_have_one() -> None:
    found = list(providers.problems(providers.provider("p", {"kind": "vllm", "capabilities": {"batch": True}})))
    assert found == ['capabilities.batch: kind "vllm" has no Batch API that cascade knows']


# ---------------------------------------------------------------- what goes wrong

BAD = (500, "api_error")


def first(verdict: batch_stub.Verdict, rows: str = "<1>", batches: int = 1) -> Callable[[str, int], batch_stub.Verdict]:
    """That verdict for these rows in the first so many batches."""
    return lambda prompt, n: verdict if n <= batches and rows in prompt else "ok"


FAULTS: dict[str, tuple[Callable[[BatchStub], object], str, list[str], int]] = {
    # what goes wrong: the server's setting -> r1's status, the retries of its answer, the number of batches
    "nothing": (lambda s: None, "accepted", [], 1),
    "results come in another order": (lambda s: setattr(s, "reverse", True), "accepted", [], 1),
    "one request expires": (lambda s: setattr(s, "verdict", first("expired")), "accepted", ["not_processed"], 2),
    "one request is cancelled": (lambda s: setattr(s, "verdict", first("cancelled")), "accepted", ["not_processed"], 2),
    "all expire, twice": (lambda s: setattr(s, "verdict", first("expired", "<", 2)), "accepted", ["not_processed"] * 2, 3),
    "one expires for ever": (lambda s: setattr(s, "verdict", first("expired", "<1>", 99)), "failed", ["not_processed"] * 2, 3),
    "one fails for a passing reason": (lambda s: setattr(s, "verdict", first(BAD)), "accepted", ["overloaded"], 2),
    "one is limited": (lambda s: setattr(s, "verdict", first((429, "rate_limit_error"))), "accepted", ["rate_limited"], 2),
    "a result is missing": (lambda s: setattr(s, "verdict", first("missing")), "failed", [], 1),
    "a strange result": (lambda s: setattr(s, "extra", [b'{"custom_id": "who", "result": {"type": "expired"}}', b"[1", b"{}"]), "accepted", [], 1),
    "the results break off": (lambda s: setattr(s, "cut_next_results", True), "accepted", [], 1),
    "the reply to the creation is lost": (lambda s: setattr(s, "create", lambda n: "lost" if n == 1 else ""), "accepted", [], 1),
    "it is lost and the batch takes long": (
        lambda s: (setattr(s, "create", lambda n: "lost" if n == 1 else ""), setattr(s, "looks", 30)), "accepted", [], 1),
    "the creation is answered by HTML": (lambda s: setattr(s, "create", lambda n: "html" if n == 1 else ""), "accepted", [], 1),
    "the creation is taken and denied": (lambda s: setattr(s, "create", lambda n: "500" if n == 1 else ""), "accepted", [], 1),
    "the creation is refused": (lambda s: setattr(s, "create", lambda n: 429 if n == 1 else ""), "accepted", [], 1),
    "the creation fails": (lambda s: setattr(s, "create", lambda n: 500 if n == 1 else ""), "accepted", [], 1),
}


@pytest.mark.parametrize("tier", ["[o/small]", "[a/small]"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_healed_or_told_and_nothing_is_paid_twice(cli: Cli, server: BatchStub, fault: str, tier: str) -> None:
    policy(server, tier)
    inputs(3)
    set_up, becomes, retries, batches = FAULTS[fault]
    set_up(server)
    code, _, err = cli(*RUN)
    assert (rows(), code) == ({"r0": "accepted", "r1": becomes, "r2": "accepted"}, 0 if becomes == "accepted" else 3), err
    assert ([retry["error"] for retry in trail("r1")[0]["retries"]], len(server.batches)) == (retries, batches)
    assert max(server.charged.values()) == 1
    known = fault != "a result is missing"
    assert status(cli)["spent_usd"] == (float(sum(server.charged.values()) * PRICES["small"]) if known else None)
    assert "Traceback" not in err


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
def test_a_lost_batch_is_looked_for_among_newer_ones_only_and_another_runs_is_not_taken_for_it(cli: Cli, server: BatchStub, vendor: str) -> None:
    policy(server, f"[{vendor[0]}/small]")
    inputs(3)
    for _ in range(9):
        server.foreign(vendor, 3)

    def create(n: int) -> str | int:
        if n == 1:
            server.foreign(vendor, 5, looks=500)
            server.foreign(vendor, 3)
        return 500 if n == 1 else ""

    server.create = create
    assert (cli(*RUN)[0], rows()) == (0, {f"r{n}": "accepted" for n in range(3)})
    assert (len(server.batches), sum(server.charged.values())) == (12, 3)
    pages = [path for path in server.paths if path in ("GET /batches", "GET /messages/batches")]
    assert len(pages) <= 2 + 3 * batched.LOOKS  # before each creation one, and for each look those with newer batches: pages hold two


WHOLE = {
    # how a batch of OpenAI's ends: what its first batch charged, the batches in the end
    "expired": (2, 2),
    "cancelled": (2, 2),
    "failed-limit": (0, 4),
}


@pytest.mark.parametrize("end", WHOLE)
def test_what_a_batch_did_before_it_ended_is_kept_and_the_rest_is_asked_again(cli: Cli, server: BatchStub, end: str) -> None:
    policy(server, "[o/small]")
    inputs(3)
    server.ends = lambda n, size: end if n == 1 else "completed"
    server.verdict = first("missing")
    assert (cli(*RUN)[0], rows()) == (0, {f"r{n}": "accepted" for n in range(3)})
    charged, batches = WHOLE[end]
    first_batch = server.batches["batch_1"]
    assert (sum(v == "ok" for _, v, _ in first_batch.results), len(server.batches), max(server.charged.values())) == (charged, batches, 1)


@pytest.mark.parametrize(("rows_at_a_time", "sizes"), [("10", [4, 2, 2]), ("4", [4, 2, 2])])
def test_where_too_much_waits_at_the_provider_batches_get_smaller_or_wait_for_each_other(
    cli: Cli, server: BatchStub, rows_at_a_time: str, sizes: list[int]
) -> None:
    policy(server, "[o/small]")
    inputs(4)
    server.ends = lambda n, size: "failed-limit" if size > 2 else "completed"
    code, _, err = cli(*RUN, "--concurrency", rows_at_a_time)
    assert (code, [len(batch.requests) for batch in reversed(server.batches.values())]) == (0, sizes), err
    assert "batch batch_1 failed: no such file; going on with batches of 2" in err
    assert (trail("r0")[0]["retries"], set(server.charged.values())) == ([], {1})


def test_a_batch_for_which_there_is_no_room_waits_until_another_has_ended(cli: Cli, server: BatchStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenAIBatches, "limits", Limits(2, 10**6))
    policy(server, "[o/small]")
    inputs(4)
    server.ends = lambda n, size: "failed-limit" if n == 2 else "completed"
    server.looks = 40
    code, _, err = cli(*RUN)
    assert (code, [len(batch.requests) for batch in reversed(server.batches.values())]) == (0, [2, 2, 2]), err
    assert "waiting for another batch to end" in err
    assert set(server.charged.values()) == {1}


def test_a_request_that_alone_is_too_much_fails_after_three_batches(cli: Cli, server: BatchStub) -> None:
    policy(server, "[o/small]")
    inputs(1)
    server.ends = lambda n, size: "failed-limit"
    assert (cli(*RUN)[0], rows(), len(server.batches)) == (3, {"r0": "failed"}, 3)
    assert [retry["error"] for retry in trail("r0")[0]["retries"]] == ["rate_limited"] * 2


def test_the_responses_api_goes_by_batch_too(cli: Cli, server: BatchStub) -> None:
    policy(server, "[o/small]")
    Path("order.yaml").write_text(Path("order.yaml").read_text().replace('o: {kind: openai,', 'o: {kind: openai, api: responses,'))
    inputs(2)
    assert (cli(*RUN)[0], rows()) == (0, {"r0": "accepted", "r1": "accepted"})
    assert [json.loads(line)["url"] for line in server.files["file-1"].splitlines()] == ["/v1/responses"] * 2


def test_a_batch_that_the_provider_refuses_to_process_is_a_wrong_configuration(cli: Cli, server: BatchStub) -> None:
    policy(server, "[o/small]")
    inputs(2)
    server.ends = lambda n, size: "failed" if n == 1 else "completed"
    code, _, err = cli(*RUN)
    assert (code, Path("out.jsonl").read_text()) == (2, "")
    assert "stopped early: configuration: o/small: batch batch_1 failed: no such file" in err
    assert (cli(*RUN)[0], rows(), len(server.batches)) == (0, {"r0": "accepted", "r1": "accepted"}, 2)


@pytest.mark.parametrize("tier", ["[o/small]", "[a/small]"])
def test_a_refused_key_or_request_stops_the_run_before_more_is_asked(cli: Cli, server: BatchStub, tier: str) -> None:
    policy(server, tier)
    inputs(2)
    server.create = lambda n: 401 if n == 1 else ""
    code, _, err = cli(*RUN)
    assert (code, f"stopped early: configuration: {tier[1:-1]}: 401: not now" in err) == (2, True), err
    server.verdict = first((400, "invalid_request_error"))
    code, _, err = cli(*RUN)
    assert (code, rows(), f"configuration: {tier[1:-1]}: 400: no" in err) == (2, {"r0": "accepted"}, True), err
    server.verdict = lambda prompt, n: "ok"
    assert (cli(*RUN)[0], rows(), max(server.charged.values())) == (0, {"r0": "accepted", "r1": "accepted"}, 1)


@pytest.mark.parametrize("error", [429, 503])
def test_a_provider_that_stays_away_stops_the_run_which_can_be_gone_on_with(cli: Cli, server: BatchStub, error: int) -> None:
    policy(server, "[o/small]")
    inputs(2)
    server.create = lambda n: error
    code, _, err = cli(*RUN)
    assert (code, f"stopped early: suspended: o/small: {error}: not now" in err, "Traceback" in err) == (3, True, False)
    assert (server.created, status(cli)["batches"]) == (batched.TRIES, [])
    server.create = lambda n: ""
    assert (cli(*RUN)[0], rows(), max(server.charged.values())) == (0, {"r0": "accepted", "r1": "accepted"}, 1)


def test_a_failed_row_is_asked_again_by_the_same_command_and_what_it_has_is_not(cli: Cli, server: BatchStub) -> None:
    policy(server, more="outcomes: {error: stop}\n")
    inputs(2)
    server.says = lambda model, prompt: '{"thing": 1}' if model == "small" else '{"item": "tea"}'
    server.verdict = lambda prompt, n: "expired" if n > 1 and n < 5 and "<1>" in prompt else "ok"
    assert (cli(*RUN)[0], rows()) == (3, {"r0": "accepted", "r1": "failed"})
    assert (cli(*RUN)[0], rows(), sorted(server.charged.values())) == (0, {"r0": "accepted", "r1": "accepted"}, [1, 1, 1, 1])
    assert status(cli)["spent_usd"] == float(2 * PRICES["small"] + 2 * PRICES["big"])


def test_a_reply_that_is_none_climbs_and_is_asked_again_only_with_its_row(cli: Cli, server: BatchStub, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(server, "[o/small]")
    inputs(2)
    good = server._reply
    monkeypatch.setattr(server, "_reply", lambda vendor, body: {**good(vendor, body), "choices": []} if "<1>" in str(body) else good(vendor, body))
    assert (cli(*RUN)[0], rows(), trail("r1")[0]["error"]) == (3, {"r0": "accepted", "r1": "failed"}, "bad_reply")
    assert trail("r1")[0]["cost_usd"] == float(PRICES["small"])
    monkeypatch.setattr(server, "_reply", good)
    assert (cli(*RUN)[0], rows(), status(cli)["spent_usd"]) == (0, {"r0": "accepted", "r1": "accepted"}, float(3 * PRICES["small"]))


def test_a_vote_that_was_lost_and_paid_is_in_the_row_once(cli: Cli, server: BatchStub, monkeypatch: pytest.MonkeyPatch) -> None:
    gates = "gates: [agreement: {with: a/big, fields: [item]}]"
    policy(server, f"\n  - {{model: o/small, {gates}}}\n  - {{model: o/big, {gates}}}\n")
    inputs(1)
    good = server._reply
    monkeypatch.setattr(server, "_reply", lambda vendor, body: good(vendor, body) | ({"content": None} if vendor == "anthropic" else {}))
    cli(*RUN)
    row = json.loads(output()[0])
    assert (row["cost_usd"], sum(server.charged.values())) == (float(PRICES["small"] + 2 * PRICES["big"]), 3)
    assert [event["cost_usd"] for event in row["trail"] if event.get("error") == "bad_reply"] == [float(PRICES["big"]), 0]


def test_a_live_call_that_was_refused_leaves_no_row_in_doubt(cli: Cli, server: BatchStub) -> None:
    policy(server, "[live/local, o/small]")
    inputs(2)
    server.live_refused = True
    code, _, err = cli(*RUN)
    assert (code, "stopped early: configuration: live/local: 401: no" in err, status(cli)["in_doubt"]) == (2, True, []), err
    server.live_refused = False
    assert (cli(*RUN)[0], rows()) == (0, {"r0": "accepted", "r1": "accepted"})


@pytest.mark.parametrize("tier", ["[o/small]", "[a/small]"])
def test_a_batch_that_the_provider_knows_no_more_is_asked_again_only_when_told_to(
    cli: Cli, server: BatchStub, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    policy(server, tier)
    inputs(2)
    interrupted(cli, server, monkeypatch)
    server.batches.clear()
    code, _, err = cli(*RUN)
    assert (code, "--in-doubt retry asks the 2 requests of batch batch_1 again, at the risk of paying twice" in err) == (2, True)
    assert (cli(*RUN, "--in-doubt", "retry")[0], rows()) == (0, {"r0": "accepted", "r1": "accepted"})


# ---------------------------------------------------------------- stopping and going on


def interrupted(cli: Cli, server: BatchStub, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """A run that Ctrl-C reaches while its batches are under way: exit code and stderr."""
    async def a_while(_: float) -> None:
        await asyncio.sleep(0.01)

    looks, server.looks = server.looks, None
    with monkeypatch.context() as patch:
        patch.setattr(batched, "PACE", batched.Pace(settle=0.02, sleep=a_while))
        watcher = threading.Thread(target=lambda: (until(lambda: any(path.startswith("GET") and "batch_" in path for path in server.paths)),
                                                   os.kill(os.getpid(), signal.SIGINT)))
        watcher.start()
        code, _, err = cli(*RUN)
        watcher.join()
    server.looks = looks
    for batch in server.batches.values():
        batch.looks = looks
    return code, err


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.002)


@pytest.mark.parametrize("tiers", ["[o/small, a/big]", "[a/small, o/big]"])
def test_an_interrupted_run_leaves_its_batches_and_the_same_command_picks_them_up(
    cli: Cli, server: BatchStub, monkeypatch: pytest.MonkeyPatch, tiers: str
) -> None:
    policy(server, tiers)
    inputs(3)
    server.says = fails_small(1)
    code, err = interrupted(cli, server, monkeypatch)
    assert (code, "stopped early: suspended: interrupted; 1 batch goes on at the provider\nrun the same command again to go on" in err) == (3, True), err
    found = status(cli)
    assert found["batches"] == [{"batch": "batch_1", "model": tiers[1:8], "requests": 3}]
    assert (found["done"], found["to_do"], found["in_doubt"], found["spent_usd"]) == (0, 3, [], 0)
    assert f"in flight: 3 requests to {tiers[1:8]}, batch_1\n" in cli("run", "--status", "out.jsonl")[1]
    code, _, err = cli(*RUN)
    assert (code, rows()) == (0, {f"r{n}": "accepted" for n in range(3)}), err
    assert (sum(server.charged.values()), len(server.batches), status(cli)["batches"]) == (4, 2, [])
    assert status(cli)["spent_usd"] == float(3 * PRICES["small"] + PRICES["big"])


def test_an_interrupted_run_finishes_its_live_calls_and_keeps_them(cli: Cli, server: BatchStub) -> None:
    policy(server, "[live/local, o/small]")
    inputs(20)  # 16 live calls at a time
    server.says = lambda model, prompt: '{"thing": 1}' if model == "local" else '{"item": "tea"}'

    def interrupt(n: int, path: str) -> str:
        if n == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        return ""

    server.cut_off = interrupt
    code, _, err = cli(*RUN)
    server.cut_off = lambda n, path: ""
    before = sum(server.live.values())
    found = status(cli)
    assert (code, before < 20, found["in_doubt"], found["to_do"], len(server.batches)) == (3, True, [], 20, 0), err
    assert found["spent_usd"] == pytest.approx(before * 13 * 0.5e-6)
    assert (cli(*RUN)[0], set(rows().values()), set(server.live.values()), set(server.charged.values())) == (0, {"accepted"}, {1}, {1})


def test_another_engine_does_not_go_on_with_what_batches_began(cli: Cli, server: BatchStub) -> None:
    policy(server, "[o/small]")
    inputs(1)
    cli(*RUN)
    code, _, err = cli("run", "order.yaml", "in.jsonl", "-o", "out.jsonl")
    assert (code, err) == (2, "out.jsonl: begun with --engine batch; go on with it, or calls that are paid would be paid again\n")


def test_a_run_by_batches_that_asked_nothing_keeps_no_other_engine_away(cli: Cli, server: BatchStub) -> None:
    policy(server, "[openai/gpt-6-luna]")
    Path("order.yaml").write_text(Path("order.yaml").read_text().partition("pricing:")[0] + "tiers: [openai/gpt-6-luna]\n")
    inputs(1)
    code, _, err = cli(*RUN)
    assert (code, "OPENAI_API_KEY" in err) == (2, True)
    policy(server, "[o/small]")
    assert cli("run", "order.yaml", "in.jsonl", "-o", "out.jsonl")[0] == 0


def test_batches_go_on_with_what_another_engine_began_and_the_sum_holds_both(cli: Cli, server: BatchStub) -> None:
    policy(server, "[o/small]")
    inputs(3)
    assert cli("run", "order.yaml", "in.jsonl", "-o", "out.jsonl", "--limit", "1")[0] == 0
    assert cli(*RUN)[0] == 0
    assert (sum(server.live.values()), sum(server.charged.values()), status(cli)["spent_usd"]) == (1, 2, float(4 * PRICES["small"]))


def test_a_second_run_is_refused(cli: Cli, server: BatchStub) -> None:
    policy(server, "[o/small]")
    from cascade import policy as policies

    first = batched.Batcher(policies.load("order.yaml"), "out.jsonl")
    inputs(1)
    code, _, err = cli(*RUN)
    assert (code, err) == (2, f"out.jsonl: locked by pid {os.getpid()}: another run is writing it\n")
    first.close()


def test_wrong_engines_are_one_line(cli: Cli, server: BatchStub) -> None:
    code, _, err = cli("run", "p", "i", "-o", "o", "--engine", "bach")
    assert (code, "'bach' is not one of 'local', 'batch', 'ray'" in err) == (2, True)
    code, _, err = cli("run", "p", "i", "-o", "-", "--engine", "batch")
    assert (code, err) == (2, "--engine batch writes JSON lines to a file: -o OUT.jsonl\n")


def test_lines_of_results_end_at_newlines_only_and_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade.errors import BadReply
    from cascade.providers import transport

    async def chunks(*given: str) -> Any:
        for chunk in given:
            yield chunk.encode()

    async def read(*given: str) -> list[str]:
        return [line.decode() async for line in lines(chunks(*given), "o/small")]

    assert asyncio.run(read("a\u2028b", "\u0085c\n", "\n\nd\r", "\ne")) == ["a\u2028b\u0085c", "d\r", "e"]
    monkeypatch.setattr(transport, "MAX_BODY", 3)
    with pytest.raises(BadReply, match="a result has more than 3 bytes"):
        asyncio.run(read("abcd"))
