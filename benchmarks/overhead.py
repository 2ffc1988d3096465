"""What an engine costs beside the model: cascade and others do the same work against one loopback server, interleaved in one run.

    python benchmarks/overhead.py                          CPU and wall per request, as ratios to the hand-written client
    python benchmarks/overhead.py --instructions           and instructions per prompt by callgrind (valgrind must be installed; minutes)
    python benchmarks/overhead.py --markdown docs/benchmarks-overhead.md

Each client lives in an environment of its own (`--envs`, made when it is missing). Progress on stderr, tables on stdout.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
BASE = "handwritten"


@dataclass(frozen=True)
class Client:
    """A competitor: its script, what its environment holds, and the package whose version is shown."""

    name: str
    script: str
    requirements: tuple[str, ...]
    package: str


CLIENTS = (
    Client("cascade", "ours.py", (str(ROOT),), "cascade-judge"),
    Client("handwritten", "handwritten.py", ("openai[aiohttp]>=3.50,<4", "jinja2", "jsonschema"), "openai"),
    Client("LiteLLM Router", "litellm_router.py", ("litellm", "jinja2", "jsonschema"), "litellm"),
    Client("instructor", "instructor_client.py", ("instructor", "jinja2"), "instructor"),
    Client("pydantic-ai", "pydantic_ai_client.py", ("pydantic-ai-slim[openai]", "jinja2"), "pydantic-ai-slim"),
    Client("cascadeflow", "cascadeflow_client.py", ("cascadeflow[openai]", "jinja2", "jsonschema"), "cascadeflow"),
)


@dataclass
class Found:
    """What was measured of one client: lists of per-request figures, by what they are."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    skipped: str | None = None
    version: str = ""

    def add(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)

    def median(self, what: str) -> float | None:
        return statistics.median(self.figures[what]) if self.figures.get(what) else None


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- environments


def python(envs: Path, client: Client) -> Path:
    """The interpreter of the client's environment, which is made and filled when it is missing."""
    folder = envs / re.sub(r"\W+", "-", client.name.lower())
    interpreter = folder / "bin" / "python"
    done = folder / "installed"
    wanted = "\n".join(client.requirements)
    if not done.exists() or done.read_text() != wanted or client.name == "cascade":
        note(f"{client.name}: installing {' '.join(client.requirements)}")
        if not interpreter.exists():
            venv.create(folder, with_pip=True)
        command = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade", *client.requirements]
        subprocess.run(command, check=True, capture_output=True, text=True)
        done.write_text(wanted)
    return interpreter


