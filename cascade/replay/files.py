"""Files of recordings scored under a policy, and under another beside it: the only reader here. Errors name file and line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cascade.errors import InputError
from cascade.replay.bound import approximations
from cascade.replay.player import Player
from cascade.replay.score import Counting, Difference, Paired, Pairing, Scored
from cascade.types import Policy

TOLD_EVERY = 1 << 20
"""Bytes after which progress is told."""


@dataclass(frozen=True)
class Result:
    """What a replay found. `other` and `paired` are None without another policy. `passed_over` are rows that are no recordings."""

    scored: Scored
    other: Scored | None
    paired: Paired | None
    passed_over: int


def replay(policy: Policy, paths: Sequence[str], against: Policy | None = None, *, different: Callable[[Difference], object] = lambda _: None,
           progress: Callable[[int], object] = lambda _: None) -> Result:
    """Score the policy on the recordings of those JSONL files (`-`: stdin), with no model call.

    `different` hears of each row on which `against` serves another answer or ends otherwise; `progress` hears the bytes read. Rows of a run
    that are no recordings are passed over. InputError names file and line, and says what would be right.
    """
    policies = [policy] if against is None else [policy, against]
    player = Player(policies)
    countings = [Counting(one, approximations(one)) for one in policies]
    pairing = None if against is None else Pairing(f"{against.name}@{against.digest[:6]}")
    passed_over = 0
    for path in paths:
        some = False
        for number, line in _lines(path, progress):
            try:
                rows = player.line(line)
            except InputError as err:
                raise InputError(f"{_shown(path)}:{number}: {_told(line, err)}") from err
            if rows is None:
                passed_over += 1
                continue
            some = True
            for counting, row in zip(countings, rows, strict=True):
                counting.add(row)
            if pairing is not None and (found := pairing.add(*rows)) is not None:
                different(found)
        if not some:
            raise InputError(f"{_shown(path)}: no recording is in it: make some with cascade record, or with shadow: in the policy")
    assert player.reference is not None, "there was a row"
    scored = [counting.scored(player.reference) for counting in countings]
    return Result(scored[0], scored[1] if against is not None else None, pairing.paired() if pairing else None, passed_over)


def _lines(path: str, progress: Callable[[int], object]) -> Iterator[tuple[int, bytes]]:
    try:
        if path == "-":
            yield from _numbered(sys.stdin.buffer, progress)
            return
        with Path(path).open("rb", buffering=1 << 18) as file:
            yield from _numbered(file, progress)
    except OSError as err:
        raise InputError(f"{_shown(path)}: {err.strerror or err}") from err


def _numbered(file: IO[bytes], progress: Callable[[int], object]) -> Iterator[tuple[int, bytes]]:
    unsaid = 0
    for number, raw in enumerate(file, 1):
        unsaid += len(raw)
        if unsaid >= TOLD_EVERY:
            progress(unsaid)
            unsaid = 0
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if not line.isspace() and line:
            yield number, line
    progress(unsaid)


def _told(line: bytes, err: InputError) -> str:
    """The error's words, and what would be right where the line is no JSON."""
    text = str(err)
    if not text.startswith("not a JSON line"):
        return text
    if not line.endswith(b"\n"):
        return "the last line is torn (is a record still writing?): run the same cascade record again to mend it, or remove the line"
    if any(word in line for word in (b"NaN", b"Infinity")):
        return f"{text}; NaN and Infinity are no JSON: a number that is not known is null"
    return f"{text}; each line is one recording as cascade record writes it"


def _shown(path: str) -> str:
    return "<stdin>" if path == "-" else path
