"""Holds an answer against the votes of others, field by field; how the votes came about is not its business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cascade.compare import Comparators, parse_field
from cascade.types import Answer, Case, Json, Verdict
from cascade.verifiers._text import one_line
from cascade.verifiers._votes import NoVote, read_vote

MAX_FIELDS = 20
"""Disputed fields named in a reason."""


class Panel:
    """How votes are compared with the answer: which fields, and by which comparators."""

    def __init__(self, fields: Sequence[str], compare: Mapping[str, Json]) -> None:
        for field in fields:
            parse_field(field)
        self.fields = tuple(fields)
        self.comparators = Comparators.load(compare)

    def verdict(self, case: Case, answers: Sequence[Answer | NoVote], own: int) -> Verdict:
        """The share that gives the case's answer on all fields: of `answers`, and of the answer itself when `own` is 1.

        A vote that could not be had counts as one against: less evidence than was asked for never makes an answer look better. None
        when there was no vote at all. Shares are rounded to two places, so that 0.67 means two of three. ValueError when a user's
        comparator fails.
        """
        read = [read_vote(answer, case.schema is not None) for answer in answers]
        votes = [value for value, problem in read if problem is None]
        problems = [problem for _, problem in read if problem is not None]
        if not votes:
            return Verdict(None, one_line(f"no vote: {'; '.join(dict.fromkeys(problems))}"))
        differing = [self.comparators.differing(case.value, vote, self.fields) for vote in votes]
        total = len(answers) + own
        agreeing = sum(not found for found in differing) + own
        disputed = tuple(dict.fromkeys(at for found in differing for at in found))
        signals = {"votes": float(len(votes)), "failed": float(len(problems)), **self._shares(case.value, votes, total, own)}
        return Verdict(round(agreeing / total, 2), _reason(agreeing, total, disputed, problems), disputed, signals)

    def _shares(self, value: Json, votes: Sequence[Json], total: int, own: int) -> dict[str, float]:
        """For each field, the share that agrees on it."""
        return {
            f"share:{field}": round((sum(self.comparators.same(value, vote, (field,)) for vote in votes) + own) / total, 4)
            for field in self.fields
        }


def _reason(agreeing: int, total: int, disputed: Sequence[str], problems: Sequence[str]) -> str | None:
    if agreeing == total:
        return None
    places = ", ".join(at or "the answer" for at in disputed[:MAX_FIELDS])
    lost = f"; {len(problems)} gave no vote: {problems[0]}" if problems else ""
    return one_line(f"{agreeing} of {total} agree" + (f"; they differ on {places}" if places else "") + lost)
