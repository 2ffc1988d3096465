"""`cascade plan`: tokens, dollars and hours of a run before any money is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli import show

if TYPE_CHECKING:
    from cascade.plan import ByBatch, Estimate, Plan


def plan(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="The policy file.", show_default=False)],
    input: Annotated[str, typer.Argument(metavar="INPUT.jsonl", help="One request a line.", show_default=False)],
    past: Annotated[str | None, typer.Option("--past", metavar="OUT.jsonl", show_default=False,
                    help="Rows of an earlier run of the same ladder: what is expected is taken from them.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Requests at a time, as given to cascade run.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a run will take: calls, tokens, dollars and hours at best, as expected and at worst. Nothing is asked.

    \b
    Examples:
      cascade plan policies/invoice.yaml policies/invoice.inputs.jsonl
      cascade plan policies/invoice.yaml in.jsonl --past out.jsonl --concurrency 64 --json

    \b
    Best: every first answer is accepted, of 50 tokens, a token having four bytes; an estimate. Worst: every tier, repair, vote and judge at its
    longest, a token having one byte; a bound. Expected: calls, tokens, dollars and seconds per request as in the past rows.
    """
    from cascade import plan as planning
    from cascade import rows
    from cascade.policy import load
    from cascade.report import source

    requests = rows.read(input)[:limit]
    before = (line.outcome for line in source.read(past, show.note)) if past else ()
    found = planning.plan(load(policy), requests, before, concurrency)
    if json:
        show.data(_as_json(found))
    else:
        _print(found)


def _as_json(found: Plan) -> dict[str, object]:
    from dataclasses import asdict

    value = asdict(found)
    value["invalid"] = len(found.invalid)
    value["budget"] = None if found.budget is None else float(found.budget)
    for name in ("best", "expected", "worst"):
        if value[name] is not None:
            value[name]["usd"] = None if value[name]["usd"] is None else float(value[name]["usd"])
    if value["batch"] is not None:
        value["batch"] = {key: float(amount) if key.endswith("usd") and amount is not None else amount for key, amount in value["batch"].items()}
    return value


def _print(found: Plan) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{found.requests} requests")
    for name in ("calls", "tokens in", "tokens out", "dollars", "hours"):
        table.add_column(name, justify="right")
    table.add_column("held up by", overflow="fold")
    for name, estimate in (("best", found.best), ("expected", found.expected), ("worst", found.worst)):
        if estimate is not None:
            table.add_row(name, *_cells(estimate))
    print(show.text(table))
    for share in found.shares:
        print(f"{share.tier}: reached by {share.reached:.1%} of {found.past_requests} past requests, {share.accepted:.1%} accepted there")
    if found.batch is not None:
        _print_batch(found.batch)
    if found.expected is None:
        show.note("--past OUT.jsonl, rows of an earlier run, tells what to expect")
    if found.invalid:
        show.note(f"{len(found.invalid)} rows cannot be asked and are left out, the first: {found.invalid[0]}")
    if found.unpriced:
        show.note(f"unpriced: {', '.join(found.unpriced)}: give prices under `pricing:` in the policy")
    if found.budget is not None and found.expected is not None and found.expected.usd is not None and found.expected.usd > found.budget:
        show.note(f"the run is expected to stop early: budget.per_run is {show.money(found.budget)}")


def _print_batch(batch: ByBatch) -> None:
    """What the run would be with --engine batch."""
    amounts = [("best", batch.best_usd), ("expected", batch.expected_usd), ("worst", batch.worst_usd)]
    told = ", ".join(f"{show.money(usd)} {name}" for name, usd in amounts if name != "expected" or usd is not None)
    fewest, most = batch.waves
    print(f"by batch: {told}; {fewest} to {most} batches one after another, each within 24 hours")
    if batch.live:
        print(f"asked live all the same: {', '.join(batch.live)}")
    if batch.unpriced:
        show.note(f"no batch rate: {', '.join(batch.unpriced)}")


def _cells(estimate: Estimate) -> list[str]:
    def number(amount: int | None) -> str:
        return "unknown" if amount is None else f"{amount:,}"

    hours = "unknown" if estimate.hours is None else f"{estimate.hours:.2f}"
    return [number(estimate.calls), number(estimate.input_tokens), number(estimate.output_tokens), show.money(estimate.usd), hours,
            estimate.slowest or ""]
