"""Who may ask, and how much: keys by their SHA-256, so that the file tells nobody a key. Read anew when the file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

from cascade.errors import InputError

log = logging.getLogger("cascade.gateway")
LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,79})\s+([0-9a-f]{64})((?:\s+\S+)*)")
HOW = "a line is NAME SHA256, the second 64 hexadecimal digits, and maybe budget=USD/day|month|total, rate=N/minute, models=A,B; " \
      "cascade serve --new-key NAME makes one"
PERIODS = ("day", "month", "total")
LOOK = 1.0
"""Seconds between two looks whether the file has changed."""


@dataclass(frozen=True, slots=True)
class Key:
    """One caller. `budget` in dollars per `period`, one of PERIODS; `rate` in requests a minute; `models` are policies. None: no limit."""

    name: str
    budget: Decimal | None = None
    period: str = "total"
    rate: int | None = None
    models: tuple[str, ...] | None = None


class Keys:
    """The keys of a file with lines `NAME SHA256 [budget=…] [rate=…] [models=…]`; empty lines and those with # are passed over. `policies` are
    those that `models=` may name. InputError with file:line for what is wrong; a file that is spoilt later leaves the keys as they were,
    and `problem` says why."""

    def __init__(self, path: str, policies: Collection[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.problem = path, ""
        self._policies, self._clock = policies, clock
        self._stamp = _stamp(path)
        self._keys = _read(path, policies)
        self._next = clock() + LOOK

    def of(self, key: str) -> Key | None:
        """Whose key it is. All are compared, each in constant time."""
        if self._clock() >= self._next:
            self._look()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, one in self._keys.items():
            if hmac.compare_digest(known, digest):
                found = one
        return found

    def all(self) -> tuple[Key, ...]:
        """Those that may ask now."""
        return tuple(self._keys.values())

    def _look(self) -> None:
        self._next = self._clock() + LOOK
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return
        try:
            self._keys, self._stamp, self.problem = _read(self.path, self._policies), stamp, ""
            log.warning("read the keys anew: %s", self.path)
        except InputError as err:
            if str(err) != self.problem:
                log.warning("%s; the keys stay as they were", err)
            self.problem = str(err)


def _stamp(path: str) -> tuple[int, int, int]:
    """Another one when the file is another one."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: str, policies: Collection[str] | None) -> dict[bytes, Key]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: {getattr(err, 'strerror', None) or err}") from err
    keys: dict[bytes, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            digest, key = _key(line.strip(), policies)
            if key.name in {other.name for other in keys.values()}:
                raise ValueError(f"the name {key.name} stands there already")
            if digest in keys:
                raise ValueError(f"the key of {keys[digest].name} stands there already")
        except ValueError as err:
            raise InputError(f"{path}:{number}: {err}") from err
        keys[digest] = key
    if not keys:
        raise InputError(f"{path}: there is no key in it; cascade serve --new-key NAME makes one")
    return keys


def _key(line: str, policies: Collection[str] | None) -> tuple[bytes, Key]:
    match = LINE.fullmatch(line)
    if match is None:
        raise ValueError(HOW)
    key, seen = Key(match[1]), set()
    for part in match[3].split():
        name, _, value = part.partition("=")
        if name not in ("budget", "rate", "models"):
            raise ValueError(f"{part}: {HOW}")
        if name in seen:
            raise ValueError(f"{name}= stands there twice")
        seen.add(name)
        key = _limited(key, name, value, policies)
    return bytes.fromhex(match[2]), key


def _limited(key: Key, name: str, value: str, policies: Collection[str] | None) -> Key:
    first, _, per = value.partition("/")
    if name == "budget":
        dollars = _dollars(first)
        if dollars is None or per not in PERIODS:
            raise ValueError(f"budget={value}: write dollars per {', '.join(PERIODS)}, e.g. budget=20/day")
        return replace(key, budget=dollars, period=per)
    if name == "rate":
        if not re.fullmatch(r"[1-9][0-9]{0,6}", first) or per != "minute":
            raise ValueError(f"rate={value}: write requests a minute, e.g. rate=60/minute")
        return replace(key, rate=int(first))
    models = tuple(value.split(","))
    for model in models:
        if not model or (policies is not None and model not in policies):
            raise ValueError(f"models={value}: there is no policy {model!r}; there are: {', '.join(policies or ())}")
    return replace(key, models=models)


def _dollars(text: str) -> Decimal | None:
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    return found if found.is_finite() and 0 <= found <= 1_000_000 else None


def new(name: str) -> tuple[str, str]:
    """A fresh key, and its line for the file. InputError for a name that is none."""
    key = f"csk-{secrets.token_urlsafe(32)}"
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}"
    if LINE.fullmatch(line) is None:
        raise InputError(f"{name!r} is no name: letters, digits, dots and dashes, at most 80")
    return key, line
