"""What has been counted of a calibrated policy's traffic: one SQLite file beside its thresholds file, shared by processes and runs.

Every change is one transaction, so a process that dies loses what it had not written and spoils nothing. All is keyed by the digest of
the thresholds file: a new certificate starts anew.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

from cascade.monitor import eprocess
from cascade.monitor.eprocess import Bet, State
from cascade.types import Expected

FORMAT = 1
PATIENCE = 20
"""Milliseconds that a request waits for another process's transaction, which takes less than one; then it is counted with a later one."""
LAST_PATIENCE = 5000
"""Milliseconds for what must not be put off: opening, closing, resetting."""
MOST = 1e300
"""Wealth is cut off here, long after the alarm, before it overflows."""

_TABLES = """
CREATE TABLE IF NOT EXISTS counted (source TEXT, step INTEGER, name TEXT, n INTEGER, total REAL, wealth TEXT, PRIMARY KEY (source, step, name));
CREATE TABLE IF NOT EXISTS trial (source TEXT, step INTEGER, key BLOB, PRIMARY KEY (source, step, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alarm (source TEXT, step INTEGER, name TEXT, n INTEGER, total REAL, at REAL, PRIMARY KEY (source, step, name));
"""


@dataclass(slots=True)
class Batch:
    """Numbers not written yet: how many, their total, and what they multiply each bet's wealth by."""

    bets: tuple[Bet, ...]
    factors: list[float]
    n: int = 0
    total: float = 0.0

    @classmethod
    def of(cls, expected: Expected) -> Batch:
        made = eprocess.bets(expected.low, expected.high)
        return cls(made, [1.0] * len(made))

    def add(self, x: float) -> None:
        """One more number in [0, 1]."""
        self.n += 1
        self.total += x
        for i, bet in enumerate(self.bets):
            self.factors[i] *= bet.factor(x)


@dataclass(frozen=True, slots=True)
class Alarm:
    """What was counted when it sounded; `at` in seconds since the epoch."""

    n: int
    total: float
    at: float


Names = tuple[int, str]
"""A step and a name of `monitor.observe`."""


class Counts:
    """The state of one certificate in that file; ":memory:" for this process alone. sqlite3.Error is raised, OperationalError when another
    process is writing; then nothing was changed."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source
        self._db = sqlite3.connect(path, timeout=LAST_PATIENCE / 1000, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")  # a crash of the process loses nothing, of the machine the last moments
            self._open()
            self.patience(PATIENCE)
        except sqlite3.Error:
            self._db.close()
            raise

    def _open(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            self._db.execute("ROLLBACK")
            raise sqlite3.DatabaseError(f"its format is {found}, this version reads {FORMAT}")
        for statement in _TABLES.strip().split("\n"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {FORMAT}")
        self._db.execute("COMMIT")

    def patience(self, milliseconds: int) -> None:
        """How long to wait for other processes."""
        self._db.execute(f"PRAGMA busy_timeout = {milliseconds}")

    def version(self) -> int:
        """Another number whenever another process has written."""
        found: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        return found

    def write(self, batches: Mapping[Names, Batch], trials: Mapping[tuple[int, bytes], float], differs: str,
              expected: Mapping[Names, Expected]) -> None:
        """Count all of it in one transaction. `trials` (by step and request) go to the name `differs`, each request once and for ever."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            fresh: dict[Names, Batch] = {}
            for (step, key), x in trials.items():
                if self._db.execute("INSERT OR IGNORE INTO trial VALUES (?, ?, ?)", (self.source, step, key)).rowcount:
                    fresh.setdefault((step, differs), Batch.of(expected[step, differs])).add(x)
            for names, batch in (*batches.items(), *fresh.items()):
                self._count(names, batch, expected[names])
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def _count(self, names: Names, batch: Batch, expected: Expected) -> None:
        had = self.state(*names) or eprocess.start(len(batch.bets))
        new = eprocess.after(had, batch.n, batch.total, batch.factors)
        wealth = [min(one, MOST) for one in new.wealth]
        self._db.execute("INSERT OR REPLACE INTO counted VALUES (?, ?, ?, ?, ?, ?)", (self.source, *names, new.n, new.total, json.dumps(wealth)))
        if new.evidence >= 1 / expected.error:
            self._db.execute("INSERT OR IGNORE INTO alarm VALUES (?, ?, ?, ?, ?, ?)", (self.source, *names, new.n, new.total, time.time()))

    def state(self, step: int, name: str) -> State | None:
        """What has been counted there; None for nothing."""
        where = (self.source, step, name)
        row = self._db.execute("SELECT n, total, wealth FROM counted WHERE source = ? AND step = ? AND name = ?", where).fetchone()
        return None if row is None else State(row[0], row[1], tuple(json.loads(row[2])))

    def alarms(self) -> dict[Names, Alarm]:
        """All that sounded, in the order in which they did."""
        rows = self._db.execute("SELECT step, name, n, total, at FROM alarm WHERE source = ? ORDER BY at, step DESC", (self.source,))
        return {(step, name): Alarm(n, total, at) for step, name, n, total, at in rows}

    def reset(self) -> None:
        """Forget this certificate's counts and alarms."""
        self._db.execute("BEGIN IMMEDIATE")
        for table in ("counted", "trial", "alarm"):
            self._db.execute(f"DELETE FROM {table} WHERE source = ?", (self.source,))
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()
