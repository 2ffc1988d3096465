"""An Ask that waits: calls are collected until no row can go on without an answer, and leave as the provider's batches. Knows no wire.

Rows run through the ordinary engine; the next tier, a repair, a judge or a sample is simply a call of a later wave. Calls of providers
without a Batch API go to the live Ask. See docs/design/batch.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from cascade.bulk.batch_journal import BatchJournal, Fault, Kept, Wave
from cascade.bulk.durable import Durable
from cascade.bulk.journal import Standing
from cascade.bulk.runner import SUSPENDED
from cascade.errors import BadReply, CascadeError, ConfigurationError, InputError, NotProcessed, ProviderError, RateLimited
from cascade.outcome import Outcome
from cascade.providers import build_batches, capabilities
from cascade.providers.batch import Batches, Gone, Look, Request, Result
from cascade.providers.recorded import from_row, to_row
from cascade.rows import Row
from cascade.types import Answer, Ask, Call, Policy, Retry, digest

ZERO = Decimal(0)
AGAIN = 2
"""So often a call goes into another batch, when one expired, was cancelled, or failed it for a passing reason."""
LIVE = 16
"""Live calls at a time, for tiers without a Batch API."""
LOOKS = 6
"""So often a batch that may have been taken is looked for, before it is submitted again."""
TRIES = 10
"""So often in a row a batch may be refused, or not be heard of, before the run stops. It can be gone on with."""
FRAME = 256
"""Bytes that a request has in a batch beside its body, at most."""
_KEY, _NAME = 32, 24

Told = Callable[[str], object]
_ERRORS = {kind.kind: kind for kind in ProviderError.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: `settle` of silence send a wave off; polls begin `first` apart and grow to `longest`. `sleep` waits between polls."""

    settle: float = 0.5
    first: float = 5.0
    longest: float = 60.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def longer(self, pause: float) -> float:
        """The pause after this one."""
        return min(pause * 1.5, self.longest)


PACE = Pace()


@dataclass(slots=True)
class _Asker:
    """The row that asks, and the calls that it has paid for."""

    row: str = ""
    paid: set[str] = field(default_factory=set)

    def pays(self, key: str, row: str) -> bool:
        """Whether this row pays for a call, which the other one caused."""
        ours = row == self.row and key not in self.paid
        self.paid.add(key)
        return ours


_asker: ContextVar[_Asker] = ContextVar("asker")


@dataclass(eq=False, slots=True)
class _Waiting:
    """A call that rows wait for. `error` ends them all."""

    done: asyncio.Future[None]
    rows: int = 0
    error: str | None = None


