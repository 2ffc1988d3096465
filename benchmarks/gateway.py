"""What the gateway costs between a caller and a model, beside other proxies, and what it does when callers mean no good; on this machine alone.

    python benchmarks/gateway.py                 throughput, added latency, hostile callers: ten minutes on two cores
    python benchmarks/gateway.py --write docs/benchmarks-gateway.md
    python benchmarks/gateway.py --quick         one short round, to see that it works
    python benchmarks/gateway.py --parts hostile
    python benchmarks/gateway.py --only cascade,litellm

Needs Debian's `wrk` and `nginx-light`, and an environment with cascade and its extra `gateway` (PYTHONPATH=. is enough in a checkout). LiteLLM and
firstpass come from PyPI into environments of their own; one that cannot be installed or started is left out, with the reason. Progress goes to
stderr, the page to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from environments import ROOT
from overhead import note
from proxies import BARE, GATED, Server, firstpass, litellm, once, ours, stub
from tables import machine

HERE = Path(__file__).resolve().parent
NAMES = ("firstpass", "cascade", "cascade-gated", "litellm")
PARTS = ("throughput", "latency", "hostile")
CONNECTIONS = 32
RATE, HEALTH_RATE = 100, 50
"""Requests a second: where added latency is measured, and of /health under attack."""
IDLE, BODIES, SIZE = 1000, 100, 10**9
# ---------------------------------------------------------------- measuring


def throughput(servers: list[Server], rounds: int, seconds: int) -> None:
    for turn in range(-1, rounds):  # the first one warms up and is forgotten
        for server in servers:
            note(f"throughput, {'warming up' if turn < 0 else f'round {turn + 1} of {rounds}'}: {server.name}")
            before = server.cpu()
            command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds if turn >= 0 else min(seconds, 3)}s", "--timeout", "30s",
                       "-s", str(HERE / "clients" / "distinct.lua"), f"{server.url}/v1/chat/completions"]  # fmt: skip
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            assert not told["failed"], f"{server.name}: {told['failed']} of {told['requests']} requests failed"
            if turn >= 0:
                server.add("rate", told["requests"] / told["seconds"])
                server.add("cpu", (server.cpu() - before) / told["requests"] * 1e6)


def latency(servers: list[Server], rounds: int, seconds: int) -> None:
    for turn in range(rounds):
        for server in servers:
            note(f"latency, round {turn + 1} of {rounds}: {server.name}")
            took = at_rate(f"{server.url}/v1/chat/completions", RATE, seconds)
            server.add("p50", percentile(took, 50))
            server.add("p99", percentile(took, 99))


def at_rate(url: str, rate: int, seconds: int, *options: str) -> list[float]:
    """Milliseconds of each request."""
    command = [sys.executable, str(HERE / "open_loop.py"), url, "--rate", str(rate), "--seconds", str(seconds), *options]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert not told["failed"], f"{url}: {told['failed']} requests failed"
    return [took * 1e3 for took in told["seconds"]]


def percentile(values: list[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


@dataclass(frozen=True)
class Attacked:
    """What /health took (ms), and memory (MB), without callers who mean no good and with them."""

    before: list[float]
    health: list[float]
    small: float
    peak: float
    told: dict[str, object]


def hostile(server: Server, seconds: int) -> Attacked:
    note(f"hostile: {IDLE} idle connections, {BODIES} bodies of {SIZE:,} bytes, {seconds} s")
    before, small = at_rate(f"{server.url}/health", HEALTH_RATE, 3, "--get"), server.peak()
    command = [sys.executable, str(HERE / "attack.py"), server.url.rpartition(":")[2], "--idle", str(IDLE), "--bodies", str(BODIES),
               "--size", str(SIZE), "--seconds", str(seconds)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attack:
        assert attack.stdout
        assert attack.stdout.readline().strip() == "ready", "the attack did not come to stand"
        health = at_rate(f"{server.url}/health", HEALTH_RATE, seconds, "--get")
        told = json.loads(attack.stdout.read())
    once(server.url)
    return Attacked(before, health, small, server.peak(), told)


# ---------------------------------------------------------------- the page


def spread(values: list[float], form: str, unit: str = "") -> str:
    """The median, and from where to where the rounds go."""
    middle = f"{statistics.median(values):{form}}{unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def within(one: Server, other: Server, what: str) -> list[float]:
    """The ratio in each round."""
    return [mine / theirs for mine, theirs in zip(one.figures[what], other.figures[what], strict=True)]


def rates(servers: list[Server]) -> str:
    base = next((server for server in servers if server.name == "litellm" and server.able), None)
    lines = ["| | requests/s | of LiteLLM's | CPU µs a request |", "| --- | ---: | ---: | ---: |"]
    for server in servers:
        if server.able:
            ratio = spread(within(server, base, "rate"), ",.1f", "×") if base else ""
            lines.append(f"| {server.title} | {spread(server.figures['rate'], ',.0f')} | {ratio} | {spread(server.figures['cpu'], ',.0f')} |")
        else:
            lines.append(f"| {server.title} | left out: {server.why} | | |")
    fast = next((server for server in servers if server.name == "firstpass" and server.able), None)
    mine = next((server for server in servers if server.name == "cascade-gated" and server.able), None)
    if fast and mine:
        more, dearer = spread(within(fast, mine, "rate"), ".1f", "×"), spread(within(mine, fast, "cpu"), ".1f", "×")
        lines += ["", f"firstpass, on as many cores as there are, answers {more} the requests of cascade with a gate, which uses one core and takes "
                      f"{dearer} its CPU."]  # fmt: skip
    return "\n".join(lines)


def added(servers: list[Server]) -> str:
    direct = servers[0]
    lines = ["| | p50 ms | p99 ms | added p50 ms | added p99 ms |", "| --- | ---: | ---: | ---: | ---: |"]
    for server in servers:
        if not server.able:
            lines.append(f"| {server.title} | left out: {server.why} | | | |")
            continue
        more = [[mine - theirs for mine, theirs in zip(server.figures[what], direct.figures[what], strict=True)] for what in ("p50", "p99")]
        shown = [spread(server.figures["p50"], ".2f"), spread(server.figures["p99"], ".2f"),
                 *(["", ""] if server is direct else [spread(values, ".2f") for values in more])]  # fmt: skip
        lines.append(f"| {server.title} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def survived(found: Attacked, seconds: int) -> str:
    ended = found.told["ended"]
    assert isinstance(ended, dict)
    how = ", ".join(f"{count:,} {'were answered ' + what if what.isdigit() else what}" for what, count in sorted(ended.items()))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"""{IDLE:,} connections that never finish the head of their request, and {BODIES} bodies of {SIZE / 1e9:g} GB at a time for {seconds} s:
