"""A cache that processes and machines share, in Redis: entries as on disk, and leases so that equal requests are paid once.

Redis may be away, hang or forget at any moment: what it does not give in time is absent, and it is left alone for a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cascade.cache import sealed, unsealed
from cascade.errors import ConfigurationError
from cascade.types import CacheSettings

log = logging.getLogger("cascade.cache")
T = TypeVar("T")

SOCKET_SECONDS = 0.5
"""For connecting, and for each read and write."""
TOTAL_SECONDS = 1.0
"""The most a request waits for Redis in one go: a server that drips bytes resets the socket's clock, not this one."""
PAUSE_SECONDS = 5.0
"""How long Redis is left alone after it failed; then one request tries it, and the others go on without."""
WARN_SECONDS = 60.0
LEASE_SECONDS = 10.0
"""How long a lease outlives its holder. The holder renews it three times in that time."""
OVER = b"over"
OVER_SECONDS = 2.0
"""A lease says so long that its holder got nothing that can be shared."""
MOST_BYTES = 16 * 2**20
"""No entry is longer: one answer of at most 8 MiB, and its verdicts."""
THREADS = 8

BUDGET_SECONDS = 30 * 86400
"""How long a run's budget is kept."""

_IF_OURS = "if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end "
_EXTEND = _IF_OURS + "return redis.call('pexpire', KEYS[1], ARGV[2])"
_RELEASE = _IF_OURS + "return redis.call('del', KEYS[1])"
_END = _IF_OURS + "redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3]) return 1"

_DRAW = """
local left = redis.call('get', KEYS[1])
if not left then return false end
if tonumber(left) < tonumber(ARGV[1]) then return {0, tonumber(left)} end
return {1, redis.call('decrby', KEYS[1], ARGV[1])}"""
_PAY_BACK = "if redis.call('exists', KEYS[1]) == 1 then redis.call('incrby', KEYS[1], ARGV[1]) end"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis is. Never holds a password."""

    host: str
    port: int = 6379
    db: int = 0
    tls: bool = False
    user: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{self.user + '@' if self.user else ''}{host}:{self.port}/{self.db}"


def address(text: str) -> Address:
    """`redis://[user@]host[:port][/db]`, rediss:// for TLS. ValueError, which repeats nothing of the text: it may hold a secret."""
    shape = "write redis://host:port/db, or rediss:// for TLS"
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError(shape) from None
    if parts.scheme not in ("redis", "rediss") or not host or parts.query or parts.fragment or not re.fullmatch(r"/?|/[0-9]{1,4}", parts.path):
        raise ValueError(shape)
    if parts.password is not None:
        raise ValueError("a password does not belong here: put it into an environment variable and name that as password_env")
    return Address(host, port or 6379, int(parts.path[1:] or 0), parts.scheme == "rediss", parts.username or None)


def redis_store(settings: CacheSettings) -> RedisStore:
    """The store of a policy's cache settings; ConfigurationError where it cannot be one."""
    try:
        where = address(settings.backend)
    except ValueError as err:
        raise ConfigurationError(f"cache: {err}") from None
    return RedisStore(where, settings.namespace, settings.password_env)


