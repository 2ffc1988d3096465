"""`run`: many requests up the ladder, durably, by one engine or another."""

from __future__ import annotations

import contextlib
import enum
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade import records
from cascade.cli import NOT_ACCEPTED, STOPPED, WRONG, batch, show
from cascade.cli.asking import NoCache, load
from cascade.cli.confirm import confirm
from cascade.cli.progress import dollars_so_far, run_with_progress
from cascade.errors import InputError
from cascade.summary import Tally
from cascade.types import CacheSettings, Json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cascade.app import Cascade
    from cascade.bulk import Answerer, Durable, Run, Standing, Stream
    from cascade.bulk.batched import Batcher
    from cascade.bulk.durable import InDoubt
    from cascade.rows import Row
    from cascade.types import Policy


MOST_AT_A_TIME = 1000


class Engine(enum.StrEnum):
    """What answers the rows of a run."""

    local = "local"
    batch = "batch"
    ray = "ray"


def run(
    policy: Annotated[str | None, typer.Argument(metavar="POLICY", help="The policy file.", show_default=False)] = None,
    input: Annotated[str | None, typer.Argument(metavar="INPUT.jsonl|-", help="One request a line; - reads stdin.", show_default=False)] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="OUT.jsonl|-", show_default=False,
                      help="Where the rows go; - is stdout.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, show_default=False,
                           help="Requests at a time: 16, at most 1000; with --engine batch rows on their way: 10000.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.", show_default=False)] = None,
    engine: Annotated[Engine, typer.Option("--engine", help="local: this process. batch: the providers' Batch APIs, at half the price, "
                                                            "within 24 hours a wave (docs/batch.md). ray: workers of a Ray cluster at RAY_ADDRESS or "
                                                            "started here; see docs/ray.md.")] = Engine.local,
    workers: Annotated[int, typer.Option(min=1, max=1000, help="--engine ray: how many processes share the rows, the requests at a time "
                                                               "and the limits.")] = 2,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 unless every request was accepted.")] = False,
    in_doubt: Annotated[str, typer.Option("--in-doubt", metavar="hold|retry",
                        help="Rows that a crash cut off, which may have been paid: hold lists them, retry asks them again.")] = "hold",
    force: Annotated[bool, typer.Option("--force", help="Ask anew what an edited policy or input concerns, instead of refusing.")] = False,
    confirm_above: Annotated[float, typer.Option("--confirm-above", min=0, metavar="USD", help="Ask before a run that may cost more at worst.")] = 10,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, whatever it may cost.")] = False,
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
    INPUT and OUT may be .csv or .parquet too (docs/bulk.md): a column is an input, but for id and gold.
    A row in: {"id": "42", "inputs": {"text": "…"}, "gold": {…}}; id and gold may be left out, a flat object is taken as inputs.
    OUT.jsonl.journal holds what was asked and answered; keep it until the run is done. With -o - there is no journal: rows are printed as each
    is done, and a run that is cut off is asked and paid anew. From stdin (-) all is read before the first row is asked.
    With --engine ray the journals stand in OUT.jsonl.shards/, which all machines of the cluster must see.
    Ctrl-C finishes what is in flight and stops (exit code 3); twice stops at once.
    """
    if status is not None:
        return _status(status, json)
    if policy is None or input is None or output is None:
        raise InputError("cascade run needs a policy, an input and -o OUT.jsonl; or --status OUT.jsonl alone")
    if in_doubt not in ("hold", "retry"):
        raise InputError(f"--in-doubt {in_doubt!r}: write hold or retry")
    if json and output == "-":
        raise InputError("--json and -o - both write to stdout; choose one")
    if engine is not Engine.batch and (concurrency or 1) > MOST_AT_A_TIME:
        raise InputError(f"--concurrency {concurrency}: at most {MOST_AT_A_TIME} requests at a time")
    from cascade import formats, rows

    if engine is not Engine.local and (output == "-" or formats.is_table(output)):
        raise InputError(f"--engine {engine} writes JSON lines to a file: -o OUT.jsonl")
    with _at_rest(input) as path:
        there = rows.count(path)
        most = concurrency or (batch.ROWS if engine is Engine.batch else 16)
        job = Job(policy, path, output, there, min(there, limit or there), most, workers, in_doubt, force,  # type: ignore[arg-type]
                  no_cache, None if yes else confirm_above)
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
    """What `run` is told: the input stands at `path` and has `there` rows, of which the first `total` are to be answered. A run that may cost
    more than `confirm_above` dollars is asked about; None: none is."""

    policy: str
    path: str
    output: str
    there: int
    total: int
    concurrency: int
    workers: int
    in_doubt: InDoubt
    force: bool
    no_cache: bool
    confirm_above: float | None

    def rows(self) -> Iterator[Row]:
        """The input anew."""
        from cascade import rows

        return rows.stream(self.path)

    def opened(self, kind: Callable[..., Durable], cascade: Cascade) -> Durable:
        """The output of the run."""
        return kind(self.output, cascade.label, self.rows, digests=cascade.digests, policies=cascade.labels, in_doubt=self.in_doubt,
                    force=self.force, total=self.there)

    def confirm(self, policy: Policy, done: Callable[[Row], bool]) -> None:
        """Ask about the cost of the rows that are not done."""
        if self.confirm_above is not None:
            left = (row for number, row in enumerate(self.rows()) if number < self.total and not done(row))
            confirm(policy, left, self.concurrency, self.confirm_above)

    def state(self, cascade: Cascade) -> Run:
        """The run, before it has begun."""
        from cascade.bulk import Run

        return Run(cascade.label, self.total, keep=False, tally=Tally([tier.name for tier in cascade.policy.tiers]))


def _local(job: Job) -> tuple[Cascade, Run, Standing]:
    """The run in this process: each call as soon as its turn comes."""
    from cascade import formats
    from cascade.bulk import Durable, Stream, Table, shards

    if shards.are_there(job.output):
        raise InputError(f"{job.output}: begun with --engine ray; go on with that, or choose another output")
    batch.refuse(job.output)
    with load(job.policy, job.no_cache) as cascade:
        out = (Stream(sys.stdout.fileno(), cascade.label, job.there) if job.output == "-"
               else job.opened(Table if formats.is_table(job.output) else Durable, cascade))  # fmt: skip
        return _answered(job, cascade, out, lambda row: cascade.arun(row.inputs, id=row.id))


def _batch(job: Job) -> tuple[Cascade, Run, Standing]:
    """The run by the providers' Batch APIs."""
    from cascade.bulk import shards

    if shards.are_there(job.output):
        raise InputError(f"{job.output}: begun with --engine ray; go on with that, or choose another output")
    with batch.opened(job.policy, job.output, job.in_doubt == "retry") as batcher, load(job.policy, job.no_cache, around=batcher) as cascade:
        return _answered(job, cascade, job.opened(batch.rows_of(batcher), cascade), batch.answerer(batcher, cascade), batcher)