class Batcher:
    """The batches of one run, with their journal, which is locked until `close`. One event loop.

    `told` hears a line about each batch when something has changed. `retry`: batches that the provider knows no more are asked again,
    and may be paid twice. Raises InputError when the journal cannot be ours.
    """

    def __init__(self, policy: Policy, output: str, *, told: Told = lambda _: None, pace: Pace | None = None, retry: bool = False) -> None:
        self.policy = policy
        self.journal = BatchJournal(output)
        self.journal.note({"kind": "run", "pid": os.getpid()})
        self.reason: str | None = None
        self._told, self._pace, self._retry = told, pace or PACE, retry
        self._live: Ask | None = None
        self._apis: dict[str, Batches] = {}
        self._identities: dict[str, str] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._queues: dict[str, dict[str, tuple[str, bytes]]] = {}
        self._sizes: dict[str, int] = {}
        self._most: dict[str, int] = {}
        self._in_flight = {key for wave in self.journal.waves.values() for key in wave.keys}
        self._flights: dict[str, asyncio.Future[None]] = {}
        self._slots = asyncio.Semaphore(LIVE)
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._rows: set[asyncio.Future[Outcome]] = set()
        self._uncut = 0  # submissions and live calls that must not be cut off
        self._stopping = False
        self._broken: BaseException | None = None

    # ------------------------------------------------------------ rows

    def around(self, live: Ask) -> Ask:
        """The Ask of this run; `live` is for providers without a Batch API. Batches of an earlier run are picked up."""
        self._live = live
        for wave in list(self.journal.waves.values()):
            self._start(self._resume(wave))
        return self.ask

    async def answer(self, row: Row, run: Callable[[Row], Awaitable[Outcome]], label: str) -> Outcome:
        """The row's outcome; "suspended" when the run was, and the row stays to be done."""
        if self.reason is None:
            before = _asker.set(_Asker(row.id))
            task = asyncio.create_task(_run(run, row))
            _asker.reset(before)
            self._rows.add(task)
            try:
                return await task
            except asyncio.CancelledError:
                if self.reason is None or not task.cancelled():
                    raise
            finally:
                self._rows.discard(task)
                task.cancel()
        if self._broken is not None:
            raise self._broken
        return Outcome(label, "failed", error=self.reason)

    def suspend(self) -> None:
        """Stop waiting, as soon as no submission and no live call can be cut off. The batches go on at their providers."""
        self._stopping = True
        self._halt_if_may()

    def _halt_if_may(self) -> None:
        if self._stopping and not self._uncut:
            there = len(self.journal.waves)
            self._halt(f"{SUSPENDED}: interrupted; {there} {'batch goes' if there == 1 else 'batches go'} on at the provider" if there
                       else f"{SUSPENDED}: interrupted")

    def _halt(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
            cut_off: list[asyncio.Future[Any]] = [*self._rows, *self._tasks]
            for task in cut_off:
                task.cancel()

    async def aclose(self) -> None:
        """Close the connections; nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._tasks, *self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for api in self._apis.values():
            await api.close()

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    # ------------------------------------------------------------ asking

    async def ask(self, call: Call) -> Answer:
        """An Ask. The call's timeout holds for live calls only."""
        name = call.model.partition("/")[0]
        provider = self.policy.providers[name]
        key = self._key(call, name)
        asker = _asker.get(None) or _Asker()
        batch = capabilities(provider, call.model, call.params.json).batch
        while True:
            kept = self.journal.kept.get(key)
            if kept is not None:
                return self._answer(call, key, kept, asker)
            self._raise_last(key, asker)
            if batch:
                await self._wait(call, key, name, asker.row)
            else:
                await self._fly_alone(call, key, asker.row)

    def _key(self, call: Call, name: str) -> str:
        where = self._identities.get(name)
        if where is None:
            provider = self.policy.providers[name]
            where = self._identities[name] = digest([provider.kind, provider.base_url, dict(provider.options)])
        return digest([call.digest, where])[:_KEY]

    def _answer(self, call: Call, key: str, kept: Kept, asker: _Asker) -> Answer:
        value = self.journal.value(kept)
        pays = asker.pays(key, kept.row)
        if kept.live:
            answer = replace(from_row(value["answer"]), retries=tuple(Retry(*retry) for retry in value["retries"]))
        else:
            retries = tuple(Retry(fault.error, fault.reason, 0.0) for fault in self.journal.faults.get(key, ()))
            try:
                answer = replace(self._api(call.model.partition("/")[0]).answer(call, value), retries=retries)
            except BadReply as error:
                error.retries = retries
                error.cost_usd = error.cost_usd if pays else ZERO
                raise
        return answer if pays else replace(answer, cached=True, cost_usd=ZERO)

    def _raise_last(self, key: str, asker: _Asker) -> None:
        """Raises the error of a call that is not asked any more."""
        faults = self.journal.faults.get(key)
        if not faults or not (faults[-1].final or len(faults) > AGAIN):
            return
        last = faults[-1]
        error = _ERRORS.get(last.error, ProviderError)(last.reason)
        error.billed = last.billed
        error.cost_usd = last.cost_usd if asker.pays(key, last.row) else ZERO
        error.retries = last.retries or tuple(Retry(fault.error, fault.reason, 0.0) for fault in faults[:-1])
        raise error

    # ------------------------------------------------------------ live calls

    async def _fly_alone(self, call: Call, key: str, row: str) -> None:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(self._ask_live(call, key, row))
            flight.add_done_callback(lambda flight: self._landed(key, flight))
        await asyncio.shield(flight)

    def _landed(self, key: str, flight: asyncio.Future[None]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()  # its rows raise it; where none is left nobody does
        self._arm()

    async def _ask_live(self, call: Call, key: str, row: str) -> None:
        assert self._live is not None, "rows are asked by an Ask that was put around a live one"
        async with self._slots:
            while self._stopping:
                await asyncio.sleep(3600)  # until the run has ended
            with self._not_cut_off(), self._written():
                await self.journal.ask(key, row)
                try:
                    answer = await self._live(call)
                except ProviderError as error:
                    cost = error.cost_usd if error.billed else ZERO
                    self.journal.fault(key, Fault(row, "", error.kind, str(error), True, error.billed, cost, error.retries))
                except (ConfigurationError, InputError) as error:
                    self.journal.left(key)
                    raise _Theirs(error) from error
                else:
                    self.journal.answer(key, row, {"answer": to_row(answer), "retries": answer.retries}, answer.cost_usd)

    @contextmanager
    def _not_cut_off(self) -> Iterator[None]:
        self._uncut += 1
        try:
            yield
        finally:
            self._uncut -= 1
            self._halt_if_may()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """A journal that cannot be written ends the run, and is no fault of the row."""
        try:
            yield
        except _Theirs as error:
            raise error.cause from None
        except InputError as error:
            self._halt(f"{SUSPENDED}: {error}")
            raise asyncio.CancelledError from error

    # ------------------------------------------------------------ waiting

    async def _wait(self, call: Call, key: str, name: str, row: str) -> None:
        waiting = self._waiting.get(key)
        if waiting is None:
            if key not in self._in_flight:
                self._queue(call, key, name, row)
            waiting = self._waiting[key] = _Waiting(asyncio.get_running_loop().create_future())
        waiting.rows += 1
        try:
            await asyncio.shield(waiting.done)
        finally:
            waiting.rows -= 1
            if not waiting.rows and self._waiting.get(key) is waiting:
                del self._waiting[key]
                self._unqueue(call.model, key)
        if waiting.error is not None:
            raise ConfigurationError(waiting.error)

    def _queue(self, call: Call, key: str, name: str, row: str) -> None:
        api = self._api(name)
        body = api.request(call)
        queue = self._queues.setdefault(call.model, {})
        size = self._sizes.get(call.model, 0) + len(body) + FRAME
        most = min(api.limits.requests, self._most.get(call.model, api.limits.requests))
        if queue and (len(queue) >= most or size > api.limits.bytes):
            self._depart(call.model)
            queue = self._queues.setdefault(call.model, {})
            size = len(body) + FRAME
        queue[key] = row, body
        self._sizes[call.model] = size
        self._arm()

    def _unqueue(self, model: str, key: str) -> None:
        gone = self._queues.get(model, {}).pop(key, None)
        if gone is not None:
            self._sizes[model] -= len(gone[1]) + FRAME

    def _arm(self) -> None:
        """Send off what waits once nothing has been heard for a while. No count of rows could tell: some wait for others."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._pace.settle, self._depart_all)

    def _depart_all(self) -> None:
        if not self._flights:
            for model in list(self._queues):
                self._depart(model)

    def _depart(self, model: str) -> None:
        queue = self._queues.pop(model, {})
        self._sizes.pop(model, None)
        if queue and not self._stopping and self.reason is None:
            self._in_flight.update(queue)
            self._start(self._fly(model, queue))

    # ------------------------------------------------------------ a wave

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not isinstance(error, CascadeError):
            self._broken = error
        self._halt(f"{'configuration' if isinstance(error, ConfigurationError) else SUSPENDED}: {error}")

    async def _fly(self, model: str, queue: dict[str, tuple[str, bytes]]) -> None:
        name = digest([self.journal.count, sorted(queue)])[:_NAME]
        wave = Wave(name, model.partition("/")[0], model, {key: row for key, (row, _) in queue.items()}, None)
        requests = [Request(_custom_id(key, wave), body) for key, (_, body) in queue.items()]
        try:
            await self._submit(wave, requests)
        except ConfigurationError as error:
            return self._refuse(wave, str(error))
        await self._follow(wave)

    async def _resume(self, wave: Wave) -> None:
        """A wave that an earlier run began."""
        if wave.id is not None or await self._found(wave):
            await self._follow(wave)
        else:
            self._release(wave)

    async def _submit(self, wave: Wave, requests: list[Request]) -> None:
        """The wave is a batch and its id on disk. Raises ConfigurationError and, when nothing helps, ProviderError; then it is none."""
        api, pause = self._api(wave.provider), self._pace.first
        wave.since = await self._patiently(api.newest)
        for attempt in range(1, TRIES + 1):
            failure = None
            with self._not_cut_off():
                self.journal.wave(wave)
                try:
                    id = await api.submit(wave.name, requests, wave.model)
                    return self._taken(wave, id)
                except ConfigurationError:
                    self.journal.void(wave)
                    raise
                except ProviderError as error:
                    failure = error
                    if not error.billed:
                        self.journal.void(wave)
            if failure.billed and await self._found(wave):
                return None
            if attempt == TRIES or not (failure.transient or failure.billed):
                raise failure
            self._told(f"{wave.model}: {len(requests)} requests are submitted again: {failure}")
            await self._pace.sleep(max(failure.retry_after or 0.0, pause))
            pause = self._pace.longer(pause)
        return None

    def _taken(self, wave: Wave, id: str) -> None:
        self.journal.batch(wave, id)
        wave.id = id
        self._told(f"batch {id} ({wave.model}, {len(wave.keys)} requests): submitted")

    async def _found(self, wave: Wave) -> bool:
        """Whether the provider has the wave after all. A batch may come to light some time after it was taken: look more than once."""
        api, pause, looks = self._api(wave.provider), self._pace.first, 0
        self._told(f"{wave.model}: looking whether {len(wave.keys)} requests were submitted before")
        while True:
            found = await self._patiently(lambda: api.find(wave.name, len(wave.keys), wave.since))
            if found.id is not None:
                self._taken(wave, found.id)
                return True
            looks += not found.perhaps
            if looks == LOOKS:
                self.journal.void(wave)
                return False
            await self._pace.sleep(pause)
            pause = self._pace.longer(pause)

    async def _follow(self, wave: Wave) -> None:
        """Wait for the batch, keep what it gives, and let the rows go on."""
        try:
            look = await self._watch(wave)
            if look.problem is not None:
                return await self._failed(wave, look.problem)
            await self._patiently(lambda: self._fetch(wave, look))
        except Gone as error:
            if not self._retry:
                raise ConfigurationError(f"{error}: was the key changed? --in-doubt retry asks the {len(wave.keys)} requests of "
                                         f"batch {wave.id} again, at the risk of paying twice") from error
            self.journal.void(wave)
        else:
            self.journal.end(wave)
        self._release(wave)

    async def _watch(self, wave: Wave) -> Look:
        api, pause, before = self._api(wave.provider), self._pace.first, ""
        assert wave.id is not None, "a batch has an id"
        id = wave.id
        while True:
            look: Look = await self._patiently(lambda: api.look(id, wave.model))
            told = f"batch {id} ({wave.model}, {len(wave.keys)} requests): {look.status}, {look.done} done, {look.failed} failed"
            if told != before:
                self._told(told)
            if look.ended:
                return look
            before = told
            await self._pace.sleep(pause)
            pause = self._pace.longer(pause)

    async def _failed(self, wave: Wave, problem: ProviderError | ConfigurationError) -> None:
        """Nothing of the batch was processed, and nothing is paid."""
        if isinstance(problem, ConfigurationError):
            self.journal.void(wave)
            return self._refuse(wave, str(problem))
        if isinstance(problem, RateLimited) and len(wave.keys) > 1:
            self.journal.void(wave)
            await self._until_there_is_room(wave, problem)
            return self._release(wave)
        for key, row in wave.keys.items():
            self._keep(wave, key, row, problem)
        self.journal.end(wave)
        self._release(wave)

    async def _until_there_is_room(self, wave: Wave, problem: RateLimited) -> None:
        """More waits at the provider than it takes: for the model's other batches to end or, where there is none, in smaller ones."""
        def others() -> int:
            return sum(other.model == wave.model for other in self.journal.waves.values())

        before = others()
        if not before:
            self._most[wave.model] = len(wave.keys) // 2
        self._told(f"{problem}; " + ("waiting for another batch to end" if before else f"going on with batches of {self._most[wave.model]}"))
        await self._pace.sleep(self._pace.longest)
        while before and others() >= before:
            await self._pace.sleep(self._pace.longest)

    async def _fetch(self, wave: Wave, look: Look) -> None:
        """All results into the journal; what is there from a fetch that was cut off stays."""
        assert wave.id is not None, "a batch has an id"
        left = {_custom_id(key, wave): key for key in wave.keys}
        async with aclosing(self._api(wave.provider).results(wave.id, wave.model)) as results:
            async for custom_id, result in results:
                key = left.pop(custom_id, None)
                if key is None:
                    self._told(f"batch {wave.id}: a result of no request of ours is passed over: {custom_id[:80]!r}")
                else:
                    self._keep(wave, key, wave.keys[key], result)
        for key in left.values():
            what = f"{wave.model}: batch {wave.id} {look.status} without a result for this request"
            self._keep(wave, key, wave.keys[key], NotProcessed(what) if look.cut_short else BadReply(what))
        self.journal.sync()

    def _keep(self, wave: Wave, key: str, row: str, result: Result) -> None:
        if key in self.journal.kept or any(fault.wave == wave.name for fault in self.journal.faults.get(key, ())):
            return
        if isinstance(result, ConfigurationError):
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.error = str(result)
        elif isinstance(result, ProviderError):
            cost = result.cost_usd if result.billed else ZERO
            self.journal.fault(key, Fault(row, wave.name, result.kind, str(result), not result.transient, result.billed, cost))
        else:
            cost, readable = self._api(wave.provider).paid(wave.model, result)
            self.journal.reply(key, row, result, cost, not readable)

    def _refuse(self, wave: Wave, why: str) -> None:
        for key in wave.keys:
            if key in self._waiting:
                self._waiting[key].error = why
        self._release(wave)

    def _release(self, wave: Wave) -> None:
        """The wave is over: its rows look what came of it, and ask again where nothing did."""
        for key in wave.keys:
            self._in_flight.discard(key)
            waiting = self._waiting.pop(key, None)
            if waiting is not None and not waiting.done.done():
                waiting.done.set_result(None)

    async def _patiently(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """What a question to a Batch API gives that costs nothing: it may be put again."""
        pause = self._pace.first
        for attempt in range(1, TRIES + 1):
            try:
                return await ask()
            except ProviderError as error:
                if attempt == TRIES:
                    raise
                self._told(f"{error}; asking again")
                await self._pace.sleep(max(error.retry_after or 0.0, pause))
                pause = self._pace.longer(pause)

    def _api(self, name: str) -> Batches:
        api = self._apis.get(name)
        if api is None:
            api = self._apis[name] = build_batches(self.policy.providers[name], self.policy.pricing)
        return api


async def _run(run: Callable[[Row], Awaitable[Outcome]], row: Row) -> Outcome:
    return await run(row)


class _Theirs(Exception):
    """A live call's own error, told apart from the journal's."""

    def __init__(self, cause: ConfigurationError | InputError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Waved(Durable):
    """The output of a run by batches: their journal knows what was asked, so a row is in doubt for a live call of its own only."""

    def __init__(self, batcher: Batcher, path: str, policy: str, rows: Callable[[], Iterable[Row]], **settings: Any) -> None:
        self.batches = batcher.journal
        super().__init__(path, policy, rows, doubtful=self.batches.flights().doubtful, **settings)
        self.batches.forget({id for id, entry in self.journal.entries.items() if entry.status == "failed"})

    def standing(self) -> Standing:
        return self.batches.flights().added_to(super().standing())

    async def begin(self, row: Row) -> None:
        """Nothing is kept before the row's calls are."""

    def leave(self, row: Row, outcome: Outcome) -> None:
        """The row stays to be done; what was paid for it stands in the batches' journal."""


def unhurried(policy: Policy) -> Policy:
    """The policy without its deadline, which batches cannot keep."""
    return replace(policy, deadline=None, safer=None if policy.safer is None else unhurried(policy.safer))


def _custom_id(key: str, wave: Wave) -> str:
    return f"{key}-{wave.name}"
