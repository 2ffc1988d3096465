"""The one place where things are put together: policy, providers, wrappers, verifiers and cache become a `Cascade`."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import hashlib
import inspect
import logging
import os
import sqlite3
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar, overload

import orjson

from cascade import binding, compose, engine, prices, prompts, records, telemetry, tools, verifiers
from cascade.around.breaker import Circuit, State, breaker
from cascade.around.lease import Leases, once
from cascade.around.limit import limited
from cascade.around.retry import RetryBudget, retrying
from cascade.around.single_flight import SingleFlight, single_flight
from cascade.budget import Account, Budget, Purse
from cascade.cache import DiskStore, MemoryStore, Store
from cascade.decide import answered, verdicts
from cascade.errors import ConfigurationError, InputError, PolicyError, ProviderError, Unpaid
from cascade.grade import Grader
from cascade.monitor import live, observe
from cascade.outcome import Outcome
from cascade.providers import Adapter, Counting, Opening, build, missing_key
from cascade.reading import reader, written
from cascade.redis_store import RedisStore, redis_store
from cascade.types import (
    Answer,
    Ask,
    CacheSettings,
    Call,
    Checked,
    Compared,
    Document,
    Event,
    Gate,
    Json,
    Policy,
    Skipped,
    Tier,
    Tried,
    Verifier,
    digest,
)

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

log = logging.getLogger("cascade")
T = TypeVar("T")
ZERO = Decimal(0)
RETRIES_OF_GATES = 2
ROLE_BYTES = 16
"""No fewer than the tokens of a message's role and frame."""
MOST_SCHEMAS = 256
"""So many schemas of callers are kept compiled."""
LARGEST_SCHEMA = 64 * 1024
"""Bytes of one that is."""


