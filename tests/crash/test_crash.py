"""Killed at every write and sync and at random, on full and broken disks, by signals: nothing is lost, doubled, or paid twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stub
from crashing import ROWS, Crash, Runner, faulted, gone_on, killed_times, whole

SLOW = stub.Reply(stub.chat('{"item": "tea"}').body, drip=0.002)


@pytest.fixture(scope="module")
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


@pytest.fixture(scope="module")
def run(server: stub.Stub, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[bytes]]:
    """Number of writes and syncs of a run that nothing happens to, and its output."""
    crash = Crash(tmp_path_factory.mktemp("whole") / "run", server, runner)
    calls = whole(crash)
    return calls, crash.lines()


@pytest.mark.parametrize(("fault", "step"), [("after", 1), ("torn", 3)])
def test_killed_after_every_write_and_sync_or_within_one_a_run_loses_nothing_and_pays_nothing_twice(
    fault: str, step: int, server: stub.Stub, runner: Runner, run: tuple[int, list[bytes]], tmp_path: Path
) -> None:
    calls, right = run
    assert calls > 2 * ROWS
    doubtful = [faulted(Crash(tmp_path / str(at), server, runner), fault, at, right) for at in range(1, calls + 1, step)]
    assert max(doubtful) > 0


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO", "ENOSPC-on", "EIO-on"])
def test_a_disk_that_fails_a_write_or_sync_is_one_line_and_the_run_can_be_gone_on_with(
    fault: str, server: stub.Stub, runner: Runner, run: tuple[int, list[bytes]], tmp_path: Path
) -> None:
    calls, right = run
    for at in range(1, calls + 1, 5):
        faulted(Crash(tmp_path / str(at), server, runner), fault, at, right)


def test_no_call_leaves_before_its_intent_is_on_disk(server: stub.Stub, runner: Runner, tmp_path: Path) -> None:
    started = []
    for at in range(1, 30, 3):
        crash = Crash(tmp_path / str(at), server, runner)
        crash.go("EIO-on", at)
        journal = Path(f"{crash.out}.journal")
        intents = journal.read_bytes().count(b'"kind":"intent"') if journal.exists() else 0
        assert len(server.requests) <= intents
        started.append(len(server.requests))
    assert (started[0], max(started) > 0) == (0, True)


def test_killed_fifty_times_at_random(server: stub.Stub, runner: Runner, tmp_path: Path) -> None:
    kills, doubtful = killed_times(tmp_path, server, runner, 50, random.Random(4))
    assert (kills >= 50, doubtful > 0) == (True, True)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_in_flight_and_twice_stops_at_once(
    name: signal.Signals, server: stub.Stub, runner: Runner, run: tuple[int, list[bytes]], tmp_path: Path
) -> None:
    for times in (1, 2):
        crash = Crash(tmp_path / str(times), server, runner)
        server.default = SLOW
        pid = crash.start()
        while not server.requests:
            time.sleep(0.001)
        for _ in range(times):
            os.kill(pid, name)
            time.sleep(0.1)
        code, _, err = runner.end()
        assert (code, "finishing what is in flight" in err, "Traceback" in err) == (3, True, False), err
        assert len(server.requests) < ROWS
        server.default = stub.Reply(SLOW.body)
        doubtful = gone_on(crash, run[1])
        assert (doubtful > 0) == (times == 2)


def test_a_second_runner_is_told_the_pid_of_the_first(server: stub.Stub, runner: Runner, tmp_path: Path) -> None:
    crash = Crash(tmp_path / "run", server, runner, 3)
    server.default = SLOW
    pid = crash.start()
    while not server.requests:
        time.sleep(0.001)
    from cascade.bulk import Durable
    from cascade.errors import InputError

    with pytest.raises(InputError, match=f"out.jsonl: locked by pid {pid}: another run is writing it"):
        Durable(str(crash.out), "order@000000", lambda: [])
    assert runner.end()[0] == 0
    assert max(crash.charges().values()) == 1
    assert [json.loads(line)["status"] for line in crash.lines()] == ["accepted"] * 3
