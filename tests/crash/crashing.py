"""Runs of `cascade run` that are cut off, gone on with by the same command, and held against what the server was charged for."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stub

ROOT = Path(__file__).parent.parent.parent
ROWS, MANY = 10, 40
"""Rows of a run with a fault, and of one that is killed KILLS times at random."""
KILLS = 5
CONCURRENCY = 3
SECONDS = re.compile(rb'"seconds":[0-9.e-]+')


class Runner:
    """`faulty.py`: starts runs, one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("faulty.py"))], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, bufsize=0, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def start(self, fault: str, at: int, args: Sequence[str], cwd: Path) -> int:
        """The pid of a run."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"fault": fault, "at": at, "args": args, "cwd": str(cwd)}).encode() + b"\n")
        return int(self._read()["pid"])

    def ended(self) -> bool:
        """Whether the run that was started has ended."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def end(self) -> tuple[int, int | None, str]:
        """Exit code (negative: the signal), number of writes and syncs, and stderr of the run that was started."""
        told = self._read()
        return told["code"], told["calls"], told["err"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        self.process.communicate()


@dataclass
class Crash:
    """One folder, one policy on the stub, one input of `rows` rows."""

    folder: Path
    server: stub.Stub
    runner: Runner
    rows: int = ROWS

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "order.yaml").write_text(f"""version: 1
name: order
prompt: "Extract the order. {{{{ text }}}}"
schema: {{type: object, properties: {{item: {{type: string}}}}, required: [item], additionalProperties: false}}
cache: {{backend: "off"}}
defaults: {{retries: 0}}
providers: {{here: {{kind: openai, base_url: "{self.server.url}/v1"}}}}
pricing: {{here/small: {{input: 1, output: 1}}}}
tiers: [here/small]
""")
        (self.folder / "in.jsonl").write_text("".join(f'{{"id": "r{n}", "text": "<{n}>"}}\n' for n in range(self.rows)))
        self.server.will()
        self.server.default = stub.chat('{"item": "tea"}')

    @property
    def out(self) -> Path:
        return self.folder / "out.jsonl"

    def start(self, fault: str = "count", at: int = 0, *more: str) -> int:
        """The pid of the command."""
        args = ["run", "order.yaml", "in.jsonl", "-o", "out.jsonl", "--concurrency", str(CONCURRENCY), *more]
        return self.runner.start(fault, at, args, self.folder)

    def go(self, fault: str = "count", at: int = 0, *more: str) -> tuple[int, int | None, str]:
        """Exit code, number of writes and syncs, and stderr of a whole run."""
        self.start(fault, at, *more)
        return self.runner.end()

    def charges(self) -> Counter[str]:
        """How often the server read a request for each row."""
        return Counter("r" + re.findall(r"<(\d+)>", request.raw.decode())[0] for request in self.server.requests)

    def lines(self) -> list[bytes]:
        """The output without its measured seconds, which no two runs share."""
        return SECONDS.sub(b'"seconds":0', self.out.read_bytes()).splitlines(keepends=True)


def whole(crash: Crash) -> int:
    """A run that nothing happens to: its number of writes and syncs."""
    code, calls, err = crash.go()
    assert code == 0, err
    assert calls is not None
    return calls


def gone_on(crash: Crash, right: list[bytes], crashes: int = 1) -> int:
    """Go on after so many crashes and check: with hold nothing lost, doubled or paid twice; with retry the output of a whole run. How many were in doubt."""
    code, _, err = crash.go()
    found = crash.lines()
    statuses = [json.loads(line)["status"] for line in found]
    doubtful = statuses.count("in_doubt")
    assert code == (3 if doubtful else 0), err
    assert len(found) == len(right), f"{len(right)} rows, {len(found)} in the output"
    assert all(a == b for a, b, status in zip(found, right, statuses, strict=True) if status != "in_doubt")
    assert [json.loads(line)["id"] for line in found] == [json.loads(line)["id"] for line in right]
    assert doubtful <= crashes * CONCURRENCY
    charges = crash.charges()
    assert max(charges.values()) == 1, f"paid twice: {charges}"
    assert all(charges[json.loads(line)["id"]] == 1 for line, status in zip(found, statuses, strict=True) if status != "in_doubt")
    if doubtful:
        code, _, err = crash.go("count", 0, "--in-doubt", "retry")
        assert code == 0, err
    assert crash.lines() == right
    assert max(crash.charges().values()) <= 2
    return doubtful


def faulted(crash: Crash, fault: str, at: int, right: list[bytes]) -> int:
    """A run with a fault, gone on with. How many rows were in doubt."""
    code, calls, err = crash.go(fault, at)
    assert "Traceback" not in err, err
    assert code in (-signal.SIGKILL, 2, 3) or (calls is not None and code == 0), err
    return gone_on(crash, right)


def killed_at_random(crash: Crash, right: list[bytes], chance: random.Random) -> tuple[int, int]:
    """A run killed by another process, at any moment from its first request to its end, again and again until it ends or was killed KILLS
    times, and gone on with. How often it was killed, and how many rows were in doubt."""
    kills = 0
    while kills < KILLS:
        asked = len(crash.server.requests)
        pid = crash.start()
        while len(crash.server.requests) == asked and not crash.runner.ended():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if crash.runner.end()[0] != -signal.SIGKILL:
            break
        kills += 1
    return kills, gone_on(crash, right, kills)


def killed_times(folder: Path, server: stub.Stub, runner: Runner, times: int, chance: random.Random) -> tuple[int, int]:
    """So many kills at random, and more to the end of the last run. How many, and how many rows were in doubt."""
    first = Crash(folder / "whole", server, runner, MANY)
    whole(first)
    right, kills, doubtful = first.lines(), 0, 0
    while kills < times:
        more, rows = killed_at_random(Crash(folder / str(kills), server, runner, MANY), right, chance)
        kills, doubtful = kills + more, doubtful + rows
    return kills, doubtful
