"""How a gateway is: what monitors, breakers, certificates, reloads and the store have to say, in one look that costs no call."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from cascade import thresholds
from cascade.app import Cascade
from cascade.errors import InputError
from cascade.gateway.keys import Keys
from cascade.gateway.reload import Reload
from cascade.gateway.served import Served
from cascade.gateway.state import State
from cascade.monitor.live import Monitor
from cascade.monitor.observe import DIFFERS
from cascade.types import Json, Policy

FRESH = 1.0
"""Seconds that a look is shown again."""


class Health:
    """The health of one worker process."""

    def __init__(self, policies: Served, state: State, keys: Keys | None, reload: Reload | None) -> None:
        self._policies, self._state, self._keys, self._reload = policies, state, keys, reload
        self._seen: dict[str, Json] = {}
        self._until = 0.0

    def look(self) -> dict[str, Json]:
        """`status` ok or degraded, the `problems` that make it so, and of each policy what there is to know."""
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + FRESH
            policies = {name: self._policy(name, cascade) for name, cascade in self._policies.items()}
            problems = [f"{name}: {problem}" for name, one in policies.items() for problem in _problems(one)]
            if self._keys is not None and self._keys.problem:
                problems.append(f"keys: {self._keys.problem}")
            if self._state.problem is not None:
                problems.append(f"state: {self._state.problem}")
            self._seen = {"status": "degraded" if problems else "ok", "problems": problems, "worker": os.getpid(),
                          "state": {"folder": str(self._state.folder), "error": self._state.problem}, "policies": policies}
        return self._seen

    def _policy(self, name: str, cascade: Cascade) -> dict[str, Json]:
        policy, monitor = cascade.policy, cascade.monitor
        now = policy if monitor is None else monitor.policy
        problem = None if self._reload is None or name not in self._reload.sources else self._reload.sources[name].problem
        return {"label": cascade.label, "digest": policy.digest[:12], "serves": f"{now.name}@{now.digest[:6]}", "alarm": cascade.alarm,
                "certificate": _certificate(policy), "audits": None if monitor is None else _audits(monitor), "breakers": cascade.breakers,
                "reload": {"error": problem}}  # fmt: skip


def _problems(policy: dict[str, Json]) -> list[str]:
    found = [] if policy["alarm"] is None else [policy["alarm"]]
    if policy["reload"]["error"] is not None:
        found.append(f"reload: {policy['reload']['error']}")
    return found + [f"{model} is not asked for a while: it failed too often" for model, state in policy["breakers"].items() if state == "open"]


def _certificate(policy: Policy) -> dict[str, Json] | None:
    """The thresholds file of a calibrated policy, its age in seconds, and what it promises."""
    if policy.watch is None:
        return None
    file = Path(policy.watch.file)
    told: dict[str, Json] = {"file": file.name, "age_seconds": None, "says": None, "step": policy.watch.step}
    with suppress(OSError, InputError):
        told["age_seconds"] = round(time.time() - file.stat().st_mtime)
        told["says"] = thresholds.loads(file.read_bytes()).statement
    return told


def _audits(monitor: Monitor) -> dict[str, Json] | None:
    """How many answers were held against the last tier's, what share of them differed, and the most that was expected."""
    step = None if monitor.policy.watch is None else monitor.policy.watch.step
    with suppress(sqlite3.Error):
        for line in monitor.lines():
            if (line.step, line.name) == (step, DIFFERS):
                return {"counted": line.n, "differ": line.mean, "most": line.high}
    return None
