"""What an engine costs beside the model: cascade and others do the same work against one loopback server, interleaved in one run.

    python benchmarks/overhead.py                      CPU, wall and added latency, as ratios to the hand-written client
    python benchmarks/overhead.py --instructions       and instructions per prompt by callgrind (needs valgrind; a quarter of an hour)
    python benchmarks/overhead.py --quick --clients ours,handwritten
    python benchmarks/overhead.py --instructions --markdown docs/benchmarks-overhead.md

Progress goes to stderr, tables to stdout. benchmarks/README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from environments import BASE, CLIENTS, OURS, ROOT, CannotInstall, Client, megabytes, python, version
from tables import Found, page, parts, table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "clients"))

from harness import WARM_UP_AT_LEAST  # noqa: E402
from task import FIRST, INPUT_TOKENS, OUTPUT_TOKENS, WARM_UP, calls  # noqa: E402

CONCURRENCIES = (1, 64)
UPSTREAM = 0.2
"""Seconds an answer takes where added latency is measured."""


class Unable(Exception):
    """A client cannot do the task; the message is its last line."""


class Bench:
    """The clients that can run, and what has been found of each so far."""

    def __init__(self, names: list[str], envs: Path) -> None:
        self.found: dict[str, Found] = {}
        self.pythons: dict[str, Path] = {}
        self.clients = [client for client in CLIENTS if client.name in names]
        for client in self.clients:
            found = self.found[client.name] = Found(client.title)
            try:
                interpreter = self.pythons[client.name] = python(envs, client, note)
                found.version = version(interpreter, client.package)
                found.add("installed", megabytes(interpreter))
            except CannotInstall as err:
                self.skip(client, str(err))

    @property
    def able(self) -> list[Client]:
        return [client for client in self.clients if not self.found[client.name].skipped]

    def skip(self, client: Client, why: str) -> None:
        note(f"{client.name}: skipped: {why}")
        self.found[client.name].skipped = why

    # ------------------------------------------------------------ measuring

    def times(self, url: str, rounds: int, count: int) -> None:
        for turn in range(rounds):
            for concurrency in CONCURRENCIES:
                for client in self.able:
                    note(f"round {turn + 1} of {rounds}, {concurrency} at a time: {client.name}")
                    try:
                        figures = self._checked(client, url, count, concurrency)
                    except Unable as err:
                        self.skip(client, f"does not do it: {err}")
                        continue
                    for what in ("cpu", "wall"):
                        self.found[client.name].add(f"{what}, {concurrency}", figures[what] / count * 1e6)

    def latency(self, url: str, rounds: int, count: int) -> None:
        """Added at the median, which is a prompt of one call: four in five are."""
        for turn in range(rounds):
            for client in self.able:
                note(f"latency, round {turn + 1} of {rounds}: {client.name}")
                try:
                    figures, _ = self._run(client, url, count, 64)
                except Unable as err:
                    self.found[client.name].odd.append(f"no latency: {err}")
                    continue
                self.found[client.name].add("added p50, 64", (figures["p50"] - UPSTREAM) * 1e3)

    def instructions(self, url: str, small: int, large: int) -> None:
        """Per prompt: the difference of two runs that differ in their number of prompts only, so that all else cancels out."""
        tool = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null")
        for concurrency in CONCURRENCIES:
            for client in self.able:
                note(f"callgrind, {concurrency} at a time: {client.name}")
                try:
                    totals = [_collected(self._run(client, url, count, concurrency, *tool)[1]) for count in (small, large)]
                except Unable as err:
                    self.found[client.name].odd.append(f"no instructions: {err}")
                    continue
                self.found[client.name].add(f"instructions, {concurrency}", (totals[1] - totals[0]) / (large - small) / 1e6)

    def micro(self) -> dict[str, float]:
        if OURS not in self.pythons:
            return {}
        note("parts of cascade")
        command = [str(self.pythons[OURS]), str(HERE / "clients" / "micro.py")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    def _checked(self, client: Client, url: str, count: int, concurrency: int) -> dict[str, float]:
        """A run whose calls and tokens are held against what the task takes; what is off is told under the table."""
        before = _calls(url)
        figures, _ = self._run(client, url, count, concurrency)
        made = _calls(url) - before
        wanted = calls(WARM_UP, max(WARM_UP_AT_LEAST, concurrency)) + calls(FIRST, count)
        tokens = calls(FIRST, count) * (INPUT_TOKENS + OUTPUT_TOKENS)
        odd = []
        if made != wanted:
            odd.append(f"made {made} calls where the task takes {wanted}")
        if figures["tokens"] != tokens:
            odd.append(f"knows of {figures['tokens'] / tokens:.0%} of the tokens used")
        self.found[client.name].odd = odd
        return figures

    def _run(self, client: Client, url: str, count: int, concurrency: int, *prefix: str) -> tuple[dict[str, float], str]:
        command = [*prefix, str(self.pythons[client.name]), str(HERE / "clients" / client.script), url, str(count), str(concurrency)]
        # hashes that do not change from run to run: a set's order decides how many instructions it takes
        environment = {**os.environ, "PYTHONHASHSEED": "0", **({"CALLGRIND": "1"} if prefix else {})}
        environment.pop("PYTHONPATH", None)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800, env=environment)
        except subprocess.CalledProcessError as err:
            raise Unable((err.stderr.strip().splitlines() or ["no output"])[-1][:200]) from err
        except subprocess.TimeoutExpired as err:
            raise Unable("not done in half an hour") from err
        return json.loads(done.stdout.strip().splitlines()[-1]), done.stderr


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _collected(stderr: str) -> int:
    found = re.findall(r"Collected : (\d+)", stderr)
    if not found:
        raise Unable("callgrind told no total")
    return int(found[-1])


def _calls(url: str) -> int:
    with urllib.request.urlopen(f"{url}/calls") as reply:
        return int(reply.read())


@contextmanager
def stub(delay: float = 0.0, per_second: float = 0.0) -> Iterator[str]:
    """A stub of its own process; its URL."""
    command = [sys.executable, str(HERE / "stub.py"), "--delay", str(delay), "--per-second", str(per_second)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    try:
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait()


def main() -> None:
    args = _arguments()
    bench = Bench(args.clients.split(","), args.envs)
    with stub() as url:
        bench.times(url, args.rounds, args.count)
        if args.instructions:
            bench.instructions(url, args.small, args.large)
    with stub(UPSTREAM) as url:
        bench.latency(url, args.rounds, args.count * 2)
    micro = bench.micro()
    found, base = list(bench.found.values()), bench.found.get(BASE)
    print(table(found, base), "", parts(micro), sep="\n")
    if args.json:
        clients = {name: vars(one) for name, one in bench.found.items()}
        args.json.write_text(json.dumps({"clients": clients, "micro": micro}, indent=2) + "\n", encoding="utf-8")
    if args.markdown:
        command = shlex.join(["python", "benchmarks/overhead.py", *sys.argv[1:]])
        args.markdown.write_text(page(found, base, micro, command), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    names = [client.name for client in CLIENTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default=",".join(names), help="only these, separated by commas; all: %(default)s")
    parser.add_argument("--envs", type=Path, default=ROOT / ".bench-envs", help="folder of the clients' environments")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are shown (%(default)s)")
    parser.add_argument("--count", type=int, default=320, help="prompts a measurement (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of 128 prompts, smaller counts for callgrind: to see that it works")
    parser.add_argument("--instructions", action="store_true", help="count instructions with callgrind as well")
    parser.add_argument("--small", type=int, default=64, help="prompts of callgrind's first run (%(default)s)")
    parser.add_argument("--large", type=int, default=320, help="prompts of its second run (%(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the page for the docs to this file")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.count, args.small, args.large = 1, 128, 40, 140
    unknown = set(args.clients.split(",")) - set(names)
    if unknown:
        parser.error(f"no client {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if args.instructions and not (shutil.which("valgrind") and shutil.which("callgrind_control")):
        parser.error("--instructions needs valgrind, with callgrind_control")
    return args


if __name__ == "__main__":
    main()
