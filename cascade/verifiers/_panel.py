"""Holds an answer against the votes of others, field by field; how the votes came about is not its business."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cascade.compare import Comparators, parse_field
from cascade.signals import MOST_FIELDS, fields
from cascade.types import Answer, Case, Json, Verdict
from cascade.verifiers._text import one_line
from cascade.verifiers._votes import NoVote, read_vote

MAX_FIELDS = 20
"""Disputed fields named in a reason."""


class Panel:
    """How votes are compared with the answer: which fields, and by which comparators."""

    def __init__(self, names: Sequence[str], compare: Mapping[str, Json]) -> None:
        for name in names:
            parse_field(name)
        self.fields = tuple(names)
        self.comparators = Comparators.load(compare)

    def verdict(self, case: Case, answers: Sequence[Answer | NoVote], own: int) -> Verdict:
        """The share that gives the case's answer on all fields: of `answers`, and of the answer itself when `own` is 1.

        A vote that could not be had counts as one against: less evidence than was asked for never makes an answer look better. None
        where votes were asked for and none came. `distinct` counts the answers given, this one included. Shares are rounded to two places,
        so that 0.67 means two of three. ValueError when a user's comparator fails.
        """
        read = [read_vote(answer, case.schema is not None) for answer in answers]
        votes = [value for value, problem in read if problem is None]
        problems = [problem for _, problem in read if problem is not None]
        if not votes and (problems or not own):
            return Verdict(None, one_line(f"no vote: {'; '.join(dict.fromkeys(problems))}"))
        differing = [self.comparators.differing(case.value, vote, self.fields) for vote in votes]
        total = len(answers) + own
        agreeing = sum(not found for found in differing) + own
        disputed = tuple(dict.fromkeys(at for found in differing for at in found))
        others = [vote for vote, found in zip(votes, differing, strict=True) if found]
        counts = {"votes": len(votes), "failed": len(problems), "distinct": 1 + self._distinct(others)}
        signals = {**{name: float(count) for name, count in counts.items()}, **self._shares(case, votes, total, own)}
        return Verdict(round(agreeing / total, 2), _reason(agreeing, total, disputed, problems), disputed, signals)

    def agrees(self, value: Json, answer: Answer | NoVote, is_json: bool) -> bool:
        """Whether a vote gives this value on all fields; a lost one does not. ValueError when a user's comparator fails."""
        vote, problem = read_vote(answer, is_json)
        return problem is None and self.comparators.same(value, vote, self.fields)

    def _distinct(self, votes: Sequence[Json]) -> int:
        """How many different answers there are among votes."""
        kinds: list[Json] = []
        for vote in votes:
            if not any(self.comparators.same(vote, kind, self.fields) for kind in kinds):
                kinds.append(vote)
        return len(kinds)

    def _shares(self, case: Case, votes: Sequence[Json], total: int, own: int) -> dict[str, float]:
        """For each field, the share that agrees on it: of those that have to agree, or the schema's own."""
        paths = {name: name for name in self.fields[:MOST_FIELDS]}
        if not paths and case.schema is not None:
            paths = {name: f"[{json.dumps(name)}]" for name in fields(case.schema.json)}
        return {
            f"share:{name}": round((sum(self.comparators.same(case.value, vote, (path,)) for vote in votes) + own) / total, 4)
            for name, path in paths.items()
        }


def _reason(agreeing: int, total: int, disputed: Sequence[str], problems: Sequence[str]) -> str | None:
    if agreeing == total:
        return None
    places = ", ".join(at or "the answer" for at in disputed[:MAX_FIELDS])
    lost = f"; {len(problems)} gave no vote: {problems[0]}" if problems else ""
    return one_line(f"{agreeing} of {total} agree" + (f"; they differ on {places}" if places else "") + lost)
