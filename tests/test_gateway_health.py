"""/health: who is told what, what makes it degraded, and what it says while the gateway drains; and a disk that is full while it serves."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from pathlib import Path
from typing import Any

import gateway_process
import httpx2
import pytest
from test_gateway import CHAT, QUESTION, Serving
from test_gateway_limits import Keyed
from test_monitor import World, calibrated, serve

from cascade import Cascade, thresholds
from cascade.gateway.health import Health
from cascade.gateway.keys import new
from cascade.gateway.served import Served
from cascade.gateway.state import State
from cascade.policy.load import load_text


def test_who_has_no_key_is_told_the_status_alone(tmp_path: Path) -> None:
    serving, keyed = Serving(), Keyed(tmp_path, "")
    try:
        told = [httpx2.get(f"{url}/health", headers=headers).json() for url, headers in (
            (serving.url, {}), (serving.url, {"host": "evil.example"}), (keyed.url, {}), (keyed.url, {"authorization": f"Bearer {keyed.keys[0]}"}))]
    finally:
        serving.close()
        keyed.close()
    assert told[1:3] == [{"status": "ok"}] * 2
    for whole in (told[0], told[3]):
        assert sorted(whole) == ["policies", "problems", "state", "status", "worker"]
        assert sorted(whole["policies"]) == ["chat", "echo", "sums"]
    assert told[0]["policies"]["chat"] | {"label": "", "digest": "", "serves": ""} == {
        "label": "", "digest": "", "serves": "", "alarm": None, "certificate": None, "audits": None, "breakers": {}, "reload": {"error": None}}


def test_an_alarm_a_certificate_and_its_audits_are_told(tmp_path: Path) -> None:
    cascade = Cascade.load(calibrated(tmp_path, "audit: 1\n"), ask=World(0), monitor=str(tmp_path / "m"))
    state = State(tmp_path / "state")
    look = Health(Served({"sums": cascade}), state, None, None)
    fresh = look.look()["policies"]["sums"]
    says = thresholds.loads((tmp_path / "sums.thresholds.json").read_bytes()).statement
    assert (fresh["alarm"], fresh["audits"]["counted"], fresh["audits"]["differ"], fresh["serves"]) == (None, 0, None, cascade.label)
    assert (fresh["certificate"]["file"], fresh["certificate"]["says"]) == ("sums.thresholds.json", says)
    assert 0 <= fresh["certificate"]["age_seconds"] < 60
    serve(cascade, range(200))
    assert look.look()["status"] == "ok", "it is looked at once a second"
    look._until = 0.0
    told = look.look()
    assert told["problems"] == [f"sums: {cascade.alarm}"]
    assert (told["status"], told["policies"]["sums"]["serves"] in cascade.labels - {cascade.label}) == ("degraded", True)
    cascade.close()
    state.close()


def test_a_breaker_that_is_open_is_told(tmp_path: Path) -> None:
    async def go() -> dict[str, Any]:
        cascade = Cascade(load_text(CHAT, "x.yaml"))
        state = State(tmp_path)
        for i in range(5):
            await cascade.arun({"messages": [{"role": "user", "content": f"{i}?"}]})
        told = Health(Served({"chat": cascade}), state, None, None).look()
        await cascade.aclose()
        state.close()
        return told

    told = asyncio.run(go())
    assert told["policies"]["chat"]["breakers"] == {"p/small": "open", "p/big": "open"}
    assert told["problems"] == [f"chat: {model} is not asked for a while: it failed too often" for model in ("p/small", "p/big")]


def test_while_it_drains_it_says_so_and_still_answers_until_the_notice_is_over(tmp_path: Path) -> None:
    with gateway_process.providing() as provider, gateway_process.running(tmp_path, provider, "--notice", "1") as gateway:
        assert httpx2.get(f"{gateway.url}/health").status_code == 200
        gateway.process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + 5
        while (reply := httpx2.get(f"{gateway.url}/health")).status_code == 200:
            assert time.monotonic() < ends
        assert (reply.status_code, reply.json()) == (503, {"status": "draining"})
        with gateway.client() as client:
            assert client.chat.completions.create(model="chat", messages=QUESTION).choices[0].message.content == "answer 1"
        assert gateway.process.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
def test_on_a_full_disk_answers_go_out_but_none_that_could_not_be_paid(tmp_path: Path) -> None:
    (free, free_line), (poor, poor_line) = new("free"), new("poor")
    (tmp_path / "keys.txt").write_text(f"{free_line}\n{poor_line} budget=1/day\n")
    with gateway_process.providing() as provider, gateway_process.running(tmp_path, provider, "--keys", str(tmp_path / "keys.txt")) as gateway:
        def post(key: str, **headers: str) -> tuple[int, str]:
            reply = httpx2.post(f"{gateway.url}/v1/chat/completions", json={"model": "chat", "messages": QUESTION},
                                headers={"authorization": f"Bearer {key}", **headers}, timeout=30)
            return reply.status_code, reply.json().get("error", {}).get("code", "")

        def told() -> Any:
            return httpx2.get(f"{gateway.url}/health", headers={"authorization": f"Bearer {free}"}).json()

        assert post(poor) == (200, "")
        room = max(file.stat().st_size for file in (tmp_path / "state").glob("gateway.db*"))
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))  # as if the disk were full
        ends = time.monotonic() + 20
        while (found := post(poor)) == (200, ""):
            assert time.monotonic() < ends
        asked = provider.asked
        assert found == (503, "state"), "nothing can be set aside, so nothing is asked"
        assert post(free, **{"idempotency-key": "x"}) == (503, "state")
        assert provider.asked == asked
        assert post(free) == (200, "")
        while told()["status"] != "degraded":
            assert time.monotonic() < ends
        assert told()["problems"][0].startswith("state: OperationalError: ")
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert post(poor) == (200, "")
        assert post(free, **{"idempotency-key": "x"}) == (200, "")
        while told()["status"] != "ok":
            assert time.monotonic() < ends
        assert len([line for line in gateway.lines if "cannot write the gateway's state" in line]) == 1
        assert gateway.stop() in (0, -signal.SIGTERM)


