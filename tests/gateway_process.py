"""`cascade serve` as a process of its own, and a provider on the loopback that answers when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import stub

POLICY = """
version: 1
name: chat
prompt: messages
providers: {p: {kind: openai, base_url: "URL/v1", api_key_env: null}}
pricing: {p/small: {input: 1, output: 2}}
defaults: {retries: 0, max_tokens: 100}
cache: {backend: CACHE, path: "FOLDER/cache"}
tiers: [{name: small, model: p/small}]
"""
QUESTION: Any = [{"role": "user", "content": "2 and 2?"}]


class Provider:
    """Counts what it is asked; answers while `open` is set, each with a text of its own."""

    def __init__(self) -> None:
        self.url, self.asked = "", 0
        self.open = threading.Event()
        self.open.set()
        self.came = threading.Semaphore(0)

    def hold(self) -> None:
        """Answer no more until `open` is set; `came` is released by who comes from now on."""
        self.open.clear()
        self.came = threading.Semaphore(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
                self.asked += 1
                n = self.asked
                self.came.release()
                while not self.open.is_set():
                    await asyncio.sleep(0.005)
                body = stub.chat(f"answer {n}").body
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def providing() -> Iterator[Provider]:
    provider = Provider()
    with stub.listening(provider.serve) as provider.url:
        yield provider
        provider.open.set()


class Gateway:
    """The process; `start` may be called again after `kill` or `stop`, on the same port."""

    def __init__(self, folder: Path, provider: Provider, *args: str, cache: str = "off") -> None:
        self.folder, self.args = folder, args
        self.policy = folder / "chat.yaml"
        self.policy.write_text(POLICY.replace("URL", provider.url).replace("CACHE", cache).replace("FOLDER", str(folder)))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []
        self.start()

    def start(self, wait: float = 30) -> None:
        command = [sys.executable, "-c", "from cascade.cli import main; main()", "serve", str(self.policy), "--port", str(self.port),
                   "--state", str(self.folder / "state"), *self.args]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True,
                                        env={**os.environ, "HOME": str(self.folder)})
        self._ready = threading.Event()
        threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True).start()
        assert self._ready.wait(wait), self.lines

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            self.lines.append(line.rstrip())
            if line.startswith("serving "):
                self._ready.set()

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **more)

    def events(self, least: int = 1) -> list[dict[str, Any]]:
        """The lines of its log, when there are so many."""
        ends = time.monotonic() + 20
        while sum(line.startswith("{") for line in self.lines) < least:
            assert time.monotonic() < ends, self.lines
        return [json.loads(line) for line in self.lines if line.startswith("{")]


@contextlib.contextmanager
def running(folder: Path, provider: Provider, *args: str, cache: str = "off") -> Iterator[Gateway]:
    gateway = Gateway(folder, provider, *args, cache=cache)
    try:
        yield gateway
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait()


@contextlib.contextmanager
def serving(folder: Path, policy: str, *options: str) -> Iterator[str]:
    """The root of a gateway that serves this policy; its home is `folder`."""
    (folder / "served.yaml").write_text(policy, encoding="utf-8")
    command = [sys.executable, "-c", "from cascade.cli import main; main()", "serve", str(folder / "served.yaml"), "--port", "0", "--no-log", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(folder)}) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said.startswith("serving "), said
            yield said.split(" on ")[1].partition("/v1")[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
