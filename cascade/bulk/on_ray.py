"""The shards of a run answered by actors of a Ray cluster, one engine an actor. Ray carries rows and money; what is done stands in the shards."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from cascade.app import Cascade, anywhere
from cascade.budget import Budget, Purse, short
from cascade.bulk import runner
from cascade.bulk.durable import Durable, InDoubt
from cascade.bulk.log import Locked
from cascade.bulk.shards import Shard
from cascade.divide import divided, limits
from cascade.errors import BudgetExceeded, CascadeError, ConfigurationError
from cascade.types import Policy

DEATHS = 3
"""So many workers may die of the same rows; then the run stops."""
LOOK = 0.25
"""Seconds between two looks at what the workers have done."""
MINUTE = 60.0
REACH = 5.0
"""Seconds for connecting to a cluster."""
PATIENCE = 15.0
"""Seconds that a worker waits for a shard which another one still has."""
CLOSING = 10.0
"""Seconds that workers have to close what they opened."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker ended with a shard: rows that had an answer before, and why it stopped early, if it did. `configuration`: no provider would
    have it; `error`: what must be mended before the shard can be gone on with."""

    before: int = 0
    stopped: str | None = None
    configuration: bool = False
    error: str | None = None


@dataclass
class Progress:
    """How all workers are going."""

    done: int = 0
    before: int = 0
    stopped: str | None = None
    configuration: bool = False
    error: str | None = None
    died: int = 0


@dataclass(frozen=True)
class Job:
    """What the workers are told: the `policy` of one of them, how many requests each has at a time, and how rows in doubt are taken."""

    policy: Policy
    concurrency: int
    in_doubt: InDoubt = "hold"
    force: bool = False


def share(policy: Policy, concurrency: int, workers: int) -> tuple[int, str | None]:
    """How many workers at most can divide what limits the run, so that each has one of everything; and what that is, when it is fewer."""
    least, name = min((value, name) for name, value in {**limits(policy), "--concurrency": concurrency}.items())
    return (workers, None) if least >= workers else (least, name)


def job(policy: Policy, concurrency: int, workers: int, in_doubt: InDoubt = "hold", force: bool = False) -> Job:
    """The job of one of so many workers."""
    return Job(anywhere(divided(policy, workers, budget=False)), concurrency // workers, in_doubt, force)


# ---------------------------------------------------------------- in an actor


class Worker:
    """An actor's engine. `answer` has one thread, `stop` and `so_far` another (a method that is `async` would make Ray put all on one event
    loop). `pause`: seconds until its first request."""

    def __init__(self, job: Job, purse: Budget | None, pause: float) -> None:
        self._job, self._purse, self._pause = job, purse, pause
        self._cascade: Cascade | None = None
        self._stop = threading.Event()
        self._done = 0

    def answer(self, shard: Shard) -> Ended:
        """Go through the rows of a shard, on from where its journal stands."""
        self._done = 0
        try:
            if self._pause:
                self._stop.wait(self._pause)
                self._pause = 0.0
            cascade = self._cascade = self._cascade or Cascade(self._job.policy, purse=self._purse)
            out = self._opened(cascade, shard)
            try:
                return self._through(cascade, shard, out)
            finally:
                out.close()
        except CascadeError as err:
            return Ended(stopped="an error", error=str(err))

    def _opened(self, cascade: Cascade, shard: Shard) -> Durable:
        """The shard's output. A worker that has just died, or is about to since its driver has, may hold it for a moment."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return Durable(shard.path, cascade.label, lambda: shard.rows, digests=cascade.digests, policies=cascade.labels,
                               in_doubt=self._job.in_doubt, force=self._job.force, total=len(shard.rows))
            except Locked:
                if time.monotonic() > until or self._stop.wait(LOOK):
                    raise

    def _through(self, cascade: Cascade, shard: Shard, out: Durable) -> Ended:
        rows = (row for number, row in enumerate(shard.rows) if number < shard.asked or out.holds(row))
        state = runner.Run(cascade.label, len(shard.rows), keep=False)
        cascade.call(lambda: runner.run(
            rows, lambda row: cascade.arun(row.inputs, id=row.id), out, cascade.label, concurrency=self._job.concurrency, stop=self._stop,
            told=self._told, state=state))
        return Ended(state.before, state.stopped, state.configuration)

    def _told(self, state: runner.Run) -> None:
        self._done = state.tally.requests

    def so_far(self) -> int:
        """Rows done of the shard at hand."""
        return self._done

    def stop(self) -> None:
        """Finish what is in flight, and begin nothing."""
        self._stop.set()

    def close(self) -> None:
        """Close connections, cache and monitor."""
        if self._cascade is not None:
            self._cascade.close()


class Till:
    """An actor's purse: the run's budget, from which all workers reserve. What a worker that died had reserved stays reserved."""

    def __init__(self, limit: Decimal) -> None:
        self._purse = Purse(limit, "run")

    def reserve(self, worst: Decimal) -> Decimal | None:
        """None when it was reserved, else how much is left."""
        try:
            self._purse.reserve(worst)
        except BudgetExceeded:
            return self._purse.left
        return None

    def settle(self, worst: Decimal, cost: Decimal | None) -> None:
        self._purse.settle(worst, cost)


class TillPurse:
    """The till as a worker holds it."""

    def __init__(self, till: Any) -> None:
        self._till = till

    def reserve(self, worst: Decimal) -> None:
        import ray

        try:
            left = ray.get(self._till.reserve.remote(worst))
        except ray.exceptions.RayError as err:
            raise BudgetExceeded("the run's budget cannot be reached", "run") from err
        if left is not None:
            raise short(worst, left, "run")

    def settle(self, worst: Decimal, cost: Decimal | None) -> None:
        self._till.settle.remote(worst, cost)


