"""A real redis-server on a free port of the loopback, in a folder of its own; what needs it is skipped where there is none."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade.redis_store import Address

SERVER = shutil.which("redis-server")


class Server:
    """A running server; `kill` ends it at once, `start` starts it again, empty, on the same port."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        self.folder, self.password = folder, password
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.where = Address("127.0.0.1", free.getsockname()[1])
        self.start()

    def start(self) -> None:
        assert SERVER
        secret = ["--requirepass", self.password] if self.password else []
        self._process = subprocess.Popen(
            [SERVER, "--port", str(self.where.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *secret],
            cwd=self.folder, stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert self._process.stdout
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "Ready to accept connections" in line:
                break
        else:
            raise AssertionError(f"redis-server did not start: {''.join(said)}")
        threading.Thread(target=self._process.stdout.read, daemon=True).start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def client(self) -> Any:
        import redis

        return redis.Redis(self.where.host, self.where.port, password=self.password)


@contextlib.contextmanager
def running(folder: Path, password: str | None = None) -> Iterator[Server]:
    """A server with nothing in it; skips the test where redis-server or redis-py is not installed."""
    pytest.importorskip("redis", reason="needs redis-py: pip install 'cascade-judge[redis]'")
    if SERVER is None:
        pytest.skip("needs redis-server (Debian: apt-get install redis-server)")
    folder.mkdir(exist_ok=True)
    server = Server(folder, password)
    try:
        yield server
    finally:
        server.kill()
