"""How bytes travel: an HTTP client for the SDKs that trusts nothing. Knows no provider and no wire.

- No redirects, no cookies kept, a bounded body: at most `MAX_BODY` bytes, compressed or not, so that a gzip bomb is refused unread.
- aiohttp below httpx2 (a third of the instructions); the stock httpx2 transport where a recorder must see the traffic, because
  vcrpy patches that one: inside `use_plain_transport()`, and by itself while a vcrpy cassette is open.
- One client per event loop: connections belong to their loop.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import aiohttp
import httpx2

from cascade.errors import BadReply
from cascade.providers.live import Listener, listener

MAX_BODY = 8 * 1024 * 1024
"""Bytes a reply may have, on the wire and decoded."""

CONNECT_SECONDS = 10.0
MAX_CONNECTIONS = 1000
KEEP_ALIVE_SECONDS = 30.0

_plain = 0


@contextmanager
def use_plain_transport() -> Iterator[None]:
    """Within this block every call of this process goes through the stock httpx2 transport, which vcrpy intercepts."""
    global _plain
    _plain += 1
    try:
        yield
    finally:
        _plain -= 1


def plain() -> bool:
    """Whether calls made now take the stock transport."""
    # A patched method is a wrapper around the original: functools.wraps leaves the original in __wrapped__.
    return _plain > 0 or hasattr(httpx2.AsyncHTTPTransport.handle_async_request, "__wrapped__")


def http_client(*, plain: bool) -> httpx2.AsyncClient:
    """A client for an SDK's `http_client`. The total deadline is the caller's; here only connecting has a limit."""
    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=100, keepalive_expiry=KEEP_ALIVE_SECONDS)
    inner: httpx2.AsyncBaseTransport = Bounded(httpx2.AsyncHTTPTransport(limits=limits)) if plain else Aiohttp()
    timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
    return httpx2.AsyncClient(transport=inner, timeout=timeout, follow_redirects=False, headers={"accept-encoding": "identity"})


# ---------------------------------------------------------------- transports


class Aiohttp(httpx2.AsyncBaseTransport):
    """httpx2 requests over an aiohttp session; replies are read whole, within `MAX_BODY`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[tuple[str, str], str | None] = {}

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_SECONDS)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
        )

    def _proxy(self, url: httpx2.URL) -> str | None:
        """The environment's proxy for that host. aiohttp's own look-up (`trust_env`) takes a thread for every call, and reads netrc."""
        place = (url.scheme, url.host)
        if place not in self._proxies:
            self._proxies[place] = None if proxy_bypass(url.host) else getproxies().get(url.scheme) or getproxies().get("all")
        return self._proxies[place]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        session = self._session
        if session is None:
            session = self._session = self._open()
        try:
            async with session.request(
                request.method,
                str(request.url),
                headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
                data=request.content,
                allow_redirects=False,
                proxy=self._proxy(request.url),
            ) as reply:
                body = await _read(reply.content.iter_any(), reply.content_length, _told(reply.status, reply.headers.get("content-encoding")))
                return _response(reply.status, reply.raw_headers, body)
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        except aiohttp.ServerTimeoutError as error:
            raise httpx2.ConnectTimeout(str(error), request=request) from error
        except aiohttp.InvalidURL as error:
            raise httpx2.UnsupportedProtocol(str(error), request=request) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise httpx2.ReadError(str(error) or type(error).__name__, request=request) from error

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class Bounded(httpx2.AsyncBaseTransport):
    """Another transport, whose replies are read whole, within `MAX_BODY`."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = await self._inner.handle_async_request(request)
        try:
            length = reply.headers.get("content-length", "")
            told = _told(reply.status_code, reply.headers.get("content-encoding"))
            body = await _read(reply.stream, int(length) if length.isdigit() else None, told)  # type: ignore[arg-type]  # an async stream
        finally:
            await reply.aclose()
        return _response(reply.status_code, reply.headers.raw, body)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Chunks(Protocol):
    def __aiter__(self) -> Any: ...


def _told(status: int, encoding: str | None) -> Listener | None:
    """Who is told the pieces of a reply as they come; nobody is told packed ones, nor errors."""
    return listener.get() if status == 200 and encoding in (None, "", "identity") else None


async def _read(chunks: _Chunks, length: int | None, told: Listener | None) -> bytes:
    if length is not None and length > MAX_BODY:
        raise BadReply(f"the reply has {length} bytes; at most {MAX_BODY} are taken")
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_BODY:
            raise BadReply(f"the reply has more than {MAX_BODY} bytes")
        if told is not None:
            told(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_KEPT_HEADERS = frozenset({b"content-type", b"x-request-id", b"request-id"})
"""What a good reply keeps of its headers; nobody asks for the twenty others, and each costs time in every layer above."""


def _response(status: int, headers: Any, body: bytes) -> httpx2.Response:
    """The reply with its body decoded. `headers` are pairs of bytes."""
    encoding = b""
    kept = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-encoding":
            encoding = value.strip().lower()
        elif status >= 300 or lower in _KEPT_HEADERS:
            kept.append((name, value))
    return httpx2.Response(status, headers=kept, content=_decoded(body, encoding))


def _decoded(body: bytes, encoding: bytes) -> bytes:
    """The body as it was before compression: we ask for none, but some servers compress all the same."""
    if not body or encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise BadReply(f"the reply is encoded as {encoding.decode('latin-1')[:20]!r}, which was not asked for")
    unpack = zlib.decompressobj(wbits=47)  # gzip or zlib, told by the header
    try:
        plain = unpack.decompress(body, MAX_BODY + 1)
    except zlib.error as error:
        raise BadReply(f"the reply cannot be unpacked: {error}") from error
    if len(plain) > MAX_BODY:
        raise BadReply(f"the reply unpacks to more than {MAX_BODY} bytes")
    return plain


# ---------------------------------------------------------------- one client per loop

Client = TypeVar("Client", bound="Closable")


class Closable(Protocol):
    """What both SDKs' clients have."""

    async def close(self) -> None: ...


class PerLoop(Generic[Client]):
    """The clients of one adapter: one per event loop and transport, made when first wanted."""

    def __init__(self, make: Callable[[bool], Client]) -> None:
        self._make = make
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, Client]] = WeakKeyDictionary()

    def get(self) -> Client:
        """The client for the running loop and the transport in force."""
        loop = asyncio.get_running_loop()
        clients = self._clients.get(loop)
        if clients is None:
            clients = self._clients[loop] = {}
        plainly = plain()
        client = clients.get(plainly)
        if client is None:
            client = clients[plainly] = self._make(plainly)
        return client

    async def close(self) -> None:
        """Closes the running loop's clients and forgets the others, whose loops are gone or will collect them."""
        clients = self._clients.pop(asyncio.get_running_loop(), {})
        for client in clients.values():
            await client.close()
