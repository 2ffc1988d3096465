"""`ask`, `run` and `explain`: requests up the ladder, one or many, and their stories."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade import records
from cascade.cli import NOT_ACCEPTED, STOPPED, WRONG, show
from cascade.errors import ConfigurationError, InputError
from cascade.outcome import Outcome
from cascade.summary import summarise
from cascade.types import CacheSettings, Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade.app import Cascade
    from cascade.bulk import Answerer, Output, Run
    from cascade.rows import Row

PolicyArgument = Annotated[str, typer.Argument(metavar="POLICY", help="The policy file.", show_default=False)]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor fill the cache.")]


def ask(
    policy: PolicyArgument,
    inputs: Annotated[list[str] | None, typer.Option("-i", metavar="KEY=VALUE", show_default=False,
                      help="An input: KEY=text, KEY=@file for a file's text, KEY:=JSON for a JSON value.")] = None,
    file: Annotated[str | None, typer.Option("--input", metavar="FILE|-", show_default=False,
                    help="A JSON object with the inputs; - reads stdin.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell the request's story on stderr.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the whole row (status, dollars, trail) instead of the answer.")] = False,
    no_cache: NoCache = False,
) -> None:
    """Answer one request; the answer is printed as JSON.

    \b
    Examples:
      cascade ask policies/ticket.yaml -i message="I was charged twice" --explain
      cascade ask policies/invoice.yaml -i text=@invoice.txt
      cat inputs.json | cascade ask policies/invoice.yaml --input - --json | jq .cost_usd

    Exit code 1: the answer was not accepted (the best one is printed all the same).
    """
    given = _inputs(inputs or [], file)
    with load(policy, no_cache) as cascade:
        outcome = cascade.run(given)
    if explain:
        show.note(outcome.explain())
    elif outcome.alarm:
        show.note(f"ALARM: {outcome.alarm}")
    if json:
        show.line(records.to_line(outcome))
    elif outcome.output is not None:
        show.data(outcome.output)
    if outcome.status != "accepted":
        if not explain:
            show.note(f"{outcome.status}: {outcome.error}")
        raise typer.Exit(WRONG if (outcome.error or "").startswith("configuration") else NOT_ACCEPTED)


def run(
    policy: PolicyArgument,
    input: Annotated[str, typer.Argument(metavar="INPUT.jsonl", help="One request a line.", show_default=False)],
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT.jsonl", help="Where the rows go.", show_default=False)],
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Requests at a time.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.", show_default=False)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 unless every request was accepted.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    no_cache: NoCache = False,
) -> None:
    """Answer many requests: JSONL in, JSONL out, one row a request, written as each is done.

    \b
    The same command again goes on where it stopped (rows that failed are asked again):
      cascade run policies/invoice.yaml policies/invoice.inputs.jsonl -o out.jsonl
      cascade run policies/invoice.yaml in.jsonl -o out.jsonl --concurrency 64 --limit 100
      cascade explain out.jsonl 42

    \b
    A row in: {"id": "42", "inputs": {"text": "…"}, "gold": {…}}; id and gold may be left out, a flat object is taken as inputs.
    Ctrl-C finishes what is in flight and stops (exit code 3); twice stops at once.
    """
    from cascade import rows
    from cascade.bulk import Output

    requests = rows.read(input)[:limit]
    if len({row.id for row in requests}) == 0:
        raise InputError(f"{input}: there are no rows in it")
    cascade = load(policy, no_cache)
    with cascade:
        out = Output(output, cascade.label, cascade.digests, cascade.labels)
        try:
            state = run_with_progress(cascade, requests, out, concurrency, lambda row: cascade.arun(row.inputs, id=row.id), _so_far)
        finally:
            out.close()
    _report(cascade, state, output, json)
    if state.configuration:
        raise typer.Exit(WRONG)
    statuses = summarise(state.done).statuses
    if state.stopped or statuses["failed"]:
        raise typer.Exit(STOPPED)
    if strict and statuses["accepted"] < len(requests):
        raise typer.Exit(NOT_ACCEPTED)


def explain(
    rows: Annotated[str, typer.Argument(metavar="OUT.jsonl", help="Rows written by cascade run.", show_default=False)],
    id: Annotated[str, typer.Argument(metavar="ID", help="The row's id.", show_default=False)],
) -> None:
    """Tell one row's story: each try, verdict, reason, dollars and seconds.

    \b
    Example:
      cascade explain out.jsonl 42
    """
    ids = []
    try:
        with Path(rows).open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    outcome = records.from_line(line)
                except InputError as err:
                    raise InputError(f"{rows}:{number}: {err}") from err
                if outcome.id == id:
                    print(outcome.explain())
                    return
                ids.append(str(outcome.id))
    except OSError as err:
        raise InputError(f"{rows}: {err.strerror or err}") from err
    import difflib

    near = difflib.get_close_matches(id, ids, 1, 0.5)
    raise InputError(f"{rows}: no row has the id {id!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


# ---------------------------------------------------------------- loading


def load(policy: str, no_cache: bool, calibrated: bool = True) -> Cascade:
    """The policy's Cascade; stops before anything is asked when a key is missing. `calibrated` False: without its thresholds file."""
    from cascade import policy as policies
    from cascade.app import Cascade, missing_keys

    cascade = Cascade(policies.load(policy, calibrated=calibrated), cache=CacheSettings(backend="off") if no_cache else None)
    missing = missing_keys(cascade.policy)
    if missing:
        raise ConfigurationError("\n".join(f"{policy}: {line}" for line in missing))
    return cascade


