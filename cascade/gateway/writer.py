"""The thread that writes a SQLite file: all that waits goes into one transaction, so that those who wait share one flush to the disk."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

log = logging.getLogger("cascade.gateway")
T = TypeVar("T")
Op = Callable[[sqlite3.Connection], T]
"""Reads and writes within a transaction. It is run again where another's failure undid it, so it does nothing else."""

LATER = 0.05
"""Seconds that what nobody waits for may wait for company."""
AGAIN = 1.0
"""Seconds until what is owed is tried again."""
WARN = 60.0
"""Seconds between two log lines about trouble."""
How = Literal["disk", "process", "later", "owed"]
"""`disk` outlives a power failure, `process` the process; `later` may be lost; `owed` is tried until it is on the disk."""


@dataclass(slots=True)
class _Job:
    op: Op[Any]
    how: How
    done: Future[Any] | None = None


class Writer:
    """Writes `db`, which nothing else uses. `problem`: why the last write failed; None when it did not."""

    def __init__(self, db: sqlite3.Connection, where: str) -> None:
        self.problem: str | None = None
        self._db, self._where = db, where
        self._jobs: list[_Job] = []
        self._owed: list[_Job] = []
        self._change = threading.Condition()
        self._urgent = self._closing = False
        self._quiet = 0.0
        self._thread = threading.Thread(target=self._work, name="cascade-state", daemon=True)
        self._thread.start()

    def put(self, op: Op[T], how: How) -> Future[T]:
        """Its result, when it is written; sqlite3.Error when it cannot be: then it has changed nothing."""
        done: Future[T] = Future()
        self._add(_Job(op, how, done))
        return done

    def soon(self, op: Op[Any], how: How) -> None:
        """As `put`, for who does not wait."""
        self._add(_Job(op, how))

    def _add(self, job: _Job) -> None:
        how = job.how
        with self._change:
            if self._closing:
                raise sqlite3.ProgrammingError("the store is closed")
            first = not self._jobs
            self._jobs.append(job)
            self._urgent = self._urgent or how != "later"
            if first or how != "later":
                self._change.notify()

    def close(self) -> None:
        """Write what waits; what is owed is tried once more."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            jobs, last = self._take()
            self._write(jobs)
            if last:
                return

    def _take(self) -> tuple[list[_Job], bool]:
        """What is to be written now, at once what is waited for and the rest after a moment, and whether that was all. Waits while there is none."""
        with self._change:
            if not self._jobs and not self._closing:
                self._change.wait(AGAIN if self._owed else None)
            if self._jobs and not self._urgent and not self._closing:
                self._change.wait(LATER)
            jobs, self._jobs, self._owed, self._urgent = self._owed + self._jobs, [], [], False
            return jobs, self._closing

    def _write(self, jobs: list[_Job]) -> None:
        """All in one transaction; where that fails each in its own, so that none fails for another."""
        if len(jobs) > 1 and self._commit(jobs) is None:
            return
        for job in jobs:
            if (err := self._commit([job])) is not None:
                self._failed(job, err)

    def _commit(self, jobs: list[_Job]) -> Exception | None:
        if not jobs:
            return None
        try:
            flush = any(job.how in ("disk", "owed") for job in jobs)
            self._db.execute(f"PRAGMA synchronous={'FULL' if flush else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            found = [job.op(self._db) for job in jobs]
            self._db.execute("COMMIT")
        except Exception as err:  # one that is no sqlite3.Error is its caller's, who waits for it
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return err
        self.problem = None
        for job, result in zip(jobs, found, strict=True):
            if job.done is not None:
                job.done.set_result(result)
        return None

    def _failed(self, job: _Job, err: Exception) -> None:
        if time.monotonic() >= self._quiet:
            self._quiet = time.monotonic() + WARN
            log.warning("cannot write the gateway's state in %s (%s: %s)", self._where, type(err).__name__, err)
        self.problem = f"{type(err).__name__}: {err}"
        if job.how == "owed":
            self._owed.append(job)
        elif job.done is not None:
            job.done.set_exception(err)
