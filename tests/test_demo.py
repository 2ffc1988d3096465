"""The demo's arithmetic, on outcomes made up for it."""

from __future__ import annotations

from decimal import Decimal

from cascade.demo import Played, only_top
from cascade.outcome import Outcome
from cascade.policy import load_text
from cascade.rows import Row
from cascade.types import Tried

POLICY = load_text(
    'version: 1\nname: p\nprompt: "Say {{ x }}"\ncompare: {a: {text: {casefold: true}}}\ncache: {backend: off}\n'
    "schema: {type: object, properties: {a: {type: string}}, required: [a], additionalProperties: false}\n"
    "pricing: {openai/s: {input: 1, output: 1}, openai/b: {input: 4, output: 4}}\ntiers: [openai/s, openai/b]\n", "p.yaml")  # fmt: skip


def ended(output: str, *paid: tuple[str, str]) -> Outcome:
    trail = tuple(Tried(tier, f"openai/{tier}", "", cost_usd=Decimal(cost)) for tier, cost in paid)
    return Outcome("p", "accepted", {"a": output}, paid[-1][0], sum((e.cost_usd or Decimal(0) for e in trail), Decimal(0)), trail=trail)


def test_the_ladder_is_weighed_against_its_top_tier() -> None:
    rows = (Row("1", 1, {}, {"a": "Yes"}), Row("2", 2, {}, {"a": "no"}))
    ladder = (ended("yes", ("s", "1")), ended("no", ("s", "1"), ("b", "4")))
    played = Played(POLICY, rows, ladder, (ended("yes", ("b", "4")), ended("maybe", ("b", "4"))))
    assert (played.right(played.ladder), played.right(played.top)) == (2, 1)
    assert (played.cost(played.ladder), played.cost(played.top)) == (6, 8)
    assert played.price_ratio() == 4
    assert played.break_even() == 2  # the first tier cost 2 tokens' worth, and kept 1 of the top's away
    assert played.worth_telling() is ladder[1]
    assert [tier.name for tier in only_top(POLICY).tiers] == ["b"]
    assert only_top(POLICY).digest != POLICY.digest
