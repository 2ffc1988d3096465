"""What the gateway keeps: one SQLite file in a folder, shared by all worker processes of a machine. Knows no row, no key and no record."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from cascade.errors import ConfigurationError
from cascade.gateway.alive import Alive
from cascade.gateway.writer import How, Op, Writer

T = TypeVar("T")
FORMAT = 1
NAME = "gateway.db"
PATIENCE = 5.0
"""Seconds that a transaction waits for those of other processes."""

_TABLES = """
CREATE TABLE IF NOT EXISTS request (n INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, id TEXT, policy TEXT, label TEXT, status TEXT, tier TEXT,
  cached INTEGER, cost INTEGER, seconds REAL, key TEXT, calls INTEGER, error TEXT, alarm TEXT);
CREATE INDEX IF NOT EXISTS request_at ON request (at);
CREATE TABLE IF NOT EXISTS trail (n INTEGER PRIMARY KEY, id TEXT, key TEXT, line BLOB);
CREATE INDEX IF NOT EXISTS trail_id ON trail (id);
CREATE TABLE IF NOT EXISTS spent (account TEXT, period TEXT, cost INTEGER, PRIMARY KEY (account, period)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (id TEXT, account TEXT, period TEXT, cost INTEGER, worker TEXT, PRIMARY KEY (account, period, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS held_id ON held (id);
CREATE TABLE IF NOT EXISTS rate (key TEXT PRIMARY KEY, left REAL, at REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS idempotent (key TEXT, name TEXT, body BLOB, holder TEXT, at REAL, status INTEGER, headers TEXT, reply BLOB,
  PRIMARY KEY (key, name));
CREATE INDEX IF NOT EXISTS idempotent_at ON idempotent (at);
"""


class State:
    """The store in `folder`, which gets mode 0700. `worker` is this process's name in it. Raises ConfigurationError when it cannot be used.

    `key` is the caller's name everywhere, "" where none is needed; `cost` counts in `UNIT`s of `rows`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
            self._db = self._open()
            self._inode = _inode(self.folder / NAME)
            self._reading = self._connect()
            self._reading.execute("PRAGMA query_only=1")
            self._alive = Alive(self.folder / "workers")
        except (OSError, sqlite3.Error) as err:
            raise ConfigurationError(f"the gateway's state in {self.folder} cannot be used ({getattr(err, 'strerror', None) or err}): "
                                     "move it away, or name another folder with --state DIR") from err
        self.worker = self._alive.name
        self._writer = Writer(self._db, str(self.folder))
        self._reader = ThreadPoolExecutor(1, "cascade-state-read")

    @classmethod
    def temporary(cls) -> State:
        """One that ends with the process."""
        folder = tempfile.TemporaryDirectory(prefix="cascade-gateway-")
        made = cls(folder.name)
        made._temporary = folder
        return made

    @property
    def problem(self) -> str | None:
        """Why the last write failed, or that the file is no longer there; None when all is well."""
        if self._writer.problem is None and _inode(self.folder / NAME) != self._inode:
            return f"{NAME} was removed or replaced while it is in use: what keys have spent is forgotten at the next start"
        return self._writer.problem

    async def do(self, op: Op[T], how: How = "disk") -> T:
        """What `op` gives, once it is written. sqlite3.Error when it cannot be; then it has changed nothing."""
        return await asyncio.wrap_future(self._writer.put(op, how))

    def soon(self, op: Op[Any], how: How = "later") -> None:
        """Write it without being waited for: `later`, which may be lost, or `owed`, which is tried until it is written or the store is closed."""
        with contextlib.suppress(sqlite3.ProgrammingError):
            self._writer.soon(op, how)

    async def read(self, op: Op[T]) -> T:
        """What `op` reads, on a thread of its own. What is written `soon` is seen at the latest `writer.LATER` seconds after."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, op, self._reading)

    def dead(self, workers: set[str]) -> set[str]:
        """Those of the workers that run no more."""
        return {worker for worker in workers if worker != self.worker and not self._alive.of(worker)}

    def close(self) -> None:
        """Write what waits, and close."""
        self._writer.close()
        self._reader.shutdown()
        self._reading.close()
        self._db.close()
        self._alive.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    # ------------------------------------------------------------ opening

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.folder / NAME, timeout=PATIENCE, isolation_level=None, check_same_thread=False)

    def _open(self) -> sqlite3.Connection:
        """A connection to a file that is sound and has the tables. One look through all of it, at start, is cheaper than a wrong sum later."""
        db = self._connect()
        db.execute("PRAGMA journal_mode=WAL")
        (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {sound}")
        db.execute("BEGIN IMMEDIATE")
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            raise sqlite3.DatabaseError(f"its format is {found}, this version reads {FORMAT}")
        for statement in _TABLES.strip().removesuffix(";").split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute("COMMIT")
        return db


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except OSError:
        return None
