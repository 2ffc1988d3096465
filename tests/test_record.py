"""`cascade record` and the shadows of `cascade run` as a user meets them: files, resuming, refusals, what is shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stub
from test_cli import BAD, GOOD, ROOT, Cli, cli, inputs, policy, server  # noqa: F401  # fixtures

from cascade import recording
from cascade.errors import InputError
from cascade.policy import load
from cascade.policy.lint import lint
from cascade.policy.load import load_with_places
from cascade.recording import UNKNOWN

TEA, COFFEE = GOOD, stub.chat('{"item": "coffee"}')
DOWN = stub.failure(503)


def trails(path: str | Path = "trails.jsonl") -> dict[str, recording.Recording]:
    found = [recording.from_line(line) for line in Path(path).read_bytes().splitlines()]
    return {str(r.outcome.id): r for r in found}


def with_gold(*golds: str) -> str:
    Path("gold.jsonl").write_text("".join(f'{{"id": "r{n}", "inputs": {{"text": "tea {n}"}}, "gold": {gold}}}\n' for n, gold in enumerate(golds)))
    return "gold.jsonl"


def test_record_writes_recordings_and_says_what_to_type_next(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.will(TEA, COFFEE, BAD, COFFEE)
    code, out, err = cli("record", str(policy), with_gold('{"item": "coffee"}', '{"item": "tea"}'), "-o", "trails.jsonl", "--concurrency", "1")
    assert (code, out, len(server.requests)) == (0, "", 4)
    first, second = trails().values()
    assert (first.inputs, first.gold, first.outcome.mode, first.outcome.tier) == ({"text": "tea 0"}, {"item": "coffee"}, "record", "big")
    assert set(first.digests) == {"prompt", "schema", "tier small", "tier small: gate schema", "tier big", "tier big: gate schema"}
    assert second.outcome.output == {"item": "coffee"}
    assert err.splitlines()[-1] == f"next: cascade calibrate {policy} trails.jsonl"
    rows = [line.split() for line in err.splitlines() if line.split()[:1] in (["small"], ["big"])]
    assert [row[:8] for row in rows] == [["small", "here/small", "2", "2", "schema", "1/2", "0/2", "0/2"],
                                         ["big", "here/big", "2", "2", "schema", "2/2", "1/2", rows[1][7]]]


def test_the_summary_as_json(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = TEA
    code, out, _ = cli("record", str(policy), inputs(3), "-o", "trails.jsonl", "--json")
    told = json.loads(out)
    assert (code, told["requests"], told["done"], told["failed"], told["gold"]) == (0, 3, 3, 0, 0)
    small = told["tiers"][0]
    assert (small["tier"], small["asked"], small["read"], small["same"], small["compared"], small["graded"]) == ("small", 3, 3, 3, 3, 0)
    assert small["gates"] == {"schema": {"passed": 3, "of": 3}}
    assert all(r.gold is UNKNOWN for r in trails().values())


def test_the_same_command_goes_on_and_asks_again_what_has_no_premium_answer(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.will(TEA, TEA, TEA, DOWN)
    code, _, err = cli("record", str(policy), inputs(2), "-o", "trails.jsonl", "--concurrency", "1")
    assert (code, "1 rows have no answer of the last tier" in err) == (3, True)
    server.will(TEA, COFFEE)
    assert cli("record", str(policy), "in.jsonl", "-o", "trails.jsonl")[0] == 0
    assert (len(server.requests), [r.outcome.status for r in trails().values()]) == (2, ["accepted", "accepted"])
    server.will()
    assert cli("record", str(policy), "in.jsonl", "-o", "trails.jsonl")[0] == 0
    assert server.requests == []


def test_a_torn_last_line_is_asked_again(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = TEA
    cli("record", str(policy), inputs(2), "-o", "trails.jsonl")
    text = Path("trails.jsonl").read_bytes()
    Path("trails.jsonl").write_bytes(text[:-20])
    server.will()
    assert cli("record", str(policy), "in.jsonl", "-o", "trails.jsonl")[0] == 0
    assert (len(server.requests), len(trails())) == (2, 2)


def test_a_file_of_another_policy_is_refused_and_what_changed_is_named(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = TEA
    cli("record", str(policy), inputs(1), "-o", "trails.jsonl")
    policy.write_text(policy.read_text().replace("Extract the order.", "Read the order."))
    server.will()
    code, _, err = cli("record", str(policy), "in.jsonl", "-o", "trails.jsonl")
    assert (code, server.requests) == (2, [])
    assert err.startswith("trails.jsonl:1: written by order@")
    assert "prompt has changed" in err


def test_a_file_of_cascade_run_is_refused(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = TEA
    cli("run", str(policy), inputs(1), "-o", "out.jsonl")
    code, _, err = cli("record", str(policy), "in.jsonl", "-o", "out.jsonl")
    assert (code, err.partition("(")[0]) == (2, "out.jsonl:1: not written by cascade record ")


def test_every_bad_gold_is_told_before_anything_is_asked(cli: Cli, policy: Path, server: stub.Stub) -> None:
    code, _, err = cli("record", str(policy), with_gold('{"item": "tea"}', *['{"itm": "tea"}'] * 12), "-o", "trails.jsonl")
    lines = err.splitlines()
    assert (code, server.requests, Path("trails.jsonl").exists()) == (2, [], False)
    assert (lines[0], len(lines), lines[-1]) == ("gold.jsonl:2: gold has 'itm', which the schema has not; did you mean 'item'?", 11, "and 2 more")


def test_a_bad_row_is_told_and_the_others_are_recorded(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = TEA
    Path("in.jsonl").write_text('{"id": "a", "inputs": {"text": "tea"}}\nnot JSON\n')
    code, _, err = cli("record", str(policy), "in.jsonl", "-o", "trails.jsonl")
    assert (code, "in.jsonl:2: not JSON" in err, len(Path("trails.jsonl").read_text().splitlines())) == (0, True, 2)
    assert cli("record", str(policy), "in.jsonl", "-o", "trails.jsonl")[0] == 0


def test_a_spent_run_budget_leaves_only_whole_recordings(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = TEA
    policy.write_text(policy.read_text() + "budget: {per_run: 0.012}\n")
    code, _, err = cli("record", str(policy), inputs(9), "-o", "trails.jsonl", "--concurrency", "1")
    assert (code, "stopped early: run_budget" in err) == (3, True)
    assert 0 < len(trails()) < 9
    assert all(r.outcome.tier == "big" for r in trails().values())


def test_a_recording_killed_in_the_middle_goes_on_without_asking_twice(cli: Cli, policy: Path, server: stub.Stub,
                                                                       tmp_path: Path) -> None:
    server.default = stub.Reply(TEA.body, drip=0.0005)
    path = tmp_path / inputs(60)
    command = [sys.executable, "-c", "from cascade.cli import main; main()", "record", str(policy), str(path), "-o", "trails.jsonl",
               "--concurrency", "2"]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    out = tmp_path / "trails.jsonl"
    while not out.exists() or out.read_bytes().count(b"\n") < 3:
        assert child.poll() is None
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    whole = out.read_bytes().count(b"\n")
    assert whole < 60
    server.will()
    server.default = TEA
    assert cli("record", str(policy), str(path), "-o", "trails.jsonl")[0] == 0
    assert (len(trails()), len(server.requests)) == (60, 2 * (60 - whole))


def test_shadow_rows_of_a_run_are_recordings_and_the_others_are_not(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = TEA
    policy.write_text(policy.read_text() + "shadow: 0.5\n")
    assert cli("run", str(policy), inputs(40), "-o", "out.jsonl")[0] == 0
    shadows, others = [], 0
    for line in Path("out.jsonl").read_bytes().splitlines():
        try:
            shadows.append(recording.from_line(line))
        except InputError:
            others += 1
    assert len(shadows) + others == 40
    assert len(shadows) > 5 < others
    assert all(r.outcome.mode == "shadow" and r.inputs["text"].startswith("tea") and r.digests for r in shadows)
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")[0] == 0


def test_shadow_and_audit_on_one_tier_are_told_to_do_nothing(policy: Path) -> None:
    policy.write_text(policy.read_text().replace("[here/small, here/big]", "[here/small]") + "shadow: 0.1\naudit: 0.1\n")
    assert {f.code for f in lint(load_with_places(str(policy)), {})} >= {"lone-shadow", "lone-audit"}
    assert load(str(policy)).audit == 0.1


@pytest.mark.parametrize("share", ["1.5", "-0.1", "often"])
def test_a_share_is_between_0_and_1(cli: Cli, policy: Path, share: str) -> None:
    policy.write_text(policy.read_text() + f"shadow: {share}\n")
    code, out, err = cli("check", str(policy))
    assert (code, "shadow" in out + err) == (2, True)
