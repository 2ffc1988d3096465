"""Figures to tables: what was measured of each client, its medians, their ratios, and the page for the docs. Measures nothing."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

COLUMNS = (
    ("instructions, 1", "M instr., 1", ".2f"), ("instructions, 64", "M instr., 64", ".2f"),
    ("cpu, 1", "CPU µs, 1", ".0f"), ("cpu, 64", "CPU µs, 64", ".0f"), ("wall, 1", "wall µs, 1", ".0f"), ("wall, 64", "wall µs, 64", ".0f"),
    ("added p50, 64", "added p50 ms, 64", ".1f"), ("installed", "installed MB", ".0f"),
)  # fmt: skip
RATIOS = frozenset(what for what, _, _ in COLUMNS if what != "installed")


@dataclass
class Found:
    """What was measured of one client: figures per prompt by what they are, one for each round; or why there are none."""

    title: str
    version: str = ""
    skipped: str | None = None
    odd: list[str] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)

    def median(self, what: str) -> float | None:
        return statistics.median(self.figures[what]) if what in self.figures else None


def table(found: Sequence[Found], base: Found | None) -> str:
    """One row a client; (×) is the ratio to `base` in the same run."""
    shown = [column for column in COLUMNS if any(f.median(column[0]) is not None for f in found)]
    lines = ["| client | " + " | ".join(title for _, title, _ in shown) + " |", "| --- |" + " ---: |" * len(shown)]
    for one in found:
        cells = [f"skipped: {one.skipped}"] if one.skipped else [_cell(one, base, what, form) for what, _, form in shown]
        lines.append(f"| {one.title} {one.version} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\n{one.title}: {odd}" for one in found for odd in one.odd)])


def _cell(one: Found, base: Found | None, what: str, form: str) -> str:
    value = one.median(what)
    if value is None:
        return ""
    under = base.median(what) if base and what in RATIOS else None
    return f"{value:{form}}" + (f" ({value / under:.2f}×)" if under else "")


def parts(micro: Mapping[str, float]) -> str:
    return "\n".join(["| part of cascade | measured |", "| --- | ---: |", *(f"| {what} | {value:.1f} |" for what, value in micro.items())])


def machine() -> str:
    """What it was measured on, in a few words."""
    names = [line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def page(found: Sequence[Found], base: Found | None, micro: Mapping[str, float], command: str) -> str:
    """The page for the docs."""
    text = f"""# Overhead

*Written on {date.today().isoformat()} by `{command}`*
*on {machine()}.*

Every client does the same work against one loopback server, in an environment of its own: render a prompt, ask the cheap model with a JSON
Schema of 15 fields, look at the answer, ask the dear model when it is wrong (one prompt in five), keep the tokens used. That each made
exactly the calls expected is checked. cascade also keeps the trail, prices the tokens and writes the answer to its disk cache.

1 and 64 are prompts at a time. Figures are per prompt, medians of interleaved rounds; (×) is the ratio to the hand-written client in the
same run, and that is what to read. Instructions (millions, user space, by callgrind) repeat on a noisy machine; times do not.
`added p50` is what a prompt answered by the first model takes beyond an upstream of 200 ms.

{table(found, base)}
"""
    return f"{text}\n{parts(micro)}\n" if micro else text
