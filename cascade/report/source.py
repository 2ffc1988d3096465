"""Files of rows -> outcomes, with file and line in every error; and the cost-quality curve of a thresholds file. The only reader here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

from cascade import records, thresholds
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.types import Json


@dataclass(frozen=True, slots=True)
class Line:
    """One row: its outcome and its gold (None: none)."""

    outcome: Outcome
    gold: Json = None


def read(path: str, warn: Callable[[str], None], progress: Callable[[int], object] = lambda size: None) -> Iterator[Line]:
    """The rows of a JSONL file, `-` for stdin. InputError names file and line. A torn last line, as a running `cascade run` leaves it, goes
    to `warn` and is passed over. `progress` hears the bytes read."""
    try:
        if path == "-":
            yield from _lines(sys.stdin.buffer, "<stdin>", warn, progress)
            return
        with Path(path).open("rb") as file:
            yield from _lines(file, path, warn, progress)
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}") from err


def _lines(file: IO[bytes], path: str, warn: Callable[[str], None], progress: Callable[[int], object]) -> Iterator[Line]:
    seen = 0
    for number, raw in enumerate(file, 1):
        progress(len(raw))
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not line.strip():
            continue
        seen += 1
        try:
            yield _line(line)
        except InputError as err:
            if not raw.endswith(b"\n") and str(err).startswith("not a JSON line") and number > 1:
                warn(f"{path}:{number}: the last line is torn; it is left out (is a run still writing?)")
                return
            raise InputError(f"{path}:{number}: {err}") from err
    if not seen:
        raise InputError(f"{path}: there are no rows in it")


def _line(line: bytes) -> Line:
    outcome = records.from_line(line)
    if not isinstance(outcome.status, str) or not isinstance(outcome.seconds, int | float) or not isinstance(outcome.policy, str):
        raise InputError('a row of cascade that is not whole: "status", "policy" or "seconds" has another type')
    return Line(outcome, orjson.loads(line).get("gold") if b'"gold"' in line else None)


@dataclass(frozen=True, slots=True)
class Step:
    """One policy of a calibration's path: dollars a request, quality 0..1, and whether it is the one in force."""

    cost: float
    quality: float
    chosen: bool
    point: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A cost-quality curve; `what` says what quality is; `promise` is the share that may differ from the last tier, None when unsaid."""

    steps: tuple[Step, ...]
    what: str
    promise: float | None = None


def curve(path: str) -> Curve:
    """The curve of a thresholds file: its certified policies by dollars and by how often they are as good as the last tier. InputError if
    there is none in it."""
    try:
        found = thresholds.loads(Path(path).read_bytes())
    except OSError as err:
        raise InputError(f"{path}: {err.strerror or err}") from err
    except InputError as err:
        raise InputError(f"{path}: {err}") from err
    if not found.steps:
        raise InputError(f'{path}: there are no "steps" in it: nothing was certified')
    steps = tuple(Step(step.cost_per_request, 1 - (step.harm - step.benefit) / max(step.rows, 1), i == found.chosen, str(i))
                  for i, step in enumerate(found.steps))
    promise = found.certificate.get("max_loss")
    return Curve(steps, "answers as good as the last tier's", float(promise) if isinstance(promise, int | float) else None)
