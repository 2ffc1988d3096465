"""Policies that change while they are served: what is watched, what a spoilt file does, and who finishes on which policy."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import gateway_process
import httpx2
import pytest

from cascade import Cascade
from cascade.errors import PolicyError
from cascade.gateway.reload import RETRY, Reload, Source, stamp
from cascade.gateway.served import Served
from cascade.policy import load

HEAD = "version: 1\nname: echo\nproviders: {p: {kind: scripted, replies: {m: said}}}\ncache: {backend: off}\ntiers: [p/m]\n"
POLICY = HEAD + "prompt: a.j2\nsystem: 'Be brief. {% include \"b.j2\" %}'\nschema: s.json\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "a.j2").write_text("{% include 'sub/c.j2' %}{{ text }}")
    (tmp_path / "b.j2").write_text("Always.")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.j2").write_text("Say: ")
    (tmp_path / "s.json").write_text("true")
    (tmp_path / "echo.yaml").write_text(POLICY)
    return tmp_path / "echo.yaml"


def test_the_loader_says_what_it_read(policy: Path) -> None:
    files: set[str] = set()
    load(str(policy), files=files)
    assert {os.path.relpath(file, policy.parent) for file in files} == {"echo.yaml", "a.j2", "b.j2", "sub/c.j2", "s.json"}
    policy.write_text(POLICY + "thresholds: t.json\n")
    files.clear()
    with pytest.raises(PolicyError):
        load(str(policy), files=files)
    assert str(policy.parent / "t.json") in files, "also what is not there"


@pytest.mark.parametrize("file", ["echo.yaml", "a.j2", "b.j2", "sub/c.j2", "s.json"])
@pytest.mark.parametrize("how", ["written", "renamed", "removed"])
def test_each_of_its_files_is_watched(policy: Path, file: str, how: str) -> None:
    source = Source(str(policy))
    source.load()
    assert not source.changed()
    path = policy.parent / file
    if how == "written":
        path.write_text(path.read_text() + "\n")
    elif how == "renamed":
        (policy.parent / "new").write_bytes(path.read_bytes())
        os.utime(policy.parent / "new", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
        (policy.parent / "new").rename(path)
    else:
        path.unlink()
    assert source.changed()


def test_a_link_that_is_turned_is_seen(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("one")
    before = stamp(str(tmp_path / "link"))
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "link")
    assert stamp(str(tmp_path / "link")) != before
    assert stamp(str(tmp_path / "none")) == ()


def test_a_spoilt_policy_is_read_again_though_what_it_lacks_was_never_named(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(str(policy))
    (policy.parent / "b.j2").unlink()
    with pytest.raises(PolicyError):
        source.load()
    source.problem = "b.j2 is missing"
    (policy.parent / "b.j2").write_text("Always.")
    assert not source.changed()
    later = time.monotonic() + RETRY
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert source.changed()
    assert source.load().name == "echo"


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_change_is_served_a_spoilt_file_is_not_and_one_in_flight_ends_as_it_began(tmp_path: Path) -> None:
    with gateway_process.providing() as provider, gateway_process.running(tmp_path, provider) as gateway:
        def health() -> dict[str, object]:
            found: dict[str, object] = httpx2.get(f"{gateway.url}/health").json()
            return found

        def label() -> str:
            return str(health()["policies"]["chat"]["label"])  # type: ignore[index]

        text, first = gateway.policy.read_text(), label()
        assert (health()["status"], health()["problems"]) == ("ok", [])
        provider.hold()
        with gateway.client() as client:
            stream = client.chat.completions.create(model="chat", messages=gateway_process.QUESTION, stream=True)
            assert provider.came.acquire(timeout=10)
            gateway.policy.write_text(text.replace("max_tokens: 100", "max_tokens: 200"))
            until(lambda: label() != first)
            provider.open.set()
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "answer 1"
        assert gateway.events(1)[-1]["policy"] == first
        second = label()
        gateway.policy.write_text(text + "tires: []\n")
        until(lambda: health()["status"] == "degraded")
        wrong = f"{gateway.policy}:10:1: tires: unknown key, did you mean \"tiers\"?"
        assert health()["problems"] == [f"chat: reload: {wrong}"]
        with gateway.client() as client:
            assert client.chat.completions.create(model="chat", messages=gateway_process.QUESTION).choices[0].message.content == "answer 2"
        assert gateway.events(2)[-1]["policy"] == second
        page = httpx2.get(f"{gateway.url}/metrics").text
        assert 'cascade_policy_spoilt{policy="chat"} 1.0' in page
        assert 'cascade_reloads_total{policy="chat",result="loaded"} 1.0' in page
        gateway.policy.write_text(text)
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: (health()["status"], label()) == ("ok", first))
        told = [f"loaded chat anew: {second}", f"{wrong}; chat is served as it was", f"loaded chat anew: {first}"]
        until(lambda: len(gateway.lines) >= 6)
        assert [line for line in gateway.lines if not line.startswith("{")][1:] == told


def test_a_policy_keeps_its_name_while_it_is_served(policy: Path) -> None:
    source = Source(str(policy))
    served = Served({"echo": Cascade(source.load())})
    before = served["echo"]
    told: list[tuple[str, bool]] = []

    async def go() -> None:
        reload = Reload({"echo": source})
        running = asyncio.ensure_future(reload.run(served.swap, lambda name, well: told.append((name, well))))
        policy.write_text(POLICY.replace("name: echo", "name: other"))
        reload.ask()
        while not told:
            await asyncio.sleep(0.005)
        assert (source.problem, served["echo"]) == (f"{policy}: its name was echo and is now other: start the gateway anew for that", before)
        policy.write_text(POLICY)
        reload.ask()
        while len(told) < 2:
            await asyncio.sleep(0.005)
        running.cancel()
        assert (told, source.problem) == ([("echo", False), ("echo", True)], None)
        assert served["echo"] is not before
        await served.close()

    asyncio.run(go())


def test_the_old_policy_is_closed_after_its_last_request(policy: Path) -> None:
    closed: list[str] = []

    class Watched(Cascade):
        async def aclose(self) -> None:
            closed.append(self.policy.name)
            await super().aclose()

    async def go() -> None:
        old, new = (Watched(load(str(policy))) for _ in range(2))
        served = Served({"echo": old})
        with served.using(old):
            with served.using(old):
                served.swap("echo", new)
            await asyncio.sleep(0)
            assert closed == []
        await asyncio.sleep(0)
        assert closed == ["echo"]
        with served.using(old):  # one that had waited with it in hand
            pass
        await served.close()
        assert closed == ["echo"] * 3

    asyncio.run(go())


