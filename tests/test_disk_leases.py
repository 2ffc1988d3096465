"""Processes that share a cache on disk: equal requests at the same time are paid once, and a dead holder keeps nobody waiting."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stub
from test_redis import Noticed

from cascade.around import lease
from cascade.cache import DiskStore
from cascade.disk_leases import DiskLeases

HERE = Path(__file__).parent
POLICY = 'version: 1\nname: p\nprompt: "Say {{ text }}"\ncache: {backend: disk, path: "FOLDER"}\ntiers: [openai/gpt-6-luna]\n'
TEA = stub.said({"item": "tea"})


@pytest.fixture
def server() -> Iterator[stub.Stub]:
    with stub.running() as server:
        yield server


def a_process(server: stub.Stub, folder: Path) -> subprocess.Popen[str]:
    (folder / "p.yaml").write_text(POLICY.replace("FOLDER", str(folder / "cache")))
    process = subprocess.Popen([sys.executable, str(HERE / "asks_once.py"), str(folder / "p.yaml"), server.url], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def told(process: subprocess.Popen[str]) -> list[Any]:
    found: list[Any] = json.loads(process.communicate(timeout=60)[0])
    return found


def test_processes_that_ask_the_same_at_once_pay_once(tmp_path: Path, server: stub.Stub) -> None:
    server.default = stub.Reply(TEA.body, drip=0.03)  # half a second: all three are there before it ends
    processes = [a_process(server, tmp_path) for _ in range(3)]
    for process in processes:
        go(process)
    rows = sorted((told(process) for process in processes), key=str)
    free, paid = ["accepted", '{"item": "tea"}', True, "0"], ["accepted", '{"item": "tea"}', False, "0.0001"]
    assert rows == [paid, free, free]
    assert len(server.requests) == 1


def test_a_killed_holder_delays_nobody(tmp_path: Path, server: stub.Stub) -> None:
    arrived = threading.Event()
    server.requests = Noticed(arrived)
    server.replies.append(stub.Reply(hang=True))
    server.default = TEA
    holder, other = a_process(server, tmp_path), a_process(server, tmp_path)
    go(holder)
    assert arrived.wait(20)
    go(other)
    holder.kill()
    holder.wait()
    assert told(other) == ["accepted", '{"item": "tea"}', False, "0.0001"]
    assert len(server.requests) == 2


HOLDER = """
import sys
from cascade.cache import DiskStore
from cascade.disk_leases import DiskLeases
leases = DiskLeases(DiskStore(sys.argv[1]))
print(leases.acquire("KEY", "theirs"), flush=True)
sys.stdin.readline()
leases.end("KEY", "theirs")
print("ended", flush=True)
sys.stdin.readline()
"""
KEY = "ab" * 32


def test_a_lease_is_one_processes_and_one_tokens_and_who_waits_in_vain_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskStore(tmp_path)
    leases = DiskLeases(store)
    with subprocess.Popen([sys.executable, "-c", HOLDER.replace("KEY", KEY), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as other:  # fmt: skip
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "True\n"
        assert (leases.acquire(KEY, "ours"), leases.acquire("cd" * 32, "ours")) == (False, True)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "ended\n"
        assert leases.acquire(KEY, "ours") is None
        monkeypatch.setattr("cascade.disk_leases.OVER_SECONDS", 0.0)
        assert (leases.acquire(KEY, "ours"), leases.acquire(KEY, "mine"), leases.extend(KEY, "ours")) == (True, False, True)
        leases.release(KEY, "mine")
        assert leases.acquire(KEY, "mine") is False
        leases.release(KEY, "ours")
        assert leases.acquire(KEY, "mine") is True
        leases.release(KEY, "mine")
    store.close()


def test_a_lease_is_given_back_after_its_result_is_on_disk(tmp_path: Path) -> None:
    store, seen = DiskStore(tmp_path), []
    leases, reader = DiskLeases(store), DiskStore(tmp_path)

    class Watched(DiskLeases):
        def _release(self, at: int, token: str) -> None:
            seen.append(reader.get(KEY))
            super()._release(at, token)

    async def make(waited: float) -> str:
        store.set(KEY, "the answer", None)
        return "the answer"

    async def nothing() -> None:
        return None

    asyncio.run(lease.once(Watched(store), KEY, nothing, make, bool, lambda: 1.0))
    store.close()
    assert seen == ["the answer"]
    assert leases.acquire(KEY, "next") is True
    leases.end(KEY, "next")
    reader.close()
