"""`ask`, `run` and `explain`: requests up the ladder, one or many, and their stories."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade import records
from cascade.cli import NOT_ACCEPTED, STOPPED, WRONG, batch, show
from cascade.errors import ConfigurationError, InputError
from cascade.summary import Tally
from cascade.types import CacheSettings, Json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cascade.app import Cascade
    from cascade.bulk import Answerer, Durable, Run, Standing
    from cascade.bulk.batched import Batcher
    from cascade.bulk.runner import Rows
    from cascade.rows import Row

PolicyArgument = Annotated[str, typer.Argument(metavar="POLICY", help="The policy file.", show_default=False)]
MOST_AT_A_TIME = 1000
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
    policy: Annotated[str | None, typer.Argument(metavar="POLICY", help="The policy file.", show_default=False)] = None,
    input: Annotated[str | None, typer.Argument(metavar="INPUT.jsonl|-", help="One request a line; - reads stdin.", show_default=False)] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="OUT.jsonl", help="Where the rows go.", show_default=False)] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="local|batch",
                      help="batch: by the providers' Batch APIs, at half the price, within 24 hours a wave.")] = "local",
    concurrency: Annotated[int | None, typer.Option(min=1, show_default=False,
                           help="Requests at a time: 16, at most 1000; with --engine batch rows on their way: 10000.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.", show_default=False)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 unless every request was accepted.")] = False,
    in_doubt: Annotated[str, typer.Option("--in-doubt", metavar="hold|retry",
                        help="Rows that a crash cut off, which may have been paid: hold lists them, retry asks them again.")] = "hold",
    force: Annotated[bool, typer.Option("--force", help="Ask anew what an edited policy or input concerns, instead of refusing.")] = False,
    status: Annotated[str | None, typer.Option("--status", metavar="OUT.jsonl", show_default=False,
                      help="Only tell how the run that writes OUT.jsonl stands.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    no_cache: NoCache = False,
) -> None:
    """Answer many requests: JSONL in, JSONL out, one row a request, in the order of the input, written as each is done.

    \b
    The same command again goes on where it stopped (rows that failed are asked again):
      cascade run policies/invoice.yaml policies/invoice.inputs.jsonl -o out.jsonl
      cascade run policies/invoice.yaml in.jsonl -o out.jsonl --concurrency 64 --limit 100
      cascade run policies/invoice.yaml in.jsonl -o out.jsonl --engine batch
      cascade run --status out.jsonl
      cascade explain out.jsonl 42

    \b
    A row in: {"id": "42", "inputs": {"text": "…"}, "gold": {…}}; id and gold may be left out, a flat object is taken as inputs.
    OUT.jsonl.journal holds what was asked and answered; keep it until the run is done.
    Ctrl-C finishes what is in flight and stops (exit code 3); twice stops at once.
    """
    if status is not None:
        return _status(status, json)
    if policy is None or input is None or output is None:
        raise InputError("cascade run needs a policy, an input and -o OUT.jsonl; or --status OUT.jsonl alone")
    if in_doubt not in ("hold", "retry"):
        raise InputError(f"--in-doubt {in_doubt!r}: write hold or retry")
    if engine not in ENGINES:
        raise InputError(f"--engine {engine!r}: write {' or '.join(ENGINES)}")
    from cascade import rows

    with _at_rest(input) as path:
        there = rows.count(path)
        job = Job(policy, path, output, there, min(there, limit or there), concurrency, in_doubt == "retry", force, no_cache)
        cascade, state, stands = ENGINES[engine](job)
    _report(cascade, state, stands, output, json)
    if state.configuration:
        raise typer.Exit(WRONG)
    statuses = state.tally.statuses
    if state.stopped or statuses["failed"] or statuses["in_doubt"]:
        raise typer.Exit(STOPPED)
    if strict and statuses["accepted"] < job.total:
        raise typer.Exit(NOT_ACCEPTED)


@dataclass(frozen=True, slots=True)
class Job:
    """What `run` is told: the input stands at `path` and has `there` rows, of which the first `total` are to be answered."""

    policy: str
    path: str
    output: str
    there: int
    total: int
    concurrency: int | None
    retry: bool
    force: bool
    no_cache: bool


def _local(job: Job) -> tuple[Cascade, Run, Standing]:
    """The run in this process: each call as soon as its turn comes."""
    from cascade.bulk import Durable

    if (job.concurrency or 1) > MOST_AT_A_TIME:
        raise InputError(f"--concurrency {job.concurrency}: at most {MOST_AT_A_TIME} requests at a time")
    batch.refuse(job.output)
    with load(job.policy, job.no_cache) as cascade:
        return answered(job, cascade, Durable, lambda row: cascade.arun(row.inputs, id=row.id), job.concurrency or 16)


def _batch(job: Job) -> tuple[Cascade, Run, Standing]:
    """The run by the providers' Batch APIs."""
    with batch.opened(job.policy, job.output, job.retry) as batcher, load(job.policy, job.no_cache, around=batcher) as cascade:
        return answered(job, cascade, batch.rows_of(batcher), batch.answerer(batcher, cascade), job.concurrency or batch.ROWS, batcher)


