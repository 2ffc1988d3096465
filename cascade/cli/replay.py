"""`replay`: a policy scored on recordings, with no model call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli import NOT_ACCEPTED, show
from cascade.errors import InputError

if TYPE_CHECKING:
    from cascade.replay.score import Difference


def replay(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="The policy file.", show_default=False)],
    trails: Annotated[list[str], typer.Argument(metavar="TRAILS.jsonl…", help="Recordings, or rows of runs with shadow; - reads "
                                                                             "stdin.", show_default=False)],
    against: Annotated[str | None, typer.Option("--against", metavar="OTHER", show_default=False,
                       help="Another policy file, e.g. that of the main branch: differences are told row by row.")] = None,
    fail_if: Annotated[list[str] | None, typer.Option("--fail-if", metavar="CONDITION", show_default=False,
                       help="Exit code 1 when it holds, e.g. 'accuracy<0.95'; may be given again.")] = None,
    diff: Annotated[str | None, typer.Option("--diff", metavar="FILE.jsonl", show_default=False,
                    help="Write every row that ends otherwise under OTHER.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on stdout.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print markdown fit for a pull-request comment.")] = False,
) -> None:
    """Score a policy on recordings: what it would have served, paid and escalated. No model is asked.

    \b
    Examples:
      cascade replay policies/ticket.yaml trails.jsonl
      cascade replay new.yaml trails.jsonl --against main.yaml --markdown > comment.md
      cascade replay policies/ticket.yaml trails.jsonl --fail-if 'accuracy<0.95' --fail-if 'cost_per_request>0.002'

    \b
    CONDITION names accuracy, same, saving, escalated, accepted, flagged, refused, failed (shares, 0 to 1), cost, cost_per_request (dollars),
    calls_per_request; with --against accuracy_delta, cost_delta. accuracy_low, same_low and accuracy_delta_low are lower ends of 95 % intervals.
    Prompt, schema, models and gates must be those recorded; thresholds, order, subsets of tiers and gates, outcomes and the budget per request may
    differ. Exit code 1: a condition holds. 2: a value it names is not known, or the input is wrong.
    """
    from cascade import policy as policies
    from cascade import records
    from cascade.replay import conditions, text
    from cascade.replay.files import replay as play

    if json and markdown:
        raise InputError("--json or --markdown: one of them")
    if diff and not against:
        raise InputError("--diff wants another policy: --against OTHER")
    wanted = [conditions.parse(given, against is not None) for given in fail_if or []]
    loaded = policies.load(policy)
    other = policies.load(against) if against else None
    with show.bytes_bar(trails) as progress, _writer(diff) as write:
        result = play(loaded, trails, other, different=write, progress=progress)
    held = [line for one in wanted if (line := one.holds(result.scored, result.paired))]
    if json:
        show.line(records.dumps(text.as_json(result, held)))
    else:
        print(text.markdown(result, held) if markdown else text.plain(result, held))
    if diff and result.paired:
        show.note(f"{result.paired.differing} rows in {diff}")
    if held:
        for line in held if json or markdown else ():
            show.note(f"failed: {line}")
        raise typer.Exit(NOT_ACCEPTED)


@contextmanager
def _writer(path: str | None) -> Iterator[Callable[[Difference], object]]:
    if path is None:
        yield lambda _: None
        return
    from cascade import records
    from cascade.replay.text import difference_row

    try:
        file = Path(path).open("wb")  # noqa: SIM115  # closed below; what fails inside the block is not about this file
    except OSError as err:
        raise InputError(f"{path}: cannot be written: {err.strerror}") from err
    with file:
        yield lambda one: file.write(records.dumps(difference_row(one)) + b"\n")
