"""What the gateway keeps: rows, sums and trails, for all workers, over a kill, and when the disk is full, read-only or damaged."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from cascade.errors import ConfigurationError
from cascade.gateway import rows as of_rows
from cascade.gateway.rows import Rows, Sum, units
from cascade.gateway.state import State
from cascade.outcome import Outcome

ANSWERED = Outcome("chat@abc123", "accepted", "four", "small", Decimal("0.000110000001"))
ENDS = [
    ANSWERED,
    replace(ANSWERED, cached=True, cost_usd=Decimal(0)),
    replace(ANSWERED, tier="big", cost_usd=Decimal("0.1")),
    replace(ANSWERED, tier="big", cost_usd=Decimal("0.2")),
    replace(ANSWERED, policy="sums@def456", status="failed", tier=None, cost_usd=None, error="overloaded: 529"),
]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path / "state")
    yield made
    made.close()


def written(state: State) -> None:
    asyncio.run(state.do(lambda db: None))


def test_requests_are_told_newest_first_and_their_dollars_are_exact(state: State) -> None:
    rows = Rows(state)
    for i, outcome in enumerate(ENDS):
        rows.add(outcome, f"id-{i}", "team-a", 0.5)
    written(state)

    async def look() -> None:
        found = await rows.latest(2)
        assert [(row.n, row.id, row.policy, row.label, row.status, row.tier, row.cached, row.cost_usd, row.key, row.error) for row in found] == [
            (5, "id-4", "sums", "sums@def456", "failed", None, False, None, "team-a", "overloaded"),
            (4, "id-3", "chat", "chat@abc123", "accepted", "big", False, Decimal("0.2"), "team-a", None)]
        assert [row.n for row in await rows.latest(after=3)] == [5, 4]
        assert await rows.last() == 5
        assert await rows.sums() == [
            Sum("chat", "accepted", "big", 2, 0, Decimal("0.3"), 0, 1.0, 0.5),
            Sum("chat", "accepted", "small", 2, 1, Decimal("0.000110000001"), 0, 1.0, 0.5),
            Sum("sums", "failed", None, 1, 0, Decimal(0), 1, 0.5, 0.5)]
        assert await rows.sums(since=found[0].at + 60) == []

    asyncio.run(look())


def test_dollars_are_counted_in_whole_units_and_rounded_up() -> None:
    assert [units(Decimal(text)) for text in ("1", "0.000000000001", "0.0000000000001", "0")] == [10**12, 1, 1, 0]


def test_only_the_newest_are_kept(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_rows, "MOST_ROWS", 5)
    monkeypatch.setattr(of_rows, "MOST_TRAILS", 2)
    monkeypatch.setattr(of_rows, "EVERY", 1)
    rows = Rows(state)
    for i in range(8):
        rows.add(ANSWERED, f"id-{i}", None, 0.1)
    written(state)

    async def look() -> None:
        assert [row.n for row in await rows.latest()] == [8, 7, 6, 5, 4]
        assert [await rows.trail(f"id-{i}", None) is not None for i in range(8)] == [False] * 6 + [True] * 2

    asyncio.run(look())


def test_another_worker_tells_the_trail_to_the_key_that_asked_and_to_no_other(tmp_path: Path) -> None:
    one, two = State(tmp_path), State(tmp_path)
    Rows(one).add(ANSWERED, "id-1", "team-a", 0.1)
    Rows(one).add(ANSWERED, "id-2", None, 0.1)

    async def look() -> None:
        told = Rows(two)
        found = [await told.trail("id-1", "team-a"), await told.trail("id-1", "team-b"), await told.trail("id-1", None), await told.trail("id-2", None),
                 await told.trail("id-2", "team-a")]
        assert [line is not None for line in found] == [True, False, False, True, False]

    asyncio.run(look())
    assert one.dead({one.worker, two.worker, "nobody"}) == {"nobody"}
    two.close()
    assert one.dead({two.worker}) == {two.worker}
    one.close()


def test_no_trail_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    state = State(tmp_path)
    rows = Rows(state, trails=False)
    rows.add(replace(ANSWERED, output="a secret"), "id-1", None, 0.1)
    written(state)
    assert asyncio.run(rows.trail("id-1", None)) is None
    state.close()
    assert b"a secret" not in b"".join(file.read_bytes() for file in tmp_path.glob("gateway.db*"))


WORKER = """
import asyncio, sys
from cascade.gateway.state import State
state = State(sys.argv[1])
async def count():
    while True:
        n = await state.do(lambda db: db.execute("INSERT INTO spent VALUES ('a', 'b', 1) ON CONFLICT DO UPDATE SET cost = cost + 1 RETURNING cost").fetchall())
        print(n[0][0], flush=True)
