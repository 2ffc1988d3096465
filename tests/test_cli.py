"""The command line as a user meets it: what stands on stdout and stderr, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import stub

from cascade import records
from cascade.cli import main

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Runs a command in a fresh folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cascade", *args])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


@pytest.fixture
def policy(server: stub.Stub, tmp_path: Path) -> Path:
    path = tmp_path / "order.yaml"
    path.write_text(f"""version: 1
name: order
prompt: "Extract the order. {{{{ text }}}}"
schema: {{type: object, properties: {{item: {{type: string}}}}, required: [item], additionalProperties: false}}
cache: {{path: "{tmp_path / "cache"}"}}
defaults: {{retries: 0}}
providers: {{here: {{kind: openai, base_url: "{server.url}/v1"}}}}
pricing: {{here/small: {{input: 1, output: 1}}, here/big: {{input: 10, output: 10}}}}
tiers: [here/small, here/big]
""")
    return path


GOOD, BAD = stub.chat('{"item": "tea"}'), stub.chat('{"thing": "tea"}')


def inputs(count: int) -> str:
    Path("in.jsonl").write_text("".join(f'{{"id": "r{n}", "inputs": {{"text": "tea {n}"}}}}\n' for n in range(count)))
    return "in.jsonl"


def rows(path: str = "out.jsonl") -> dict[str | None, str]:
    return {o.id: o.status for o in map(records.from_line, Path(path).read_bytes().splitlines())}


def test_ask_prints_the_answer_and_nothing_else_on_stdout(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.will(GOOD)
    assert cli("ask", str(policy), "-i", "text=One tea") == (0, '{"item":"tea"}\n', "")


def test_ask_explains_on_stderr_and_gives_the_row_as_json(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.will(BAD, GOOD)
    code, out, err = cli("ask", str(policy), "-i", "text=One tea", "--explain", "--json")
    row = json.loads(out)
    assert (code, row["status"], row["tier"], row["format"]) == (0, "accepted", "big", 1)
    assert sum(event.get("cost_usd", 0) for event in row["trail"]) == pytest.approx(row["cost_usd"])
    assert err.splitlines()[-1].startswith("accepted at big: $")


def test_ask_takes_files_json_values_and_stdin(cli: Cli, policy: Path, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.default = GOOD
    policy.write_text(policy.read_text().replace("{{ text }}", "{{ text }} {{ count }}"))
    Path("note.txt").write_text("from a file")
    assert cli("ask", str(policy), "-i", "text=@note.txt", "-i", "count:=3")[0] == 0
    assert server.requests[-1].json["messages"][0]["content"] == "Extract the order. from a file 3"
    Path("row.json").write_text('{"inputs": {"text": "from a row", "count": 1}}')
    assert cli("ask", str(policy), "--input", "row.json")[0] == 0
    assert server.requests[-1].json["messages"][0]["content"] == "Extract the order. from a row 1"


def test_ask_not_accepted_is_exit_code_1_with_the_best_answer(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = BAD
    code, out, err = cli("ask", str(policy), "-i", "text=One tea")
    assert (code, out) == (1, '{"thing":"tea"}\n')
    assert err.startswith("flagged: exhausted: big: ")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("ask", "POLICY"), "no inputs: give them as -i KEY=VALUE or with --input FILE"),
        (("ask", "POLICY", "-i", "text"), "-i 'text': write KEY=VALUE, KEY=@file or KEY:=JSON"),
        (("ask", "POLICY", "-i", "text:={"), "-i 'text:={': not JSON: "),
        (("ask", "POLICY", "-i", "text=@no.txt"), "no.txt: No such file or directory"),
        (("ask", "POLICY", "--input", "no.json"), "no.json: No such file or directory"),
        (("ask", "POLICY", "-i", "body=x"), "order.yaml:3: 'text' is undefined; the inputs have: body, inputs"),
        (("ask", "no.yaml", "-i", "a=b"), "no.yaml: No such file or directory"),
        (("ask", "KEYED", "-i", "text=x"), 'keyed.yaml: provider "openai" has no key: set the environment variable OPENAI_API_KEY'),
        (("run", "POLICY", "no.jsonl", "-o", "o.jsonl"), "no.jsonl: No such file or directory"),
        (("run", "POLICY", "empty.jsonl", "-o", "o.jsonl"), "empty.jsonl: there are no rows in it"),
        (("run", "POLICY", "twice.jsonl", "-o", "o.jsonl"), "twice.jsonl:2: id 'a' stands already in line 1; ids must be unique"),
        (("run", "POLICY", "one.jsonl", "-o", "no/o.jsonl"), "no/o.jsonl: cannot be written: No such file or directory"),
        (("run", "POLICY", "one.jsonl", "-o", "notes.txt"), "notes.txt:1: not written by cascade run"),
        (("explain", "notes.txt", "1"), "notes.txt:1: not a JSON line"),
        (("explain", "no.jsonl", "1"), "no.jsonl: No such file or directory"),
        (("check", "no.yaml"), "no.yaml: No such file or directory"),
        (("init", "not a name"), "'not a name': a name has letters, digits and underscores only"),
        (("local", "start", "gpt-7"), "no local model 'gpt-7'"),
    ],
)
def test_what_a_user_can_do_wrong_is_one_line_exit_code_2_and_nothing_is_asked(
    cli: Cli, policy: Path, server: stub.Stub, args: tuple[str, ...], says: str
) -> None:
    Path("empty.jsonl").write_text("")
    Path("one.jsonl").write_text('{"text": "x"}\n')
    Path("twice.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    Path("notes.txt").write_text("my notes\n")
    Path("keyed.yaml").write_text("version: 1\nname: k\nprompt: \"Say {{ text }}\"\ntiers: [openai/gpt-6-luna]\n")
    names = {"POLICY": str(policy), "KEYED": "keyed.yaml"}
    code, out, err = cli(*(names.get(arg, arg) for arg in args))
    assert (code, len((out + err).strip().splitlines())) == (2, 1)
    assert says in out + err
    assert server.requests == []
    assert Path("notes.txt").read_text() == "my notes\n"


def test_run_writes_a_row_for_each_input_and_the_second_run_answers_from_the_cache(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    code, out, err = cli("run", str(policy), inputs(5), "-o", "out.jsonl", "--json")
    assert (code, rows()) == (0, {f"r{n}": "accepted" for n in range(5)})
    assert json.loads(out)["calls"] == len(server.requests) == 5
    code, out, err = cli("run", str(policy), "in.jsonl", "-o", "again.jsonl", "--json")
    assert (code, json.loads(out)["calls"], json.loads(out)["cached"], len(server.requests)) == (0, 0, 5, 5)
    first, second = ({o.id: o.output for o in map(records.from_line, Path(p).read_bytes().splitlines())} for p in ("out.jsonl", "again.jsonl"))
    assert first == second
    assert "5 of 5 rows in again.jsonl, 5 from the cache" in err


def test_run_goes_on_where_it_stopped(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    cli("run", str(policy), inputs(5), "-o", "out.jsonl", "--limit", "2", "--no-cache")
    assert len(server.requests) == 2
    code, _, err = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl", "--no-cache")
    assert (code, len(rows()), len(server.requests)) == (0, 5, 5)
    assert "5 of 5 rows in out.jsonl, 2 of them from before" in err


def test_run_reports_bad_rows_and_answers_the_others(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    Path("in.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": \n{"id": "c", "body": "x"}\n')
    code, _, err = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl", "--strict")
    assert (code, rows()) == (1, {"a": "accepted", "line-2": "invalid", "c": "invalid"})
    assert "in.jsonl:2: not JSON" in err
    assert "'text' is undefined" in err


def test_run_with_a_provider_down_is_exit_code_3_and_asks_those_rows_again(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.will(*[stub.failure(529, "overloaded")] * 4)
    server.default = GOOD
    code, _, err = cli("run", str(policy), inputs(3), "-o", "out.jsonl", "--concurrency", "1")
    assert (code, sorted(rows().values())) == (3, ["accepted", "failed", "failed"])
    assert "2 rows failed; run the same command again to ask them again" in err
    code, _, _ = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")
    assert (code, set(rows().values())) == (0, {"accepted"})


def test_run_stops_at_a_wrong_configuration(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = stub.failure(401, "bad key")
    code, _, err = cli("run", str(policy), inputs(50), "-o", "out.jsonl", "--concurrency", "2")
    assert (code, rows()) == (2, {})
    assert "stopped early: configuration: here/small: 401: bad key" in err
    assert len(server.requests) <= 3


def test_run_stops_when_its_budget_is_spent(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    policy.write_text(policy.read_text() + "budget: {per_run: 0.003}\n")
    code, _, err = cli("run", str(policy), inputs(50), "-o", "out.jsonl", "--concurrency", "4")
    assert code == 3
    assert "stopped early: run_budget: " in err
    assert set(rows().values()) == {"accepted"}


def test_explain_tells_one_rows_story(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.will(BAD, GOOD)
    cli("run", str(policy), inputs(1), "-o", "out.jsonl")
    code, out, _ = cli("explain", "out.jsonl", "r0")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["tier", "small", "small", "big", "big", "accepted"])
    code, _, err = cli("explain", "out.jsonl", "ro")
    assert (code, err) == (2, "out.jsonl: no row has the id 'ro'; did you mean 'r0'?\n")


def test_cache_commands(cli: Cli, policy: Path, server: stub.Stub, tmp_path: Path) -> None:
    server.default = GOOD
    cli("run", str(policy), inputs(3), "-o", "out.jsonl")
    folder = str(tmp_path / "cache")
    assert cli("cache", "stats", "--path", folder)[1].startswith("3 entries, ")
    assert cli("cache", "verify", "--path", folder)[:2] == (0, f"3 sound, 0 damaged and removed in {folder}\n")
    assert cli("cache", "clear", "--path", folder)[1] == f"3 entries removed from {folder}\n"
    assert json.loads(cli("cache", "stats", "--path", folder, "--json")[1])["entries"] == 0


def test_init_makes_a_policy_that_loads_and_overwrites_nothing(cli: Cli) -> None:
    code, out, _ = cli("init", "review")
    assert (code, len(out.splitlines())) == (0, 4)
    assert cli("check", "policies/review.yaml")[0] == 0
    assert cli("init", "review")[::2] == (2, "policies/review.yaml: exists already; nothing was written\n")


@pytest.mark.parametrize("command", ["demo", "ask", "explain", "run", "check", "plan", "schema", "init", "cache", "local"])
def test_help_has_examples(cli: Cli, command: str) -> None:
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert f"cascade {command}" in out


def test_an_interrupted_run_finishes_what_is_in_flight_and_can_be_gone_on_with(policy: Path, server: stub.Stub, tmp_path: Path) -> None:
    server.default = stub.Reply(GOOD.body, drip=0.001)
    rows_in = tmp_path / "in.jsonl"
    rows_in.write_text("".join(f'{{"id": "r{n}", "text": "{n}"}}\n' for n in range(500)))
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", "from cascade.cli import main; main()", "run", str(policy), str(rows_in), "-o", str(out), "--concurrency", "2"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)
    while len(server.requests) < 4:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 3, err
    assert "finishing what is in flight" in err
    assert len(rows(str(out))) == len(server.requests) < 500
