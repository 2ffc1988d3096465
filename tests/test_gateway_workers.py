"""Worker processes: what they share, what happens when one of them, or their parent, is killed, and how they end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gateway_process
import httpx2
import pytest
from gateway_process import Gateway, Provider

from cascade.gateway.keys import new


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def keys(folder: Path) -> list[str]:
    made = [new(name) for name in ("free", "poor", "slow")]
    limits = ("", "budget=0.0012/total", "rate=10/minute")
    (folder / "keys.txt").write_text("".join(f"{line} {limit}\n" for (_, line), limit in zip(made, limits, strict=True)))
    return [key for key, _ in made]


@pytest.fixture(scope="module")
def serving(folder: Path, keys: list[str]) -> Iterator[tuple[Gateway, Provider]]:
    with gateway_process.providing() as provider, gateway_process.running(
        folder, provider, "--workers", "2", "--keys", str(folder / "keys.txt"), cache="disk") as gateway:
        yield gateway, provider


def ask(gateway: Gateway, key: str, text: str, **headers: str) -> httpx2.Response:
    """On a connection of its own, so that any worker may get it."""
    return httpx2.post(f"{gateway.url}/v1/chat/completions", json={"model": "chat", "messages": [{"role": "user", "content": text}]},
                       headers={"authorization": f"Bearer {key}", **headers}, timeout=30)


def many(times: int, do: Callable[[int], httpx2.Response]) -> list[httpx2.Response]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(do, range(times)))


def workers(gateway: Gateway, key: str) -> set[int]:
    """The processes that answer, once there are two."""
    found: set[int] = set()
    ends = time.monotonic() + 30
    while len(found) < 2 and time.monotonic() < ends:
        with contextlib.suppress(httpx2.TransportError):
            found |= {reply.json()["worker"] for reply in many(16, lambda _: httpx2.get(f"{gateway.url}/health", headers={"authorization": f"Bearer {key}"}))}
    return found


def test_budgets_rates_trails_and_metrics_are_those_of_all_workers(serving: tuple[Gateway, Provider], keys: list[str]) -> None:
    gateway, _ = serving
    assert len(workers(gateway, keys[0])) == 2
    assert {line.partition(" ")[0] for line in gateway.lines if "workers" in line} == {"serving"}
    poor = [reply.status_code for reply in many(100, lambda i: ask(gateway, keys[1], f"poor {i}"))]
    paid = poor.count(200)
    assert set(poor) <= {200, 402, 429}
    assert 0 < paid * 0.000016 <= 0.0012
    slow = many(30, lambda i: ask(gateway, keys[2], f"slow {i}"))
    assert [reply.status_code for reply in slow].count(200) == 10
    assert {int(reply.headers["retry-after"]) for reply in slow if reply.status_code == 429} <= set(range(1, 7))
    trails = [reply.headers["x-cascade-trail-id"] for reply in slow if reply.status_code == 200]
    told = many(20, lambda i: httpx2.get(f"{gateway.url}/v1/cascade/trails/{trails[i % 10]}", headers={"authorization": f"Bearer {keys[2]}"}))
    assert {reply.status_code for reply in told} == {200}
    pages = [reply.text for reply in many(8, lambda _: httpx2.get(f"{gateway.url}/metrics", headers={"authorization": f"Bearer {keys[0]}"}))]
    counted = {re.findall(r'cascade_requests_total\{policy="chat",status="accepted",tier="small"\} (\S+)', page)[0] for page in pages}
    assert counted == {f"{paid + 10}.0"}


def test_equal_requests_at_once_are_paid_once_whichever_worker_has_them(serving: tuple[Gateway, Provider], keys: list[str]) -> None:
    gateway, provider = serving
    before = provider.asked
    provider.hold()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, gateway, keys[0], "the same") for _ in range(12)]
        assert provider.came.acquire(timeout=10)
        provider.open.set()
        replies = [one.result() for one in asked]
    assert provider.asked == before + 1
    assert len({reply.json()["choices"][0]["message"]["content"] for reply in replies}) == 1
    assert sorted(reply.headers["x-cascade-cost-usd"] for reply in replies)[-1] == "0.000016"


def test_a_record_of_one_worker_is_the_other_ones_answer(serving: tuple[Gateway, Provider], keys: list[str]) -> None:
    gateway, provider = serving
    before = provider.asked
    replies = many(16, lambda _: ask(gateway, keys[0], "once", **{"idempotency-key": "k"}))
    assert {(reply.status_code, reply.headers["x-cascade-trail-id"]) for reply in replies} == {(200, replies[0].headers["x-cascade-trail-id"])}
    assert provider.asked == before + 1


def test_a_killed_worker_is_started_again_and_what_it_asked_is_asked_by_another(serving: tuple[Gateway, Provider], keys: list[str]) -> None:
    gateway, provider = serving
    before = workers(gateway, keys[0])
    provider.hold()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, gateway, keys[0], "killed") for _ in range(8)]
        assert provider.came.acquire(timeout=10)
        os.kill(min(before), signal.SIGKILL)
        provider.open.set()
        ends = [one.exception() or one.result().status_code for one in asked]
    assert {end if isinstance(end, int) else type(end).__name__ for end in ends} <= {200, "ReadError", "RemoteProtocolError"}
    after = workers(gateway, keys[0])
    assert (len(after), min(before) in after, max(before) in after) == (2, False, True)
    assert any(f"worker {min(before)} died (exit code -9); another is started" in line for line in gateway.lines)
    assert ask(gateway, keys[0], "killed").status_code == 200


def gone(pids: set[int]) -> bool:
    ends = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in pids):
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def test_sigterm_finishes_what_is_in_flight_and_a_killed_parent_takes_its_workers_with_it(serving: tuple[Gateway, Provider], keys: list[str]) -> None:
    gateway, provider = serving
    found = workers(gateway, keys[0])
    provider.hold()
    replies: list[Any] = []
    asking = threading.Thread(target=lambda: replies.append(ask(gateway, keys[0], "last")))
    asking.start()
    assert provider.came.acquire(timeout=10)
    gateway.process.send_signal(signal.SIGTERM)
    while True:
        try:
            httpx2.get(f"{gateway.url}/health")
        except httpx2.TransportError:
            break
    provider.open.set()
    asking.join()
    assert [reply.status_code for reply in replies] == [200]
    assert gateway.process.wait(30) == 0
    assert gone(found)
    gateway.start()
    found = workers(gateway, keys[0])
    gateway.process.kill()
    assert gone(found)
