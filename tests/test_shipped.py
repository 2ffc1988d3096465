"""The shipped tasks: inputs, gold, schemas, prompts and policies fit together. Needs no model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import correlation, fmean
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from cascade import shipped
from cascade.app import Cascade
from cascade.compose import prompt
from cascade.outcome import Outcome
from cascade.policy import check, load
from cascade.prompts import render
from cascade.testing import Scripted
from cascade.types import CacheSettings

POLICIES = shipped.folder("policies")
TASKS = ("invoice", "ticket", "pairwise", "score", "route")
JUDGES = {"pairwise": "winner", "score": "score"}
"""What is judged, and the field of the verdict."""


def rows(task: str) -> list[dict[str, Any]]:
    with (POLICIES / f"{task}.inputs.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def schema(task: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((POLICIES / f"{task}.schema.json").read_text(encoding="utf-8"))
    return loaded


def enums(task: str) -> dict[str, list[Any]]:
    """The values an answer may have. A judge's null says that it cannot tell; people could, so no gold is null."""
    found = {name: rule["enum"] for name, rule in schema(task)["properties"].items() if "enum" in rule}
    return {name: [value for value in values if value is not None] for name, values in found.items()}


@pytest.mark.parametrize("task", TASKS)
def test_there_are_at_least_forty_rows_with_ids_of_their_own(task: str) -> None:
    ids = [row["id"] for row in rows(task)]
    assert len(ids) >= 40
    assert len(set(ids)) == len(ids)
    assert len({json.dumps(row["inputs"], sort_keys=True) for row in rows(task)}) == len(ids)


@pytest.mark.parametrize("task", TASKS)
def test_every_gold_answer_is_valid(task: str) -> None:
    rules = schema(task)
    Draft202012Validator.check_schema(rules)
    validator = Draft202012Validator(rules, format_checker=FormatChecker())
    filled = {"reason": "It is right."} if task in JUDGES else {}  # a judge's reason has no gold
    assert [(row["id"], error.message) for row in rows(task) for error in validator.iter_errors(filled | row["gold"])] == []


@pytest.mark.parametrize("task", TASKS)
def test_gold_uses_every_value_of_every_enum(task: str) -> None:
    for name, values in enums(task).items():
        assert {row["gold"][name] for row in rows(task)} == set(values), name


def test_the_lines_of_every_gold_invoice_add_up_to_its_total() -> None:
    off = {row["id"]: sum(line["amount"] for line in row["gold"]["lines"]) - row["gold"]["total"] for row in rows("invoice")}
    assert [name for name, difference in off.items() if abs(difference) > 0.01] == []


def test_what_a_gold_invoice_names_stands_in_its_text() -> None:
    for row in rows("invoice"):
        text, gold = row["inputs"]["text"], row["gold"]
        for named in (gold["vendor"], gold["invoice_number"], *(line["description"] for line in gold["lines"])):
            assert named.lower() in text.lower(), row["id"]


def test_gold_tickets_keep_the_rules_that_the_policies_check() -> None:
    for row in rows("ticket"):
        gold, body = row["gold"], row["inputs"]["body"]
        assert gold["account"] is None or gold["account"] in body, row["id"]
        assert (gold["category"] == "billing") == (gold["area"] == "subscription"), row["id"]
        assert gold["priority"] == "low" or gold["category"] in ("bug", "billing"), row["id"]
        assert not gold["refund"] or gold["category"] == "billing", row["id"]


def test_in_pairs_neither_a_place_nor_a_length_gives_the_winner_away() -> None:
    pairs = rows("pairwise")
    winners = Counter(row["gold"]["winner"] for row in pairs)
    assert winners["a"] == winners["b"]
    longer = 0
    for row in pairs:
        texts = {"a": row["inputs"]["answer_a"], "b": row["inputs"]["answer_b"]}
        winner = row["gold"]["winner"]
        longer += len(texts.pop(winner)) > len(*texts.values())
    assert 0.4 <= longer / len(pairs) <= 0.6


