"""Input rows and the output file: what is wrong is named, what is done is kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from cascade import records, rows
from cascade.bulk import OUTAGE, Output, Run, run
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.rows import Row
from cascade.types import Checked, Failed, Retry, Skipped, Tried, Usage

POLICY = "p@123456"


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('{"id": "a", "inputs": {"text": "x"}, "gold": {"y": 1}}', Row("a", 7, {"text": "x"}, {"y": 1})),
        ('{"inputs": {"text": "x"}}', Row("7", 7, {"text": "x"})),
        ('{"id": 1, "text": "x", "gold": 2}', Row("1", 7, {"text": "x"}, 2)),
        ('{"text": "x"}\r', Row("7", 7, {"text": "x"})),
        ('{"text": ', Row("line-7", 7, {}, problem="in.jsonl:7: not JSON: EOF while parsing a value at line 1 column 9")),
        ('{"a": 1, "a": 2}', Row("line-7", 7, {}, problem="in.jsonl:7: not JSON: Detected duplicate key \"a\" at line 1 column 14")),
        ('{"a": NaN}', Row("line-7", 7, {}, problem="in.jsonl:7: not JSON: expected value at line 1 column 7")),
        ("[1]", Row("line-7", 7, {}, problem="in.jsonl:7: a row is a JSON object, this is list")),
        ('{"id": true, "t": 1}', Row("line-7", 7, {}, problem='in.jsonl:7: "id" must be text or a whole number')),
        ('{"id": "a", "inputs": {}, "golf": 1}', Row("a", 7, {}, problem="in.jsonl:7: unknown key 'golf' beside \"inputs\"")),
    ],
)
def test_a_line_is_a_row_or_says_why_not(line: str, row: Row) -> None:
    assert rows.parse(line.encode(), 7, "in.jsonl") == row


def test_invalid_utf8_is_named() -> None:
    assert "in.jsonl:1: not JSON" in str(rows.parse(b'{"a": "\xff"}', 1, "in.jsonl").problem)


def test_a_file_may_begin_with_a_byte_order_mark_have_empty_lines_and_no_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert [(row.id, row.inputs) for row in rows.read(str(path))] == [("1", {"a": 1}), ("3", {"a": 2})]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there are no rows in it"),
        ("\n \n", "there are no rows in it"),
        ('{"id": "a", "x": 1}\n{"id": "a", "x": 2}', ":2: id 'a' stands already in line 1; ids must be unique"),
        ('{"id": 1, "x": 1}\n{"id": "1", "x": 2}', ":2: id '1' stands already in line 1; ids must be unique"),
    ],
)
def test_a_file_whose_rows_cannot_be_told_apart_is_refused_whole(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(text)
    for read in (rows.read, rows.count):
        with pytest.raises(InputError, match=r"in\.jsonl") as caught:
            read(str(path))
        assert says in str(caught.value)


def test_missing_file_and_folder_are_one_line(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "no.jsonl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=says):
            rows.read(str(path))


# ---------------------------------------------------------------- records

TRAIL = (
    Skipped("tiny", "failed this input before"),
    Tried("small", "p/s", "text ü", "stop", Usage(10, 5, 2, 1, 3), Decimal("0.0000125"), 0.5, 1, "judge", 2, True, (Retry("overloaded", "529", 0.1),)),
    Failed("small", "p/s", "timeout", "no answer", None, 1.5),
    Checked("small", "schema", None, 0.8, False, "could not tell", ("/total",), {"share": 0.5}, Decimal(0), 0.001),
)
OUTCOME: Outcome = Outcome(POLICY, "flagged", {"a": [1, None]}, "small", None, ("p/s",), 2.25, TRAIL, "exhausted: x", "42")


def test_a_record_reads_back_as_the_outcome_it_was() -> None:
    line = records.to_line(OUTCOME)
    assert b"\n" not in line
    assert records.from_line(line) == OUTCOME
    assert b'"cost_usd":0.0000125' in line


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}', b'{"format":1,"trail":[{"event":"x"}]}'])
def test_what_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(InputError):
        records.from_line(line)


# ---------------------------------------------------------------- runs


def accepted(row: Row) -> Outcome:
    return Outcome(POLICY, "accepted", row.inputs, "small", Decimal("0.01"))


def go(path: Path, count: int, answer: Callable[[Row], Outcome], stop_after: int | None = None, concurrency: int = 3) -> Run:
    async def main() -> Run:
        output, stop, asked = Output(str(path), POLICY), asyncio.Event(), 0

        async def one(row: Row) -> Outcome:
            nonlocal asked
            asked += 1
            if asked == stop_after:
                stop.set()
            await asyncio.sleep(0)
            return answer(row)

        try:
            return await run([Row(str(n), n, {"n": n}) for n in range(count)], one, output, POLICY, concurrency=concurrency, stop=stop)
        finally:
            output.close()

    return asyncio.run(main())


def ids(path: Path) -> list[str]:
    return sorted((str(records.from_line(line).id) for line in path.read_bytes().splitlines()), key=int)


def test_each_row_is_answered_once_and_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path, asked = tmp_path / "out.jsonl", []

    def answer(row: Row) -> Outcome:
        asked.append(row.id)
        return accepted(row)

    first = go(path, 10, answer, stop_after=4)
    assert first.stopped == "interrupted"
    assert 4 <= len(ids(path)) < 10
    second = go(path, 10, answer)
    assert (second.stopped, second.before, len(second.done)) == (None, len(first.done), 10)
    assert ids(path) == sorted(asked, key=int) == [str(n) for n in range(10)]


def test_a_torn_last_line_is_cut_and_its_row_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    go(path, 3, accepted)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert go(path, 3, accepted).before == 2
    assert ids(path) == ["0", "1", "2"]


def test_failed_rows_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    go(path, 3, lambda row: Outcome(POLICY, "failed", error="overloaded: 529") if row.id == "1" else accepted(row))
    again = go(path, 3, accepted)
    assert (again.before, [o.status for o in again.done]) == (2, ["accepted"] * 3)
    assert ids(path) == ["0", "1", "2"]


@pytest.mark.parametrize("error", ["run_budget: $0 left", "configuration: 401"])
def test_what_is_about_the_run_ends_it_and_leaves_its_rows_to_be_done(tmp_path: Path, error: str) -> None:
    path = tmp_path / "out.jsonl"
    state = go(path, 9, lambda row: accepted(row) if row.id == "0" else Outcome(POLICY, "failed", error=error), concurrency=1)
    assert (state.stopped, state.configuration) == (error, error.startswith("configuration"))
    assert ids(path) == ["0"]


def test_an_outage_stops_the_run(tmp_path: Path) -> None:
    state = go(tmp_path / "out.jsonl", 200, lambda row: Outcome(POLICY, "failed", error="overloaded: 529"), concurrency=1)
    assert (state.stopped or "").startswith(f"{OUTAGE} requests in a row failed")
    assert len(state.done) == OUTAGE


def test_a_bad_row_becomes_an_invalid_one_and_the_rest_run(tmp_path: Path) -> None:
    async def main() -> Run:
        output = Output(str(tmp_path / "out.jsonl"), POLICY)

        async def answer(row: Row) -> Outcome:
            if row.id == "2":
                raise InputError("x.j2:1: 'text' is undefined")
            return accepted(row)

        requests = [Row("1", 1, {}), Row("2", 2, {}), Row("line-3", 3, {}, problem="in.jsonl:3: not JSON")]
        return await run(requests, answer, output, POLICY, concurrency=1, stop=asyncio.Event())

    assert [(o.id, o.status, o.error) for o in asyncio.run(main()).done] == [
        ("1", "accepted", None), ("2", "invalid", "x.j2:1: 'text' is undefined"), ("line-3", "invalid", "in.jsonl:3: not JSON")]


def test_an_error_of_a_row_ends_the_run_as_itself(tmp_path: Path) -> None:
    def answer(row: Row) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(tmp_path / "out.jsonl", 5, answer)


def test_files_that_are_not_ours_or_not_writable_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("my notes\n")
    with pytest.raises(InputError, match=r"out\.jsonl:1: not written by cascade run"):
        Output(str(path), POLICY)
    assert path.read_text() == "my notes\n"
    go(tmp_path / "other.jsonl", 1, accepted)
    with pytest.raises(InputError, match="the policy has changed"):
        Output(str(tmp_path / "other.jsonl"), "p@654321")
    with pytest.raises(InputError, match="cannot be written: No such file"):
        Output(str(tmp_path / "no" / "out.jsonl"), POLICY)


def test_a_second_runner_is_refused(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out.jsonl"), POLICY)
    with pytest.raises(InputError, match="another run is writing this file"):
        Output(str(tmp_path / "out.jsonl"), POLICY)
    output.close()


def test_a_full_disk_leaves_whole_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"
    output = Output(str(path), POLICY)
    output.write(Outcome(POLICY, "accepted", id="0"))
    whole = path.read_bytes()
    real = os.write

    def full(file: int, text: bytes) -> int:
        if len(text) > 50:
            return real(file, text[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match="No space left"):
        output.write(Outcome(POLICY, "accepted", id="1"))
    assert path.read_bytes() == whole
    output.close()
