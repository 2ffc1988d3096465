"""`record`: every tier and gate asked for many requests, whatever the gates say; the trails are what calibrate and replay read."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from cascade import records
from cascade.cli import STOPPED, WRONG, asking, show
from cascade.cli.progress import dollars_so_far, run_with_progress
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.types import Checked, Compared, Event, Failed, Json, Policy, Tried

if TYPE_CHECKING:
    from rich.table import Table

    from cascade.app import Cascade
    from cascade.bulk import Run
    from cascade.grade import Grader
    from cascade.rows import Row

TOLD = 10
"""So many mistakes of one kind are shown; of the rest only how many there are."""


def record(
    policy: asking.PolicyArgument,
    input: Annotated[str, typer.Argument(metavar="INPUT.jsonl", help="One request a line, with gold if you have it.", show_default=False)],
    output: Annotated[str, typer.Option("-o", "--output", metavar="TRAILS.jsonl", help="Where the trails go.", show_default=False)],
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Requests at a time.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Ask every tier and every gate, whatever the gates say: data for calibrate and replay. The cache is neither read nor filled.

    \b
    The same command again goes on where it stopped (rows that failed are asked again):
      cascade record policies/ticket.yaml policies/ticket.inputs.jsonl -o trails.jsonl
      cascade record policies/ticket.yaml in.jsonl -o trails.jsonl --concurrency 4 --limit 300
      cascade calibrate policies/ticket.yaml trails.jsonl --max-loss 0.02

    \b
    A row in: {"id": "42", "inputs": {"text": "…"}, "gold": {…}}; a gold of the wrong shape stops the command before anything is paid.
    Every request is paid on every tier: cascade check POLICY tells the dollars.
    """
    from cascade import rows
    from cascade.bulk import Run, Trails
    from cascade.grade import Grader

    requests = rows.read(input)[:limit]
    cascade: Cascade = asking.load(policy, no_cache=True, calibrated=False)
    with cascade:
        grader = Grader.of(cascade.policy)
        _refuse_bad_gold(grader, requests, input)
        out = Trails(output, cascade.label, cascade.digests)
        try:
            state = Run(cascade.label, len(requests))
            run_with_progress(cascade, requests, out, concurrency, lambda row: cascade.arecord(row.inputs, id=row.id), _so_far, state)
        finally:
            out.close()
        golds = {row.id: row.gold for row in requests if row.gold is not None}
        tally = tallied(cascade.policy, state.done, golds, grader)
        to_ask = sum(out.again(outcome) for outcome in state.done)
    _report(state, tally, (policy, output), to_ask, json, len(golds))
    if state.configuration:
        raise typer.Exit(WRONG)
    if state.stopped or to_ask:
        raise typer.Exit(STOPPED)


def _refuse_bad_gold(grader: Grader, requests: Sequence[Row], path: str) -> None:
    found = [f"{path}:{row.line}: {problem}" for row in requests if row.gold is not None and (problem := grader.problem(row.gold))]
    if found:
        more = [f"and {len(found) - TOLD} more"] if len(found) > TOLD else []
        raise InputError("\n".join([*found[:TOLD], *more]))


def _so_far(state: Run) -> str:
    return dollars_so_far(state)


# ---------------------------------------------------------------- what was recorded


@dataclass
class TierTally:
    """One tier over many recordings. `dollars` and `seconds` include its gates; `same` is of `compared`, `right` of `graded`."""

    name: str
    model: str
    asked: int = 0
    read: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    looked: Counter[str] = field(default_factory=Counter)
    same: int = 0
    compared: int = 0
    right: int = 0
    graded: int = 0
    dollars: Decimal | None = Decimal(0)
    seconds: float = 0.0


