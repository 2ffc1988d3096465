"""Connections on bare sockets: what two servers could read in two ways is refused, what is slow is closed, what is large is not kept."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
import uvicorn
from test_gateway import QUESTION, Serving

from cascade.gateway import connections
from cascade.gateway import server as gateway_server
from cascade.gateway.connections import Bounded
from cascade.gateway.desk import MAX_BODY


class Bound(Serving):
    """A gateway whose connections are bounded, `most` of them."""

    def __init__(self, most: int = 50) -> None:
        super().__init__()
        self.close()
        self.models.said = {"small": "four", "big": "4"}
        self.gateway = gateway_server.Gateway(self.gateway.policies)
        protocol = type("Few", (Bounded,), {"most": most})
        self.server = uvicorn.Server(uvicorn.Config(self.gateway.app, "127.0.0.1", 0, http=protocol, ws="none", log_level="critical"))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=lambda: self.server.run([self.socket]))
        self.thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


@pytest.fixture(scope="module")
def bound() -> Iterator[Bound]:
    serving = Bound()
    yield serving
    serving.close()


BODY = json.dumps({"model": "chat", "messages": QUESTION}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


def said(bound: Bound, *parts: bytes) -> bytes:
    """All that comes back until the server closes, or has answered one request."""
    with bound.connect() as raw:
        for part in parts:
            raw.sendall(part)
        found = b""
        while data := raw.recv(65536):
            found += data
            head, _, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if length and len(body) >= int(length[1]):
                break
        return found


STRANGE = [
    ("both lengths", HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("both lengths, the other way", HEAD + b"transfer-encoding: chunked\r\nX: y\r\n" + LENGTH + b"\r\n0\r\n\r\n"),
    ("two lengths", HEAD + LENGTH + b"Content-Length: 3\r\n\r\n" + BODY),
    ("a folded header", HEAD + b"X: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY),
    ("a folded first header", b"POST / HTTP/1.1\r\n Host: localhost\r\n\r\n"),
    ("bare line feeds", (HEAD + LENGTH).replace(b"\r\n", b"\n") + b"\n" + BODY),
    ("one bare line feed", HEAD + LENGTH.replace(b"\r\n", b"\n") + b"\r\n" + BODY),
    ("a space before the colon", HEAD + LENGTH.replace(b":", b" :") + b"\r\n" + BODY),
    ("another coding", HEAD + b"Transfer-Encoding: xchunked\r\n\r\n"),
    ("a head that is too long", HEAD + b"X: " + b"a" * connections.MOST_HEAD + b"\r\n\r\n"),
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    ("strange after a good one", HEAD + LENGTH + b"\r\n" + BODY + HEAD.replace(b"\r\n", b"\n") + b"\n"),
]


@pytest.mark.parametrize("raw", [raw for _, raw in STRANGE], ids=[name for name, _ in STRANGE])
@pytest.mark.parametrize("cut", [False, True], ids=["at once", "byte by byte"])
def test_a_head_that_two_servers_may_read_in_two_ways_is_refused(bound: Bound, raw: bytes, cut: bool) -> None:
    bound.models.calls = []
    with bound.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found = b""
        with contextlib.suppress(ConnectionError):  # it is closed as soon as it is seen to be wrong
            for part in [raw[i : i + 1] for i in range(len(raw))] if cut and len(raw) < 2000 else [raw]:
                sock.sendall(part)
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(65536):
                found += data
    statuses = re.findall(rb"HTTP/1.1 (\d+)", found)
    assert (statuses[-1:] == [b"400"] and b"Invalid HTTP" in found) or (cut and not statuses), found
    assert len(bound.models.calls) == statuses.count(b"200") == (raw.count(BODY) if raw is STRANGE[-1][1] else 0)


def test_what_is_ordinary_is_not(bound: Bound) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (1, BODY[i : i + 1]) for i in range(len(BODY))) + b"0\r\n\r\n"
    for parts in ((HEAD + LENGTH + b"\r\n" + BODY,), (HEAD + LENGTH, b"\r\n" + BODY), (chunked,)):
        assert said(bound, *parts).startswith(b"HTTP/1.1 200"), parts


SLOW = [
    ("nothing", b""),
    ("half a head", b"POST / HTTP/1.1\r\nHost: loc"),
    ("half a body", HEAD + LENGTH + b"\r\n" + BODY[:5]),
    ("half of the next", HEAD + LENGTH + b"\r\n" + BODY + b"GET / HT"),
]


@pytest.mark.parametrize("raw", [raw for _, raw in SLOW], ids=[name for name, _ in SLOW])
def test_half_a_request_is_not_waited_for(bound: Bound, monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(connections, "SECONDS", dict.fromkeys(connections.SECONDS, 0.3))
    began = time.monotonic()
    with bound.connect() as sock:
        sock.sendall(raw)
        sock.settimeout(0.05)
        while True:
            try:
                if not sock.recv(65536):
                    break
            except TimeoutError:
                sock.sendall(b"x")  # a byte now and then buys no time
            except ConnectionError:
                break
    assert time.monotonic() - began < 5


def test_an_answer_is_waited_for_longer_than_a_request(bound: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SECONDS", dict.fromkeys(connections.SECONDS, 0.1))
    bound.models.said = {"small": None}
    bound.models.asked.clear()
    try:
        with bound.connect() as sock:
            sock.sendall(HEAD + LENGTH + b"\r\n" + BODY)
            assert bound.models.asked.wait(5)
            sock.settimeout(0.5)
            with pytest.raises(TimeoutError):
                sock.recv(1)
    finally:
        bound.models.said = {"small": "four", "big": "4"}


def test_a_large_body_is_refused_before_it_is_read_and_read_no_further_than_it_takes_to_say_so(bound: Bound) -> None:
    with bound.connect() as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % 2**30)
        assert sock.recv(65536).startswith(b"HTTP/1.1 413")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 2**28:
                sock.sendall(b" " * 2**20)
                sent += 2**20
    assert sent <= connections.VAIN_BYTES + 2**24, "what it takes, and what fits into the sockets"
    reply = httpx2.post(f"{bound.url}/v1/chat/completions", content=b" " * (MAX_BODY + 1), headers={"content-type": "application/json"})
    assert reply.json()["error"]["code"] == "request_too_large"


def test_the_bodies_of_all_together_are_bounded(bound: Bound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_server, "MOST_BODIES", 300_000)
    with bound.connect() as one:
        one.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"30000\r\n" + b" " * 0x30000 + b"\r\n")
        ends = time.monotonic() + 5
        while bound.gateway.bodies.now < 0x30000:
            assert time.monotonic() < ends
        reply = httpx2.post(f"{bound.url}/v1/chat/completions", content=b" " * 200_000, headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["code"], reply.headers["x-should-retry"]) == (503, "overloaded", "true")
    while bound.gateway.bodies.now:
        assert time.monotonic() < ends
    assert said(bound, HEAD + LENGTH + b"\r\n" + BODY).startswith(b"HTTP/1.1 200")


def test_too_many_connections_are_told_so_in_the_shape_they_ask_in() -> None:
    bound = Bound(most=3)
    try:
        held = [bound.connect() for _ in range(3)]
        ends = time.monotonic() + 5
        while len(bound.server.server_state.connections) < 3:
            assert time.monotonic() < ends
        for path, kind in (("/v1/messages", "overloaded_error"), ("/v1/chat/completions", "overloaded")):
            reply = httpx2.post(f"{bound.url}{path}", json={})
            assert (reply.status_code, reply.json()["error"]["type"], reply.headers["connection"]) == (503, kind, "close")
        more = [bound.connect() for _ in range(8)]
        for sock in more[-2:]:
            sock.settimeout(5)  # a head has ten seconds
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b"", "twice as many are cut"
        for sock in held + more:
            sock.close()
        while bound.server.server_state.connections:
            assert time.monotonic() < ends + 5
        assert httpx2.get(f"{bound.url}/health").status_code == 200
    finally:
        bound.close()


def test_many_that_are_half_open_and_many_large_bodies_leave_room_for_others(bound: Bound) -> None:
    idle = [bound.connect() for _ in range(30)]
    for sock in idle:
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: loc")

    def large(_: int) -> int:
        return httpx2.post(f"{bound.url}/v1/chat/completions", content=iter([b" " * 2**20] * 20), headers={"content-type": "application/json"}).status_code

    with ThreadPoolExecutor(4) as pool:
        large_ones = pool.map(large, range(4))
        assert [httpx2.get(f"{bound.url}/health").json()["status"] for _ in range(20)] == ["ok"] * 20
        assert set(large_ones) == {413}
    for sock in idle:
        sock.close()
