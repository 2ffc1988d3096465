"""Starts, finds and stops the local model servers: one process a model, on 127.0.0.1 only."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cascade.local.models import LADDER, LocalError, LocalModel, home, models

READY_WITHIN = 120.0
"""Seconds a server may take to load its model; on a quiet machine it takes two."""

GRACE = 5.0
"""Seconds between TERM and KILL."""

_SERVER = Path(__file__).with_name("serve_one.py")
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Servers started by this process, kept so that they can be reaped."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. `url` is its address; the OpenAI SDK wants `url + "/v1"`, the Anthropic SDK `url` itself."""

    name: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def start(names: Iterable[str] | None = None, ports: Mapping[str, int] | None = None) -> list[Running]:
    """Starts the servers of these models (all by default) and waits until they answer; those that run already are left alone.

    They outlive this process: see `stop`. `ports` by name; left out, each listens where the shipped policies look for it.
    Raises LocalError: weights not fetched, no server installed, port taken.
    """
    wanted, chosen = models(names), dict(ports or {})
    _check(wanted)
    there = {one.name: one for one in status()}
    for one in wanted:
        if one.name in there and chosen.get(one.name, there[one.name].port) not in (0, there[one.name].port):
            raise LocalError(f"{one.name} already runs on port {there[one.name].port}; stop it first: cascade local stop")
    missing = [one for one in wanted if one.name not in there]
    fresh = _launch(missing, {one.name: chosen.get(one.name, one.port) for one in missing}, keep=True)
    return [there.get(one.name) or fresh[one.name] for one in wanted]


def status() -> list[Running]:
    """The servers that `start` left running, smallest model first."""
    return [one for one in map(_running, LADDER) if one is not None]


def stop(names: Iterable[str] | None = None) -> list[Running]:
    """Ends the running servers of these models (all by default): TERM, after five seconds KILL. Returns what was stopped."""
    wanted = {one.name for one in models(names)}
    ended = [one for one in status() if one.name in wanted]
    _end(one.pid for one in ended)
    return ended


@contextmanager
def ladder(names: Iterable[str] | None = None, ports: Mapping[str, int] | None = None) -> Iterator[dict[str, Running]]:
    """The running servers by name, for the length of a `with` block.

    Those that `start` left running on the wanted port are used and left; the rest are started here, end with the block, and end
    with this process if it is killed. Port 0 always gives a server of its own on a free port.
    """
    wanted = models(names)
    _check(wanted)
    chosen = {one.name: (ports or {}).get(one.name, one.port) for one in wanted}
    there = {one.name: one for one in status() if chosen.get(one.name) == one.port}
    fresh = _launch([one for one in wanted if one.name not in there], chosen, keep=False)
    try:
        yield {one.name: there.get(one.name) or fresh[one.name] for one in wanted}
    finally:
        _end(one.pid for one in fresh.values())


# ---------------------------------------------------------------- one server


def _check(wanted: Iterable[LocalModel]) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalError("the local ladder needs its server: pip install 'cascade-judge[local]'")
    missing = [one.name for one in wanted if not one.fetched]
    if missing:
        raise LocalError(f"no weights yet for {', '.join(missing)}: fetch them first with cascade local fetch")


def _launch(wanted: Iterable[LocalModel], ports: Mapping[str, int], *, keep: bool) -> dict[str, Running]:
    """Starts all, then waits for all; if one fails the others are ended."""
    begun = [(one, _spawn(one, ports[one.name], keep=keep)) for one in wanted]
    try:
        return {one.name: _ready(one, child) for one, child in begun}
    except BaseException:
        _end(child.pid for _, child in begun)
        raise


def _spawn(one: LocalModel, port: int, *, keep: bool) -> subprocess.Popen[bytes]:
    folder = _state(one).parent
    folder.mkdir(parents=True, exist_ok=True)
    # -P: the folder of serve_one.py must not become importable, it holds a file named models
    command = [sys.executable, "-P", str(_SERVER), str(one.path), one.name, str(port), str(_state(one)) if keep else "", "0" if keep else "1"]
    with _log(one).open("wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    _children[child.pid] = child
    return child


def _ready(one: LocalModel, child: subprocess.Popen[bytes]) -> Running:
    assert child.stdout is not None
    with child.stdout as pipe:
        heard, _, _ = select.select([pipe], [], [], READY_WITHIN)
        line = pipe.readline() if heard else b""
    if not line:
        why = _last_words(_log(one)) if heard else f"not ready after {READY_WITHIN:.0f} s"
        raise LocalError(f"{one.name} could not be served: {why}; its log is {_log(one)}")
    ready = json.loads(line)
    return Running(one.name, ready["pid"], ready["port"])


def _last_words(log: Path) -> str:
    """The server's first error line, else the last line it wrote."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    errors = [line.partition(" E ")[2].strip() for line in lines if " E " in line]
    return (errors or lines[-1:] or ["it ended without a word"])[0][:300]


def _state(one: LocalModel) -> Path:
    return home() / "local" / f"{one.name}.json"


def _log(one: LocalModel) -> Path:
    return home() / "local" / f"{one.name}.log"


def _running(one: LocalModel) -> Running | None:
    """What the state file says, if the server still holds its lock: a pid alone may be another process by now."""
    try:
        with _state(one).open("r+b") as file:
            if not _held(file.fileno()):
                return None
            ready = json.loads(file.read() or b"null")
    except FileNotFoundError:
        return None
    return Running(one.name, ready["pid"], ready["port"]) if ready else None


def _held(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _end(pids: Iterable[int]) -> None:
    """TERM to all, KILL to those still there after the grace."""
    left = list(pids)
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [pid for pid in left if _alive(pid)]
        for pid in left:
            _signal(pid, number)
        until = time.monotonic() + GRACE
        while any(_alive(pid) for pid in left) and time.monotonic() < until:
            time.sleep(0.02)


def _alive(pid: int) -> bool:
    if pid in _children:
        return _children[pid].poll() is None
    return any(one.pid == pid for one in status())


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself in the meantime
        os.kill(pid, number)