def _inputs(pairs: list[str], file: str | None) -> dict[str, Json]:
    given: dict[str, Json] = {}
    if file is not None:
        from cascade import rows

        row = rows.parse(_read(file), 1, file)
        if row.problem:
            raise InputError(row.problem)
        given |= row.inputs
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.rstrip(":"):
            raise InputError(f"-i {pair!r}: write KEY=VALUE, KEY=@file or KEY:=JSON")
        given[key.removesuffix(":")] = _json(pair, value) if key.endswith(":") else _text(value)
    if not given:
        raise InputError("no inputs: give them as -i KEY=VALUE or with --input FILE")
    return given


def _json(pair: str, value: str) -> Json:
    import jiter

    try:
        return jiter.from_json(value.encode(), catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as err:
        raise InputError(f"-i {pair!r}: not JSON: {err}") from err


def _text(value: str) -> str:
    if not value.startswith("@"):
        return value
    try:
        return _read(value[1:]).decode()
    except UnicodeDecodeError as err:
        raise InputError(f"{value[1:]}: not UTF-8 text: {err}") from err


def _read(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}") from err


# ---------------------------------------------------------------- running


def run_with_progress(cascade: Cascade, requests: list[Row], out: Output, concurrency: int, answer: Answerer,
                      so_far: Callable[[Run], str]) -> Run:
    """Answer the rows under a progress bar that says `so_far`; Ctrl-C finishes what is in flight, twice stops at once."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=show.console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=len(requests))
        return asyncio.run(_run(cascade, requests, out, concurrency, answer, lambda state: bar.update(
            task, completed=len(state.done), description=so_far(state))))


async def _run(cascade: Cascade, requests: list[Row], out: Output, concurrency: int, answer: Answerer, told: Any) -> Run:
    from cascade import bulk

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None

    def interrupt() -> None:
        if stop.is_set():
            this.cancel()
        else:
            show.note("finishing what is in flight; once more stops at once")
            stop.set()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, interrupt)
    try:
        return await bulk.run(requests, answer, out, cascade.label, concurrency=concurrency, stop=stop, told=told)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        await cascade.aclose()


def _so_far(state: Run) -> str:
    accepted = sum(outcome.status == "accepted" for outcome in state.done)
    first = state.done[0].trail[0].tier if state.done and state.done[0].trail else None
    escalated = sum(_escalated(outcome, first) for outcome in state.done)
    dollars = dollars_so_far(state)
    return f"accepted {accepted} · escalated {escalated} · {dollars}"


def dollars_so_far(state: Run) -> str:
    """What the done rows cost, for the progress bar."""
    known = [outcome.cost_usd for outcome in state.done]
    return show.money(None if None in known else sum(c for c in known if c is not None) or None) if known else "$0"


def _escalated(outcome: Outcome, first: str | None) -> bool:
    return outcome.tier is not None and outcome.tier != first


def _report(cascade: Cascade, state: Run, output: str, json: bool) -> None:
    summary = summarise(state.done, [tier.name for tier in cascade.policy.tiers])
    if json:
        show.line(records.dumps({
            "requests": state.total, "done": len(state.done), "done_before": state.before, "statuses": dict(summary.statuses),
            "escalated": summary.escalated, "cached": summary.cached, "calls": summary.calls, "cost_usd": summary.dollars,
            "unpriced": summary.unpriced, "stopped": state.stopped, "alarm": cascade.alarm, "output": output}))
    else:
        show.console(stderr=True).print(show.tiers_table(summary))
    invalid = [outcome.error for outcome in state.done if outcome.status == "invalid"]
    for error in invalid[:10]:
        show.note(str(error))
    if len(invalid) > 10:
        show.note(f"… and {len(invalid) - 10} more invalid rows")
    if summary.unpriced:
        show.note(f"unpriced: {', '.join(summary.unpriced)}: give prices under `pricing:` in the policy to see what this cost")
    done = f"{len(state.done)} of {state.total} rows in {output}"
    before = f", {state.before} of them from before" if state.before else ""
    cached = f", {summary.cached} from the cache" if summary.cached else ""
    show.note(done + before + cached)
    if cascade.alarm:
        rows = sum(outcome.alarm is not None for outcome in state.done)
        show.note(f"ALARM: {cascade.alarm}\n{rows} rows carry an alarm; cascade monitor {cascade.policy.path or ''} tells more")
    if state.stopped:
        show.note(f"stopped early: {state.stopped}\nrun the same command again to go on")
    elif summary.statuses["failed"]:
        show.note(f"{summary.statuses['failed']} rows failed; run the same command again to ask them again")