def version(interpreter: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(interpreter), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def megabytes(interpreter: Path) -> float:
    """Size of what is installed beside pip and setuptools."""
    site = next((interpreter.parent.parent / "lib").glob("python*/site-packages"))
    own = re.compile(r"^(pip|setuptools|wheel|_distutils_hack|distutils-precedence)")
    files = (f for part in site.iterdir() if not own.match(part.name) for f in ([part] if part.is_file() else part.rglob("*")))
    return sum(f.stat().st_size for f in files if f.is_file() and "__pycache__" not in f.parts) / 1e6


# ---------------------------------------------------------------- measuring


@contextmanager
def stub(delay: float = 0.0) -> Iterator[str]:
    child = subprocess.Popen([sys.executable, str(HERE / "stub.py"), "--delay", str(delay)], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    try:
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait()


def once(interpreter: Path, client: Client, url: str, count: int, concurrency: int, *prefix: str) -> tuple[dict[str, float], str]:
    command = [*prefix, str(interpreter), str(HERE / "clients" / client.script), url, str(count), str(concurrency)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1][:200])
    return json.loads(done.stdout.strip().splitlines()[-1]), done.stderr


def instructions(interpreter: Path, client: Client, url: str, concurrency: int, small: int, large: int) -> float:
    """Instructions per prompt: two runs that differ only in their number of prompts, so that starting up cancels out."""
    totals = []
    for count in (small, large):
        tool = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
        _, err = once(interpreter, client, url, count, concurrency, *tool)
        totals.append(int(re.findall(r"Collected : (\d+)", err)[-1]))
    return (totals[1] - totals[0]) / (large - small)


def measure(args: argparse.Namespace) -> tuple[dict[str, Found], dict[str, float]]:
    wanted = [c for c in CLIENTS if not args.clients or c.name in args.clients.split(",")]
    found = {c.name: Found() for c in wanted}
    interpreters: dict[str, Path] = {}
    for client in wanted:
        try:
            interpreters[client.name] = python(args.envs, client)
            found[client.name].version = version(interpreters[client.name], client.package)
        except subprocess.CalledProcessError as err:
            found[client.name].skipped = f"cannot be installed: {((err.stderr or '').strip().splitlines() or ['?'])[-1][:160]}"
    with stub() as url:
        for turn in range(args.rounds):
            for concurrency in (1, 64):
                for client in wanted:
                    if not found[client.name].skipped:
                        note(f"round {turn + 1} of {args.rounds}, {concurrency} at a time: {client.name}")
                        _record(found[client.name], interpreters[client.name], client, url, args.count, concurrency)
        if args.instructions:
            _count(args, wanted, found, interpreters, url)
    with stub(0.2) as url:
        for client in wanted:
            if client.name in ("cascade", BASE) and not found[client.name].skipped:
                note(f"latency over a 200 ms upstream, 64 at a time: {client.name}")
                for _ in range(args.rounds):
                    figures, _err = once(interpreters[client.name], client, url, 640, 64)
                    found[client.name].add("added p50, 64", (figures["p50"] - 0.2) * 1e3)
    micro: dict[str, float] = {}
    if "cascade" in interpreters:
        note("single parts of cascade")
        own = interpreters["cascade"]
        done = subprocess.run([str(own), str(HERE / "clients" / "micro.py")], check=True, capture_output=True, text=True)
        micro = {**json.loads(done.stdout), "installed, MB": megabytes(own)}
    return found, micro


def _record(found: Found, interpreter: Path, client: Client, url: str, count: int, concurrency: int) -> None:
    try:
        figures, _ = once(interpreter, client, url, count, concurrency)
    except RuntimeError as err:
        found.skipped = f"does not do it: {err}"
        return
    found.add(f"cpu, {concurrency}", figures["cpu"] / figures["count"] * 1e6)
    found.add(f"wall, {concurrency}", figures["wall"] / figures["count"] * 1e6)


def _count(args: argparse.Namespace, wanted: list[Client], found: dict[str, Found], interpreters: dict[str, Path], url: str) -> None:
    if not shutil.which("valgrind"):
        note("no instructions: valgrind is not installed")
        return
    for client in wanted:
        for concurrency in (1, 64):
            if not found[client.name].skipped:
                note(f"callgrind, {concurrency} at a time: {client.name}")
                value = instructions(interpreters[client.name], client, url, concurrency, args.small, args.large)
                found[client.name].add(f"instructions, {concurrency}", value / 1e6)


# ---------------------------------------------------------------- telling

COLUMNS = (
    ("instructions, 1", "M instr. per prompt, 1", "{:.1f}"), ("instructions, 64", "M instr., 64", "{:.1f}"),
    ("cpu, 1", "CPU µs, 1", "{:.0f}"), ("cpu, 64", "CPU µs, 64", "{:.0f}"), ("wall, 1", "wall µs, 1", "{:.0f}"),
    ("wall, 64", "wall µs, 64", "{:.0f}"), ("added p50, 64", "added p50 ms, 64", "{:.1f}"),
)  # fmt: skip


def table(found: dict[str, Found]) -> str:
    shown = [c for c in COLUMNS if any(f.median(c[0]) is not None for f in found.values())]
    lines = ["| client | " + " | ".join(title for _, title, _ in shown) + " |", "| --- |" + " ---: |" * len(shown)]
    base = found.get(BASE, Found())
    for name, one in found.items():
        cells = [_cell(one.median(what), base.median(what), form) for what, _, form in shown]
        lines.append(f"| {name} {one.version} | " + " | ".join([f"skipped: {one.skipped}"] if one.skipped else cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None, base: float | None, form: str) -> str:
    if value is None:
        return ""
    return form.format(value) + (f" ({value / base:.2f}×)" if base else "")


def page(found: dict[str, Found], micro: dict[str, float], command: str) -> str:
    rows = "\n".join(f"| {what} | {value:.1f} |" for what, value in micro.items())
    return f"""# Overhead

*Written by `{command}` on {date.today().isoformat()}: Python {platform.python_version()}, {platform.machine()}, \
{platform.system()}. Medians; (×) is the ratio to the hand-written client in the same run.*

Every client does the same work against one loopback server: render a prompt, ask the cheap model with a JSON schema of 15 fields,
validate, ask the dear model if the answer is wrong (one prompt in five). cascade also keeps the trail, prices the tokens and writes the
answer to its disk cache. 1 and 64 are requests at a time. Instructions are user space, by callgrind, the difference of two runs so that
starting up cancels out: they repeat on a noisy machine, times do not. `added p50` is what a request takes beyond an upstream of 200 ms.

{table(found)}

Single parts of cascade:

| what | measured |
| --- | ---: |
{rows}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", help="only these, by name, separated by commas")
    parser.add_argument("--envs", type=Path, default=ROOT / ".bench-envs", help="folder of the clients' environments")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are shown")
    parser.add_argument("--count", type=int, default=300, help="requests a measurement")
    parser.add_argument("--instructions", action="store_true", help="count instructions with callgrind as well")
    parser.add_argument("--small", type=int, default=64, help="prompts of callgrind's first run")
    parser.add_argument("--large", type=int, default=192, help="prompts of its second run")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the page to this file")
    args = parser.parse_args()
    found, micro = measure(args)
    command = "python benchmarks/overhead.py " + " ".join(sys.argv[1:])
    text = page(found, micro, command.strip())
    print(table(found), *[f"{what}: {value:.1f}" for what, value in micro.items()], sep="\n")
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.json:
        figures: dict[str, Any] = {name: {"version": f.version, "skipped": f.skipped, **f.figures} for name, f in found.items()}
        args.json.write_text(json.dumps({"clients": figures, "micro": micro}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