def test_every_step_of_the_scale_is_given_as_often_and_a_length_tells_little_of_it() -> None:
    scored = rows("score")
    assert set(Counter(row["gold"]["score"] for row in scored).values()) == {len(scored) // 4}
    lengths = {step: [len(row["inputs"]["answer"]) for row in scored if row["gold"]["score"] == step] for step in (1, 2, 3, 4)}
    overall = fmean(length for found in lengths.values() for length in found)
    for step, found in lengths.items():
        assert 0.8 <= fmean(found) / overall <= 1.2, step
        assert min(found) <= 20, step  # every step has a short answer and a long one
        assert max(found) >= 100, step
    assert abs(correlation([row["gold"]["score"] for row in scored], range(len(scored)))) < 0.2  # nor does the place in the file


@pytest.mark.parametrize("task", JUDGES)
def test_the_other_form_of_a_judges_prompt_shows_the_same_texts_in_another_order(task: str) -> None:
    policy = load(str(POLICIES / f"{task}.yaml"))
    first = next(gate for gate in policy.tiers[0].gates if gate.kind == "agreement")
    inputs = rows(task)[0]["inputs"]
    other = render(first.options["prompt"], inputs)
    shown = prompt(policy, inputs)[1].content
    assert sorted(inputs, key=lambda name: shown.index(inputs[name])) != sorted(inputs, key=lambda name: other.index(inputs[name]))
    if task == "pairwise":  # each answer keeps its letter: only the place is swapped
        for letter in "ab":
            line = f"Answer {letter}: {inputs[f'answer_{letter}']}"
            assert line in shown.splitlines()
            assert line in other.splitlines()


def judged(task: str, replies: dict[str, Any]) -> tuple[Outcome[Any], Scripted]:
    models = Scripted(replies)
    with Cascade(load(str(POLICIES / f"{task}.yaml")), ask=models, cache=CacheSettings(backend="off")) as cascade:
        return cascade.run(rows(task)[0]["inputs"]), models


SMALL, OTHER, MEDIUM, TERRA, PREMIUM = (
    "openai/gpt-6-luna", "anthropic/claude-haiku-5-5", "anthropic/claude-sonnet-5-5", "openai/gpt-6.1-terra", "anthropic/claude-opus-5-5"
)  # fmt: skip


@pytest.mark.parametrize(("task", "one", "two"), [("pairwise", "a", "b"), ("score", 1, 2)])
@pytest.mark.parametrize(
    ("small", "swapped", "other", "medium", "again", "terra", "premium", "ends"),
    [
        ("one", "one", "one", "two", "two", "two", "two", ("accepted", "small", "one")),
        ("one", "two", "one", "one", "one", "one", "two", ("accepted", "medium", "one")),  # it sides with the place
        ("one", "one", "two", "two", "two", "two", "one", ("accepted", "medium", "two")),  # another maker says otherwise
        ("one", "one", None, "two", "two", "two", "one", ("accepted", "medium", "two")),  # a panel's abstention is no agreement
        (None, None, None, "two", "two", "two", "one", ("accepted", "medium", "two")),  # nor are three
        ("one", "two", "one", "one", "one", "two", "two", ("accepted", "premium", "two")),
        ("one", "two", "one", "one", "two", "one", "two", ("accepted", "premium", "two")),
        ("one", "two", "one", "one", "two", "one", None, ("flagged", "premium", None)),
        (None, None, None, None, None, None, None, ("flagged", "premium", None)),
    ],
)  # fmt: skip
def test_a_verdict_is_served_when_both_forms_and_another_maker_agree_and_nobody_guesses(
    task: str, one: Any, two: Any, small: str | None, swapped: str | None, other: str | None, medium: str | None, again: str | None,
    terra: str | None, premium: str | None, ends: tuple[str, str, str | None],
) -> None:  # fmt: skip
    words = {"one": one, "two": two, None: None}
    field = JUDGES[task]
    shown = prompt(load(str(POLICIES / f"{task}.yaml")), rows(task)[0]["inputs"])[1].content

    def by_form(given: str | None, turned: str | None) -> Any:
        return lambda call: {"reason": "Because.", field: words[given if call.messages[-1].content == shown else turned]}

    outcome, models = judged(
        task,
        {SMALL: by_form(small, swapped), OTHER: by_form(None, other), MEDIUM: by_form(medium, again), TERRA: by_form(None, terra),
         PREMIUM: by_form(premium, None)},
    )  # fmt: skip
    assert (outcome.status, outcome.tier, outcome.output[field]) == (*ends[:2], words[ends[2]])
    assert len(models.calls) == {"small": 3, "medium": 6, "premium": 7}[ends[1]]  # an abstention is never asked again: no repair
def test_messages_to_be_routed_are_enough_for_a_certificate_and_as_many_for_each_department() -> None:
    departments = Counter(row["gold"]["department"] for row in rows("route"))
    assert len(set(departments.values())) == 1
    assert departments.total() >= 160


def test_no_message_to_be_routed_is_an_example_of_the_prompt_too() -> None:
    text = (POLICIES.parent / "prompts" / "route_system.j2").read_text(encoding="utf-8")
    assert [row["id"] for row in rows("route") if row["inputs"]["message"] in text] == []


def test_the_local_policy_of_the_calibration_page_can_be_certified() -> None:
    tiers = load(str(POLICIES / "route_local.yaml")).tiers
    assert [(tier.carry, tier.escalate) for tier in tiers] == [("nothing", "whole")] * 2


def test_the_policy_for_callers_takes_what_they_say() -> None:
    policy = load(str(POLICIES / "chat.yaml"))
    assert (policy.prompt, policy.schema, policy.caller_schema) == (None, None, True)
    for row in rows("chat"):
        assert [{"role": m.role, "content": m.content} for m in prompt(policy, row["inputs"])] == row["inputs"]["messages"]


@pytest.mark.parametrize("path", sorted(path for path in POLICIES.glob("*.yaml") if path.stem != "chat"), ids=lambda path: path.stem)
def test_a_shipped_policy_loads_and_renders_every_input(path: Path) -> None:
    policy = load(str(path))
    task = path.stem.removesuffix("_local")
    assert policy.schema is not None
    assert policy.schema.json == schema(task)
    for row in rows(task):
        system, user = prompt(policy, row["inputs"])
        assert (system.role, user.role) == ("system", "user")
        assert all(value in user.content for value in row["inputs"].values()), row["id"]


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*_local.yaml")), ids=lambda path: path.stem)
def test_a_local_policy_speaks_to_the_ports_that_cascade_local_serves(path: Path) -> None:
    from cascade.local.models import LADDER

    policy = load(str(path))
    own = [provider for provider in policy.providers.values() if provider.base_url and "127.0.0.1:86" in provider.base_url]
    wires = {"openai"} if path.stem == "route_local" else {"openai", "anthropic"}  # without the grammar the small voter's JSON cannot be read
    assert {provider.kind for provider in own} == wires
    ports = {one.port: one.name for one in LADDER}
    for tier in policy.tiers:
        name, _, model = tier.model.partition("/")
        url = policy.providers[name].base_url
        assert url is not None
        assert ports[int(url.removesuffix("/v1").rpartition(":")[2])] == model


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_check_finds_nothing_to_warn_of_in_a_shipped_policy(path: Path) -> None:
    """No unpriced or retiring model, no dead rung, no judge of its own work."""
    report = check([str(path)], {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x"}, strict=True)
    assert (report.lines[:-1], report.exit_code) == ([], 0)
