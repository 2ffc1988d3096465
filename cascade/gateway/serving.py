"""A gateway of what the command line says, and the server around it: what each worker process builds for itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn

from cascade.app import Cascade
from cascade.errors import InputError
from cascade.gateway.connections import Bounded
from cascade.gateway.keys import Keys
from cascade.gateway.reload import Reload, Source
from cascade.gateway.server import Gateway
from cascade.gateway.state import State
from cascade.types import Policy


@dataclass(frozen=True, slots=True)
class Settings:
    """What `cascade serve` was told. `run` names this run of the gateway, the same for all `workers`; `drain` and `notice` in seconds."""

    policies: tuple[str, ...]
    keys: str | None
    state: str
    trails: bool
    run: str
    workers: int = 1
    log: bool = True
    drain: int = 30
    notice: int = 0
    connections: int = 2_000


def build(settings: Settings) -> Gateway:
    """The gateway of one process. Raises UserError, ConfigurationError."""
    shared = settings.workers > 1

    def make(policy: Policy) -> Cascade:
        return Cascade(policy, shared=shared)

    sources: dict[str, Source] = {}
    served: dict[str, Cascade] = {}
    for path in settings.policies:
        source = Source(path)
        policy = source.load()
        if policy.name in served:
            raise InputError(f"{path}: a policy named {policy.name} is served already; names must be unique")
        served[policy.name], sources[policy.name] = make(policy), source
    keys = None if settings.keys is None else Keys(settings.keys, served)
    state = State(settings.state)
    return Gateway(served, keys, state, settings.trails, settings.run, Reload(sources, make))


class Server(uvicorn.Server):
    """uvicorn's, for a gateway: SIGTERM is announced by /health for `notice` seconds before nothing is taken any more, SIGHUP loads the
    policies anew. `ready` is called with the sockets when it listens."""

    def __init__(self, gateway: Gateway, settings: Settings, host: str, port: int, ready: Callable[[list[socket.socket]], None]) -> None:
        protocol = type("Limited", (Bounded,), {"most": settings.connections})
        super().__init__(uvicorn.Config(
            gateway.app, host, port, http=protocol, ws="none", log_level="warning", access_log=False, server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=settings.drain))  # fmt: skip
        self._gateway, self._notice, self._ready = gateway, settings.notice, ready
        self._ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._gateway.open()
        gc.collect()
        gc.freeze()  # 300,000 objects of imports, which every full collection would walk: a fifth of the time, and the longest waits
        await super().startup(sockets)
        if self.started:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._gateway.reload_now)
            self._ready([one for server in self.servers for one in server.sockets])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.views.close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._gateway.draining = True
        if sig == signal.SIGTERM and self._notice and self._ends is None:
            self._ends = time.monotonic() + self._notice
            return
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._ends is not None and time.monotonic() >= self._ends:
            self.should_exit = True
        return await super().on_tick(counter)


def logging_to_stderr(wanted: bool) -> None:
    """The gateway's lines go to stderr as they are."""
    lines = logging.getLogger("cascade.gateway")
    lines.propagate = False
    lines.setLevel(logging.INFO if wanted else logging.WARNING)
    lines.addHandler(logging.StreamHandler())