asyncio.run(count())
"""


def test_what_was_said_to_be_written_is_there_after_a_kill(tmp_path: Path) -> None:
    said = 0
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(50):
                said = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            said = max(said, *(int(line) for line in process.stdout if line.endswith("\n")), 0)
    state = State(tmp_path)
    (found,) = asyncio.run(state.read(lambda db: db.execute("SELECT cost FROM spent").fetchall()))
    assert said <= found[0] <= said + 1
    assert [file.name for file in (tmp_path / "workers").iterdir()] == [state.worker], "the dead ones' files are swept away"
    state.close()


def damaged(folder: Path) -> None:
    file = folder / "gateway.db"
    with file.open("r+b") as raw:
        raw.seek(4096)
        raw.write(os.urandom(4096))


def strange(folder: Path) -> None:
    with sqlite3.connect(folder / "gateway.db") as db:
        db.execute("PRAGMA user_version = 77")


WRONG = [(damaged, "damaged|malformed"), (strange, "its format is 77, this version reads 1"), (lambda f: (f / "gateway.db").write_bytes(b"x" * 9999), "not a database")]


@pytest.mark.parametrize(("spoil", "says"), WRONG, ids=["damaged", "of another version", "no database"])
def test_a_store_that_cannot_be_used_is_told_at_start(tmp_path: Path, spoil: object, says: str) -> None:
    State(tmp_path).close()
    spoil(tmp_path)  # type: ignore[operator]
    with pytest.raises(ConfigurationError, match=says) as caught:
        State(tmp_path)
    assert "move it away, or name another folder with --state DIR" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_told_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"Not a directory|File exists"):
        State(tmp_path / "file")


FULL = """
import asyncio, resource, sys
from cascade.gateway.state import State
state = State(sys.argv[1])
def add(id):
    return lambda db: db.execute("INSERT INTO trail VALUES (NULL, ?, NULL, zeroblob(100000))", (id,))
async def kept(id):
    return await state.read(lambda db: db.execute("SELECT count(*) FROM trail WHERE id = ?", (id,)).fetchone()[0])
async def go():
    try:
        while True:
            await state.do(add("fill"))
    except Exception as err:
        print(type(err).__module__, state.problem is not None)
    state.soon(add("lost"))
    state.soon(add("owed"), "owed")
    await state.do(lambda db: None, "process")
    print(await kept("lost"), await kept("owed"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    while not await kept("owed"):
        await asyncio.sleep(0.01)
    print(await kept("lost"), await kept("owed"), state.problem)
asyncio.run(go())
state.close()
"""


def test_on_a_full_disk_what_is_owed_waits_until_there_is_room(tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path)], preexec_fn=small, capture_output=True, text=True, timeout=60)
    assert (done.stdout.splitlines(), done.returncode) == (["sqlite3 True", "0 0", "0 1 None"], 0), done.stderr
    assert done.stderr.count("cannot write the gateway's state") == 1


def test_a_file_that_is_removed_while_it_is_in_use_is_told(tmp_path: Path) -> None:
    state = State(tmp_path)
    try:
        assert state.problem is None
        (tmp_path / "gateway.db").unlink()
        assert "gateway.db was removed or replaced while it is in use" in (state.problem or "")
        (tmp_path / "gateway.db").write_bytes(b"")
        assert state.problem is not None
    finally:
        state.close()
