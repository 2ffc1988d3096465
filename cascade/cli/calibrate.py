"""`calibrate`: thresholds from recordings, with a statement that holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli import show
from cascade.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from cascade.calibrate.learn import Result
    from cascade.recording import Recording


def calibrate(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="The policy file.", show_default=False)],
    trails: Annotated[list[str], typer.Argument(metavar="TRAILS.jsonl…", help="Recordings, or rows of runs with shadow.", show_default=False)],
    max_loss: Annotated[float, typer.Option("--max-loss", min=0.0001, max=0.5, help="Share of requests that may be lost.")] = 0.01,
    confidence: Annotated[float, typer.Option("--confidence", min=0.5, max=0.9999, help="How sure the statement is.")] = 0.95,
    reference: Annotated[str | None, typer.Option("--reference", metavar="gold|TIER", show_default=False,
                         help="What is right: gold (default where rows have it), or the last tier's own answers.")] = None,
    min_accuracy: Annotated[float | None, typer.Option("--min-accuracy", min=0.01, max=0.9999, show_default=False,
                            help="Promise an accuracy instead of a loss.")] = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", min=0, show_default=False,
                        help="The best policy below so many dollars a request; promises nothing.")] = None,
    by: Annotated[str | None, typer.Option("--by", metavar="INPUT", show_default=False,
                  help="The promise is to hold for each value of this input, e.g. language.")] = None,
    labels: Annotated[str | None, typer.Option("--labels", metavar="to_label.csv", show_default=False, help="The file of labels, filled in.")] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="NAME.thresholds.json", show_default=False,
                      help="Where the thresholds go; default: beside the policy.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the thresholds file on stdout as well.")] = False,
) -> None:
    """Learn thresholds from recordings, and state with confidence how much quality is given up against the last tier.

    \b
    Examples:
      cascade record policies/ticket.yaml in.jsonl -o trails.jsonl
      cascade calibrate policies/ticket.yaml trails.jsonl --max-loss 0.02
      cascade calibrate policies/ticket.yaml trails.jsonl --labels to_label.csv
      cascade calibrate policies/ticket.yaml trails.jsonl --max-loss 0.02 --by language
      cascade calibrate policies/ticket.yaml trails.jsonl --reference premium --max-loss 0.05

    \b
    The policy as declared is tested first, by all rows, if other models are asked beside a tier (agreement). A third of the rows (at least
    100) fits learned policies, the others test these. Exit code 1: nothing cheaper than the last tier is certified (the file is written all
    the same, and says so), or the rows are too few for any certificate (nothing is written, and the number missing is said).
    """
    try:
        import numpy  # noqa: F401
    except ImportError as err:
        raise ConfigurationError("calibrate needs numpy: pip install 'cascade-judge[calibrate]'") from err
    from cascade import policy as policies
    from cascade import thresholds
    from cascade.calibrate import evidence as facts
    from cascade.calibrate import labels as labelling
    from cascade.calibrate import text
    from cascade.calibrate.learn import Goal
    from cascade.calibrate.learn import calibrate as learn

    loaded = policies.load(policy, calibrated=False)
    found = facts.gather(loaded, (pair for path in trails for pair in _read(path)))
    if labels:
        found = labelling.apply(found, labelling.read(_text(labels), labels))
    if reference not in (None, "gold", loaded.tiers[-1].name):
        raise InputError(f"--reference {reference}: gold, or {loaded.tiers[-1].name}, the last tier")
    goal = Goal(max_loss, confidence, None if reference is None else "gold" if reference == "gold" else "last", min_accuracy, max_cost, by)
    result = learn(found, goal)
    path = Path(output) if output else Path(policy).with_name(f"{loaded.name}.thresholds.json")
    text_of_file = thresholds.dumps(result.thresholds)
    if result.next is not None and result.next.unlabelled:
        _ask_for_labels(result)
    if not result.more_rows:
        _write(path, text_of_file)
    if json:
        show.line(text_of_file.rstrip())
    show.note(text.told(result, str(path)))
    if result.more_rows or result.thresholds.chosen is None:
        raise typer.Exit(1)


def _ask_for_labels(result: Result) -> None:
    from cascade.calibrate import labels as labelling

    assert result.next is not None
    rows, tier = result.next.unlabelled, result.next.served.tier
    _write(Path("to_label.csv"), labelling.write(result.evidence, rows, [int(tier[i]) for i in rows]).encode())


def _read(path: str) -> Iterator[tuple[str, Recording]]:
    """Each recording with its place; ordinary rows of a run are passed over."""
    from cascade import recording, records

    some = False
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                place = f"{path}:{number}"
                try:
                    if records.from_line(line).mode in ("record", "shadow"):
                        some = True
                        yield place, recording.from_line(line)
                except InputError as err:
                    raise InputError(f"{place}: {err}") from err
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}") from err
    if not some:
        raise InputError(f"{path}: no recording is in it: make some with cascade record, or with shadow: in the policy")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as err:
        raise InputError(f"{path}: not UTF-8 text: {err}") from err
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}") from err


def _write(path: Path, text: bytes) -> None:
    try:
        beside = path.with_name(path.name + ".new")
        beside.write_bytes(text)
        beside.replace(path)
    except OSError as err:
        raise InputError(f"{path}: cannot be written: {err.strerror}") from err