ENGINES: dict[str, Callable[[Job], tuple[Cascade, Run, Standing]]] = {"local": _local, "batch": _batch}


def answered(job: Job, cascade: Cascade, output: Callable[..., Durable], answer: Answerer, concurrency: int,
             batcher: Batcher | None = None) -> tuple[Cascade, Run, Standing]:
    """The rows of the job, answered and written."""
    from cascade import rows
    from cascade.bulk import Run

    out = output(job.output, cascade.label, lambda: rows.stream(job.path), digests=cascade.digests, policies=cascade.labels,
                 in_doubt="retry" if job.retry else "hold", force=job.force, total=job.there)
    try:
        requests = (row for number, row in enumerate(rows.stream(job.path)) if number < job.total or out.holds(row))
        state = Run(cascade.label, job.total, keep=False, tally=Tally([tier.name for tier in cascade.policy.tiers]))
        run_with_progress(cascade, requests, out, min(concurrency, job.there), answer, _so_far, state, batcher)
        return cascade, state, out.standing()
    finally:
        out.close()


@contextlib.contextmanager
def _at_rest(path: str) -> Iterator[str]:
    """A file that can be read twice: stdin is copied to one."""
    if path != "-":
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="cascade-", suffix=".jsonl") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield file.name


def _status(output: str, json: bool) -> None:
    from cascade.bulk import standing
    from cascade.bulk.journal import SUFFIX

    stands, batches = batch.standing(output, standing(Path(output + SUFFIX)))
    if json:
        show.line(records.dumps(_as_json(stands) | {"batches": batches}))
        return
    again = f", {stands.failed} of them failed" if stands.failed else ""
    print(f"{stands.done} done, {stands.to_do} to do{again}, {len(stands.in_doubt)} in doubt of {stands.total} rows; spent {_spent(stands)}")
    for wave in batches:
        print(f"in flight: {wave['requests']} requests to {wave['model']}, {wave['batch'] or 'no batch yet'}")
    for id in stands.in_doubt:
        print(f"in doubt: {id}")


def _as_json(stands: Standing) -> dict[str, Json]:
    return {"policy": stands.policy, "total": stands.total, "done": stands.done, "to_do": stands.to_do, "failed": stands.failed,
            "in_doubt": list(stands.in_doubt), "spent_usd": stands.spent_usd, "asked_again": stands.asked_again}


def _spent(stands: Standing) -> str:
    twice = f", and what {stands.asked_again} rows cost that were in doubt and asked again" if stands.asked_again else ""
    return show.money(stands.spent_usd) + twice


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


def load(policy: str, no_cache: bool, calibrated: bool = True, around: Batcher | None = None) -> Cascade:
    """The policy's Cascade; stops before anything is asked when a key is missing. `calibrated` False: without its thresholds file."""
    from cascade import policy as policies
    from cascade.app import Cascade, missing_keys

    loaded = around.policy if around is not None else policies.load(policy, calibrated=calibrated)
    cache = CacheSettings(backend="off") if no_cache else None
    cascade = Cascade(loaded, cache=cache, around=None if around is None else around.around)
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


