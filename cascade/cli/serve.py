"""`serve`: policies behind the HTTP shapes that OpenAI's and Anthropic's clients speak."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
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
    keys: Annotated[str | None, typer.Option("--keys", metavar="FILE", show_default=False,
                    help="Who may ask: lines NAME SHA256 [budget=USD/day|month|total] [rate=N/minute] [models=A,B].")] = None,
    new_key: Annotated[str | None, typer.Option("--new-key", metavar="NAME", show_default=False,
                       help="Print a fresh key and its line for the keys file, and stop.")] = None,
    state: Annotated[str, typer.Option("--state", metavar="DIR", help="Where requests, trails, spending and idempotency records are kept.")]
    = "~/.cache/cascade/gateway",
    trails: Annotated[bool, typer.Option("--trails/--no-trails", help="Keep the newest 1,000 trails; they hold what models said.")] = True,
    log: Annotated[bool, typer.Option("--log/--no-log", help="A JSON line for each request on stderr; no text of prompts and answers.")] = True,
    drain: Annotated[int, typer.Option("--drain", metavar="SECONDS", min=0, help="How long requests in flight may go on at the end.")] = 30,
    notice: Annotated[int, typer.Option("--notice", metavar="SECONDS", min=0,
                      help="After SIGTERM go on for so long, while /health says 503 draining.")] = 0,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, max=256, help="Worker processes, on one port.")] = 1,
    connections: Annotated[int, typer.Option("--connections", metavar="N", min=1, help="So many at once for each worker; others get 503.")] = 2_000,
) -> None:
    """Answer OpenAI's and Anthropic's clients: change their base_url, and name a policy as the model.

    \b
    Examples:
      cascade serve policies/invoice.yaml policies/chat.yaml
      curl -s http://127.0.0.1:8600/v1/models
      cascade serve --new-key team-a                          # the key, once; its line goes into keys.txt
      cascade serve policies/chat.yaml --host 0.0.0.0 --keys keys.txt --workers 4
      kill -HUP PID                                           # load the policies anew at once; a change is seen within a second anyway

    \b
    OpenAI:     OpenAI(base_url="http://127.0.0.1:8600/v1", api_key="…").chat.completions.create(model="chat", …)
    Anthropic:  Anthropic(base_url="http://127.0.0.1:8600", api_key="…").messages.create(model="chat", …)

    Without --keys it listens on this machine only. Ctrl-C or SIGTERM: no new requests, those in flight are finished. Of workers that share a
    state directory all that counts is counted together: budgets, rates, idempotency, trails, metrics; a cache on disk or in Redis is shared.
    """
    try:
        from cascade.gateway.keys import new
        from cascade.gateway.serving import Server, Settings, build, logging_to_stderr
        from cascade.gateway.workers import Workers, more_files
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
    settings = Settings(tuple(policies), keys, state, trails, secrets.token_hex(8), workers, log, drain, notice, connections)
    gateway = build(settings)
    logging_to_stderr(log)

    def tell(listening: socket.socket) -> None:
        by = "" if workers == 1 else f" by {workers} workers"
        at = f"[{host}]" if ":" in host else host
        show.note(f"serving {', '.join(gateway.policies)} on http://{at}:{listening.getsockname()[1]}/v1{by}"
                  + (", for this machine only" if keys is None else ""))

    if workers == 1:
        more_files()
        try:
            Server(gateway, settings, host, port, lambda sockets: tell(sockets[0])).run()
        except SystemExit as err:  # uvicorn's, when it cannot listen; it has logged why
            raise InputError(f"cannot listen on {host}:{port}: name another with --port") from err
        return
    asyncio.run(gateway.policies.close())  # it was only to see that all is well
    gateway.state.close()
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except OSError as err:
        raise InputError(f"cannot listen on {host}:{port}: {err.strerror or err}; name another with --port") from err
    Workers(settings, listening, lambda: tell(listening)).run()


def _own(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
