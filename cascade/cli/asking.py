"""`ask` and `explain`: one request up the ladder, and a row's story."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade import records
from cascade.cli import NOT_ACCEPTED, WRONG, show
from cascade.errors import ConfigurationError, InputError
from cascade.types import CacheSettings, Json

if TYPE_CHECKING:
    from cascade.app import Cascade
    from cascade.bulk.batched import Batcher

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
      cascade ask policies/ticket.yaml -i subject="Invoice" -i body="I was charged twice" --explain
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