half of them say their length, half come in chunks; each is sent until it is refused, and begun anew a second later. /health is asked
{HEALTH_RATE} times a second meanwhile. {files:,} files may be open.

| | before | meanwhile |
| --- | ---: | ---: |
| /health p50, ms | {percentile(found.before, 50):.1f} | {percentile(found.health, 50):.1f} |
| /health p99, ms | {percentile(found.before, 99):.1f} | {percentile(found.health, 99):.1f} |
| /health at most, ms | {max(found.before):.1f} | {max(found.health):.1f} |
| memory at most, MB | {found.small:.0f} | {found.peak:.0f} |

{len(found.health):,} requests of /health were answered, and a chat completion afterwards; none failed.
Bodies: {how}; {found.told['sent'] / 1e6:,.0f} MB were sent.
{found.told['idle_closed']:,} of the idle connections were closed by the server."""


def many(rounds: int) -> str:
    return f"{rounds} rounds" if rounds != 1 else "one round"


def page(args: argparse.Namespace, parts: list[str]) -> str:
    command = shlex.join(["python", "benchmarks/gateway.py", *sys.argv[1:]])
    loads = [os.getloadavg()[0]]
    text = []
    with ExitStack() as stack:
        direct = stub(stack)
        if not direct.able:
            raise SystemExit(f"the stub {direct.why}")
        makers: dict[str, Callable[[], Server]] = {
            "firstpass": lambda: firstpass(stack, args.firstpass, args.envs, direct.url),
            "cascade": lambda: ours(stack, "cascade", "cascade serve, one tier, no gate", BARE, direct.url),
            "cascade-gated": lambda: ours(stack, "cascade-gated", "cascade serve, a schema gate", GATED, direct.url),
            "litellm": lambda: litellm(stack, args.litellm, args.envs, direct.url),
        }
        if {"throughput", "latency"} & set(parts):
            servers = [direct, *(make() for name, make in makers.items() if not args.only or name in args.only.split(","))]
            able = [server for server in servers if server.able]
        if "throughput" in parts:
            throughput(able, args.rounds, args.seconds)
            text.append(f"""## Throughput
{CONNECTIONS} connections, each with one request after the other, by `wrk`; {many(args.rounds)} of {args.seconds} s, each server in turn, after one
that is not counted. Median (lowest to highest); ratios are within their round. CPU is the server's own: what to compare where the machine is shared.

