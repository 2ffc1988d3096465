"""`consistency` and `agreement`: who is asked what, how votes are counted, and what a lost vote does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import anyio
import pytest
from verifying import CALL, Asked, a_case, verdict

from cascade.errors import BudgetExceeded, ConfigurationError, MissingRecording, Overloaded
from cascade.types import Answer, Call, Document, Message, Template, Verdict
from cascade.verifiers import build, calls, max_tokens, models

VALUE = {"vendor": "Acme", "total": 10, "note": "a"}
SAME = '{"vendor": "Acme", "total": 10.0, "note": "a"}'
OTHER_NOTE = '{"vendor": "Acme", "total": 10, "note": "b"}'
OTHER = '{"vendor": "Bolt", "total": 11, "note": "a"}'


def by_sample(*replies: Any) -> Any:
    return lambda call: replies[call.sample - 1]


def by_model(**replies: Any) -> Any:
    return lambda call: replies[call.model.partition("/")[2]]


def test_consistency_asks_the_same_call_again_as_further_samples() -> None:
    ask = Asked(by_sample(SAME, SAME))
    verifier = build("consistency", {"samples": 3}, None)
    assert asyncio.run(verifier(a_case(VALUE), ask)) == Verdict(1.0, signals={"votes": 2.0, "failed": 0.0, "distinct": 1.0})
    assert ask.calls == [replace(CALL, sample=1), replace(CALL, sample=2)]
    assert verifier.early({}, CALL) == ()


@pytest.mark.parametrize(
    ("options", "replies", "expected"),
    [
        ({"samples": 3}, [SAME, OTHER],
         Verdict(0.67, "2 of 3 agree; they differ on /vendor, /total", ("/vendor", "/total"), {"votes": 2.0, "failed": 0.0, "distinct": 2.0})),
        ({"samples": 3}, [OTHER, OTHER],
         Verdict(0.33, "1 of 3 agree; they differ on /vendor, /total", ("/vendor", "/total"), {"votes": 2.0, "failed": 0.0, "distinct": 2.0})),
        ({"samples": 3, "fields": ["vendor", "total"]}, [SAME, OTHER_NOTE],
         Verdict(1.0, signals={"votes": 2.0, "failed": 0.0, "distinct": 1.0, "share:vendor": 1.0, "share:total": 1.0})),
        ({"samples": 4, "fields": ["vendor", "note"]}, [SAME, OTHER_NOTE, OTHER],
         Verdict(0.5, "2 of 4 agree; they differ on /note, /vendor", ("/note", "/vendor"),
                 {"votes": 3.0, "failed": 0.0, "distinct": 3.0, "share:vendor": 0.75, "share:note": 0.75})),
        ({"samples": 3}, [SAME, Overloaded("busy")],
         Verdict(0.67, "2 of 3 agree; 1 gave no vote: openai/small provider_error: busy".replace("provider_error", Overloaded.kind), (),
                 {"votes": 1.0, "failed": 1.0, "distinct": 1.0})),
        ({"samples": 3}, [SAME, BudgetExceeded("no money left")],
         Verdict(0.67, "2 of 3 agree; 1 gave no vote: openai/small: no money left", (), {"votes": 1.0, "failed": 1.0, "distinct": 1.0})),
        ({"samples": 3}, [SAME, "I cannot say."],
         Verdict(0.67, "2 of 3 agree; 1 gave no vote: no JSON in the answer", (), {"votes": 1.0, "failed": 1.0, "distinct": 1.0})),
        ({"samples": 3}, [SAME, Answer(SAME, "length")],
         Verdict(0.67, "2 of 3 agree; 1 gave no vote: cut off", (), {"votes": 1.0, "failed": 1.0, "distinct": 1.0})),
        ({"samples": 3}, [Overloaded("busy"), Answer("", "refusal")],
         Verdict(None, f"no vote: openai/small {Overloaded.kind}: busy; refused")),
    ],
)  # fmt: skip
def test_consistency_is_the_share_that_gives_the_same_answer(options: Any, replies: list[Any], expected: Verdict) -> None:
    assert verdict(build("consistency", options, None), a_case(VALUE), by_sample(*replies)) == expected


def test_each_field_has_its_share_those_of_the_schema_where_none_are_named() -> None:
    def shares(options: Any, properties: Any, compare: Any = None) -> dict[str, float]:
        case = a_case({**VALUE, "made up": 1}, schema={"properties": properties})
        found = verdict(build("consistency", {"samples": 3, **options}, None, compare or {}), case, by_sample(SAME, OTHER))
        return {name: value for name, value in found.signals.items() if ":" in name}

    three = {"vendor": {}, "total": {}, "note": {}}
    assert shares({}, three) == {"share:vendor": 0.6667, "share:total": 0.6667, "share:note": 1.0}
    assert shares({}, three, {"total": {"number": {"tolerance": 1}}})["share:total"] == 1.0
    assert shares({"fields": ["note"]}, three) == {"share:note": 1.0}
    assert shares({}, {"vendor": {}}) == {}  # the share of the whole says it
    assert [len(shares({}, {str(i): {} for i in range(n)})) for n in (8, 9)] == [8, 0]
    assert len(shares({"fields": [f"f{i}" for i in range(20)]}, three)) == 8


def test_answers_within_a_tolerance_are_one_answer_among_the_distinct() -> None:
    def distinct(compare: Any) -> float:
        replies = [f'{{"vendor": "Acme", "total": {total}, "note": "a"}}' for total in (20, 20.4, 30, 10.2)]
        return verdict(build("consistency", {"samples": 5}, None, compare), a_case(VALUE), by_sample(*replies)).signals["distinct"]

    assert (distinct({}), distinct({"total": {"number": {"tolerance": 0.5}}})) == (5.0, 3.0)


def test_the_policys_comparators_decide_what_is_the_same() -> None:
    compare = {"total": {"number": {"tolerance": 1}}, "vendor": {"text": {"casefold": True}}, "note": "ignore"}
    reply = '{"vendor": "ACME", "total": 10.5, "note": "x"}'
    assert verdict(build("consistency", 2, None, compare), a_case(VALUE), by_sample(reply)).score == 1.0
    assert verdict(build("agreement", "b/m", None, compare), a_case(VALUE), by_model(m=reply)).score == 1.0
    with pytest.raises(ValueError, match="total: unknown comparator 'nr'"):
        build("consistency", 2, None, {"total": "nr"})


def test_a_comparator_that_raises_is_no_verdict() -> None:
    compare = {"total": {"python": "test_vote_verifiers:fails"}}
    found = verdict(build("agreement", "b/m", None, compare), a_case(VALUE), by_model(m=SAME))
    assert found == Verdict(None, "compare: test_vote_verifiers:fails raised OSError: gone")


def fails(a: Any, b: Any) -> bool:
    raise OSError("gone")


def test_agreement_asks_the_other_models_the_same_beside_the_tier() -> None:
    verifier = build("agreement", {"with": ["anthropic/haiku", "local:tiny"], "params": {"effort": "low"}}, None)
    wanted = tuple(
        Call(model, CALL.messages, CALL.schema, Document({"max_tokens": 300, "effort": "low"}), 0, CALL.timeout)
        for model in ("anthropic/haiku", "local/tiny")
    )
    assert verifier.early({"text": "an invoice"}, CALL) == wanted
    ask = Asked(by_model(haiku=SAME, tiny=OTHER))
    assert asyncio.run(verifier(a_case(VALUE), ask)) == Verdict(
        0.5, "1 of 2 agree; they differ on /vendor, /total", ("/vendor", "/total"), {"votes": 2.0, "failed": 0.0, "distinct": 2.0}
    )
    assert tuple(ask.calls) == wanted  # equal calls: what was asked early is not asked again


def test_agreement_can_put_the_question_in_another_form() -> None:
    prompt = Template("Which invoice is this? {{ text }}", "other.j2")
    verifier = build("agreement", {"with": "b/m", "prompt": prompt, "max_tokens": 50}, None)
    (call,) = verifier.early({"text": "{{ not rendered }}"}, CALL)
    assert call.messages == (Message("system", "Be exact."), Message("user", "Which invoice is this? {{ not rendered }}"))
    assert call.params == Document({"max_tokens": 50})


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (SAME, Verdict(1.0, signals={"votes": 1.0, "failed": 0.0, "distinct": 1.0})),
        (OTHER, Verdict(0.0, "0 of 1 agree; they differ on /vendor, /total", ("/vendor", "/total"), {"votes": 1.0, "failed": 0.0, "distinct": 2.0})),
        ("?", Verdict(None, "no vote: no JSON in the answer")),
        (Answer("", "filter"), Verdict(None, "no vote: filtered")),
    ],
)
def test_agreement_with_one_model(reply: Any, expected: Verdict) -> None:
    assert verdict(build("agreement", "b/m", None), a_case(VALUE), lambda call: reply) == expected


def test_without_a_schema_texts_are_compared() -> None:
    compare_words = a_case("Yes ", schema=None)
    assert verdict(build("agreement", "b/m", None), compare_words, lambda call: "Yes").score == 1.0
    assert verdict(build("agreement", "b/m", None), compare_words, lambda call: "No").fields == ("",)


@pytest.mark.parametrize("kind", ["consistency", "agreement"])
@pytest.mark.parametrize("error", [ConfigurationError("no key"), MissingRecording("no such call")])
def test_an_error_that_stops_the_run_comes_out_as_itself(kind: str, error: Exception) -> None:
    options = {"samples": 3} if kind == "consistency" else {"with": ["b/m", "c/n"]}
    with pytest.raises(type(error), match=str(error)):
        verdict(build(kind, options, None), a_case(VALUE), lambda call: error)


def test_votes_are_asked_at_the_same_time() -> None:
    async def main() -> Verdict:
        arrived, all_here = [0], anyio.Event()

        async def ask(call: Call) -> Answer:
            arrived[0] += 1
            if arrived[0] == 4:
                all_here.set()
            await all_here.wait()
            return Answer(SAME)

        with anyio.fail_after(5):
            return await build("consistency", {"samples": 5}, None)(a_case(VALUE), ask)

    assert asyncio.run(main()).score == 1.0


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("consistency", {"samples": 1}, "samples: input should be greater than or equal to 2"),
        ("consistency", {"smaples": 3}, "smaples: unknown key, did you mean 'samples'?"),
        ("consistency", {"fields": ["a..b"]}, "'a..b' is not a field"),
        ("agreement", {}, "with: field required"),
        ("agreement", {"with": "gpt"}, "'gpt' is not of the form provider/model"),
        ("agreement", {"with": ["a/b", "a:b"]}, "a model is named twice: a/b, a/b"),
        ("agreement", {"with": []}, "with: "),
        ("agreement", {"with": "a/b", "feilds": ["x"]}, "feilds: unknown key, did you mean 'fields'?"),
    ],
)
def test_a_mistake_in_the_options_is_named(kind: str, options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        build(kind, options, None)
    assert says in str(caught.value)


def test_what_they_cost_is_known_beforehand() -> None:
    assert (models("consistency", {"samples": 5}), calls("consistency", 5), max_tokens("consistency", None)) == ((), 4, None)
    two = {"with": ["a/b", "c/d"], "max_tokens": 9}
    assert (models("agreement", two), calls("agreement", two), max_tokens("agreement", two)) == (("a/b", "c/d"), 2, 9)