class Cascade:
    """A policy ready to answer requests, from async and from sync code; one per policy and process is right.

    `ask` replaces the providers (a `Scripted`, a recording, an Ask of your own); retries, limits and breaker belong to the providers,
    so they are then left out. `around` is put around all that, as `cascade.bulk.batched` is. `cache` replaces the policy's cache
    settings. Close it, or use it in a `with` block, to be sure that the cache is on disk; at exit it is closed anyway.

    It can be pickled: what crosses is the policy with every file it was read from, and where cache and monitor are; the other process opens
    its own, and reads keys from its environment. An `ask` cannot cross, nor a run's budget that is not shared: ConfigurationError.

    A policy with thresholds is watched, see `cascade.monitor`: `monitor` is the file of its state, by default beside the thresholds file,
    and in memory only where `ask` is given, since what fakes answer is no traffic. `purse` is a run's budget that
    processes share, in place of the policy's own. `shared`: processes that have the same cache on disk make equal requests once among
    them, as they always do with one in Redis.
    """

    def __init__(self, policy: Policy, *, ask: Ask | None = None, cache: CacheSettings | None = None, monitor: str | None = None,
                 purse: Budget | None = None, around: Callable[[Ask], Ask] | None = None, shared: bool = False) -> None:
        self.policy = policy
        self.purse = purse or (None if policy.budget_per_run is None else Purse(policy.budget_per_run, "run"))
        self._given = ask
        self._around = around
        self._store = _open_store(cache or policy.cache)
        self._leases: Leases | None = self._store if isinstance(self._store, RedisStore) else None
        if shared and isinstance(self._store, DiskStore):
            from cascade.disk_leases import DiskLeases

            self._leases = DiskLeases(self._store)
        self._settings = cache or policy.cache
        self._rungs = self._serves = _Rungs(policy)
        self._callers: dict[str, _Rungs] = {}
        self._monitor = _monitor(policy, monitor or (live.MEMORY if ask is not None else None))
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Wiring] = weakref.WeakKeyDictionary()
        self._portal: BlockingPortal | None = None
        self._portal_stack = contextlib.ExitStack()
        self._last: tuple[asyncio.AbstractEventLoop, _Wiring] | None = None
        _open_cascades.add(self)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, ask: Ask | None = None, cache: CacheSettings | None = None,
             monitor: str | None = None) -> Cascade:
        """The Cascade of a policy file. Raises PolicyError with all that is wrong with it."""
        from cascade.policy import load

        return cls(load(os.fspath(path)), ask=ask, cache=cache, monitor=monitor)

    def __reduce__(self) -> tuple[Callable[..., Cascade], tuple[Policy, CacheSettings, str | None, Budget | None]]:
        if self._given is not None or self._around is not None:
            raise ConfigurationError("a Cascade with an `ask` of its own cannot cross to another process; make one there: Cascade.load(path, ask=…)")
        if isinstance(self.purse, Purse):
            raise ConfigurationError(f"{self.policy.path or self.policy.name}: each process that a Cascade with budget.per_run crosses to would "
                                     "spend it once more; cascade.bulk.map_batches shares or divides it")
        monitor = self._monitor.path if self._monitor is not None else None
        return _crossed, (anywhere(self.policy), _anywhere(self._settings), monitor and _absolute(monitor), self.purse)

    # ------------------------------------------------------------ answering

    @overload
    async def arun(self, inputs: Mapping[str, Json], *, output: None = None, id: str | None = None, schema: Json = None,
                   live: engine.Live | None = None, account: Account | None = None) -> Outcome[Json]: ...

    @overload
    async def arun(self, inputs: Mapping[str, Json], *, output: type[T], id: str | None = None, schema: Json = None,
                   live: engine.Live | None = None, account: Account | None = None) -> Outcome[T]: ...

    async def arun(self, inputs: Mapping[str, Json], *, output: type[Any] | None = None, id: str | None = None, schema: Json = None,
                   live: engine.Live | None = None, account: Account | None = None) -> Outcome[Any]:
        """Answer one request. `inputs` are the template's variables; `output` a pydantic model to get the output as; `schema` a JSON Schema in
        place of the policy's, where its `caller_schema` allows that. `live` is told the text of an answer that nothing looks at, the last
        tier's where it has no gates, in pieces as they come; all others it is not told of. `account` pays for what is asked, not for what is
        remembered or shared with an equal request in flight; it may raise Unpaid.

        Raises InputError, TemplateError or ConfigurationError for what the caller can mend, MissingRecording from a cassette; all
        else is told by the outcome's `status`.
        """
        rungs = self._rungs_for(inputs, schema)
        if telemetry.active is None:
            outcome = await self._request(rungs, _Request(inputs, id, live, account))
        else:
            outcome = await telemetry.active.request(rungs.policy, lambda: self._request(rungs, _Request(inputs, id, live, account)))
        return outcome if output is None else _typed(outcome, output)

    def require(self, inputs: Mapping[str, Json], schema: Json = None) -> None:
        """Raises what `arun` would raise before anything is asked: for who has to know first that a request can be asked."""
        _canonical(inputs)
        rungs = self._rungs_for(inputs, schema)
        compose.prompt(rungs.policy, inputs)
        compose.offered(rungs.policy, inputs)

    async def open(self) -> None:
        """Imports and builds what the first request of this event loop would wait for (SDKs, half a second and more); connects nothing.
        Raises ConfigurationError where a key is missing."""
        wiring = self._wiring()
        if self._given is None:
            wiring.open()

    async def acount(self, inputs: Mapping[str, Json]) -> tuple[int, bool]:
        """How many tokens the prompt has, and whether a provider has counted them: the highest tier's that does (Anthropic's; it is free of
        charge). Where none does, a quarter of its bytes. Raises as `arun` does for wrong inputs."""
        self.require(inputs)
        messages, offered = compose.prompt(self.policy, inputs), compose.offered(self.policy, inputs)
        for tier in reversed(self.policy.tiers if self._given is None else ()):
            try:
                counted = await self._wiring().count(Call(tier.model, messages, timeout=tier.timeout, tools=offered))
            except (ProviderError, ConfigurationError) as err:
                log.warning("tokens are not counted by %s: %s", tier.model, err)
                continue
            if counted is not None:
                return counted, True
        return -(-compose.size(self.policy, inputs) // 4), False

    def _rungs_for(self, inputs: Mapping[str, Json], schema: Json) -> _Rungs:
        rungs = self._serving() if schema is None else self._with(schema)
        return _for_tools(rungs, inputs) if compose.brings_tools(rungs.policy, inputs) else rungs

    async def _request(self, rungs: _Rungs, request: _Request) -> Outcome[Json]:
        key = _key(rungs.policy, _canonical(request.inputs))
        outcome = await self._remembered(rungs, key, request.id)
        if outcome is None:
            outcome = await self._shared(rungs, key, request)
        return outcome if self.alarm is None else replace(outcome, alarm=self.alarm)

    async def _shared(self, rungs: _Rungs, key: str, request: _Request) -> Outcome[Json]:
        """The answer of an equal request in flight, or one's own; where the account of the other does not pay for it, one's own does."""
        wiring, ours = self._wiring(), False

        async def answer() -> Outcome[Json]:
            nonlocal ours
            ours = True
            return await self._answer_once(wiring, rungs, key, request)

        while True:
            try:
                outcome, joined = await wiring.requests.share(key, answer)
            except Unpaid:
                if ours:
                    raise
            else:
                return _at_no_cost(outcome, request.id) if joined else outcome

    @overload
    def run(self, inputs: Mapping[str, Json], *, output: None = None, id: str | None = None, schema: Json = None) -> Outcome[Json]: ...

    @overload
    def run(self, inputs: Mapping[str, Json], *, output: type[T], id: str | None = None, schema: Json = None) -> Outcome[T]: ...

    def run(self, inputs: Mapping[str, Json], *, output: type[Any] | None = None, id: str | None = None,
            schema: Json = None) -> Outcome[Any]:
        """`arun` for sync code; also works where an event loop is running already (Jupyter)."""
        return self.call(functools.partial(self.arun, inputs, output=output, id=id, schema=schema))

    def call(self, do: Callable[[], Awaitable[T]]) -> T:
        """What `do` gives, on the sync face's event loop: for sync code that has several requests at a time."""
        return self._sync().call(do)

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the function's arguments become the template's variables, its return annotation the type of the output.

        The body is never run. An async function stays async. A request that is not accepted raises NotAccepted.
        """
        return _task(lambda: self, function)

    async def arecord(self, inputs: Mapping[str, Json], *, id: str | None = None) -> Outcome[Json]:
        """Ask every tier and gate whatever the gates say: data for `cascade calibrate`. The cache is neither read nor filled.

        The outcome has mode "record"; what is served is the last tier's answer. Raises as `arun` does.
        """
        _canonical(inputs)
        if compose.brings_tools(self.policy, inputs):
            raise InputError("tools: what calibrate learns from are answers, so requests with tools are not recorded")
        ladder = self._wiring().ladder(self._rungs)
        if telemetry.active is None:
            return await engine.record(ladder, inputs, id=id)
        return await telemetry.active.request(self.policy, lambda: engine.record(ladder, inputs, id=id))

    def record(self, inputs: Mapping[str, Json], *, id: str | None = None) -> Outcome[Json]:
        """`arecord` for sync code."""
        return self.call(functools.partial(self.arecord, inputs, id=id))

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """What a recording made with this policy is bound to, see `binding.digests`."""
        return binding.digests(self.policy)

    @property
    def alarm(self) -> str | None:
        """What the monitor has to say: that the policy stepped back, or what has drifted; None while all is as calibrated."""
        return None if self._monitor is None else self._monitor.alarm

    @property
    def monitor(self) -> live.Monitor | None:
        """What watches a policy with thresholds; None for any other."""
        return self._monitor

    @property
    def breakers(self) -> dict[str, State]:
        """By model, of those that were asked: closed, open (it is left alone for a while) or half_open (the next call is a probe)."""
        return {model: circuit.state for wiring in self._loops.values() for model, circuit in wiring.circuits.items()}

    @functools.cached_property
    def labels(self) -> frozenset[str]:
        """The labels of all policies that may serve: this one, and those it steps back to."""
        return frozenset({self.label} if self._monitor is None else map(_label, self._monitor.chain))

    def _serving(self) -> _Rungs:
        """The policy that serves now: after an alarm another one, with a digest, and so cached answers, of its own."""
        policy = self.policy if self._monitor is None else self._monitor.serving()
        if self._serves.policy is not policy:
            self._serves = _Rungs(policy)
        return self._serves

    def _with(self, schema: Json) -> _Rungs:
        """The policy with a caller's schema: its digest, and so cached answers, are of its own."""
        from cascade.policy.caller import with_schema

        policy = self._serving().policy
        try:
            key = digest([policy.digest, schema])
        except TypeError as err:  # orjson's, of a number beyond 64 bits
            raise InputError(f"the schema of the request: {err}") from err
        found = self._callers.get(key)
        if found is None:
            found = _Rungs(with_schema(policy, schema))
            if len(orjson.dumps(schema)) > LARGEST_SCHEMA:
                return found
            while len(self._callers) >= MOST_SCHEMAS:
                del self._callers[next(iter(self._callers))]
            self._callers[key] = found
        return found

    async def _answer_once(self, wiring: _Wiring, rungs: _Rungs, key: str, request: _Request) -> Outcome[Json]:
        """As `_answer`, in one process at a time where they share a cache. One that waited has that much less of its deadline.

        What is put around the Ask may take a day: nobody is kept waiting for that.
        """
        if self._leases is None or self._around is not None:
            return await self._paid(wiring, rungs, key, request)
        return await once(
            self._leases, key, lambda: self._remembered(rungs, key, request.id),
            lambda waited: self._paid(wiring, rungs, key, request, waited), _kept, lambda: self._patience,
        )  # fmt: skip

    async def _paid(self, wiring: _Wiring, rungs: _Rungs, key: str, request: _Request, waited: float = 0.0) -> Outcome[Json]:
        """As `_answer`, at the cost of the account, if there is one."""
        if request.account is None:
            return await self._answer(wiring, rungs, key, request, waited)
        from cascade.policy.bounds import bounds

        worst = bounds(rungs.policy, compose.size(rungs.policy, request.inputs, ROLE_BYTES)).worst_usd
        async with request.account.paying(worst) as purse:
            return await self._answer(wiring, rungs, key, request, waited, purse)

    @functools.cached_property
    def _patience(self) -> float:
        """How long another process is waited for, in seconds: half the deadline, so that the other half is left to ask."""
        from cascade.policy.bounds import bounds

        return self.policy.deadline / 2 if self.policy.deadline else bounds(self.policy).worst_seconds

    async def _answer(self, wiring: _Wiring, rungs: _Rungs, key: str, request: _Request, waited: float = 0.0,
                      purse: Budget | None = None) -> Outcome[Json]:
        """The ladder's answer; a shadow's or audited one for the share of requests that the policy names.

        A shadow is as long on its way as the slowest tier with its gates, an audit one call longer than the answer alone. An equal
        request in flight or later, from the cache, is neither.
        """
        policy, ladder, inputs, id = rungs.policy, wiring.ladder(rungs), request.inputs, request.id
        if purse is not None:
            ladder = replace(ladder, paid=purse)
        if waited and policy.deadline is not None:
            ladder = replace(ladder, policy=replace(policy, deadline=max(policy.deadline - waited, policy.deadline / 2)))
        failures = await self._known_failures(rungs, inputs) if self._store else {}
        drawn = _chosen(policy, "audit", policy.audit, inputs, id)
        if _chosen(policy, "shadow", policy.shadow, inputs, id):
            outcome = await engine.shadow(ladder, inputs, id=id)
        else:
            outcome = await engine.run(ladder, inputs, seed=_skips(rungs, failures), id=id, live=request.live)
            if drawn and outcome.status == "accepted" and outcome.tier != policy.tiers[-1].name:
                outcome = await engine.audit(ladder, inputs, outcome)
        if self._monitor is not None and len(policy.tiers) > 1:
            self._watch(self._monitor, ladder, inputs, outcome, drawn)
        if self._store:
            await self._remember(rungs, key, inputs, outcome, failures)
        return outcome

    def _watch(self, monitor: live.Monitor, ladder: engine.Ladder, inputs: Mapping[str, Json], outcome: Outcome[Json], drawn: bool) -> None:
        """Tell the monitor of a request that was answered, not of one from the cache."""
        at = answered(outcome.trail)
        if outcome.mode is None and at is not None and outcome.trail[at].tier == ladder.policy.tiers[-1].name:
            compared = engine.comparisons(ladder, outcome.trail)  # one that climbed has both answers for nothing
        else:
            compared = [e for e in outcome.trail if isinstance(e, Compared)]
        walked = observe.walk(ladder.policy, outcome.trail, compared)
        differs = observe.differs(ladder.policy, outcome, walked.stood, drawn)
        key = b"" if differs is None else hashlib.sha256(_canonical(inputs)).digest()[:12]
        monitor.add(ladder.policy, walked.numbers, differs, key)

    # ------------------------------------------------------------ remembering

    async def _stored(self, key: str) -> str | None:
        if isinstance(self._store, RedisStore):
            return await self._store.away(self._store.get, key)
        return self._store.get(key) if self._store else None

    async def _keep(self, key: str, text: str, ttl: float | None) -> None:
        assert self._store is not None
        if isinstance(self._store, RedisStore):
            await self._store.away(self._store.set, key, text, ttl)
        else:
            self._store.set(key, text, ttl)

    async def _remembered(self, rungs: _Rungs, key: str, id: str | None) -> Outcome[Json] | None:
        text = await self._stored(key)
        if text is None:
            return None
        try:
            return records.from_cached(text, rungs.label, id)
        except (ValueError, TypeError) as err:
            log.warning("a cache entry cannot be read and is asked again (%s: %s)", type(err).__name__, err)
            return None

    @functools.cached_property
    def label(self) -> str:
        """`name@digest` of the policy, as rows carry it; after a step back they carry another, one of `labels`."""
        return _label(self.policy)

    async def _remember(self, rungs: _Rungs, key: str, inputs: Mapping[str, Json], outcome: Outcome[Json], failures: Mapping[str, str]) -> None:
        """Accepted answers are kept to be served; of the rest only that, and where, this input failed."""
        if _kept(outcome):
            ttl = self._settings.ttl if outcome.status == "accepted" else self._settings.negative_ttl
            await self._keep(key, records.to_cached(_at_no_cost(outcome, None)), ttl)
        found = {rungs.digests[tier]: why for tier, why in _failed_tiers(outcome).items()}
        if found:
            await self._keep(_failures_key(rungs, inputs), orjson.dumps({**failures, **found}).decode(), self._settings.negative_ttl)

    async def _known_failures(self, rungs: _Rungs, inputs: Mapping[str, Json]) -> dict[str, str]:
        text = await self._stored(_failures_key(rungs, inputs))
        try:
            known = orjson.loads(text) if text else {}
        except ValueError as err:
            log.warning("a cache entry cannot be read and is left out (%s: %s)", type(err).__name__, err)
            return {}
        return known if isinstance(known, dict) else {}

    # ------------------------------------------------------------ wiring

    def _wiring(self) -> _Wiring:
        """What belongs to the running event loop: HTTP pools and everything that waits."""
        loop = asyncio.get_running_loop()
        if self._last is not None and self._last[0] is loop:
            return self._last[1]
        wiring = self._loops.get(loop)
        if wiring is None:
            wiring = self._loops[loop] = _Wiring(self, self._given)
        self._last = (loop, wiring)
        return wiring

    def _sync(self) -> BlockingPortal:
        if self._portal is None:
            from anyio.from_thread import start_blocking_portal

            self._portal = self._portal_stack.enter_context(start_blocking_portal(name="cascade"))
        return self._portal

    async def aclose(self) -> None:
        """Close this loop's connections, the cache, and the monitor's state."""
        wiring = self._loops.pop(asyncio.get_running_loop(), None)
        self._last = None
        if wiring:
            await wiring.close()
        self._shut()

    def close(self) -> None:
        """Close the connections of the sync face, the cache, and the monitor's state."""
        if self._portal is not None:
            self._portal.call(self.aclose)
            self._portal_stack.close()
            self._portal = None
        else:
            self._shut()

    def _shut(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
        if self._store:
            self._store.close()

    def __enter__(self) -> Cascade:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Cascade:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _crossed(policy: Policy, cache: CacheSettings, monitor: str | None, purse: Budget | None) -> Cascade:
    """A Cascade of another process, in this one."""
    return Cascade(policy, cache=cache, monitor=monitor, purse=purse)


def anywhere(policy: Policy) -> Policy:
    """The policy where the working directory is another one: its cache, monitor and recordings by their whole paths."""
    found = {name: replace(one, options={**one.options, "path": _absolute(one.options["path"])}) if "path" in one.options else one
             for name, one in policy.providers.items()}
    watch = policy.watch and replace(policy.watch, file=_absolute(policy.watch.file))
    return replace(policy, providers=found, cache=_anywhere(policy.cache), watch=watch, safer=policy.safer and anywhere(policy.safer))


def _anywhere(cache: CacheSettings) -> CacheSettings:
    return replace(cache, path=_absolute(cache.path))


def _absolute(path: str) -> str:
    return path if path == live.MEMORY or path.startswith("~") else os.path.abspath(path)


_open_cascades: weakref.WeakSet[Cascade] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for cascade in list(_open_cascades):
        with contextlib.suppress(RuntimeError, OSError, sqlite3.Error):  # the interpreter is going down: what is closed is closed
            cascade.close()


@dataclass(frozen=True, slots=True)
class _Request:
    """What `arun` was asked."""

    inputs: Mapping[str, Json]
    id: str | None
    live: engine.Live | None
    account: Account | None


class _Rungs:
    """A policy that may serve, with what is built once for it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.label = _label(policy)
        self.verifiers = _build_verifiers(policy)
        self.read, self.grader = reader(policy), Grader.of(policy)
        self.params = {tier.name: Document({"max_tokens": tier.max_tokens, **tier.params}) for tier in policy.tiers}
        self.digests = {tier.name: _tier_digest(policy, tier) for tier in policy.tiers}
        self.prompt = _prompt_digest(policy)

    @functools.cached_property
    def tooled(self) -> _Rungs:
        """The same for requests that bring tools."""
        from cascade.policy.caller import with_tools

        return _Rungs(with_tools(self.policy))


def _for_tools(rungs: _Rungs, inputs: Mapping[str, Json]) -> _Rungs:
    """Those that answer a request with tools. Raises InputError."""
    from cascade.verifiers.tools import problem

    offered = compose.offered(rungs.policy, inputs)
    if offered is not None and (wrong := problem(offered)):
        raise InputError(wrong)
    return rungs.tooled


class _Wiring:
    """The stack of one event loop: single_flight(limited(retrying(breaker(provider)))), one provider a name."""

    def __init__(self, owner: Cascade, given: Ask | None) -> None:
        self.policy = owner.policy
        self.requests: SingleFlight[str, Outcome[Json]] = SingleFlight()
        self.adapters: dict[str, Adapter] = {}
        self.asks: dict[str, Ask] = {}
        self.retries = RetryBudget()
        self.circuits: dict[str, Circuit] = {}
        chain = [owner.policy] if owner._monitor is None else owner._monitor.chain
        self.per_model = {tier.model: tier.retries for policy in chain for tier in policy.tiers}
        if given is None and (missing := missing_keys(owner.policy)):
            raise ConfigurationError("; ".join(missing))  # before the first tier is paid for what the second cannot mend
        self.ask = single_flight(given or self._route)
        if owner._around is not None:
            self.ask = owner._around(self.ask)
        if telemetry.active is not None:
            self.ask = telemetry.active.traced(self.ask, owner.policy)
        self.purse = owner.purse
        self._ladders: weakref.WeakKeyDictionary[_Rungs, engine.Ladder] = weakref.WeakKeyDictionary()

    def ladder(self, rungs: _Rungs) -> engine.Ladder:
        """The policy's ladder, with this loop's connections."""
        found = self._ladders.get(rungs)
        if found is None:
            found = engine.Ladder(rungs.policy, self.ask, rungs.verifiers, rungs.params, self._worst, rungs.read, self.purse, rungs.grader)
            self._ladders[rungs] = found
        return found

    async def _route(self, call: Call) -> Answer:
        name = call.model.partition("/")[0]
        ask = self.asks.get(name)
        if ask is None:
            ask = self.asks[name] = self._stack(name)
        return await ask(call)

    def _adapter(self, name: str) -> Adapter:
        if name not in self.adapters:
            self.adapters[name] = build(self.policy.providers[name], self.policy.pricing)
        return self.adapters[name]

    def open(self) -> None:
        for name in dict.fromkeys(model.partition("/")[0] for tier in self.policy.tiers for model in models_of(tier)):
            adapter = self._adapter(name)
            if isinstance(adapter, Opening):
                adapter.open()

    async def count(self, call: Call) -> int | None:
        """How many tokens the call's prompt has, as its provider counts them; None where it does not."""
        adapter = self._adapter(call.model.partition("/")[0])
        return await adapter.count(call) if isinstance(adapter, Counting) else None

    def _stack(self, name: str) -> Ask:
        provider, adapter = self.policy.providers[name], self._adapter(name)
        patient = retrying(breaker(adapter, circuits=self.circuits), lambda call: self.per_model.get(call.model, RETRIES_OF_GATES), self.retries)
        return limited(patient, provider)

    def _worst(self, call: Call) -> Decimal | None:
        """The most a call can cost: a token is at least one byte of the prompt, and the answer is as long as it may be."""
        from cascade.providers import kind

        provider = self.policy.providers[call.model.partition("/")[0]]
        unit = prices.unit_prices(call.model, self.policy.pricing, kind(provider.kind).prices)
        if unit is None:
            return None
        size = sum(m.size + ROLE_BYTES for m in call.messages) + tools.size(call.tools)
        size += len(orjson.dumps(call.schema.json)) if call.schema else 0
        if questions := call.params.json.get("questions"):  # of a decision, which are read like the prompt
            size += len(orjson.dumps(questions))
        at = unit.at(size)
        dearest = max(at.input, at.cache_write or ZERO)
        most: int = call.params.json["max_tokens"]
        return (size * dearest + most * max(at.output, at.reasoning or ZERO)).scaleb(-6) + at.request

    async def close(self) -> None:
        for adapter in self.adapters.values():
            await adapter.close()


def missing_keys(policy: Policy) -> list[str]:
    """One line for each provider the ladder uses whose key is not in the environment."""
    names = dict.fromkeys(model.partition("/")[0] for tier in policy.tiers for model in models_of(tier))
    return [problem for name in names if (problem := missing_key(policy.providers[name]))]


def models_of(tier: Tier) -> tuple[str, ...]:
    """The models a tier may ask: its own, and its gates'."""
    return (tier.model, *(m for gate in tier.gates for m in verifiers.models(gate.kind, gate.options)))


def _build_verifiers(policy: Policy) -> dict[tuple[str, str], Verifier]:
    return {(tier.name, gate.name): _build_verifier(policy, tier, gate) for tier in policy.tiers for gate in tier.gates}


def _build_verifier(policy: Policy, tier: Tier, gate: Gate) -> Verifier:
    try:
        return verifiers.build(gate.kind, gate.options, policy.schema, policy.compare)
    except ValueError as err:
        raise PolicyError([f"{policy.path or policy.name}: tiers.{tier.name}.gates.{gate.name}: {err}"]) from err


def _open_store(settings: CacheSettings) -> Store | None:
    if settings.backend == "off":
        return None
    if settings.backend == "memory":
        return MemoryStore()
    if settings.backend.startswith("redis"):
        return redis_store(settings)
    try:
        return DiskStore(settings.path)
    except (OSError, sqlite3.Error) as err:
        log.warning("no cache: %s cannot be used (%s)", settings.path, err)
        return None


def _monitor(policy: Policy, path: str | None) -> live.Monitor | None:
    """None for a policy without thresholds, and for one that asks its last tier only: there is nothing to hold against."""
    if policy.watch is None or policy.watch.step is None:
        return None
    return live.Monitor(policy, path or live.state_file(policy))


def _label(policy: Policy) -> str:
    return f"{policy.name}@{policy.digest[:6]}"


def _key(policy: Policy, canonical: bytes) -> str:
    """Everything that can change the answer: the policy's digest (prompts, schema, models, gates …) and the inputs."""
    return hashlib.sha256(records.CACHED + policy.digest.encode() + canonical).hexdigest()


def _failures_key(rungs: _Rungs, inputs: Mapping[str, Json]) -> str:
    return hashlib.sha256(records.CACHED + b"failed" + rungs.prompt.encode() + _canonical(inputs)).hexdigest()


def _chosen(policy: Policy, what: str, share: float, inputs: Mapping[str, Json], id: str | None) -> bool:
    """Whether this request is one of the share: by its own digest, so that a resumed run chooses the same ones."""
    if share <= 0 or len(policy.tiers) < 2:
        return False
    parts = (what.encode(), _label(policy).encode(), (id or "").encode(), _canonical(inputs))
    drawn = hashlib.sha256(b"\0".join(parts)).digest()
    return int.from_bytes(drawn[:8]) < share * 2**64


def _skips(rungs: _Rungs, failures: Mapping[str, str]) -> list[Event]:
    """The lowest tiers that failed this input before; the last tier is always asked."""
    skips: list[Event] = []
    for tier in rungs.policy.tiers[:-1]:
        why = failures.get(rungs.digests[tier.name])
        if why is None:
            break
        skips.append(Skipped(tier.name, f"failed this input before: {why}"))
    return skips


def _prompt_digest(policy: Policy) -> str:
    system = prompts.digest(policy.system)
    schema = policy.schema.digest if policy.schema else None
    return digest([prompts.digest(policy.prompt), system, schema, dict(policy.compare)])


def _tier_digest(policy: Policy, tier: Tier) -> str:
    """What decides whether this tier fails an input: the model as it is asked, and what its answer must pass."""
    provider = policy.providers.get(tier.model.partition("/")[0])
    where = [provider.kind, provider.base_url, dict(provider.options)] if provider else None
    gates = [[gate.kind, gate.threshold, prompts.by_content(gate.options)] for gate in tier.gates]
    return digest([tier.model, where, dict(tier.params), tier.max_tokens, tier.repair, tier.carry, tier.escalate, gates])


def _canonical(inputs: Mapping[str, Json]) -> bytes:
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs must be a mapping of the template's variables, not {type(inputs).__name__}")
    try:
        return orjson.dumps(inputs if isinstance(inputs, dict) else dict(inputs), option=orjson.OPT_SORT_KEYS)
    except (TypeError, orjson.JSONEncodeError) as err:
        raise InputError(f"inputs must be plain JSON values: {err}") from err


def _at_no_cost(outcome: Outcome[Json], id: str | None) -> Outcome[Json]:
    """The outcome as one who did not pay for it sees it: the served answer and its verdicts, marked cached."""
    at = answered(outcome.trail) if outcome.status == "accepted" and outcome.mode is None else _served(outcome)
    trail: tuple[Event, ...] = ()
    if at is not None:
        tried = outcome.trail[at]
        assert isinstance(tried, Tried)
        checks = [replace(c, cost_usd=ZERO, seconds=0.0) for c in verdicts(outcome.trail, at)]
        if tried.part:  # what it completes is left behind: it is kept as what it came to
            tried = replace(tried, text=tried.text if outcome.output is None else written(outcome.output), part=())
        trail = (replace(tried, cached=True, cost_usd=ZERO, seconds=0.0, retries=()), *checks)
    return replace(outcome, cost_usd=ZERO, unpriced=(), seconds=0.0, trail=trail, id=id, cached=True, mode=None)


def _served(outcome: Outcome[Json]) -> int | None:
    """The index of the last answer of the tier that was served."""
    found = [i for i, e in enumerate(outcome.trail) if isinstance(e, Tried) and e.gate is None and e.tier == outcome.tier]
    return found[-1] if found else None


def _kept(outcome: Outcome[Json]) -> bool:
    """Whether the cache keeps the outcome, to be served."""
    return outcome.status in ("accepted", "flagged") and not _incomplete(outcome)


def _incomplete(outcome: Outcome[Json]) -> bool:
    """Whether a flagged outcome may end otherwise another day: money or time ran out, or a tier gave no answer."""
    return outcome.status == "flagged" and (
        not (outcome.error or "").startswith("exhausted") or any(e.event == "failed" for e in outcome.trail)
        or any(isinstance(e, Checked) and e.score is None for e in outcome.trail))


def _failed_tiers(outcome: Outcome[Json]) -> dict[str, str]:
    """The tiers whose last answer was judged and found wanting (not those that could not be judged), and why."""
    last: dict[str, Checked] = {}
    for event in outcome.trail:
        if isinstance(event, Checked):
            last[event.tier] = event
    return {tier: f"{c.gate}: {c.reason or 'below its threshold'}" for tier, c in last.items() if not c.passed and c.score is not None}


def _typed(outcome: Outcome[Any], model: type[Any]) -> Outcome[Any]:
    if outcome.output is None:
        return outcome
    from pydantic import TypeAdapter, ValidationError

    try:
        return replace(outcome, output=TypeAdapter(model).validate_python(outcome.output))
    except ValidationError as err:
        if outcome.status == "accepted":
            raise InputError(f"the accepted output is no {getattr(model, '__name__', model)}; does the policy's schema describe it? "
                             f"{err.errors()[0]['loc']}: {err.errors()[0]['msg']}") from err
        return outcome


# ---------------------------------------------------------------- tasks


def task(policy: str | os.PathLike[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator for a function answered by the policy in that file, which is loaded at the first call. See `Cascade.task`."""
    loaded: list[Cascade] = []

    def cascade() -> Cascade:
        if not loaded:
            loaded.append(Cascade.load(policy))
        return loaded[0]

    return lambda function: _task(cascade, function)


def _task(cascade: Callable[[], Cascade], function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    def inputs(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Json]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return {name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value for name, value in bound.arguments.items()}

    def output() -> type[Any] | None:
        found = inspect.get_annotations(function, eval_str=True).get("return")
        return None if found in (None, dict, Any) else found

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def answer(*args: Any, **kwargs: Any) -> Any:
            outcome = await cascade().arun(inputs(args, kwargs), output=output())
            return outcome.raise_for_status().output

        return answer

    @functools.wraps(function)
    def answer_now(*args: Any, **kwargs: Any) -> Any:
        return cascade().run(inputs(args, kwargs), output=output()).raise_for_status().output

    return answer_now
