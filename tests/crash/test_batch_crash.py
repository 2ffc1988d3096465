"""Runs by batches killed at every write and sync and at every request, and on failing disks: no batch is submitted twice, no row differs."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import batch_stub
import pytest
from batch_stub import BatchStub
from crashing import SECONDS, Runner

ROWS = 4
ARGS = ["run", "order.yaml", "in.jsonl", "-o", "out.jsonl", "--engine", "batch"]
BATCHES, MIXED = "[o/small, a/big]", "[live/small, a/big]"


@pytest.fixture(scope="module")
def server() -> Iterator[BatchStub]:
    with batch_stub.running() as running:
        yield running


class Crash:
    """One folder, one ladder on the server, one input; rows 1 and 3 climb."""

    def __init__(self, folder: Path, server: BatchStub, runner: Runner, tiers: str) -> None:
        self.folder, self.server, self.runner = folder, server, runner
        folder.mkdir()
        (folder / "order.yaml").write_text(f"""version: 1
name: order
prompt: "Extract. {{{{ text }}}}"
schema: {{type: object, properties: {{item: {{type: string}}}}, required: [item], additionalProperties: false}}
cache: {{backend: "off"}}
defaults: {{retries: 0}}
providers:
  o: {{kind: openai, base_url: "{server.url}/v1", capabilities: {{batch: true}}}}
  a: {{kind: anthropic, base_url: "{server.url}", capabilities: {{batch: true}}}}
  live: {{kind: openai, base_url: "{server.url}/v1"}}
pricing: {{o/small: {{input: 1, output: 1, batch: 0.5}}, a/big: {{input: 10, output: 10, batch: 0.5}}, live/small: {{input: 1, output: 1}}}}
tiers: {tiers}
""")
        (folder / "in.jsonl").write_text("".join(f'{{"id": "r{n}", "text": "<{n}>"}}\n' for n in range(ROWS)))
        server.reset()
        server.says = lambda model, prompt: '{"thing": 1}' if model == "small" and re.search("<[13]>", prompt) else '{"item": "tea"}'

    def go(self, fault: str = "count", at: int = 0, *more: str) -> tuple[int, int | None, str]:
        """Exit code, number of writes and syncs, and stderr of a run."""
        self.runner.start(fault, at, [*ARGS, *more], self.folder)
        return self.runner.end()

    def killed_at_request(self, n: int, when: str) -> int:
        """A run that is killed when the server hears its n-th request, before or after it acts on it. The exit code."""
        found: list[int] = []

        def cut_off(count: int, _: str) -> str:
            if count != n:
                return ""
            while not found:  # the pid is known a moment later than the first request may come
                pass
            os.kill(found[0], signal.SIGKILL)
            return when

        self.server.cut_off = cut_off
        found.append(self.runner.start("count", 0, ARGS, self.folder))
        code, _, _ = self.runner.end()
        self.server.cut_off = lambda n, path: ""
        return code

    def lines(self) -> list[bytes]:
        return SECONDS.sub(b'"seconds":0', (self.folder / "out.jsonl").read_bytes()).splitlines()

    def gone_on(self, right: list[bytes]) -> int:
        """Go on and check. How many rows were in doubt for a live call that was cut off."""
        code, _, err = self.go()
        doubtful = sum(json.loads(line)["status"] == "in_doubt" for line in self.lines())
        assert code == (3 if doubtful else 0), err
        assert max((self.server.charged + self.server.live).values(), default=0) <= 1, "paid twice"
        if doubtful:
            code, _, err = self.go("count", 0, "--in-doubt", "retry")
            assert code == 0, err
        assert self.lines() == right
        assert max(self.server.charged.values()) == 1, "paid twice by batch"
        assert max(self.server.live.values(), default=0) <= (2 if doubtful else 1)
        return doubtful


@pytest.fixture(scope="module", params=[BATCHES, MIXED])
def ladder(request: pytest.FixtureRequest, server: BatchStub, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int, list[str], list[bytes]]:
    """A ladder with the number of writes and syncs and the requests of a run that nothing happens to, and its output."""
    crash = Crash(tmp_path_factory.mktemp("whole") / "run", server, runner, request.param)
    code, calls, err = crash.go()
    assert (code, len(crash.lines())) == (0, ROWS), err
    assert calls is not None
    return request.param, calls, list(server.paths), crash.lines()


FAULTS = ("kill", "torn", "after")


def test_killed_at_writes_and_syncs(server: BatchStub, runner: Runner, ladder: tuple[str, int, list[str], list[bytes]], tmp_path: Path) -> None:
    tiers, calls, _, right = ladder
    for number, at in enumerate(range(1, calls + 1, 4)):
        crash = Crash(tmp_path / str(at), server, runner, tiers)
        code, _, err = crash.go(FAULTS[number % len(FAULTS)], at)
        assert code in (-signal.SIGKILL, 0), err  # how many syncs rows share is chance: the last write may not come
        assert crash.gone_on(right) <= (ROWS if tiers == MIXED else 0)


def test_killed_at_every_request_before_or_after_it_has_its_effect(
    server: BatchStub, runner: Runner, ladder: tuple[str, int, list[str], list[bytes]], tmp_path: Path
) -> None:
    tiers, _, requests, right = ladder
    doubtful = []
    for n in range(1, len(requests) + 1):
        for when in ("before", "after") if requests[n - 1].startswith("POST") else ("before",) if n % 2 else ():
            crash = Crash(tmp_path / f"{n}{when}", server, runner, tiers)
            assert crash.killed_at_request(n, when) == -signal.SIGKILL
            doubtful.append(crash.gone_on(right))
    assert (max(doubtful) > 0) == (tiers == MIXED)


def test_killed_again_and_again(server: BatchStub, runner: Runner, ladder: tuple[str, int, list[str], list[bytes]], tmp_path: Path) -> None:
    tiers, calls, _, right = ladder
    if tiers == MIXED:
        return  # rows in doubt are another test
    crash = Crash(tmp_path / "run", server, runner, tiers)
    deaths = 0
    for at in range(4, calls, 3):
        deaths += crash.go("after", at)[0] == -signal.SIGKILL
    assert deaths > 3
    crash.gone_on(right)


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO-on"])
def test_a_disk_that_fails_is_one_line_and_the_run_can_be_gone_on_with(
    fault: str, server: BatchStub, runner: Runner, ladder: tuple[str, int, list[str], list[bytes]], tmp_path: Path
) -> None:
    tiers, calls, _, right = ladder
    for at in range(2, calls + 1, 9):
        crash = Crash(tmp_path / str(at), server, runner, tiers)
        code, _, err = crash.go(fault, at)
        assert code in (0, 2, 3), err
        assert "Traceback" not in err, err
        assert "never retrieved" not in err, err
        crash.gone_on(right)
