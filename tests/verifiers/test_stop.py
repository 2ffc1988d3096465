"""When `consistency` stops asking: never before it is sure, never after, and never with another verdict than all samples would give."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from verifying import CALL, Asked, a_case

from cascade.errors import Overloaded
from cascade.types import Message, Template, Verdict
from cascade.verifiers import build
from cascade.verifiers._stop import batch, most_rounds, needed, rounds_to_pass

THRESHOLDS = (0.0, 0.3, 0.33, 0.5, 0.6, 0.67, 0.75, 0.8, 1.0)


@pytest.mark.parametrize(
    ("total", "threshold", "need"),
    [(3, 0.67, 2), (3, 0.68, 3), (3, 0.33, 1), (3, 0.0, 0), (2, 1.0, 2), (2, 0.5, 1), (5, 0.67, 4), (5, 0.6, 3), (7, 0.14, 1), (25, 1.0, 25)],
)
def test_how_many_have_to_agree(total: int, threshold: float, need: int) -> None:
    assert needed(total, threshold) == need


def batches(votes: tuple[bool, ...], need: int) -> list[int]:
    sizes, agreeing, done = [], 1, 0
    while size := batch(len(votes) + 1, need, agreeing, done + 1 - agreeing):
        agreeing += sum(votes[done : done + size])
        done += size
        sizes.append(size)
    return sizes


def sure_after(votes: tuple[bool, ...], need: int) -> int:
    """How many votes, asked one by one, it takes until no vote that is left can change what all of them say: by trying them all."""
    for n in range(len(votes) + 1):
        rest = len(votes) - n
        if len({1 + sum(votes[:n]) + k >= need for k in range(rest + 1)}) == 1:
            return n
    raise AssertionError


@pytest.mark.parametrize("total", range(2, 8))
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_as_many_are_asked_as_one_by_one_in_as_few_rounds_as_that_allows(total: int, threshold: float) -> None:
    need = needed(total, threshold)
    found = {votes: batches(votes, need) for votes in product([True, False], repeat=total - 1)}
    assert {votes: sum(sizes) for votes, sizes in found.items()} == {votes: sure_after(votes, need) for votes in found}
    assert most_rounds(total, need) == max(len(sizes) for sizes in found.values())
    assert rounds_to_pass(total, need) == len(found[(True,) * (total - 1)])


SAME, OTHER = '{"a": 1}', '{"a": 2}'


def look(samples: int, enough: float | None, replies: Any, **options: Any) -> tuple[Verdict, list[int]]:
    ask = Asked(lambda call: replies[call.sample - 1])
    case = replace(a_case({"a": 1}), enough=enough)
    found = asyncio.run(build("consistency", {"samples": samples, **options}, None)(case, ask))
    return found, [call.sample for call in ask.calls]


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("enough", THRESHOLDS)
def test_the_verdict_is_on_the_side_on_which_all_samples_would_put_it(samples: int, enough: float) -> None:
    for replies in product([SAME, OTHER], repeat=samples - 1):
        stopped, whole = look(samples, enough, replies)[0], look(samples, None, replies)[0]
        assert stopped.score is not None
        assert whole.score is not None
        assert (stopped.score >= enough) == (whole.score >= enough)


@pytest.mark.parametrize(
    ("samples", "enough", "replies", "asked", "expected"),
    [
        (3, 0.67, [SAME, OTHER], [1], Verdict(1.0, None, (), {"votes": 1.0, "failed": 0.0, "distinct": 1.0, "unasked": 1.0})),
        (3, 0.67, [OTHER, SAME], [1, 2], Verdict(0.67, "2 of 3 agree; they differ on /a", ("/a",), {"votes": 2.0, "failed": 0.0, "distinct": 2.0, "unasked": 0.0})),
        (5, 1.0, [OTHER, SAME], [1], Verdict(0.5, "1 of 2 agree; they differ on /a; 3 more could not have changed it", ("/a",),
                                             {"votes": 1.0, "failed": 0.0, "distinct": 2.0, "unasked": 3.0})),
        (5, 0.6, [SAME, OTHER, SAME], [1, 2, 3], Verdict(0.75, "3 of 4 agree; they differ on /a; 1 more could not have changed it", ("/a",),
                                                         {"votes": 3.0, "failed": 0.0, "distinct": 2.0, "unasked": 1.0})),
        (3, 1.0, [Overloaded("busy"), SAME], [1], Verdict(None, f"no vote: openai/small {Overloaded.kind}: busy; 1 more could not have changed it", (), {"unasked": 1.0})),
        (3, 0.33, [], [], Verdict(1.0, None, (), {"votes": 0.0, "failed": 0.0, "distinct": 1.0, "unasked": 2.0})),
    ],
)  # fmt: skip
def test_it_stops_where_nothing_can_change_and_says_so(samples: int, enough: float, replies: Any, asked: list[int], expected: Verdict) -> None:
    assert look(samples, enough, replies) == (expected, asked)


def test_the_samples_take_other_forms_of_the_prompt_in_turn() -> None:
    prompts = [Template("Sum up {{ text }}.", "a.j2"), Template("{{ text }} = ?", "b.j2")]
    ask = Asked(lambda call: SAME)
    case = a_case({"a": 1}, inputs={"text": "{{ x }}"})
    asyncio.run(build("consistency", {"samples": 4, "prompts": prompts}, None)(case, ask))
    system = Message("system", "Be exact.")
    forms = [(system, Message("user", text)) for text in ("Sum up {{ x }}.", "{{ x }} = ?", "Sum up {{ x }}.")]
    assert ask.calls == [replace(CALL, messages=form, sample=n) for n, form in enumerate(forms, 1)]