class RedisStore:
    """A Store in Redis under `namespace:`. Nothing of the Store raises; `stats`, `clear` and `verify` raise OSError.

    The synchronous client, on a few threads of its own (`away`), belongs to no event loop, as the Store does not. `lease` is how long,
    in seconds, a lease lasts without being renewed. Raises ConfigurationError where redis-py or the password is missing.
    """

    def __init__(self, where: Address, namespace: str = "cascade", password_env: str | None = None, lease: float = LEASE_SECONDS) -> None:
        self.where, self.lease = where, lease
        self._namespace = namespace
        self._password = _password(password_env)
        self._client, self._response_error, self._errors = _client(where, self._password)
        self._threads: ThreadPoolExecutor | None = None
        self._running: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._down = False
        self._until = 0.0
        self._warned: dict[str, float] = {}

    async def away(self, do: Callable[..., T], *args: object) -> T | None:
        """`do` on a thread, the loop going on; None when it takes longer than TOTAL_SECONDS."""
        started = None if self._paused() else self._start(do, *args)
        if started is None:
            return None
        running = asyncio.wrap_future(started)
        done, _ = await asyncio.wait({running}, timeout=TOTAL_SECONDS)
        if not done:
            self._failed(TimeoutError(f"no answer within {TOTAL_SECONDS:g} s"))
            return None
        return running.result()

    def _start(self, do: Callable[..., T], *args: object) -> Future[T] | None:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, "cascade-redis")
            try:
                started = self._threads.submit(do, *args)
            except RuntimeError:  # the interpreter is going down
                return None
            self._running.add(started)
        started.add_done_callback(self._running.discard)
        return started

    # ------------------------------------------------------------ a Store

    def get(self, key: str) -> str | None:
        # one byte more than an entry may have: what is cut off does not match its digest
        stored = self._do("read", lambda redis: redis.getrange(self._entry(key), 0, MOST_BYTES))
        if not stored or not isinstance(stored, bytes):
            return None
        try:
            return unsealed(stored.decode())
        except ValueError as err:
            self._warn("read an entry of", f"{key[:12]}: {err}")
            return None

    def set(self, key: str, text: str, ttl: float | None) -> None:
        if ttl is not None and ttl <= 0:
            return self.delete(key)
        px = None if ttl is None else max(1, int(ttl * 1000))
        self._do("write", lambda redis: redis.set(self._entry(key), sealed(text), px=px))

    def delete(self, key: str) -> None:
        self._do("write", lambda redis: redis.delete(self._entry(key)))

    def flush(self) -> None:
        """Nothing is written behind the caller."""

    def close(self) -> None:
        """Wait, for TOTAL_SECONDS at most, until leases are given back. A store that is used again opens again."""
        with self._lock:
            threads, self._threads, running = self._threads, None, set(self._running)
        wait(running, TOTAL_SECONDS)
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    # ------------------------------------------------------------ leases

    def acquire(self, key: str, token: str) -> bool | None:
        """Whether the lease is this token's now; None when there is none to wait for: Redis is away, or the last holder got nothing."""

        def one_trip(redis: Any) -> bytes | None:
            pipe = redis.pipeline(transaction=False)
            pipe.set(self._leased(key), token, nx=True, px=int(self.lease * 1000))
            pipe.get(self._leased(key))
            found: bytes | None = pipe.execute()[1]
            return found

        holder = self._do("lease", one_trip)
        return holder == token.encode() if isinstance(holder, bytes) and holder != OVER else None

    def extend(self, key: str, token: str) -> bool:
        """Another `lease` seconds; False when the lease has been lost."""
        return self._do("lease", lambda redis: redis.eval(_EXTEND, 1, self._leased(key), token, int(self.lease * 1000))) != 0

    def release(self, key: str, token: str) -> None:
        """Give the lease back, if it is still this token's, without waiting."""
        self._soon(_RELEASE, key, token)

    def end(self, key: str, token: str) -> None:
        """Give the lease back, telling those who wait that they need not wait for one another, since there is nothing to share."""
        self._soon(_END, key, token, OVER.decode(), int(OVER_SECONDS * 1000))

    def _soon(self, script: str, key: str, *args: str | int) -> None:
        if not self._paused():  # a lease that is not given back ends by itself
            self._start(self._do, "lease", lambda redis: redis.eval(script, 1, self._leased(key), *args))

    # ------------------------------------------------------------ a run's budget, in whole units

    def fund(self, run: str, amount: int) -> bool:
        """A budget to draw from begins; False when Redis does not take it."""
        return bool(self._do("fund", lambda redis: redis.set(self._budget(run), amount, ex=BUDGET_SECONDS)))

    def draw(self, run: str, amount: int) -> tuple[bool, int] | None:
        """Whether the amount was drawn, all or nothing, and what is left; None when the budget is gone, or Redis is away."""
        found = self._do("draw from", lambda redis: redis.eval(_DRAW, 1, self._budget(run), amount))
        return (found[0] == 1, int(found[1])) if isinstance(found, list) else None

    def pay_back(self, run: str, amount: int) -> None:
        """What was drawn and not spent; lost when Redis is away."""
        self._do("pay back to", lambda redis: redis.eval(_PAY_BACK, 1, self._budget(run), amount))

    # ------------------------------------------------------------ for `cascade cache`

    @property
    def folder(self) -> str:
        """Where the entries are, for people."""
        return f"{self.where} ({self._namespace}:)"

    def stats(self) -> dict[str, int]:
        """Entries, and their bytes."""
        with self._told():
            sizes = [size for keys in self._batches() for size in self._each(keys, "strlen")]
        return {"entries": len(sizes), "bytes": sum(size for size in sizes if isinstance(size, int))}

    def clear(self) -> int:
        """Drop the entries of this namespace; how many that were. Leases stay: someone is paying."""
        with self._told():
            return sum(self._client.unlink(*keys) for keys in self._batches())

    def verify(self) -> tuple[int, int]:
        """Read every entry: how many are sound, and how many unreadable ones were dropped."""
        sound = dropped = 0
        with self._told():
            for keys in self._batches():
                wrong = [key for key, stored in zip(keys, self._each(keys, "get"), strict=True) if not _is_sound(stored)]
                dropped += self._client.unlink(*wrong) if wrong else 0  # one whose time has ended meanwhile is not counted
                sound += len(keys) - len(wrong)
        return sound, dropped

    def _batches(self) -> Iterator[list[bytes]]:
        """The keys of the entries, up to a hundred at a time, each once."""
        keys = list(dict.fromkeys(self._client.scan_iter(match=self._entry("*"), count=1000)))
        return (keys[at : at + 100] for at in range(0, len(keys), 100))

    def _each(self, keys: list[bytes], command: str) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            getattr(pipe, command)(key)
        found: list[Any] = pipe.execute(raise_on_error=False)
        return found

    def _told(self) -> _Told:
        return _Told(self)

    # ------------------------------------------------------------ Redis being away

    def _do(self, what: str, command: Callable[[Any], T]) -> T | None:
        """What the command gives; None when Redis is left alone, does not answer or says no."""
        if not self._try():
            return None
        try:
            found = command(self._client)
        except self._response_error as err:  # it is there, and refuses this: a key of another kind, memory full, no permission
            self._answered()
            self._warn(what, self._clean(err))
            return None
        except self._errors as err:
            self._failed(err)
            return None
        self._answered()
        return found

    def _paused(self) -> bool:
        return time.monotonic() < self._until

    def _try(self) -> bool:
        """Whether to ask Redis now. After a pause one caller does, and the others go on without until it is back."""
        with self._lock:
            if self._paused():
                return False
            if self._down:
                self._until = time.monotonic() + TOTAL_SECONDS
            return True

    def _answered(self) -> None:
        if self._down:
            with self._lock:
                self._down, self._until = False, 0.0

    def _failed(self, err: Exception) -> None:
        with self._lock:
            self._down, self._until = True, time.monotonic() + PAUSE_SECONDS
        self._warn("reach", self._clean(err))

    def _warn(self, what: str, why: str) -> None:
        """Once a minute for each kind of trouble."""
        now = time.monotonic()
        with self._lock:
            if now < self._warned.get(what, 0.0):
                return
            self._warned[what] = now + WARN_SECONDS
        log.warning("cannot %s the cache in %s (%s); going on without", what, self.where, why)

    def _clean(self, err: Exception) -> str:
        text = f"{type(err).__name__}: {err}"
        if self._password:
            text = text.replace(self._password, "***")
        return "".join(c if c.isprintable() else " " for c in text)[:200]

    def _entry(self, key: str) -> str:
        return f"{self._namespace}:answer:{key}"

    def _leased(self, key: str) -> str:
        return f"{self._namespace}:lease:{key}"

    def _budget(self, run: str) -> str:
        return f"{self._namespace}:budget:{run}"