{rates(servers)}""")
        if "latency" in parts:
            latency(able, args.rounds, args.seconds * 2)
            text.append(f"""## Added latency
{RATE} requests a second whether or not earlier ones were answered, for {args.seconds * 2} s a round. `added` is the server's percentile less the
stub's in the same round: a difference of percentiles, not the percentile of a difference. Where a server cannot answer so many, requests queue
up, and its figures grow with the seconds.

{added(servers)}""")
    if "hostile" in parts:
        with ExitStack() as stack:
            direct = stub(stack)
            text.append(f"## Callers who mean no good\n{survived(hostile(ours(stack, 'cascade', '', BARE, direct.url), args.hostile), args.hostile)}")
    loads.append(os.getloadavg()[0])
    return f"""# The gateway, measured

*Written on {date.today().isoformat()} by `{command}`*
*on {machine()}; load average {loads[0]:.1f} at the start, {loads[1]:.1f} at the end.*

Every proxy stands before the same stub, an nginx that answers any chat completion at once with a canned one of OpenAI's shape, so that
nothing but the proxy is measured; all on this machine, all at their defaults with one process, no keys, no database, no cache. No two requests
are equal: cascade asks once for equal requests in flight. cascade writes its line for each request, keeps its trail and counts its metrics;
firstpass (a proxy in Rust, the upper bar) checks that the answer is JSON and writes its receipt; LiteLLM runs with `LITELLM_MODE=PRODUCTION`
and logs errors only.

{chr(10).join(f"{part}{chr(10)}" for part in text)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="only these, separated by commas (%(default)s)")
    parser.add_argument("--only", metavar="NAMES", help=f"only these, of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each server in turn (%(default)s)")
    parser.add_argument("--seconds", type=int, default=8, help="of throughput in a round; latency takes twice that (%(default)s)")
    parser.add_argument("--hostile", type=int, default=15, metavar="SECONDS", help="how long the attack lasts (%(default)s)")
    parser.add_argument("--litellm", metavar="PYTHON", help="an interpreter with litellm[proxy], instead of an environment made here")
    parser.add_argument("--firstpass", metavar="PYTHON", help="an interpreter with firstpass, instead of an environment made here")
    parser.add_argument("--envs", type=Path, default=ROOT / ".bench-envs", help="folder of the environments")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, an attack of 4 s: to see that it works")
    parser.add_argument("--write", type=Path, help="write the page to this file too")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.hostile = 1, 2, 4
    parts = args.parts.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(set(parts) - set(PARTS)))}; there are {', '.join(PARTS)}")
    if args.only and set(args.only.split(",")) - set(NAMES):
        parser.error(f"--only takes {', '.join(NAMES)}")
    missing = [tool for tool in ("wrk", "nginx") if not shutil.which(tool)]
    if missing:
        parser.error(f"{' and '.join(missing)} not found: Debian's packages wrk and nginx-light")
    text = page(args, parts)
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
