"""`cascade run` between pipes: rows on stdout, readers that are slow or gone, lines that are too long."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pytest
import stub
from test_cli import GOOD, ROOT, Cli, cli, inputs, policy, rows, server  # noqa: F401  # fixtures

from cascade import rows as reading
from cascade.bulk import Stream
from cascade.outcome import Outcome
from cascade.rows import Row


def test_rows_go_to_stdout_and_all_else_to_stderr(cli: Cli, policy: Path, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.default = GOOD
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": "a", "text": "x"}\nno\n{"id": "c", "text": "y"}\n')))
    code, out, err = cli("run", str(policy), "-", "-o", "-", "--no-cache")
    assert (code, {row["id"]: row["status"] for row in map(json.loads, out.splitlines())}) == (
        0, {"a": "accepted", "line-2": "invalid", "c": "accepted"})
    assert "3 of 3 rows on stdout" in err
    assert {path.name for path in Path().iterdir()} <= {"order.yaml", "cache"}
    assert cli("run", str(policy), inputs(1), "-o", "-", "--json")[::2] == (2, "--json and -o - both write to stdout; choose one\n")


def test_failed_rows_on_stdout_are_exit_code_3_and_nobody_is_told_to_go_on(cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = stub.failure(529)
    code, out, err = cli("run", str(policy), inputs(30), "-o", "-", "--no-cache", "--concurrency", "1")
    assert (code, len(out.splitlines()), "stopped early: 20 requests in a row failed" in err) == (3, 20, True)
    assert "again" not in err


def test_a_reader_that_goes_away_ends_the_run_without_a_word_and_no_more_is_asked(policy: Path, server: stub.Stub, tmp_path: Path) -> None:
    server.default = GOOD
    rows_in = tmp_path / "in.jsonl"
    rows_in.write_text("".join(f'{{"id": "r{n}", "text": "{n}"}}\n' for n in range(500)))
    command = [sys.executable, "-c", "from cascade.cli import main; main()", "run", str(policy), str(rows_in), "-o", "-", "--concurrency", "2"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert child.stdout is not None
    assert json.loads(child.stdout.readline())["status"] == "accepted"
    child.stdout.close()
    asked = len(server.requests)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, b"")
    assert len(server.requests) < 500
    assert len(server.requests) <= asked + 50  # what the machine was quick enough for before it saw


def test_a_slow_reader_holds_up_what_is_asked_and_gets_every_row() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    out = Stream(theirs, "p@1", 100)
    line = Outcome("p@1", "accepted", "x" * 9000, cost_usd=Decimal("0.5"))
    read: list[bytes] = []

    async def main() -> tuple[bool, bool]:
        for _ in range(20):  # more than a pipe holds
            out.write(line, Row("a", 1, {}))
        waiting = asyncio.create_task(out.begin(Row("b", 2, {})))
        await asyncio.sleep(0.05)
        held = not waiting.done()
        while not waiting.done():
            with contextlib.suppress(BlockingIOError):
                read.append(os.read(ours, 65536))
            await asyncio.sleep(0.001)
        return held, waiting.exception() is None

    assert asyncio.run(main()) == (True, True)
    out.conclude()
    os.close(theirs)
    while text := os.read(ours, 65536):
        read.append(text)
    assert [json.loads(row)["output"] for row in b"".join(read).splitlines()] == ["x" * 9000] * 20
    assert out.standing().spent_usd == 10


def test_a_row_is_not_asked_when_the_reader_has_gone() -> None:
    ours, theirs = os.pipe()
    out = Stream(theirs, "p@1", 1)
    asyncio.run(out.begin(Row("a", 1, {})))
    os.close(ours)
    with pytest.raises(BrokenPipeError):
        asyncio.run(out.begin(Row("a", 1, {})))
    os.close(theirs)


def test_a_line_that_is_too_long_is_that_rows_problem_and_is_not_read_into_memory(
    cli: Cli, policy: Path, server: stub.Stub, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_LINE", 1000)
    long = b'{"id": "b", "text": "' + b"x" * 3_000_000 + b'"}'
    edge = b'{"id": "c", "text": "' + b"x" * (1000 - 24) + b'"}\n'
    Path("in.jsonl").write_bytes(b'{"id": "a", "text": "x"}\n' + long + b"\n" + edge + edge.replace(b'"c"', b'"dd"') + long)
    server.default = GOOD
    tracemalloc.start()
    found = list(reading.stream("in.jsonl"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(row.id, row.problem) for row in found] == [
        ("a", None), ("line-2", f"in.jsonl:2: the line has {len(long) + 1} bytes, at most 1000 are read"), ("c", None),
        ("line-4", "in.jsonl:4: the line has 1001 bytes, at most 1000 are read"),
        ("line-5", f"in.jsonl:5: the line has {len(long)} bytes, at most 1000 are read")]
    assert most < 200_000
    assert cli("run", str(policy), "in.jsonl", "-o", "out.jsonl")[0] == 0
    assert rows() == {"a": "accepted", "line-2": "invalid", "c": "accepted", "line-4": "invalid", "line-5": "invalid"}