class _Told:
    """Within this block what redis-py raises becomes an OSError for people."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, err: BaseException | None, _: object) -> None:
        if isinstance(err, Exception) and isinstance(err, (*self._store._errors, self._store._response_error)):
            raise OSError(self._store._clean(err)) from err


def _is_sound(stored: Any) -> bool:
    try:
        unsealed(stored.decode() if isinstance(stored, bytes) else "")
    except ValueError:
        return False
    return True


def _password(env: str | None) -> str | None:
    if env is None:
        return None
    password = os.environ.get(env)
    if not password:
        raise ConfigurationError(f"cache: no password for Redis; set {env}, which the policy names as password_env")
    return password


def _client(where: Address, password: str | None) -> tuple[Any, type[Exception], tuple[type[Exception], ...]]:
    """redis-py's client, what it raises where Redis refuses a command, and where there is no sensible reply."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as err:
        raise ConfigurationError("cache: Redis needs redis-py: pip install 'cascade-judge[redis]'") from err
    retry = Retry(NoBackoff(), 0)  # the pool sees for itself when a connection that stood idle was closed
    client = redis.Redis(
        where.host, where.port, where.db, username=where.user, password=password, socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS, retry=retry, protocol=2, driver_info=None, ssl=where.tls,
    )  # fmt: skip
    # what is no Redis at all answers anything: redis-py then raises whatever its parser stumbles over
    return client, redis.ResponseError, (redis.RedisError, OSError, ValueError, TypeError, AttributeError, IndexError, RecursionError)