# ---------------------------------------------------------------- the driver


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    """Ray, connected to the cluster at RAY_ADDRESS, or to one of this machine that ends with the block. It reports nothing, and says nothing but,
    on stdout, that a worker died.

    Raises ConfigurationError when Ray is not installed or the cluster cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of what it will do one day
    try:
        import ray
    except ImportError as err:
        raise ConfigurationError("--engine ray needs Ray: pip install 'cascade-judge[ray]'") from err
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    ours: dict[str, Any] = {} if address else {"num_cpus": 1, "include_dashboard": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address:
            _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **ours)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as err:
        where = f"no Ray cluster at RAY_ADDRESS={address}" if address else "no Ray cluster can be started here"
        raise ConfigurationError(f"{where}: {str(err).partition(chr(10))[0]}") from err
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """OSError at once where nobody listens; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()


@dataclass
class Crew:
    """The workers of a run: each has a shard, or is idle."""

    ray: Any
    job: Job
    purse: Budget | None
    note: Callable[[str], object]
    progress: Progress = field(default_factory=Progress)
    busy: dict[Any, tuple[Any, Shard]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False

    def hire(self, pause: float = 0.0) -> None:
        # no CPUs: a worker waits for models nearly all the time
        actor = self.ray.remote(Worker).options(num_cpus=0, max_concurrency=3, scheduling_strategy="SPREAD")
        self.idle.append(actor.remote(self.job, self.purse, pause))

    def go_through(self, shards: Iterator[Shard], told: Callable[[int], object] | None) -> None:
        """All shards, each until it is done; none is begun any more when one stopped early."""
        again: list[Shard] = []
        while True:
            if self.interrupted:
                self.stop("interrupted")
            while self.idle and not self.progress.stopped and (shard := again.pop() if again else next(shards, None)):
                worker = self.idle.pop()
                self.busy[worker.answer.remote(shard)] = (worker, shard)
            if not self.busy:
                return
            ended, _ = self.ray.wait(list(self.busy), timeout=LOOK)
            for one in ended:
                again += self._ended(one)
            if told:
                told(self.progress.done + self._so_far())

    def _ended(self, one: Any) -> list[Shard]:
        """What is to be done again of a shard with which a worker ended: all that is not in its journal, when the worker died."""
        worker, shard = self.busy.pop(one)
        try:
            ended = self.ray.get(one)
        except self.ray.exceptions.RayActorError as err:
            self.ray.kill(worker)  # it may only be out of reach
            return self._died(shard, str(err).strip().splitlines()[-1].strip())
        self.idle.append(worker)
        self.progress.done += len(shard.rows)
        self.progress.before += ended.before
        self.progress.configuration |= ended.configuration
        self.progress.error = self.progress.error or ended.error
        if ended.stopped:
            self.stop(ended.stopped)
        return []

    def _died(self, shard: Shard, why: str) -> list[Shard]:
        self.progress.died += 1
        self.deaths[shard.path] += 1
        if self.deaths[shard.path] >= DEATHS:
            self.stop(f"{DEATHS} workers died of {shard.name}, one after the other: {why}")
            return []
        self.note(f"a worker died; another one goes on with {shard.name}")
        # a bucket that was used up is full again in a minute, so that the dead worker and its successor keep to the limits together
        self.hire(MINUTE if _per_minute(self.job.policy) else 0.0)
        return [shard]

    def stop(self, why: str) -> None:
        """Begin nothing more; what is in flight is finished. The first reason is the one that is told."""
        if self.progress.stopped is None:
            self.progress.stopped = why
            for worker, _ in self.busy.values():
                worker.stop.remote()

    def dismiss(self) -> None:
        """End all workers; those that are idle close what they opened."""
        closing = [worker.close.remote() for worker in self.idle]
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.get(closing, timeout=CLOSING)
        for worker in [*self.idle, *(worker for worker, _ in self.busy.values())]:
            self.ray.kill(worker)

    def _so_far(self) -> int:
        try:
            found: list[int] = self.ray.get([worker.so_far.remote() for worker, _ in self.busy.values()], timeout=1.0)
        except self.ray.exceptions.RayError:  # one died, or is busy; the next look tells
            return 0
        return sum(found)


def run(ray: Any, job: Job, workers: int, shards: Iterator[Shard], note: Callable[[str], object], told: Callable[[int], object] | None) -> Progress:
    """Answer the rows of the shards by so many actors. SIGINT and SIGTERM finish what is in flight; a second one raises KeyboardInterrupt.

    `note` is told what people should know, `told` how many rows are done.
    """
    limit = job.policy.budget_per_run
    till = None if limit is None else ray.remote(Till).options(num_cpus=0).remote(limit)
    crew = Crew(ray, job, till and TillPurse(till), note)

    def interrupt(*_: object) -> None:
        if crew.interrupted:
            raise KeyboardInterrupt
        note("finishing what is in flight; once more stops at once")
        crew.interrupted = True

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        for _ in range(workers):
            crew.hire()
        crew.go_through(shards, told)
    finally:
        crew.dismiss()
        for name, handler in before.items():
            signal.signal(name, handler)
    return crew.progress


def _per_minute(policy: Policy) -> bool:
    return any(one.requests_per_minute or one.tokens_per_minute for one in policy.providers.values())
