"""The monitor of a calibrated policy: counts its requests, sounds the alarm, and says which policy of the chain serves.

It never fails a request: a state that cannot be read or written is told once, and from then on this process counts for itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cascade.monitor.observe import DIFFERS
from cascade.monitor.state import LAST_PATIENCE, PATIENCE, Alarm, Batch, Counts, Names
from cascade.types import Expected, Policy

log = logging.getLogger("cascade.monitor")

EVERY = 1.0
"""Seconds between looks at what other processes counted, and the longest that a count waits to be written; audits do not wait."""
MANY = 100
"""So many requests are written together at most."""
MEMORY = ":memory:"
_left_alone: list[Counts | None] = []
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@dataclass(frozen=True, slots=True)
class Line:
    """One number of one step, for people and programs: how often counted, its mean, what calibration saw, the interval it is held against,
    the evidence that it is outside (an e-value), that at which the alarm sounds, and whether it did."""

    step: int
    name: str
    n: int
    mean: float | None
    calibrated: float
    low: float
    high: float
    evidence: float
    alarm_at: float
    alarm: bool


class Monitor:
    """The traffic of one calibrated policy. `policy` is the one of the chain that serves now, `alarm` what rows and people are told.

    `path` is the file of the state, shared by processes; MEMORY keeps it in this one, and is what becomes of a file that cannot be used.
    ValueError for a policy that has no watch.
    """

    def __init__(self, policy: Policy, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        if policy.watch is None:
            raise ValueError(f"{policy.name} has no thresholds: there is nothing to hold its traffic against")
        self.chain = tuple(_chain(policy))
        self.policy = policy
        self.alarm: str | None = None
        self._source = policy.watch.source
        self._expected: dict[Names, Expected] = {
            (one.watch.step, name): expected for one in self.chain if one.watch is not None and one.watch.step is not None
            for name, expected in one.watch.expected.items()}
        self._clock, self._lock = clock, threading.Lock()
        self._batches: dict[Names, Batch] = {}
        self._trials: dict[tuple[int, bytes], float] = {}
        self._waiting, self._next, self._version = 0, 0.0, -1
        self._sounded: dict[Names, Alarm] = {}
        self._before: dict[Names, Alarm] = {}  # what sounded before the file could not be used any more
        self.path = path
        self._counts: Counts | None = None
        self._process = os.getpid()
        self.look()

    # ------------------------------------------------------------ one request

    def serving(self) -> Policy:
        """The policy that serves; looks at what others counted once in a while."""
        if self._clock() >= self._next:
            self.look()
        return self.policy

    def add(self, policy: Policy, numbers: Mapping[str, float], differs: bool | None, key: bytes) -> None:
        """Count one request that `policy`, one of the chain, served: its `numbers` by the names of `observe`, and whether the ladder's
        answer differs from the last tier's, None where that is not known. A request with the same `key` tells that only once."""
        step = policy.watch.step if policy.watch is not None else None
        if step is None:
            return
        with self._lock:
            self._after_fork()
            for name, x in numbers.items():
                expected = self._expected.get((step, name))
                if expected is not None:
                    batch = self._batches.get((step, name))
                    if batch is None:
                        batch = self._batches[step, name] = Batch.of(expected)
                    batch.add(x)
            self._waiting += 1
            tells = differs is not None and (step, DIFFERS) in self._expected
            if tells:
                self._trials[step, key] = float(bool(differs))
        if tells or self._waiting >= MANY:
            self.look()

    # ------------------------------------------------------------ the state

    def look(self) -> None:
        """Write what waits, and see what this and other processes found."""
        with self._lock:
            self._after_fork()
            self._next = self._clock() + EVERY
            try:
                self._exchange()
            except sqlite3.Error as err:
                if getattr(err, "sqlite_errorcode", 0) & 0xFF not in _BUSY:
                    self._alone(err)

    def _after_fork(self) -> None:
        """What waits is the parent's to write; and SQLite forbids to use, or to close, what the parent opened."""
        if self._process != os.getpid():
            _left_alone.append(self._counts)
            self._counts, self._process, self._version = None, os.getpid(), -1
            self._batches, self._trials, self._waiting = {}, {}, 0

    def _exchange(self) -> None:
        wrote = self._write()
        version = self._open().version()
        if wrote or version != self._version:
            self._version = version
            self._sounded = self._before | self._open().alarms()
            self._stand()

    def _open(self) -> Counts:
        if self._counts is None:
            self._counts = Counts(self.path, self._source)
        return self._counts

    def _write(self) -> bool:
        if not self._batches and not self._trials:
            return False
        self._open().write(self._batches, self._trials, DIFFERS, self._expected)
        self._batches, self._trials, self._waiting = {}, {}, 0
        return True

    def _stand(self) -> None:
        """Down the chain as far as alarms of loss go; what is told are the last step back and the drift of what serves now."""
        told: list[str] = []
        policy = self.chain[0]
        for policy, safer in zip(self.chain, (*self.chain[1:], None), strict=True):
            step = policy.watch.step if policy.watch is not None else None
            alarm = self._sounded.get((step, DIFFERS)) if step is not None else None
            if alarm is None:
                break
            told = [_loss(policy, safer, alarm, self._expected[step or 0, DIFFERS])]
            if safer is None:
                break
        told += [_drift(name, alarm, self._expected[step, name]) for (step, name), alarm in self._sounded.items()
                 if policy.watch is not None and step == policy.watch.step and name != DIFFERS and (step, name) in self._expected]
        text = "; ".join(told) or None
        if text is not None and text != self.alarm:
            log.warning("%s: %s", policy.name, text)
        self.policy, self.alarm = policy, text

    def _alone(self, err: sqlite3.Error) -> None:
        log.warning("the monitor's state in %s cannot be used (%s: %s); this process counts for itself", self.path, type(err).__name__, err)
        self._shut()
        self.path, self._before = MEMORY, self._sounded

    def _shut(self) -> None:
        if self._counts is not None:
            self._counts.close()
        self._counts, self._version = None, -1

    def lines(self) -> list[Line]:
        """All that is counted, of every step, the one loaded first."""
        self.look()
        return [self._line(names, expected) for names, expected in self._expected.items()]

    def _line(self, names: Names, expected: Expected) -> Line:
        state = self._open().state(*names)
        n = state.n if state else 0
        return Line(*names, n, state.total / n if state and n else None, expected.mean, expected.low, expected.high,
                    state.evidence if state else 1.0, 1 / expected.error, names in self._sounded)

    def reset(self) -> None:
        """Forget all counts and alarms, for every process: the policy serves as calibrated again. sqlite3.Error when that cannot be."""
        with self._lock:
            self._batches, self._trials, self._before, self._version = {}, {}, {}, -1
            self._open().patience(LAST_PATIENCE)
            self._open().reset()
            self._open().patience(PATIENCE)
        self.look()

    def close(self) -> None:
        """Write what waits. Counting again opens the file again; what is in memory only is gone."""
        if self._counts is None and not self._batches and not self._trials:
            return
        with contextlib.suppress(sqlite3.Error):  # `look` tells
            self._open().patience(LAST_PATIENCE)
        self.look()
        with self._lock:
            self._shut()


def state_file(policy: Policy) -> str:
    """Where the state of a calibrated policy is: NAME.thresholds.json -> NAME.thresholds.monitor, beside it."""
    assert policy.watch is not None
    return str(Path(policy.watch.file).with_suffix(".monitor"))


def _chain(policy: Policy) -> Iterator[Policy]:
    here: Policy | None = policy
    while here is not None:
        yield here
        here = here.safer


def _loss(policy: Policy, safer: Policy | None, alarm: Alarm, expected: Expected) -> str:
    last = policy.tiers[-1].name
    counts = f"{alarm.total:.0f} of {alarm.n} requests held against {last} differ, at most {_percent(expected.high)} were expected"
    if safer is None or safer.watch is None:
        return f"answers differ and nothing safer is certified: {counts}"
    where = f"always {last}" if safer.watch.step is None else f"step {safer.watch.step} of {Path(safer.watch.file).name}"
    return f"stepped back to {where}: {counts}"


def _drift(name: str, alarm: Alarm, expected: Expected) -> str:
    return (f"drift of {name}: {_percent(alarm.total / alarm.n)} of {alarm.n}, {_percent(expected.low)} to {_percent(expected.high)} "
            "were expected")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
