"""CSV and Parquet: rows in, tables out; what is wrong is named with its line before anything is paid."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow
import pytest
import stub
from pyarrow import parquet
from test_cli import GOOD, Cli, cli, policy, server  # noqa: F401  # fixtures

from cascade import formats, rows
from cascade.errors import InputError
from cascade.formats import Column
from cascade.rows import Row


def csv_rows(text: bytes) -> list[Row]:
    Path("in.csv").write_bytes(text)
    return list(rows.stream("in.csv"))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("text", "found"), [
    (b"text,n\nhi,3\n", [Row("2", 2, {"text": "hi", "n": "3"})]),
    (b"id,gold,text\na,\"{\"\"x\"\": 1}\",hi\n,tea,\"a, b\"\n", [Row("a", 2, {"text": "hi"}, {"x": 1}), Row("3", 3, {"text": "a, b"}, "tea")]),
    (b"\xef\xbb\xbfid,text\r\n1,\"two\nlines\"\r\n\r\n2,\xc3\xbc", [Row("1", 2, {"text": "two\nlines"}), Row("2", 5, {"text": "ü"})]),
    (b"id,gold,text\na,,\n", [Row("a", 2, {"text": ""})]),
    (b"a,b\n1\n1,2,3\n1,2\n", [Row("line-2", 2, {}, problem="in.csv:2: 1 cells, where the header has 2"),
                                Row("line-3", 3, {}, problem="in.csv:3: 3 cells, where the header has 2"), Row("4", 4, {"a": "1", "b": "2"})]),
    (b"a,b\n1,\xff\n1,2\n", [Row("line-2", 2, {}, problem="in.csv:2: column 'b': not UTF-8 text"), Row("3", 3, {"a": "1", "b": "2"})]),
])
def test_a_row_of_a_csv_is_a_request_or_says_why_not(text: bytes, found: list[Row]) -> None:
    assert csv_rows(text) == found


@pytest.mark.parametrize(("text", "says"), [
    (b"", "in.csv: there are no rows in it"),
    (b"text,n\n", "in.csv: there are no rows in it"),
    (b"text,text\nhi,3\n", "in.csv:1: column 'text' stands twice: the first line names the columns"),
    (b"text,\nhi,3\n", "in.csv:1: a column has no name: the first line names the columns"),
    (b"t\xff\nhi\n", "in.csv:1: not UTF-8 text"),
    (b"text\nhi\n\"two\nthree\n", "in.csv:3: unexpected end of data: the rows from here on cannot be told apart"),
    (b"text\n\"hi\" there\n", "in.csv:2: ',' expected after '\"': the rows from here on cannot be told apart"),
    (b"id,text\na,x\na,y\n", "in.csv:3: id 'a' stands already in line 2; ids must be unique"),
])
def test_a_csv_whose_rows_cannot_be_told_apart_is_refused_whole(text: bytes, says: str) -> None:
    Path("in.csv").write_bytes(text)
    with pytest.raises(InputError) as caught:
        rows.count("in.csv")
    assert str(caught.value) == says


def test_a_line_of_a_csv_that_is_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from cascade.formats import csv as module

    monkeypatch.setattr(module, "MAX_LINE", 100)
    with pytest.raises(InputError, match=r"^in\.csv:2: the line has 500 bytes, at most 100 are read$"):
        csv_rows(b"text\n" + b"x" * 500)


def test_a_parquet_file_gives_values_of_their_own_types() -> None:
    parquet.write_table(pyarrow.table({
        "id": [7, None, 9], "text": ["hi", None, "x"], "n": [1, 2, 3], "day": [date(2026, 11, 25)] * 3, "share": [0.5, 1.0, float("nan")],
        "tags": [["a"], [], None], "gold": [{"x": 1}, None, None]}), "in.parquet")
    assert list(rows.stream("in.parquet")) == [
        Row("7", 1, {"text": "hi", "n": 1, "day": "2026-11-25", "share": 0.5, "tags": ["a"]}, {"x": 1}),
        Row("2", 2, {"text": None, "n": 2, "day": "2026-11-25", "share": 1.0, "tags": []}),
        Row("line-3", 3, {}, problem="in.parquet:3: column 'share': nan is no JSON value")]
    parquet.write_table(pyarrow.table({"d": [Decimal("1.5")], "b": [b"x"]}), "odd.parquet")
    assert [row.problem for row in rows.stream("odd.parquet")] == ["odd.parquet:1: column 'd': Decimal is no JSON value"]


def test_what_is_no_parquet_and_what_is_not_there_is_one_line() -> None:
    Path("in.parquet").write_bytes(b"not parquet at all")
    for path, says in (("in.parquet", "in.parquet: not a Parquet file that can be read"), ("no.parquet", "no.parquet: "), ("no.csv", "no.csv: No such")):
        with pytest.raises(InputError, match=says):
            rows.count(path)


def test_without_the_extra_parquet_says_which_one(cli: Cli, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in.csv").write_text("text\nhi\n")
    monkeypatch.setitem(sys.modules, "cascade.formats.parquet", None)
    monkeypatch.delattr(formats, "parquet", raising=False)
    for args in (("in.parquet", "-o", "out.csv"), ("in.csv", "-o", "out.parquet")):
        code, _, err = cli("run", str(policy), *args)
        assert (code, err) == (2, f"{next(arg for arg in args if 'parquet' in arg)}: Parquet needs an extra: pip install 'cascade-judge[parquet]'\n")


def test_a_big_csv_is_read_a_row_at_a_time() -> None:
    Path("in.csv").write_bytes(b"id,text\n" + b"".join(b"%d,%s\n" % (n, b"x" * 200) for n in range(20_000)))
    tracemalloc.start()
    assert sum(1 for _ in rows.stream("in.csv")) == 20_000
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 500_000


# ---------------------------------------------------------------- tables out


def read(path: str) -> list[dict[str, object]]:
    if path.endswith(".parquet"):
        found: list[dict[str, object]] = parquet.read_table(path).to_pylist()
        return found
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


ANSWERS = ['{"item": "tea, green", "n": 2, "ok": true, "parts": ["a"]}', '{"item": "=1+1", "n": 2.5, "ok": false, "parts": []}']


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_run_from_a_table_to_a_table_goes_on_where_it_stopped(
    suffix: str, cli: Cli, policy: Path, server: stub.Stub,
) -> None:
    policy.write_text(policy.read_text().replace("additionalProperties: false", "additionalProperties: true"))
    Path("in.csv").write_text("id,text\na,one\nb,two\n,three\n")
    parquet.write_table(pyarrow.table({"id": ["a", "b", "4"], "text": ["one", "two", "three"]}), "in.parquet")
    args = ("run", str(policy), f"in.{suffix}", "-o", f"out.{suffix}", "--no-cache", "--concurrency", "1")
    server.will(stub.chat(ANSWERS[0]))
    server.default = stub.failure(503)
    assert cli(*args)[0] == 3
    assert [(row["id"], row["status"]) for row in read(f"out.{suffix}")] == [("a", "accepted"), ("b", "failed"), ("4", "failed")]
    server.will(*map(stub.chat, [*ANSWERS[1:], '{"item": "x"}']))
    code, _, err = cli(*args)
    assert (code, f"3 of 3 rows in out.{suffix}, 1 of them from before" in err, len(server.requests)) == (0, True, 2)
    found = [[row[name] for name in ("id", "status", "output.item", "output.n", "output.ok", "output.parts", "tier", "error")]
             for row in read(f"out.{suffix}")]
    text = suffix == "csv"
    assert found == [
        ["a", "accepted", "tea, green", "2.0" if text else 2.0, "true" if text else True, '["a"]', "small", "" if text else None],
        ["b", "accepted", "=1+1", "2.5" if text else 2.5, "false" if text else False, "[]", "small", "" if text else None],
        ["4", "accepted", "x", *([""] * 3 if text else [None] * 3), "small", "" if text else None]]
    Path(f"out.{suffix}").unlink()
    assert (cli(*args)[0], len(read(f"out.{suffix}")), len(server.requests)) == (0, 3, 2)
    assert {path.name for path in Path().iterdir()} == {"in.csv", "in.parquet", f"out.{suffix}", f"out.{suffix}.journal", "order.yaml"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_in_doubt_are_in_the_table(suffix: str, cli: Cli, policy: Path, server: stub.Stub) -> None:
    server.default = GOOD
    Path("in.csv").write_text("id,text\na,one\nb,two\n")
    args = ("run", str(policy), "in.csv", "-o", f"out.{suffix}", "--no-cache", "--concurrency", "1")
    cli(*args)
    journal = Path(f"out.{suffix}.journal")
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    assert cli(*args)[0] == 3
    assert [(row["id"], row["status"]) for row in read(f"out.{suffix}")] == [("a", "accepted"), ("b", "in_doubt")]
    assert cli("run", "--status", f"out.{suffix}")[1].startswith("1 done, 0 to do, 1 in doubt of 2 rows")


def test_a_table_that_is_not_ours_is_left_alone(cli: Cli, policy: Path, server: stub.Stub) -> None:
    Path("out.csv").write_text("mine\n")
    Path("in.csv").write_text("text\nhi\n")
    code, _, err = cli("run", str(policy), "in.csv", "-o", "out.csv")
    assert (code, err) == (2, "out.csv: is there already, without a journal of cascade run beside it; choose another output file\n")
    assert (Path("out.csv").read_text(), server.requests) == ("mine\n", [])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_there_whole_or_as_it_was(suffix: str) -> None:
    path, columns = f"out.{suffix}", [Column("n", "whole")]
    formats.write(path, columns, [[1], [None]])
    before = Path(path).read_bytes()

    def broken() -> object:
        yield [2]
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=rf"out\.{suffix}: cannot be written: No space left on device"):
        formats.write(path, columns, broken())  # type: ignore[arg-type]
    assert Path(path).read_bytes() == before


def test_numbers_that_no_column_holds_and_mixed_ones_are_json(cli: Cli, policy: Path, server: stub.Stub) -> None:
    policy.write_text(policy.read_text().replace("additionalProperties: false", "additionalProperties: true"))
    Path("in.jsonl").write_text('{"text": "1"}\n{"text": "2"}\n')
    server.will(stub.chat('{"item": "x", "big": 12345678901234567890, "mixed": 1}'), stub.chat('{"item": "x", "big": 1, "mixed": "a"}'))
    assert cli("run", str(policy), "in.jsonl", "-o", "out.parquet", "--no-cache", "--concurrency", "1")[0] == 0
    assert [(row["output.big"], row["output.mixed"]) for row in read("out.parquet")] == [("12345678901234567890", "1"), ("1", "a")]
    assert json.loads(str(read("out.parquet")[0]["output.big"])) == 12345678901234567890


def test_small_dollars_are_written_out_in_a_csv(tmp_path: Path) -> None:
    formats.write(str(tmp_path / "x.csv"), [formats.Column("cost_usd", "number"), formats.Column("cached", "yes/no")], [[7e-06, True], [None, False]])
    assert (tmp_path / "x.csv").read_text() == "cost_usd,cached\n0.000007,true\n,false\n"
