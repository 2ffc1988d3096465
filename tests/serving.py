"""A gateway in a thread of this process, on a port of its own, as `cascade serve` runs it, over models that are a stub's."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from cascade import Cascade
from cascade.gateway.keys import Keys
from cascade.gateway.server import Gateway
from cascade.gateway.serving import Server, Settings
from cascade.policy.load import load_text
from cascade.types import CacheSettings

LADDER = """
version: 1
providers: {{p: {{kind: openai, base_url: "{url}/v1", api_key_env: null}}}}
pricing: {{p/small: {{input: 1, output: 2}}, p/big: {{input: 10, output: 20}}}}
defaults: {{retries: {retries}, timeout: {timeout}s}}
cache: {{backend: off}}
tiers: [{{name: small, model: p/small}}, {{name: big, model: p/big}}]
"""
CHAT = LADDER + "name: chat\nprompt: messages\ncaller_schema: true\n"
SUMS = LADDER + 'name: sums\nprompt: "Add {{{{ a }}}} and {{{{ b }}}}."\nschema: {{type: object, properties: {{sum: {{type: integer}}}}, required: [sum]}}\n'


def ladders(url: str, retries: int = 0, timeout: float = 5) -> dict[str, Cascade]:
    """The policies `chat` and `sums`, whose models are at that address."""
    made = [Cascade(load_text(text.format(url=url, retries=retries, timeout=timeout), "x.yaml"), cache=CacheSettings(backend="off")) for text in (CHAT, SUMS)]
    return {one.policy.name: one for one in made}


class _Threaded(Server):
    """Signals are the main thread's."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super(Server, self).startup(sockets)


@contextlib.contextmanager
def serving(gateway: Gateway) -> Iterator[str]:
    """The address of a gateway that listens."""
    server = _Threaded(gateway, Settings((), None, "", True, "test", log=False, drain=20), "127.0.0.1", 0, lambda _: None)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    thread = threading.Thread(target=lambda: server.run([listener]))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def gateway(url: str, keys: Keys | None = None, **settings: float) -> Gateway:
    """A gateway over those policies."""
    return Gateway(ladders(url, **settings), keys)  # type: ignore[arg-type]
