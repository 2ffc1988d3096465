"""What the gateway makes of callers who mean no good, or whose clients are broken: byte for byte, over raw sockets where a client would not."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx2
import openai
import orjson
import pytest
from serving import gateway, serving
from stub import Stub, chat, running

from cascade.gateway import server
from cascade.gateway.connections import Bounded
from cascade.gateway.desk import MAX_BODY
from cascade.gateway.keys import Keys, new

ASK: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "2 and 2?"}]}
BODY = json.dumps(ASK).encode()
KEY, LINE = new("team-a")
OTHER, OTHER_LINE = new("team-b")


@pytest.fixture(scope="module")
def models() -> Iterator[Stub]:
    with running() as stub:
        stub.default = chat("four")
        yield stub


@pytest.fixture(scope="module")
def url(models: Stub) -> Iterator[str]:
    with serving(gateway(models.url)) as at:
        yield at


@pytest.fixture(scope="module")
def locked(models: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"{LINE}\n{OTHER_LINE}\n")
    with serving(gateway(models.url, Keys(str(path)))) as at:
        yield at


def sent(url: str, *parts: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    found = b""
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20) as raw:
        for part in parts:
            raw.sendall(part)
        with contextlib.suppress(ConnectionResetError):  # it was closed before all was read
            while more := raw.recv(65536):
                found += more
    return found


def request(*headers: bytes, line: bytes = b"POST /v1/chat/completions HTTP/1.1", body: bytes = BODY, host: bytes = b"Host: localhost") -> bytes:
    """A request as bytes; its connection is to be closed after the answer."""
    lines = [line, *([host] if host else []), b"Connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


JSON = b"Content-Type: application/json"
LENGTH = b"Content-Length: %d" % len(BODY)
HEALTH = b"GET /health HTTP/1.1"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

BYTES: dict[str, tuple[bytes, int, bytes]] = {
    "as it should be": (request(JSON, LENGTH), 200, b'"content":"four"'),
    "in chunks": (request(JSON, b"Transfer-Encoding: chunked", body=CHUNKED), 200, b'"content":"four"'),
    "two lengths that differ": (request(JSON, LENGTH, b"Content-Length: 5"), 400, b"Invalid HTTP request"),
    "a length and chunks": (request(JSON, LENGTH, b"Transfer-Encoding: chunked", body=CHUNKED), 400, b"Invalid HTTP request"),
    "chunks in disguise": (request(JSON, b"Transfer-Encoding: xchunked", body=CHUNKED), 400, b"Invalid HTTP request"),
    "a negative length": (request(JSON, b"Content-Length: -1"), 400, b"Invalid HTTP request"),
    "a length that is none": (request(JSON, b"Content-Length: 0x10"), 400, b"Invalid HTTP request"),
    "a chunk that says it is huge": (request(JSON, b"Transfer-Encoding: chunked", body=b"fffffffffffffffffffff\r\nx"), 400, b""),
    "a header over two lines": (request(JSON, b"X-Odd: a\r\n b", LENGTH), 400, b"Invalid HTTP request"),
    "lines that end in a bare LF": (request(JSON, LENGTH).replace(b"\r\n", b"\n"), 400, b"Invalid HTTP request"),
    "a bare CR in a header": (request(JSON, LENGTH, b"X-Odd: a\rb"), 400, b"Invalid HTTP request"),
    "a NUL in a header": (request(JSON, LENGTH, b"X-Odd: a\0b"), 400, b"Invalid HTTP request"),
    "a header with Latin letters": (request(JSON, LENGTH, "X-Odd: é".encode("latin-1")), 200, b'"content":"four"'),
    "a header without a colon": (request(JSON, LENGTH, b"X-Odd"), 400, b"Invalid HTTP request"),
    "a header without end": (request(JSON, LENGTH, b"X-Odd: " + b"a" * 70_000)[:70_000], 400, b"Invalid HTTP request"),
    "no Host": (request(JSON, LENGTH, host=b""), 400, b"Invalid HTTP request"),
    "two Hosts": (request(JSON, LENGTH, b"Host: evil.example"), 400, b"Invalid HTTP request"),
    "another's Host": (request(JSON, LENGTH, host=b"Host: evil.example"), 403, b"only requests to localhost"),
    "HTTP/1.0": (request(JSON, LENGTH, line=b"POST /v1/chat/completions HTTP/1.0"), 200, b'"content":"four"'),
    "HTTP/1.0 without Host": (request(JSON, LENGTH, line=b"POST /v1/chat/completions HTTP/1.0", host=b""), 403, b"only requests to localhost"),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b"Invalid HTTP request"),
    "a path with a CR and LF, encoded": (request(line=b"GET /v1/models/a%0d%0aSet-Cookie:%20x=1 HTTP/1.1", body=b""), 404, b"there is no policy"),
    "a proxy's request": (request(line=b"GET http://evil.example/v1/models HTTP/1.1", body=b""), 404, b"nothing at this path"),
    "a tunnel": (request(line=b"CONNECT evil.example:443 HTTP/1.1", body=b""), 404, b"nothing at this path"),
    "a waiting client": (request(JSON, LENGTH, b"Expect: 100-continue"), 100, b"HTTP/1.1 200 OK"),
    "two in one go": (request(JSON, LENGTH).replace(b"Connection: close\r\n", b"") + request(line=HEALTH, body=b""), 200, b'"status":"ok"'),
    "an upgrade": (request(b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", body=b"", line=HEALTH), 200, b'"status":"ok"'),
}  # fmt: skip


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_a_client_would_not_send(url: str, case: str) -> None:
    given, status, says = BYTES[case]
    found = sent(url, given)
    assert int(found.split(b" ", 2)[1]) == status, found
    assert says in found
    assert b"\r\nset-cookie" not in found.lower()
    silent(found)


def test_what_follows_a_request_with_two_lengths_is_not_taken_for_another_one(url: str) -> None:
    two = request(JSON, LENGTH, b"Transfer-Encoding: chunked", body=CHUNKED).replace(b"Connection: close\r\n", b"")
    found = sent(url, two + request(line=HEALTH, body=b""))
    assert (found.count(b"HTTP/1.1 "), found.startswith(b"HTTP/1.1 400 "), b'"status":"ok"' in found) == (1, True, False)


def silent(found: bytes) -> None:
    """Nothing of the inside is told."""
    for inside in (b"Traceback", b".py", b"site-packages", b"cascade/gateway", KEY.encode()):
        assert inside not in found, found


def test_an_answer_is_not_held_back_for_more(models: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    watch = Bounded._watch

    def seen(protocol: Bounded) -> None:
        made.append(protocol.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        watch(protocol)

    monkeypatch.setattr(Bounded, "_watch", seen)
    with serving(gateway(models.url)) as url:
        assert httpx2.get(f"{url}/health").status_code == 200
    assert made
    assert set(made) == {1}, "or the body after the head waits for the client's word, 40 ms"


# ---------------------------------------------------------------- bodies

DEEP = b'{"model": "chat", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
MANY = b'{"model": "chat", "messages": [' + b",".join([b"0"] * 1_000_000) + b"]}"
WRONG: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "the body is not JSON"),
    "NaN": (BODY[:-1] + b', "temperature": NaN}', 400, "the body is not JSON"),
    "infinity": (BODY[:-1] + b', "temperature": -Infinity}', 400, "the body is not JSON"),
    "a number beyond floats": (BODY[:-1] + b', "temperature": 1e999}', 400, "the body is not JSON"),
    "a number of a million digits": (BODY[:-1] + b', "seed": ' + b"9" * 1_000_000 + b"}", 400, "the body is not JSON"),
    "a key that stands twice": (b'{"model": "sums", ' + BODY[1:], 400, "the body is not JSON"),
    "a hundred thousand levels": (DEEP, 400, "the body is not JSON"),
    "half a surrogate": (BODY.replace(b"2 and 2?", b"\\ud800"), 400, "the body is not JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + BODY, 400, "the body is not JSON"),
    "UTF-16": (BODY.decode().encode("utf-16"), 400, "the body is not JSON"),
    "two values": (BODY + BODY, 400, "the body is not JSON"),
    "a million messages that are none": (MANY, 400, "messages[0]: must be an object"),
    "a list": (b"[" + BODY + b"]", 400, "the body must be a JSON object"),
    "a byte too many": (BODY + b" " * (MAX_BODY + 1 - len(BODY)), 413, f"more than {MAX_BODY} bytes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_body_that_is_none_is_told_so_and_asks_nobody(url: str, models: Stub, case: str) -> None:
    body, status, says = WRONG[case]
    models.requests.clear()
    reply = httpx2.post(f"{url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=20)
    assert (reply.status_code, says in reply.json()["error"]["message"], models.requests) == (status, True, []), reply.text[:500]
    assert len(reply.content) < 1000
    silent(reply.content)


FIELDS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no model": ({"model": None}, 400, "model: name a policy; there are: chat, sums"),
    "an unknown model": ({"model": "gpt-6"}, 404, "there is no policy 'gpt-6'; there are: chat, sums"),
    "a list of models": ({"model": ["chat"]}, 400, "model: must be text"),
    "a path as model": ({"model": "../../etc/passwd"}, 404, "there is no policy"),
    "another's address": ({"base_url": "http://evil.example"}, 400, "unknown parameter 'base_url'"),
    "another tier": ({"tier": "big"}, 400, "unknown parameter 'tier'"),
    "a hundred answers": ({"n": 100}, 400, "n: a ladder gives one answer"),
    "true answers": ({"n": True}, 400, "n: must be a whole number"),
    "a negative limit": ({"max_tokens": -1}, 400, "max_tokens: must be 1 or more"),
    "half a token": ({"max_completion_tokens": 0.5}, 400, "max_completion_tokens: must be a whole number"),
    "messages as text": ({"messages": "hi"}, 400, "messages: must be a list"),
    "no messages": ({"messages": None}, 400, "messages: there is none"),
    "a policy's own name for text": ({"messages": [{"role": "user", "content": {"text": "hi"}}]}, 400, "messages[0].content: must be text"),
    "a name of half a megabyte": ({"a" * 500_000: 1}, 400, "unknown parameter 'aaa"),
    "a model of half a megabyte": ({"model": "a" * 500_000}, 404, "there is no policy 'aaa"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_that_is_wrong_is_named_and_asks_nobody(url: str, models: Stub, case: str) -> None:
    change, status, says = FIELDS[case]
    models.requests.clear()
    reply = httpx2.post(f"{url}/v1/chat/completions", json={**ASK, **change}, timeout=20)
    assert (reply.status_code, says in reply.json()["error"]["message"], models.requests) == (status, True, []), reply.text[:500]
    assert len(reply.content) < 1000, "what was wrong is not sent back whole"
    silent(reply.content)


def test_a_huge_limit_costs_nothing_the_policys_own_is_asked_for(url: str, models: Stub) -> None:
    models.requests.clear()
    replies = [
        httpx2.post(f"{url}/v1/chat/completions", json={**ASK, "max_tokens": 10**9, "max_completion_tokens": 10**30}),
        httpx2.post(f"{url}/v1/messages", json={**ASK, "max_tokens": 10**9}),
        httpx2.post(f"{url}/v1/responses", json={"model": "chat", "input": "2 and 2?", "max_output_tokens": 10**9}),
    ]
    assert [reply.status_code for reply in replies] == [200, 200, 200]
    assert not [sent for sent in models.requests if b"000000" in sent.raw], "no limit of a caller goes up"


def test_as_many_messages_as_a_body_holds_are_answered(url: str) -> None:
    message = {"role": "user", "content": "x"}
    body = orjson.dumps({"model": "chat", "messages": [message] * (MAX_BODY // 40)})
    reply = httpx2.post(f"{url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=60)
    assert reply.status_code == 200


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp"])
def test_what_a_web_page_may_send_without_asking_is_refused(url: str, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    assert httpx2.post(f"{url}/v1/chat/completions", content=BODY, headers=headers).status_code == 415


def test_a_body_without_end_is_refused_when_it_is_too_large(url: str) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20) as raw:
        raw.sendall(request(JSON, b"Transfer-Encoding: chunked", body=b""))
        with pytest.raises(ConnectionError):
            raw.sendall(chunk * 256)


def test_a_body_that_does_not_come_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.05)
    found = sent(url, request(JSON, LENGTH, body=BODY[:10]))
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive in 0.05 seconds" in found


# ---------------------------------------------------------------- keys, paths, methods

GOOD = ("authorization", f"Bearer {KEY}")
KEYS: dict[str, tuple[list[tuple[str, str]], int]] = {
    "the key": ([GOOD], 200),
    "as x-api-key": ([("x-api-key", KEY)], 200),
    "none": ([], 401),
    "an empty one": ([("authorization", "")], 401),
    "no more than Bearer": ([("authorization", "Bearer")], 401),
    "half of it": ([("authorization", f"Bearer {KEY[:-1]}")], 401),
    "its digest": ([("authorization", f"Bearer {LINE.split()[1]}")], 401),
    "its name": ([("authorization", "Bearer team-a")], 401),
    "twice": ([GOOD, GOOD], 401),
    "two that are good": ([GOOD, ("authorization", f"Bearer {OTHER}")], 401),
    "both headers": ([GOOD, ("x-api-key", KEY)], 401),
    "a good one and a wrong one": ([("x-api-key", "x"), GOOD], 401),
    "in two, joined by a proxy": ([("authorization", f"Bearer {KEY}, Bearer {KEY}")], 401),
    "in the address": ([], 401),
}


@pytest.mark.parametrize("case", KEYS)
def test_one_key_opens_and_nothing_else_does(locked: str, case: str) -> None:
    headers, status = KEYS[case]
    query = f"?api_key={KEY}" if case == "in the address" else ""
    found = [httpx2.get(f"{locked}/v1/models{query}", headers=headers),
             httpx2.post(f"{locked}/v1/chat/completions{query}", json=ASK, headers=headers),
             httpx2.post(f"{locked}/v1/messages{query}", json={**ASK, "max_tokens": 9}, headers=headers)]  # fmt: skip
    assert [reply.status_code for reply in found] == [status] * 3
    for reply in found:
        silent(reply.content)


def test_a_trail_is_for_its_key_and_a_path_is_no_way_around(locked: str) -> None:
    trail = httpx2.post(f"{locked}/v1/chat/completions", json=ASK, headers=[GOOD]).headers["x-cascade-trail-id"]
    paths = [trail, f"%2e%2e/trails/{trail}", f"..%2f..%2f{trail}", f"{trail}/", f"{trail}%00", f"{trail}%0a", trail.upper(), "%2e%2e%2f%2e%2e%2fkeys.txt"]
    mine, theirs = ([httpx2.get(f"{locked}/v1/cascade/trails/{path}", headers={"x-api-key": key}).status_code for path in paths] for key in (KEY, OTHER))
    assert (mine, theirs) == ([200] + [404] * 7, [404] * 8)


PATHS = ["/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%2e%2e", "/v1/models/%00", "/v1/models/chat/", "/v1/models/", "/v1//models", "/%2e%2e/%2e%2e/etc/passwd",
         "/v1/models/" + "a" * 20_000, "/static/../server.py", "/v1/chat/completions/..", "/v1/models/<script>alert(1)</script>", "/V1/models"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=[path[:40] for path in PATHS])
def test_a_path_that_leads_nowhere_is_one_short_json_error(url: str, path: str) -> None:
    found = sent(url, request(line=f"GET {path} HTTP/1.1".encode(), body=b""))
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert b"content-type: application/json" in head
    assert json.loads(body)["error"]["code"] in ("not_found", "model_not_found")
    assert len(body) < 1000
    silent(found)


def test_a_client_with_a_wrong_base_url_is_told_the_right_one(url: str) -> None:
    ours = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="asks /v1/chat/completions: OpenAI's ends in /v1, Anthropic's does not"):
        ours.chat.completions.create(model="chat", messages=[{"role": "user", "content": "2 and 2?"}])
    theirs = anthropic.Anthropic(base_url=f"{url}/v1", api_key="none", auth_token=None, max_retries=0)
    with pytest.raises(anthropic.NotFoundError, match="asks /v1/messages: OpenAI's ends in /v1, Anthropic's does not"):
        theirs.messages.create(model="chat", max_tokens=9, messages=[{"role": "user", "content": "2 and 2?"}])


METHODS = [("HEAD", "/v1/models", 200), ("HEAD", "/health", 200), ("OPTIONS", "/v1/models", 405), ("PUT", "/v1/chat/completions", 405),
           ("GET", "/v1/messages", 405), ("DELETE", "/v1/cascade/trails/x", 405), ("TRACE", "/v1/models", 405), ("HEAD", "/v1/responses", 405),
           ("QUERY", "/metrics", 405), ("ODD", "/health", 405), ("OPTIONS", "*", 404)]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status"), METHODS, ids=[f"{method} {path}" for method, path, _ in METHODS])
def test_a_method_that_is_not_for_a_path_is_told_which_is(url: str, method: str, path: str, status: int) -> None:
    head, _, body = sent(url, request(line=f"{method} {path} HTTP/1.1".encode(), body=b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert (b"allow: " in head) == (status == 405)
    assert (body == b"") == (method == "HEAD")
    if status == 405 and path == "/v1/messages":
        assert json.loads(body) == {"type": "error", "error": {"type": "invalid_request_error", "message": "GET is not for this path, which takes POST"}}


def test_our_own_fault_tells_nothing(models: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = gateway(models.url)

    def fault(key: Any) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(broken.policies["chat"], "arun", fault)
    with serving(broken) as at:
        found = [httpx2.post(f"{at}/v1/{path}", json={**ASK, "max_tokens": 9}) for path in ("chat/completions", "messages")]
        health = httpx2.get(f"{at}/health")
    assert [reply.status_code for reply in (*found, health)] == [500, 500, 200]
    assert [reply.json()["error"]["message"] for reply in found] == ["the gateway failed at this request; its log says why"] * 2
    silent(found[0].content)
