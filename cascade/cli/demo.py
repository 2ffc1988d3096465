"""`cascade demo`: what the ladder does, without a key and without a network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli import show
from cascade.summary import summarise

if TYPE_CHECKING:
    from cascade.demo import Played


def demo(
    live: Annotated[bool, typer.Option("--live", help="Ask real models on this machine instead of replaying their recorded answers.")] = False,
) -> None:
    """Run the shipped invoice ladder over the shipped invoices: no key, no network.

    \b
    Examples:
      cascade demo
      pip install 'cascade-judge[local]' && cascade demo --live
    """
    played = _live() if live else _replayed()
    _tell(played, live)


def _replayed() -> Played:
    from cascade import demo

    with _bar(demo.size()) as told:
        return demo.play(told=told)


def _live() -> Played:
    from cascade import demo, local

    with local.shown() as progress:
        local.fetch(None, progress)
    show.note("starting the local models …")
    with local.ladder(), _bar(demo.size()) as told:
        return demo.live(told)


def _bar(size: int):  # type: ignore[no-untyped-def]  # rich is imported when something is shown
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    @contextmanager
    def bar():  # type: ignore[no-untyped-def]
        columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=show.console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
            task = progress.add_task("", total=size)
            yield lambda: progress.advance(task)

    return bar()


def _tell(played: Played, live: bool) -> None:
    how = "asked live on this machine" if live else "replayed from recorded calls of real models: no key, no network"
    print(f"{len(played.rows)} invoices, {how}")
    print(table(played, live))
    told = played.worth_telling()
    print(f"\nThe story of {told.id}:")
    print(told.explain())


def table(played: Played, live: bool = False) -> str:
    """The table per tier, and the ladder beside always asking its top tier, as plain text."""
    summary = summarise(played.ladder, [tier.name for tier in played.policy.tiers])
    grid = show.text(show.tiers_table(summary, "seconds" if live else "replay s"))
    note = "Prices of the local models are set in the policy in proportion to their size (no provider charges them)."
    return "\n".join([grid, *comparison(played), note])


def comparison(played: Played) -> list[str]:
    """The ladder beside always asking the top tier: right answers against gold, and dollars."""
    count = len(played.rows)
    lines = []
    for name, outcomes in (("ladder", played.ladder), (f"always {played.policy.tiers[-1].name}", played.top)):
        right = played.right(outcomes)
        lines.append(f"{name:<20} {right}/{count} right ({right / count:.0%})  {show.money(played.cost(outcomes))}")
    ladder, top = played.cost(played.ladder), played.cost(played.top)
    if ladder is not None and top:
        saved = 1 - ladder / top
        lines.append(f"{'saved':<20} {saved:.0%} of the dollars" if saved >= 0 else f"{'saved':<20} nothing: it cost {-saved:.0%} more")
    ratio, even = played.price_ratio(), played.break_even()
    if ratio and even:
        lines.append(f"{'pays':<20} where the top tier is {even:.1f} times as dear as the first or more; here it is {ratio:.1f} times "
                     "(gpt-6-luna to claude-opus-5-5: 40)")
    return lines
