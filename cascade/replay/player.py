"""Lines of recordings to rows under one or more policies: the quick walk where it can say, `walk` for the rest. Reads no file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from cascade import recording
from cascade.errors import InputError
from cascade.recording import Recording
from cascade.records import FORMAT
from cascade.replay.bound import Bound, last_tier
from cascade.replay.fast import Fast
from cascade.replay.grading import Grading
from cascade.replay.score import Row
from cascade.replay.seen import Reference, Seen, reference, see
from cascade.replay.walk import Walker
from cascade.types import Policy

Bad = (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError)
"""What a row that is not whole may raise in the quick walk: then the slow way says what is wrong with it."""


class _Played:
    """One policy made ready."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.bound = Bound(policy)
        self.walker = Walker(policy)
        self.fast = Fast(self.walker)


class Player:
    """Plays recordings under policies. The first one's comparators grade them all, so that differences are the policies' own.

    `reference` is the last tier of the recorded ladder, None before the first row.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.played = [_Played(policy) for policy in policies]
        self.grading = Grading(policies[0])
        self.reference: str | None = None
        self.golds = 0
        self._digests: Mapping[str, str] | None = None  # what all policies were last found to be bound to
        self._last: str | None = None
        self._ids: set[str] = set()

    def line(self, line: bytes) -> list[Row] | None:
        """The row under each policy; None for a whole row that is no recording (of a run, or of bad input).

        InputError says what is wrong: a line that is none of ours, an id that stands twice, a gold of another shape, a policy that was
        not recorded (`NotRecorded`), or that has changed since.
        """
        try:
            row = orjson.loads(line)
            quick = row["format"] == FORMAT and row["mode"] in ("record", "shadow") and row["digests"] == self._digests and self._quick(row)
        except Bad:
            quick = False
        if quick:
            assert isinstance(quick, list)
            id, gold, found, against = row["id"], row.get("gold", recording.UNKNOWN), [seen for seen, _ in quick], quick[0][1]
        else:
            made = self._recording(line)
            if made is None:
                return None
            found, against = self._slow(made)
            id, gold = made.outcome.id, made.gold
        return self._rows(id, gold, found, against)

    def _quick(self, row: Mapping[str, Any]) -> list[tuple[Seen, Reference]] | bool:
        found = []
        for one in self.played:
            seen = one.fast.play(row, self._last)
            if seen is None:
                return False
            found.append(seen)
        return found

    def _recording(self, line: bytes) -> Recording | None:
        try:
            made = recording.from_line(line)
        except InputError as err:
            if str(err).startswith("not a recording"):
                return None
            raise
        return made

    def _slow(self, made: Recording) -> tuple[list[Seen], Reference]:
        for one in self.played:
            if differs := one.bound.differs(made.digests, made.outcome.trail):
                more = f" and {len(differs) - 5} more" if len(differs) > 5 else ""
                raise InputError(f"recorded with another policy than {one.policy.name}@{one.policy.digest[:6]}: {', '.join(differs[:5])}{more}; "
                                 "record again with this one")
        self._digests = made.digests
        self._last = last_tier(made.digests)
        if self._last is None:
            raise InputError('a recording that is not whole: its "digests" name no tier')
        found = [see(one.policy, one.walker.walk(made)) for one in self.played]
        return found, reference(made, self._last)

    def _rows(self, id: object, gold: Any, found: Sequence[Seen], against: Reference) -> list[Row]:
        if id is None:
            raise InputError('a recording without an "id": cascade record gives every row one')
        name = str(id)
        if name in self._ids:
            raise InputError(f"id {name!r} stands in an earlier line already; each request counts once")
        self._ids.add(name)
        if self.reference != self._last:
            if self.reference is not None:
                raise InputError(f"this row's ladder ends with tier {self._last}, those before with {self.reference}; replay them apart")
            self.reference = self._last
        known = gold is not recording.UNKNOWN
        if known and (problem := self.grading.problem(gold)):
            raise InputError(problem)
        self.golds += known
        rows = []
        for seen in found:
            right = self.grading.right(seen.text, gold) if known else None
            same = None if against.text is None else self.grading.same(seen.text, against.text)
            rows.append(Row(name, seen, against, right, same))
        return rows


def table(policy: Policy, lines: Iterable[bytes]) -> Iterator[Row]:
    """The recordings of those lines under the policy, one row each; errors as in `Player.line`."""
    player = Player([policy])
    for line in lines:
        rows = player.line(line)
        if rows is not None:
            yield rows[0]