def run_with_progress(cascade: Cascade, requests: Iterable[Row], out: Rows, concurrency: int, answer: Answerer,
                      so_far: Callable[[Run], str], state: Run, batcher: Batcher | None = None) -> Run:
    """Answer the rows under a progress bar that says `so_far`; Ctrl-C finishes what is in flight, twice stops at once."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=show.console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=state.total)
        return asyncio.run(_run(cascade, requests, out, concurrency, answer, state, lambda state: bar.update(
            task, completed=state.tally.requests, description=so_far(state)), batcher))


async def _run(cascade: Cascade, requests: Iterable[Row], out: Rows, concurrency: int, answer: Answerer, state: Run, told: Any,
               batcher: Batcher | None) -> Run:
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
            if batcher is not None:
                batcher.suspend()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, interrupt)
    try:
        return await bulk.run(requests, answer, out, cascade.label, concurrency=concurrency, stop=stop, told=told, state=state)
    except asyncio.CancelledError:
        show.note("stopped at once; run the same command again to go on")
        raise typer.Exit(STOPPED) from None
    finally:
        if batcher is not None:
            await batcher.aclose()
        await cascade.aclose()


def _so_far(state: Run) -> str:
    first = next(iter(state.tally.tiers), None)
    escalated = sum(n for tier, n in state.tally.served.items() if tier != first)
    return f"accepted {state.tally.statuses['accepted']} · escalated {escalated} · {dollars_so_far(state)}"


def dollars_so_far(state: Run) -> str:
    """What the done rows cost, for the progress bar."""
    return show.money(state.tally.dollars or None if state.tally.dollars is not None else None) if state.tally.requests else "$0"


def _report(cascade: Cascade, state: Run, stands: Standing, output: str, json: bool) -> None:
    summary = state.tally.summary()
    if json:
        show.line(records.dumps({
            "requests": state.total, "done": summary.requests, "done_before": state.before, "statuses": dict(summary.statuses),
            "escalated": summary.escalated, "cached": summary.cached, "calls": summary.calls, "cost_usd": summary.dollars,
            "spent_usd": stands.spent_usd, "unpriced": summary.unpriced, "stopped": state.stopped, "alarm": cascade.alarm, "output": output}))
    else:
        show.console(stderr=True).print(show.tiers_table(summary))
    for error in state.invalid:
        show.note(error)
    if summary.statuses["invalid"] > len(state.invalid):
        show.note(f"… and {summary.statuses['invalid'] - len(state.invalid)} more invalid rows")
    if summary.unpriced:
        show.note(f"unpriced: {', '.join(summary.unpriced)}: give prices under `pricing:` in the policy to see what this cost")
    done = f"{summary.requests} of {state.total} rows in {output}"
    before = f", {state.before} of them from before" if state.before else ""
    cached = f", {summary.cached} from the cache" if summary.cached else ""
    show.note(done + before + cached)
    if cascade.alarm:
        show.note(f"ALARM: {cascade.alarm}\n{state.alarms} rows carry an alarm; cascade monitor {cascade.policy.path or ''} tells more")
    if stands.spent_usd != summary.dollars and stands.spent_usd is not None:
        show.note(f"spent in all, with what failed or stays to be done: {_spent(stands)}")
    if summary.statuses["in_doubt"]:
        show.note(f"{summary.statuses['in_doubt']} rows are in doubt: asked when the run was cut off, so each may have been paid. "
                  f"cascade run --status {output} lists them; --in-doubt retry asks them again, at the risk of paying twice")
    if state.stopped:
        show.note(f"stopped early: {state.stopped}\nrun the same command again to go on")
    elif summary.statuses["failed"]:
        show.note(f"{summary.statuses['failed']} rows failed; run the same command again to ask them again")
