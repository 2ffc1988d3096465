"""`report`: what many requests spent, saved and escalated, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli import show
from cascade.errors import InputError

if TYPE_CHECKING:
    from cascade.report.advice import Advice
    from cascade.report.numbers import Numbers, Right
    from cascade.report.source import Curve
    from cascade.types import Json, Policy


def report(
    rows: Annotated[list[str], typer.Argument(metavar="OUT.jsonl…", help="Rows of cascade run or cascade record; - reads "
                                                                         "stdin.", show_default=False)],
    html: Annotated[str | None, typer.Option("--html", metavar="FILE", help="Write one self-contained HTML page.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON on stdout.")] = False,
    policy: Annotated[str | None, typer.Option("--policy", metavar="POLICY", show_default=False,
                      help="The policy of the rows: its order of tiers, its comparators for gold, its thresholds file.")] = None,
    curve: Annotated[str | None, typer.Option("--curve", metavar="FILE.thresholds.json", show_default=False,
                     help="The thresholds file whose cost-quality curve is shown.")] = None,
) -> None:
    """Tell what was spent, saved, escalated and why, with advice.

    \b
    Examples:
      cascade report out.jsonl
      cascade report out.jsonl shadows.jsonl --html report.html
      cascade report out.jsonl --policy policies/invoice.yaml --json | jq .saving
    """
    from cascade.report import source
    from cascade.report.advice import advise
    from cascade.report.numbers import Counting
    from cascade.report.text import plain

    loaded = _policy(policy) if policy else None
    at = curve or (_thresholds(policy) if policy else None)
    steps = source.curve(at) if at else None
    counting = Counting(loaded, _grader(loaded) if loaded else None)
    with show.bytes_bar(rows) as progress:
        for path in rows:
            for line in source.read(path, show.note, progress):
                counting.add(line.outcome, line.gold)
    numbers = counting.numbers()
    advice = advise(numbers, steps.promise if steps else None)
    if html:
        _write(html, numbers, advice, steps)
    if json:
        from cascade import records

        show.line(records.dumps(_value(numbers, advice, steps)))
    else:
        print(plain(numbers, advice))
    if html:
        show.note(f"the page is in {html}")


def _policy(path: str) -> Policy:
    from cascade.policy import load

    return load(path)


def _thresholds(path: str) -> str | None:
    """The thresholds file that a policy file names, if it names one."""
    import yaml

    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None  # a policy in another notation was read by its own loader; --curve names the file
    named = raw.get("thresholds") if isinstance(raw, dict) else None
    return str(Path(path).parent / named) if isinstance(named, str) else None


def _grader(policy: Policy) -> Right:
    from cascade.grade import Grader
    from cascade.reading import reader

    grader, read = Grader.of(policy), reader(policy)

    def right(text: str, gold: Json) -> bool | None:
        if grader.problem(gold):
            return None
        found = read(text)
        if found.problem:
            return False
        try:
            return grader.right(found.value, gold)
        except ValueError:  # a user's comparator raised: that answer cannot be graded
            return None

    return right


def _write(path: str, numbers: Numbers, advice: tuple[Advice, ...], curve: Curve | None) -> None:
    from cascade.report.page import page

    try:
        Path(path).write_text(page(numbers, advice, curve), encoding="utf-8")
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}") from err


def _value(numbers: Numbers, advice: tuple[Advice, ...], curve: Curve | None) -> Json:
    from cascade.report.text import headline

    value = _plain(numbers)
    for key, saving in (("saving", numbers.saving), ("would_saving", numbers.would_saving)):
        value[key] |= {"saved": saving.saved, "share": saving.share}
    value |= {"headline": headline(numbers), "verification_usd": numbers.verification, "cost_per_accepted": numbers.per_accepted,
              "advice": _plain(advice), "curve": _plain(curve)}
    return value


def _plain(value: object) -> Json:
    """Dataclasses as objects, all the way down; `dataclasses.asdict` spoils Counters."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
