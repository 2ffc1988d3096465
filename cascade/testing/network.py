"""A switch that cuts the network off: within it every connection to an address fails at once with an error of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cascade.errors import CascadeError


class NetworkBlocked(CascadeError):
    """A connection was tried while the network is cut off. Not an OSError, so that nothing takes it for an outage."""


@contextmanager
def no_network() -> Iterator[None]:
    """Within this block connecting to any address, and looking one up, raises NetworkBlocked; Unix sockets work."""

    def refuse(what: object) -> None:
        raise NetworkBlocked(f"the network is cut off in this test, but something wants to reach {what}")

    def connect(self: socket.socket, address: Any) -> Any:
        return real_connect(self, address) if self.family == socket.AF_UNIX else refuse(address)

    def connect_ex(self: socket.socket, address: Any) -> Any:
        return real_connect_ex(self, address) if self.family == socket.AF_UNIX else refuse(address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(host)

    real_connect, real_connect_ex, real_lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
    socket.socket.connect, socket.socket.connect_ex = connect, connect_ex  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.socket.connect, socket.socket.connect_ex = real_connect, real_connect_ex  # type: ignore[method-assign]
        socket.getaddrinfo = real_lookup
