"""How results look on a terminal and in a pipe; nothing here decides anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from cascade.summary import Summary, TierSummary
from cascade.types import Json

if TYPE_CHECKING:
    from rich.table import Table


BAR_FROM = 20_000_000
"""Bytes of input from which a progress bar is shown."""


def note(text: str) -> None:
    """A line for people: stderr."""
    print(text, file=sys.stderr)


def data(value: Json) -> None:
    """JSON for programs: stdout; indented on a terminal, one line in a pipe."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    line(orjson.dumps(value, option=option))


def line(text: bytes) -> None:
    """One line of bytes on stdout."""
    sys.stdout.buffer.write(text + b"\n")
    sys.stdout.buffer.flush()


def money(dollars: Decimal | None) -> str:
    """Dollars with six decimals, or "unpriced"."""
    return "unpriced" if dollars is None else f"${dollars:.6f}"


def tiers_table(summary: Summary, seconds: str = "seconds") -> Table:
    """The table per tier: asked, accepted, why escalated, dollars, seconds."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("tier", "model"):
        table.add_column(name, overflow="fold")
    for name in ("asked", "accepted"):
        table.add_column(name, justify="right")
    table.add_column("not accepted because", overflow="fold")
    for name in ("calls", "dollars", seconds):
        table.add_column(name, justify="right")
    for tier in summary.tiers:
        table.add_row(*_row(tier))
    table.add_row("total", "", str(summary.requests), str(summary.statuses["accepted"]), _others(summary), str(summary.calls),
                  money(summary.dollars), f"{sum(t.seconds for t in summary.tiers):.1f}")
    return table


def _row(tier: TierSummary) -> Sequence[str]:
    why = ", ".join(f"{name} {count}" for name, count in tier.why.most_common())
    repaired = f" ({tier.repaired} repaired)" if tier.repaired else ""
    return (tier.name, tier.model, str(tier.asked), f"{tier.accepted}{repaired}", why, str(tier.calls), money(tier.dollars),
            f"{tier.seconds:.1f}")


def _others(summary: Summary) -> str:
    return ", ".join(f"{status} {count}" for status, count in summary.statuses.most_common() if status != "accepted")


def text(table: Table, width: int = 130) -> str:
    """A table as plain text, without spaces at the ends of lines."""
    import io

    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def console(stderr: bool = False):  # type: ignore[no-untyped-def]  # rich is imported when something is shown
    """A rich console; in a pipe it is as wide as its tables want."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160, highlight=False, soft_wrap=False)


@contextmanager
def bytes_bar(paths: Sequence[str]) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal for files of 20 MB and more; what it gives is called with the bytes that were read."""
    size = sum(Path(path).stat().st_size for path in paths if Path(path).is_file())
    if not sys.stderr.isatty() or size < BAR_FROM:
        yield lambda read: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size)
        yield lambda read: bar.advance(task, read)