def tallied(policy: Policy, outcomes: Iterable[Outcome], golds: Mapping[str, Json], grader: Grader) -> list[TierTally]:
    """What each tier did over the recordings; its last answer counts, by id against the gold where there is one."""
    from cascade.reading import reader

    read = reader(policy)
    tiers = {tier.name: TierTally(tier.name, tier.model) for tier in policy.tiers}
    for outcome in outcomes:
        if outcome.mode is None:
            continue
        last: dict[str, Tried] = {}
        checks: dict[tuple[str, str], Checked] = {}
        for event in outcome.trail:
            _add(tiers[event.tier], event)
            if isinstance(event, Tried | Failed) and event.gate is None:
                last.pop(event.tier, None) if isinstance(event, Failed) else last.update({event.tier: event})
            elif isinstance(event, Checked):
                checks[event.tier, event.gate] = event
        for name in {e.tier for e in outcome.trail if isinstance(e, Tried | Failed) and e.gate is None}:
            tiers[name].asked += 1
        for (name, gate), checked in checks.items():
            tiers[name].looked[gate] += 1
            tiers[name].passed[gate] += checked.passed
        for name, tried in last.items():
            found = read(tried.text)
            if tried.finish != "stop" or found.problem is not None:
                continue
            tiers[name].read += 1
            if str(outcome.id) in golds:
                tiers[name].graded += 1
                tiers[name].right += grader.right(found.value, golds[str(outcome.id)])
    return list(tiers.values())


def _add(tier: TierTally, event: Event) -> None:
    if isinstance(event, Compared):
        tier.compared += 1
        tier.same += event.same
    elif isinstance(event, Tried | Failed | Checked):
        tier.seconds += event.seconds
        tier.dollars = None if tier.dollars is None or event.cost_usd is None else tier.dollars + event.cost_usd


def _table(tally: Sequence[TierTally]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tier")
    table.add_column("model", overflow="fold")
    for name in ("asked", "could be read"):
        table.add_column(name, justify="right")
    table.add_column("gates passed", overflow="fold")
    for name in ("same as last tier", "right", "dollars", "seconds"):
        table.add_column(name, justify="right")
    for tier in tally:
        gates = ", ".join(f"{gate} {tier.passed[gate]}/{n}" for gate, n in tier.looked.items())
        same = f"{tier.same}/{tier.compared}" if tier.compared else ""
        right = f"{tier.right}/{tier.graded}" if tier.graded else ""
        table.add_row(tier.name, tier.model, str(tier.asked), str(tier.read), gates, same, right, show.money(tier.dollars), f"{tier.seconds:.1f}")
    return table


def _report(state: Run, tally: Sequence[TierTally], paths: tuple[str, str], to_ask: int, json: bool, golds: int) -> None:
    policy, output = paths
    invalid = [str(outcome.error) for outcome in state.done if outcome.status == "invalid"]
    if json:
        show.line(records.dumps({
            "requests": state.total, "done": len(state.done), "done_before": state.before, "failed": to_ask, "invalid": len(invalid),
            "gold": golds, "stopped": state.stopped, "output": output, "tiers": [_as_json(tier) for tier in tally]}))
    else:
        show.console(stderr=True).print(_table(tally))
    for line in invalid[:TOLD]:
        show.note(line)
    if len(invalid) > TOLD:
        show.note(f"… and {len(invalid) - TOLD} more invalid rows")
    before = f", {state.before} of them from before" if state.before else ""
    show.note(f"{len(state.done)} of {state.total} rows in {output}{before}")
    if state.stopped:
        show.note(f"stopped early: {state.stopped}\nrun the same command again to go on")
    elif to_ask:
        show.note(f"{to_ask} rows have no answer of the last tier; run the same command again to ask them again")
    else:
        show.note(f"next: cascade calibrate {shlex.quote(policy)} {shlex.quote(output)}")


def _as_json(tier: TierTally) -> dict[str, Json]:
    return {"tier": tier.name, "model": tier.model, "asked": tier.asked, "read": tier.read,
            "gates": {gate: {"passed": tier.passed[gate], "of": n} for gate, n in tier.looked.items()},
            "same": tier.same, "compared": tier.compared, "right": tier.right, "graded": tier.graded,
            "cost_usd": tier.dollars, "seconds": round(tier.seconds, 3)}
