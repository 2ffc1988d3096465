"""What a provider's Batch API can do, in the same words for all: begin a batch, look how it stands, read its results, find it again.

A request is what the live adapter would have sent, and a result is read by the adapter's own code. Knows no row and no journal.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

from cascade.errors import BadReply, CascadeError, ConfigurationError, Overloaded, ProviderError, TimedOut
from cascade.prices import BATCH
from cascade.providers.adapter import SdkAdapter
from cascade.providers.failures import bad_reply, translated
from cascade.types import Answer, Call, Json

SECONDS = 900.0
"""The longest that one request to a Batch API may take, uploads included."""
READ_SECONDS = 120.0
PAGE = 100
_ID = re.compile(r"[\w.:-]{1,200}", re.ASCII)


class Request(NamedTuple):
    """One request of a batch: its name, which is unique, and the body that would have gone upstream."""

    custom_id: str
    body: bytes


class Limits(NamedTuple):
    """The most a batch may hold."""

    requests: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Look:
    """How a batch stands: the provider's word, whether its results can be read, and its requests by number.

    `cut_short`: it ended before it came to all of them. `problem`: why none of it was processed.
    """

    status: str
    ended: bool
    done: int
    failed: int
    total: int
    cut_short: bool = False
    problem: ProviderError | ConfigurationError | None = None


class Found(NamedTuple):
    """A batch that was looked for. `perhaps`: there is none, but one that has not ended yet may turn out to be it."""

    id: str | None
    perhaps: bool = False


class Gone(ConfigurationError):
    """The provider does not know a batch, or has its results no more."""


Result: TypeAlias = "dict[str, Json] | ProviderError | ConfigurationError"
"""The body of a reply, or why there is none."""


class Batches(Protocol):
    """A provider's Batch API. All methods raise ProviderError and ConfigurationError; a ProviderError of `submit` that is `billed` leaves
    open whether the batch was taken."""

    @property
    def limits(self) -> Limits: ...

    def request(self, call: Call) -> bytes: ...

    def answer(self, call: Call, reply: dict[str, Json]) -> Answer: ...

    def paid(self, model: str, reply: dict[str, Json]) -> tuple[Decimal | None, bool]: ...

    async def newest(self) -> str | None: ...

    async def submit(self, wave: str, requests: Sequence[Request], where: str) -> str: ...

    async def find(self, wave: str, count: int, since: str | None) -> Found: ...

    async def look(self, id: str, where: str) -> Look: ...

    def results(self, id: str, where: str) -> AsyncGenerator[tuple[str, Result]]: ...

    async def close(self) -> None: ...


class SdkBatches:
    """What the Batch APIs of both SDKs have in common."""

    limits: ClassVar[Limits]

    def __init__(self, adapter: SdkAdapter) -> None:
        self.adapter = adapter
        self._clients: Any = None

    def request(self, call: Call) -> bytes:
        """What goes upstream for the call. Raises ConfigurationError, InputError."""
        return self.adapter.body(call)

    def answer(self, call: Call, reply: dict[str, Json]) -> Answer:
        """What a reply says, at the batch's price. Raises BadReply."""
        return self.adapter.answer(call, reply, 0.0, BATCH)

    def paid(self, model: str, reply: dict[str, Json]) -> tuple[Decimal | None, bool]:
        """What a reply cost at the batch's price, and whether it is an answer."""
        return self.adapter.paid(model, reply, BATCH)

    async def close(self) -> None:
        """Closes the connections of the running loop."""
        if self._clients is not None:
            await self._clients.close()

    def sdk(self) -> Any:
        """The SDK's client for this loop, whose replies may be streamed: results are longer than any live reply."""
        if self._clients is None:
            import httpx2

            from cascade.providers.transport import CONNECT_SECONDS, PerLoop

            timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
            self._clients = PerLoop(lambda _: self.adapter.sdk(httpx2.AsyncClient(
                verify=_certificates(), timeout=timeout, follow_redirects=False, headers={"accept-encoding": "identity"})))  # fmt: skip
        return self._clients.get()


@functools.cache
def _certificates() -> Any:
    """The trusted certificates, which take 50 ms to read."""
    import httpx2

    return httpx2.create_ssl_context()


@contextmanager
def sdk_errors(where: str) -> Iterator[None]:
    """Turns what an SDK raises within the block into our errors."""
    try:
        yield
    except (CascadeError, asyncio.CancelledError, GeneratorExit):
        raise
    except TimeoutError as error:
        raise TimedOut(f"{where}: no answer within {SECONDS:g} s") from error
    except Exception as error:  # each SDK has its own ways
        if getattr(error, "status_code", None) == 404:
            raise Gone(str(translated(error, where))) from error
        if isinstance(error, ValueError | AttributeError | TypeError) and getattr(error, "status_code", None) is None:
            raise bad_reply(where, f"200, but {error}") from error  # the SDKs trust a reply to be what it should
        failure = translated(error, where)
        if failure is error:
            raise
        raise failure from error


@contextmanager
def may_be_taken() -> Iterator[None]:
    """Marks errors within the block that leave open whether the request had its effect as `billed`."""
    try:
        yield
    except ProviderError as error:
        error.billed = error.billed or isinstance(error, Overloaded | TimedOut | BadReply)
        raise


def named(reply: Any, where: str) -> str:
    """The id in a reply; a reply that is none comes from the SDKs as text, or without it."""
    id = getattr(reply, "id", None)
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise bad_reply(where, "200, but no id")
    return id


async def lines(chunks: AsyncIterator[bytes], where: str) -> AsyncIterator[bytes]:
    """The lines of a stream of bytes. Raises BadReply for one that is longer than any reply may be."""
    from cascade.providers.transport import MAX_BODY

    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")  # not splitlines of a text: JSON strings may hold U+2028
        if len(rest) > MAX_BODY:
            raise BadReply(f"{where}: a result has more than {MAX_BODY} bytes")
        for line in whole:
            if line.strip():
                yield line
    if rest.strip():
        yield rest
