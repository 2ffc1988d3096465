"""Several worker processes on one socket: the parent listens and starts them, and starts again those that die. It answers nothing itself."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from prometheus_client import multiprocess

from cascade.errors import CascadeError, ConfigurationError
from cascade.gateway.serving import Server, Settings, build, logging_to_stderr

log = logging.getLogger("cascade.gateway")
SPAWN = multiprocessing.get_context("spawn")
LOOK = 0.5
"""Seconds between two looks for signals."""
REST = 1.0
"""Seconds between two starts of a worker that dies again and again."""
LAST = 5.0
"""Seconds that workers have beyond the drain before they are killed."""
FILES = 65_536


class Worker:
    """One process. It ends when its parent does, however that ends: the pipe to it is closed then."""

    def __init__(self, settings: Settings, listening: socket.socket) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process: SpawnProcess = SPAWN.Process(target=_work, args=(settings, listening, theirs), daemon=False)
        self.process.start()
        theirs.close()
        self.started = time.monotonic()
        self.ready = False

    def signal(self, number: int) -> None:
        """Tell it, if it is there."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)


class Workers:
    """`settings.workers` of them on a socket that listens. `ready` is called when all of them answer."""

    def __init__(self, settings: Settings, listening: socket.socket, ready: Callable[[], None]) -> None:
        self._settings, self._listening, self._ready = settings, listening, ready
        self._workers: list[Worker] = []
        self._ending = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises ConfigurationError when a worker cannot start."""
        folder = tempfile.mkdtemp(prefix="cascade-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._end())
        signal.signal(signal.SIGHUP, lambda *_: self._tell(signal.SIGHUP))
        try:
            self._workers = [Worker(self._settings, self._listening) for _ in range(self._settings.workers)]
            self._start()
            while not self._ending:
                self._look()
        finally:
            self._drain()
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
            shutil.rmtree(folder, ignore_errors=True)

    def _end(self) -> None:
        self._ending = True

    def _tell(self, number: int) -> None:
        for worker in self._workers:
            worker.signal(number)

    def _start(self) -> None:
        waiting = list(self._workers)
        while waiting and not self._ending:
            for pipe in wait([worker.pipe for worker in waiting], LOOK):
                worker = next(one for one in waiting if one.pipe is pipe)
                worker.ready = _said(worker.pipe)
                if not worker.ready:
                    raise ConfigurationError("a worker could not start")  # it has said why
                waiting.remove(worker)
        if not self._ending:
            self._ready()

    def _look(self) -> None:
        for sentinel in wait([worker.process.sentinel for worker in self._workers], LOOK):
            at = next(i for i, worker in enumerate(self._workers) if worker.process.sentinel == sentinel)
            dead = self._workers[at]
            if self._ending:
                return
            dead.process.join()
            log.warning("worker %s died (exit code %s); another is started", dead.process.pid, dead.process.exitcode)
            _forget(dead)
            time.sleep(max(0.0, REST - (time.monotonic() - dead.started)))
            self._workers[at] = Worker(self._settings, self._listening)

    def _drain(self) -> None:
        self._tell(signal.SIGTERM)
        self._listening.close()
        ends = time.monotonic() + self._settings.notice + self._settings.drain + LAST
        for worker in self._workers:
            worker.process.join(max(0.0, ends - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _said(pipe: Connection) -> bool:
    """Whether the worker said that it listens; False: it is gone."""
    try:
        pipe.recv_bytes()
    except (EOFError, OSError):
        return False
    return True


def _forget(dead: Worker) -> None:
    """What a dead worker counted stays, what it measured does not."""
    dead.pipe.close()
    with suppress(OSError):
        multiprocess.mark_process_dead(dead.process.pid)  # type: ignore[no-untyped-call]


def _work(settings: Settings, listening: socket.socket, pipe: Connection) -> None:
    """The life of a worker."""
    logging.basicConfig(format="cascade: %(message)s", level=logging.WARNING)
    logging_to_stderr(settings.log)
    more_files()
    try:
        gateway = build(settings)
    except CascadeError as err:
        print(err, file=sys.stderr)
        sys.exit(2)
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()
    Server(gateway, settings, "", 0, lambda _: pipe.send_bytes(b"ready")).run([listening])


def _watch(pipe: Connection) -> None:
    """End as if told to when the parent is gone."""
    with suppress(EOFError, OSError):
        pipe.recv_bytes()
    os.kill(os.getpid(), signal.SIGTERM)


def more_files() -> None:
    """As many open files as this process may have; a connection is one."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, min(most, FILES)), most))