def _answered(job: Job, cascade: Cascade, out: Durable | Stream, answer: Answerer,
              batcher: Batcher | None = None) -> tuple[Cascade, Run, Standing]:
    """The rows of the job, answered and written."""
    try:
        job.confirm(cascade.policy, out.holds)
        requests = (row for number, row in enumerate(job.rows()) if number < job.total or out.holds(row))
        state = job.state(cascade)
        run_with_progress(cascade, requests, out, min(job.concurrency, job.there), answer, _so_far, state, batcher)
        return cascade, state, out.standing()
    finally:
        out.close()


def _on_ray(job: Job) -> tuple[Cascade, Run, Standing]:
    """The run by workers of a Ray cluster."""
    from cascade.bulk import shards
    from cascade.cli import on_ray

    batch.refuse(job.output)
    with load(job.policy, job.no_cache) as cascade:
        if not shards.are_there(job.output):  # one that goes on was asked about when it began
            job.confirm(cascade.policy, lambda row: False)
        policy = cascade.policy if not job.no_cache else replace(cascade.policy, cache=CacheSettings(backend="off"))
        state, stands = on_ray.run(cascade, policy, job.rows(), job.output, there=job.there, asked=job.total, workers=job.workers,
                                   concurrency=job.concurrency, in_doubt=job.in_doubt, force=job.force)
        return cascade, state, stands


ENGINES: dict[Engine, Callable[[Job], tuple[Cascade, Run, Standing]]] = {Engine.local: _local, Engine.batch: _batch, Engine.ray: _on_ray}


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
    from cascade.bulk import shards, standing
    from cascade.bulk.journal import SUFFIX

    stands, batches = batch.standing(output, shards.standing(output) if shards.are_there(output) else standing(Path(output + SUFFIX)))
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


def _so_far(state: Run) -> str:
    first = next(iter(state.tally.tiers), None)
    escalated = sum(n for tier, n in state.tally.served.items() if tier != first)
    return f"accepted {state.tally.statuses['accepted']} · escalated {escalated} · {dollars_so_far(state)}"


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
    to_stdout = output == "-"
    done = f"{summary.requests} of {state.total} rows {'on stdout' if to_stdout else f'in {output}'}"
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
        show.note(f"stopped early: {state.stopped}" + ("" if to_stdout else "\nrun the same command again to go on"))
    elif summary.statuses["failed"]:
        show.note(f"{summary.statuses['failed']} rows failed" + ("" if to_stdout else "; run the same command again to ask them again"))
