"""`cascade run` and its journal as a user meets them: status, edits before a resume, rows in doubt, order, damage."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from pathlib import Path

import pytest
import stub
from test_cli import GOOD, Cli, cli, inputs, policy, rows, server  # noqa: F401  # fixtures

from cascade.bulk import Journal
from cascade.errors import InputError

JOURNAL = Path("out.jsonl.journal")


def cut_off(lines: int) -> None:
    """The journal and output as they were when the run was killed: without the last so many results."""
    records = JOURNAL.read_bytes().splitlines(keepends=True)
    results = [record for record in records if b'"kind":"result"' in record][-lines:]
    JOURNAL.write_bytes(b"".join(record for record in records if record not in results))


def status(cli: Cli) -> dict[str, object]:
    code, out, _ = cli("run", "--status", "out.jsonl", "--json")
    assert code == 0
    found: dict[str, object] = json.loads(out)
    return {key: found[key] for key in ("total", "done", "to_do", "failed", "in_doubt", "spent_usd", "asked_again")}


def test_status_tells_done_to_do_in_doubt_and_spent(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.will(GOOD, stub.failure(503), stub.failure(503))
    server.default = GOOD
    cli("run", str(policy), inputs(3), "-o", "out.jsonl", "--limit", "2", "--concurrency", "1", "--no-cache")
    before = {"total": 3, "done": 1, "to_do": 2, "failed": 1, "in_doubt": [], "asked_again": 0}
    found = status(cli)
    assert {key: found[key] for key in before} == before
    code, _, _ = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl", "--no-cache")
    assert (code, status(cli)["done"], status(cli)["to_do"]) == (0, 3, 0)
    assert cli("run", "--status", "out.jsonl")[1].startswith("3 done, 0 to do, 0 in doubt of 3 rows; spent ")
    assert cli("run", "--status", "no.jsonl")[::2] == (2, "no.jsonl.journal: No such file or directory: no run of cascade has written here\n")


def test_a_row_in_doubt_is_held_and_listed_and_asked_again_only_when_told_to(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    cli("run", str(policy), inputs(3), "-o", "out.jsonl", "--concurrency", "1", "--no-cache")
    cut_off(1)
    code, _, err = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl", "--no-cache")
    assert (code, rows(), len(server.requests)) == (3, {"r0": "accepted", "r1": "accepted", "r2": "in_doubt"}, 3)
    assert "1 rows are in doubt" in err
    assert status(cli)["in_doubt"] == ["r2"]
    assert cli("run", "--status", "out.jsonl")[1].endswith("in doubt: r2\n")
    code, _, _ = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl", "--no-cache", "--in-doubt", "retry")
    assert (code, list(rows().items()), len(server.requests)) == (0, [("r0", "accepted"), ("r1", "accepted"), ("r2", "accepted")], 4)
    assert (status(cli)["asked_again"], status(cli)["in_doubt"]) == (1, [])


def test_an_input_edited_before_a_resume_is_refused_and_force_asks_the_changed_rows_anew(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    cli("run", str(policy), inputs(3), "-o", "out.jsonl")
    whole = Path("out.jsonl").read_bytes()
    text = Path("in.jsonl").read_text()
    Path("in.jsonl").write_text(text.replace("tea 1", "coffee"))
    code, _, err = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")
    assert (code, err.partition(".")[0]) == (2, "input line 2: row 'r1' has changed since it was asked")
    Path("in.jsonl").write_text(text.partition("\n")[2])
    code, _, err = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")
    assert (code, err.partition(".")[0]) == (2, "row 'r0' was asked, and is not in the input any more (1 such)")
    assert (Path("out.jsonl").read_bytes(), len(server.requests)) == (whole, 3)
    Path("in.jsonl").write_text(text.replace("tea 1", "coffee"))
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl", "--force")[0] == 0
    assert (len(server.requests), list(rows())) == (4, ["r0", "r1", "r2"])


def test_a_policy_edited_before_a_resume_is_refused_with_what_changed(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    cli("run", str(policy), inputs(3), "-o", "out.jsonl")
    whole = Path("out.jsonl").read_bytes()
    policy.write_text(policy.read_text().replace("Extract the order.", "Read the order."))
    code, _, err = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")
    assert (code, err.startswith("out.jsonl: written by order@"), "prompt has changed. Choose another" in err) == (2, True, True)
    assert (Path("out.jsonl").read_bytes(), len(server.requests)) == (whole, 3)
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl", "--force")[0] == 0
    assert (len(server.requests), list(rows())) == (6, ["r0", "r1", "r2"])
    assert status(cli)["spent_usd"] == 0.000078  # three rows of each policy


def test_a_bad_line_may_be_mended_before_a_resume(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    Path("in.jsonl").write_text('{"id": "a", "text": "x"}\nnot JSON\n')
    cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")
    assert rows() == {"a": "accepted", "line-2": "invalid"}
    Path("in.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n')
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")[0] == 0
    assert rows() == {"a": "accepted", "b": "accepted"}


def test_a_lost_output_is_made_again_from_the_journal_without_a_call(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    cli("run", str(policy), inputs(3), "-o", "out.jsonl")
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:100])
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")[0] == 0
    Path("out.jsonl").unlink()
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")[0] == 0
    assert (Path("out.jsonl").read_bytes(), len(server.requests)) == (whole, 3)


def test_an_output_without_a_journal_is_taken_over(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    cli("run", str(policy), inputs(4), "-o", "out.jsonl", "--limit", "2", "--no-cache")
    JOURNAL.unlink()
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl", "--no-cache")[0] == 0
    assert (list(rows()), len(server.requests)) == (["r0", "r1", "r2", "r3"], 4)


def test_a_damaged_journal_is_refused_and_a_torn_tail_is_not(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    cli("run", str(policy), inputs(3), "-o", "out.jsonl")
    sound = JOURNAL.read_bytes()
    JOURNAL.write_bytes(sound + b"12345678 {\"kind\"")
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")[0] == 0
    lines = sound.splitlines(keepends=True)
    JOURNAL.write_bytes(b"".join([lines[0], lines[1].replace(b"run", b"ran"), *lines[2:]]))
    code, _, err = cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")
    assert (code, err.startswith("out.jsonl.journal:2: damaged: ")) == (2, True)


def test_rows_come_from_stdin(cli: Cli, policy: Path, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.default = GOOD
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": "a", "text": "x"}\n')))
    assert cli("run", str(policy), "-", "-o", "out.jsonl")[0] == 0
    assert rows() == {"a": "accepted"}


@pytest.mark.parametrize(("args", "says"), [
    (("run",), "cascade run needs a policy, an input and -o OUT.jsonl; or --status OUT.jsonl alone"),
    (("run", "p.yaml", "in.jsonl", "-o", "o", "--in-doubt", "ask"), "--in-doubt 'ask': write hold or retry"),
])
def test_wrong_usage_is_one_line(cli: Cli, args: tuple[str, ...], says: str) -> None:
    assert cli(*args)[::2] == (2, says + "\n")


def test_rows_that_come_at_once_share_one_sync_and_none_may_be_asked_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(str(tmp_path / "j"), {"policy": "p@1"})
    synced: list[int] = []

    def sync(file: int) -> None:
        synced.append((tmp_path / "j").read_bytes().count(b'"intent"'))
        if len(synced) == 2:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", sync)

    async def main() -> None:
        assert await asyncio.gather(*(journal.intend(id, "d") for id in "abc")) == [None] * 3
        assert (synced, journal.in_doubt()) == ([3], ("a", "b", "c"))
        found = await asyncio.gather(*(journal.intend(id, "d") for id in "de"), return_exceptions=True)
        assert [type(error) for error in found] == [InputError] * 2

    asyncio.run(main())
    journal.close()
    again = Journal(str(tmp_path / "j"), {})
    assert again.in_doubt() == ("a", "b", "c")
    again.close()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "more", "code", "asked", "says"), [
    (None, ("--confirm-above", "0.1"), 2, 0, "this run may cost $"),
    (None, ("--confirm-above", "0.1"), 2, 0, "more than --confirm-above 0.1: nothing was asked. Give --yes, a higher --confirm-above, or set budget.per_run"),
    (None, ("--confirm-above", "0.1", "--yes"), 0, 20, "20 of 20 rows"),
    (None, (), 0, 20, "20 of 20 rows"),
    (None, ("--confirm-above", "0.1", "--limit", "2"), 0, 2, "2 of 2 rows"),
    ("n\n", ("--confirm-above", "0.1"), 3, 0, "nothing was asked"),
    ("y\n", ("--confirm-above", "0.1"), 0, 20, "at worst (20 rows; cascade plan tells more). Go on?"),
])
def test_a_run_that_may_be_dear_is_confirmed_or_refused_before_anything_is_paid(
    answer: str | None, more: tuple[str, ...], code: int, asked: int, says: str,
    cli: Cli, policy: Path, server: stub.Stub, monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.default = GOOD
    monkeypatch.setattr(sys, "stdin", Terminal(answer) if answer else io.StringIO())
    found, _, err = cli("run", str(policy), inputs(20), "-o", "out.jsonl", "--no-cache", *more)
    assert (found, len(server.requests), says in err) == (code, asked, True), err


def test_only_what_is_to_do_is_confirmed_and_a_refused_run_binds_nobody(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    args = ("run", str(policy), inputs(20), "-o", "out.jsonl", "--no-cache", "--confirm-above", "0.1")
    assert cli(*args)[0] == 2
    policy.write_text(policy.read_text().replace("Extract the order.", "Read the order."))
    assert cli(*args, "--yes")[0] == 0
    assert (cli(*args)[0], len(server.requests)) == (0, 20)  # nothing is left to be paid


def test_a_run_whose_budget_is_small_is_not_asked_about(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    policy.write_text(policy.read_text() + "budget: {per_run: 0.1}\n")
    assert cli("run", str(policy), inputs(20), "-o", "out.jsonl", "--no-cache", "--confirm-above", "0.1")[0] == 0


def test_a_run_without_a_price_says_so_and_is_not_asked_about(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    policy.write_text(policy.read_text().replace("here/big: {input: 10, output: 10}", ""))
    code, _, err = cli("run", str(policy), inputs(2), "-o", "out.jsonl", "--no-cache", "--confirm-above", "0")
    assert (code, "what this run may cost is not known; unpriced: here/big" in err, len(server.requests)) == (0, True, 2)
