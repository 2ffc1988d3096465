"""What a run will take, before it is made: bounds from the rendered prompts, expectations from a past run, hours under the limits."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from test_cli import Cli, cli  # noqa: F401

from cascade import records, rows
from cascade.cli import main
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.plan import ByBatch, Estimate, Share, plan
from cascade.policy import load_text
from cascade.policy.bounds import bounds, loads
from cascade.rows import Row
from cascade.types import Checked, Policy, Tried, Usage

POLICY = """
version: 1
name: p
prompt: "Say {{ x }}"
cache: {backend: off}
defaults: {max_tokens: 100, timeout: 10s}
providers:
  near: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null, LIMITS}
  far: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}
pricing: {near/small: {input: 1, output: 2}, far/big: {input: 10, output: 20}}
gates: [{check: "len(output) > 0"}]
tiers: [near/small, far/big]
"""


def a_policy(limits: str = "", more: str = "") -> Policy:
    return load_text(POLICY.replace(", LIMITS", limits and f", {limits}") + more, "p.yaml")


def some(count: int, size: int = 396) -> list[Row]:
    """Rows whose prompts have `size` + 4 bytes."""
    return [Row(str(n), n, {"x": "y" * size}) for n in range(count)]


def past(accepted: int, climbed: int) -> list[Outcome]:
    small = Tried("small", "near/small", "a", usage=Usage(100, 10), cost_usd=Decimal("0.00012"), seconds=1.0)
    big = Tried("big", "far/big", "a", usage=Usage(200, 30), cost_usd=Decimal("0.0026"), seconds=3.0)
    passed = Checked("small", "check", 1.0, 1.0, True)
    one = Outcome("p@1", "accepted", "a", "small", Decimal("0.00012"), seconds=1.0, trail=(small, passed), id="1")
    two = replace(one, tier="big", cost_usd=Decimal("0.00272"), seconds=4.0, id="2",
                  trail=(small, replace(passed, passed=False), big, replace(passed, tier="big")))  # fmt: skip
    return [one] * accepted + [two] * climbed


def test_best_and_worst_are_the_bounds_of_each_prompt() -> None:
    policy = a_policy()
    found = plan(policy, [*some(3), *some(1, 1996)])
    small, large = bounds(policy, 400), bounds(policy, 2000)
    assert found.best == Estimate(4, 3 * 100 + 500, 4 * 50, 3 * small.best_usd + large.best_usd, None, None)  # type: ignore[operator]
    assert found.worst == Estimate(8, 2 * (3 * 400 + 2000), 8 * 100, 3 * small.worst_usd + large.worst_usd, 4 * 20 / 16 / 3600,  # type: ignore[operator]
                                   "16 requests at a time")  # fmt: skip
    assert (found.requests, found.expected, found.shares, found.unpriced, found.budget) == (4, None, (), (), None)


def test_loads_are_what_bounds_are_reckoned_from() -> None:
    policy = a_policy()
    least = sum(load.input[0] * (1 if model == "near/small" else 10) + load.output[0] * (2 if model == "near/small" else 20)
                for model, load in loads(policy, 400).items())  # fmt: skip
    most = sum(load.input[1] * (1 if model == "near/small" else 10) + load.output[1] * (2 if model == "near/small" else 20)
               for model, load in loads(policy, 400).items())  # fmt: skip
    found = bounds(policy, 400)
    assert (Decimal(least).scaleb(-6), Decimal(most).scaleb(-6)) == (found.best_usd, found.worst_usd)


def test_what_is_expected_is_what_the_past_rows_took() -> None:
    found = plan(a_policy(), some(1000), past(accepted=6, climbed=2), at_once=10)
    usd = (6 * Decimal("0.00012") + 2 * Decimal("0.00272")) * 1000 / 8
    assert found.expected == Estimate(1250, 150_000, 17_500, usd, (6 + 8) / 8 * 1000 / 10 / 3600, "10 requests at a time")
    assert found.shares == (Share("small", 1.0, 0.75), Share("big", 0.25, 0.25))
    assert found.best.hours == 1000 / 10 / 3600, "one call of a second each"


@pytest.mark.parametrize(
    ("limits", "hours", "by"),
    [
        ("requests_per_minute: 60", 1000 / 3600, "near: requests_per_minute 60"),
        ("tokens_per_minute: 6600", 110_000 / 6600 / 60, "near: tokens_per_minute 6600"),
        ("concurrency: 2", 1000 / 2 / 3600, "near: concurrency 2"),
        ("concurrency: 2, requests_per_minute: 60", 1000 / 3600, "near: requests_per_minute 60"),
        ("requests_per_minute: 60000", 1750 / 100 / 3600, "100 requests at a time"),
    ],
)
def test_hours_are_those_of_the_narrowest_limit(limits: str, hours: float, by: str) -> None:
    expected = plan(a_policy(limits), some(1000), past(6, 2), at_once=100).expected
    assert expected is not None
    assert (expected.hours, expected.slowest) == (pytest.approx(hours), by)


def test_at_worst_the_narrowest_provider_takes_everything() -> None:
    worst = plan(a_policy("concurrency: 2"), some(10)).worst
    assert (worst.hours, worst.slowest) == (10 * 20 / 2 / 3600, "2 requests at a time")


def test_what_is_not_known_is_not_made_up() -> None:
    unmetered = [replace(row, cost_usd=None, trail=(replace(row.trail[0], usage=None), *row.trail[1:])) for row in past(1, 0)]  # type: ignore[arg-type]
    found = plan(a_policy(), some(2), unmetered)
    assert found.expected == Estimate(2, None, None, None, 2 / 16 / 3600, "16 requests at a time")
    policy = load_text(POLICY.replace(", LIMITS", "").replace("far/big: {input: 10, output: 20}", ""), "p.yaml")
    found = plan(policy, some(2))
    assert (found.worst.usd, found.unpriced, found.best.usd is None) == (None, ("far/big",), False)


def test_cached_and_recorded_rows_tell_nothing_and_a_foreign_ladder_is_refused() -> None:
    (row,) = past(1, 0)
    found = plan(a_policy(), some(2), [replace(row, cached=True), replace(row, mode="record"), replace(row, trail=())])
    assert (found.expected, found.past_requests) == (None, 0)
    foreign = replace(row, trail=(Tried("huge", "far/huge", "a"),))
    with pytest.raises(InputError, match="the past row 1 was asked of tier 'huge', which this policy does not have"):
        plan(a_policy(), some(2), [foreign])


def test_the_budget_of_the_run_is_the_worst_case() -> None:
    assert plan(a_policy(more="budget: {per_run: 0.0001}\n"), some(100)).worst.usd == Decimal("0.0001")


def test_the_command_prints_a_table_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    told = partial(cli, "plan")
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(POLICY.replace(", LIMITS", ", requests_per_minute: 60") + "budget: {per_run: 0.001}\n")
    lines = [json.dumps({"id": str(n), "inputs": {"x": "y" * 396}}) for n in range(8)]
    Path("in.jsonl").write_text("\n".join([*lines, "{", '{"id": "z", "inputs": {}}']) + "\n")
    Path("out.jsonl").write_bytes(b"".join(records.to_line(row) + b"\n" for row in past(6, 2)))
    code, out, err = told("p.yaml", "in.jsonl", "--past", "out.jsonl")
    assert code == 0
    assert [line.split()[:6] for line in out.splitlines() if line[1:5] in ("best", "expe", "wors")] == [
        ["best", "8", "800", "400", "$0.001600", "0.00"],
        ["expected", "10", "1,200", "140", "$0.006160", "0.00"],
        ["worst", "16", "6,400", "1,600", "$0.001000", "0.00"],
    ]
    assert "small: reached by 100.0% of 8 past requests, 75.0% accepted there" in out
    assert "2 rows cannot be asked and are left out, the first: in.jsonl:9: not JSON" in err
    assert "the run is expected to stop early: budget.per_run is $0.001000" in err
    assert "--past OUT.jsonl" in told("p.yaml", "in.jsonl")[2]
    value = json.loads(told("p.yaml", "in.jsonl", "--limit", "4", "--json")[1])
    assert (value["requests"], value["invalid"], value["expected"], value["budget"]) == (4, 0, None, 0.001)
    assert value["worst"] == {"calls": 8, "input_tokens": 3200, "output_tokens": 800, "usd": 0.001, "hours": pytest.approx(4 * 20 / 16 / 3600),
                              "slowest": "16 requests at a time"}  # fmt: skip
    assert told("p.yaml", "no.jsonl")[::2] == (2, "no.jsonl: No such file or directory\n")


def test_rows_are_those_that_run_would_ask(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"x": "a"}\n')
    assert plan(a_policy(), rows.read(str(tmp_path / "in.jsonl"))).requests == 1


BATCHED = POLICY.replace(", LIMITS", ", capabilities: {batch: true}").replace("output: 2}", "output: 2, batch: 0.5}")


def test_the_same_run_by_batch_is_at_batch_rates_where_a_model_has_a_batch_api() -> None:
    found = plan(load_text(BATCHED, "p.yaml"), some(10), past(accepted=6, climbed=2))
    assert (found.best.usd, found.expected and found.expected.usd, found.worst.usd) == (
        Decimal("0.002"), 10 * (6 * Decimal("0.00012") + 2 * Decimal("0.00272")) / 8, 10 * (Decimal("0.0006") + Decimal("0.006")))
    small, big = Decimal("0.00006"), Decimal("0.0026")  # 100 tokens in and 10 out at half the price, 200 and 30 at the whole one
    assert found.batch == ByBatch(Decimal("0.001"), 10 * (8 * small + 2 * big) / 8, 10 * (Decimal("0.0003") + Decimal("0.006")), (1, 2),
                                  ("far/big",), ())  # fmt: skip


def test_without_a_batch_api_nothing_is_said_of_batches_and_without_a_rate_it_is_unknown() -> None:
    assert plan(a_policy(), some(1)).batch is None
    unknown = plan(load_text(BATCHED.replace(", batch: 0.5", ""), "p.yaml"), some(1), past(1, 0)).batch
    assert unknown == ByBatch(None, None, None, (1, 2), ("far/big",), ("near/small",))


def test_the_command_tells_of_batches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(BATCHED)
    (tmp_path / "in.jsonl").write_text('{"x": "y"}\n')
    monkeypatch.setattr(sys, "argv", ["cascade", "plan", str(tmp_path / "p.yaml"), str(tmp_path / "in.jsonl")])
    with pytest.raises(SystemExit):
        main()
    out = capsys.readouterr().out
    assert "by batch: $0.000050 best, $0.002152 worst; 1 to 2 batches one after another, each within 24 hours\n" in out
    assert "asked live all the same: far/big\n" in out
