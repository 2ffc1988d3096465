"""`serve`: policies behind the HTTP shapes that OpenAI's and Anthropic's clients speak."""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import Annotated

import typer

from cascade.cli import show
from cascade.errors import ConfigurationError, InputError

HOW = "pip install 'cascade-judge[gateway]'"


def serve(
    policies: Annotated[list[str] | None, typer.Argument(metavar="POLICY…", help="Policy files; a request's model is a policy's name.",
                                                         show_default=False)] = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen on; others than this machine's own need --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8600,
    keys: Annotated[str | None, typer.Option("--keys", metavar="FILE", show_default=False, help="Who may ask: lines NAME SHA256.")] = None,
    new_key: Annotated[str | None, typer.Option("--new-key", metavar="NAME", show_default=False,
                       help="Print a fresh key and its line for the keys file, and stop.")] = None,
    state: Annotated[str, typer.Option("--state", metavar="DIR", help="Where requests, trails, spending and idempotency records are kept.")]
    = "~/.cache/cascade/gateway",
    trails: Annotated[bool, typer.Option("--trails/--no-trails", help="Keep the newest 1,000 trails; they hold prompts and answers.")] = True,
    log: Annotated[bool, typer.Option("--log/--no-log", help="A JSON line for each request on stderr; no text of prompts and answers.")] = True,
    drain: Annotated[int, typer.Option("--drain", metavar="SECONDS", min=0, help="How long requests in flight may go on at the end.")] = 30,
) -> None:
    """Answer OpenAI's and Anthropic's clients: change their base_url, and name a policy as the model.

    \b
    Examples:
      cascade serve policies/invoice.yaml policies/chat.yaml
      curl -s http://127.0.0.1:8600/v1/models
      cascade serve --new-key team-a                          # the key, once; its line goes into keys.txt
      cascade serve policies/chat.yaml --host 0.0.0.0 --keys keys.txt

    \b
    OpenAI:     OpenAI(base_url="http://127.0.0.1:8600/v1", api_key="…").chat.completions.create(model="chat", …)
    Anthropic:  Anthropic(base_url="http://127.0.0.1:8600", api_key="…").messages.create(model="chat", …)

    Without --keys it listens on this machine only. Ctrl-C: no new requests, those in flight are finished.
    """
    try:
        import uvicorn

        from cascade.gateway.keys import Keys, new
        from cascade.gateway.server import Gateway
        from cascade.gateway.state import State
    except ImportError as err:
        raise ConfigurationError(f"serve needs starlette, uvicorn and prometheus-client: {HOW}") from err
    if new_key is not None:
        key, line = new(new_key)
        show.note(f"the key, which is shown this once: {key}\nits line for the keys file:")
        show.line(line.encode())
        return
    if not policies:
        raise InputError("name at least one policy file")
    if keys is None and not _own(host):
        raise InputError(f"--host {host} can be reached from other machines: say who may ask with --keys FILE")
    from cascade.app import Cascade

    served: dict[str, Cascade] = {}
    for path in policies:
        cascade = Cascade.load(path)
        if cascade.policy.name in served:
            raise InputError(f"{path}: a policy named {cascade.policy.name} is served already; names must be unique")
        served[cascade.policy.name] = cascade
    known = None if keys is None else Keys(keys, served)
    _logging(log)
    gateway = Gateway(served, known, State(state), trails)
    config = uvicorn.Config(gateway.app, host, port, http="h11", ws="none", log_level="warning",
                            access_log=False, server_header=False, timeout_graceful_shutdown=drain, h11_max_incomplete_event_size=64 * 1024)
    server = uvicorn.Server(config)
    started, stop = server.startup, server.shutdown

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        await started(sockets)
        if server.started:
            at = server.servers[0].sockets[0].getsockname()
            show.note(f"serving {', '.join(served)} on http://{host}:{at[1]}/v1" + ("" if known else ", for this machine only"))

    async def shutdown(sockets: list[socket.socket] | None = None) -> None:
        gateway.live.close()
        await stop(sockets)

    server.startup, server.shutdown = startup, shutdown  # type: ignore[method-assign]
    try:
        server.run()
    except SystemExit as err:  # uvicorn's, when it cannot listen; it has logged why
        raise InputError(f"cannot listen on {host}:{port}") from err


def _logging(wanted: bool) -> None:
    """The gateway's lines go to stderr as they are."""
    lines = logging.getLogger("cascade.gateway")
    lines.propagate = False
    lines.setLevel(logging.INFO if wanted else logging.WARNING)
    lines.addHandler(logging.StreamHandler())


def _own(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
