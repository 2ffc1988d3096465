"""The whole ladder from a policy text to an outcome, with scripted models: one test for each way a request can go."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from cascade.app import Cascade
from cascade.errors import ConfigurationError, InputError, NotAccepted, Overloaded
from cascade.outcome import Outcome
from cascade.policy import load_text
from cascade.types import Answer, Call, Checked, Failed, Skipped, Tried, Usage

HEAD = """
version: 1
name: order
prompt: "Extract the order. {{ text }}"
schema:
  type: object
  properties: {item: {type: string}, total: {type: number}}
  required: [item, total]
  additionalProperties: false
cache: {backend: memory}
pricing:
  openai/small: {input: 1, output: 1}
  openai/big: {input: 10, output: 10}
  openai/other: {input: 1, output: 1}
  openai/judge: {input: 1, output: 1}
"""
GOOD = '{"item": "tea", "total": 4.5}'
OTHER = '{"item": "coffee", "total": 4.5}'
BAD = '{"item": "tea"}'
INPUTS = {"text": "One tea, 4.50"}


class Models:
    """Answers by model from a list; the last one again and again. Remembers the calls."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {f"openai/{name}": list(texts) if isinstance(texts, list) else [texts] for name, texts in answers.items()}
        self.calls: list[Call] = []

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        await asyncio.sleep(0)
        said = self.answers[call.model]
        answer = said.pop(0) if len(said) > 1 else said[0]
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(call)
        if isinstance(answer, str):
            answer = Answer(answer)
        price = 10 if call.model.endswith("big") else 1
        usage = Usage(100, 20)
        return Answer(answer.text, answer.finish, usage, Decimal(120 * price).scaleb(-6))

    def asked(self) -> list[str]:
        return [call.model.removeprefix("openai/") for call in self.calls]


def ladder(tiers: str, models: Any, extra: str = "") -> Cascade:
    return Cascade(load_text(HEAD + extra + "tiers:\n" + tiers, "policies/order.yaml"), ask=models)


TWO = "  - {name: small, model: openai/small}\n  - {name: big, model: openai/big, carry: errors}\n"


def gated(gate: str) -> str:
    return f"  - name: small\n    model: openai/small\n    gates: [schema, {gate}]\n  - {{name: big, model: openai/big, carry: draft}}\n"


def answer(cascade: Cascade, inputs: dict[str, Any] | None = None) -> Outcome:
    return asyncio.run(cascade.arun(INPUTS if inputs is None else inputs))


def verdicts(outcome: Outcome) -> list[tuple[str, str, bool]]:
    return [(e.tier, e.gate, e.passed) for e in outcome.trail if isinstance(e, Checked)]


def test_accepted_on_the_first_tier() -> None:
    models = Models(small=GOOD)
    outcome = answer(ladder(TWO, models))
    assert (outcome.status, outcome.tier, outcome.output) == ("accepted", "small", {"item": "tea", "total": 4.5})
    assert outcome.cost_usd == Decimal("0.00012")
    assert models.asked() == ["small"]


def test_repaired_on_the_same_tier_with_the_errors_and_its_own_draft() -> None:
    models = Models(small=[BAD, GOOD])
    outcome = answer(ladder(TWO.replace("openai/small}", "openai/small, repair: 1}"), models))
    assert (outcome.status, outcome.tier, models.asked()) == ("accepted", "small", ["small", "small"])
    user, draft, complaint = models.calls[1].messages
    assert (user, draft.content) == (models.calls[0].messages[0], BAD)
    assert "total" in complaint.content
    assert outcome.cost_usd == Decimal("0.00024")


def test_escalated_by_the_schema_and_the_errors_are_carried_up() -> None:
    models = Models(small=BAD, big=GOOD)
    outcome = answer(ladder(TWO, models))
    assert (outcome.status, outcome.tier) == ("accepted", "big")
    assert verdicts(outcome) == [("small", "schema", False), ("big", "schema", True)]
    assert "total" in models.calls[1].messages[-1].content
    assert BAD not in models.calls[1].messages[-1].content


def test_escalated_by_prose_that_holds_no_json() -> None:
    outcome = answer(ladder(TWO, Models(small="I am not sure.", big=GOOD)))
    assert (outcome.status, outcome.tier) == ("accepted", "big")


def test_escalated_by_a_check_and_the_draft_is_carried_up() -> None:
    models = Models(small=GOOD, big='{"item": "tea", "total": 5}')
    outcome = answer(ladder(gated('{check: "total == 5"}'), models))
    assert verdicts(outcome) == [("small", "schema", True), ("small", "check", False), ("big", "schema", True)]
    assert json.dumps(GOOD) in models.calls[1].messages[-1].content


def test_escalated_by_samples_that_disagree() -> None:
    models = Models(small=[GOOD, OTHER, OTHER], big=GOOD)
    outcome = answer(ladder(gated("{consistency: {samples: 3, fields: [item], threshold: 0.67}}"), models))
    assert verdicts(outcome) == [("small", "schema", True), ("small", "consistency", False), ("big", "schema", True)]
    assert [(e.sample, e.gate) for e in outcome.trail if isinstance(e, Tried)][:3] == [(0, None), (1, "consistency"), (2, "consistency")]
    assert outcome.cost_usd == sum((e.cost_usd for e in outcome.trail if e.event == "tried"), Decimal(0)) == Decimal("0.00156")


def test_samples_stop_when_the_answer_is_sure_to_pass_unless_their_gate_only_advises() -> None:
    def samples(gates: str, replies: Any) -> list[int]:
        outcome = answer(ladder(gated(gates), Models(small=replies, big=GOOD)))
        return [e.sample for e in outcome.trail if isinstance(e, Tried) and e.gate == "consistency"]

    assert samples("{consistency: {samples: 4, fields: [item], threshold: 0.75}}", GOOD) == [1, 2]
    assert samples("{consistency: {samples: 4, fields: [item], threshold: 1.0}}", [GOOD, OTHER]) == [1]
    policy = load_text(HEAD + "tiers:\n" + gated("{consistency: {samples: 4, threshold: 0.75}}"), "p.yaml")
    tier = replace(policy.tiers[0], gates=tuple(replace(gate, advisory=gate.kind == "consistency") for gate in policy.tiers[0].gates))
    outcome = answer(Cascade(replace(policy, tiers=(tier, *policy.tiers[1:])), ask=Models(small=GOOD, big=GOOD)))
    assert [e.sample for e in outcome.trail if isinstance(e, Tried) and e.gate == "consistency"] == [1, 2, 3]


def test_escalated_by_another_model_that_disagrees_asked_beside_the_tier() -> None:
    models = Models(small=GOOD, other=OTHER, big=GOOD)
    outcome = answer(ladder(gated("{agreement: {with: openai/other, fields: [item], threshold: 1.0}}"), models))
    assert verdicts(outcome) == [("small", "schema", True), ("small", "agreement", False), ("big", "schema", True)]
    assert sorted(models.asked()[:2]) == ["other", "small"]
    assert next(e for e in outcome.trail if isinstance(e, Checked) and e.gate == "agreement").fields == ("/item",)


def test_a_vote_nobody_waited_for_is_paid_and_in_the_trail() -> None:
    outcome = answer(ladder(gated("{agreement: {with: openai/other, threshold: 1.0}}"), Models(small=BAD, other=GOOD, big=GOOD)))
    votes = [e for e in outcome.trail if isinstance(e, Tried) and e.gate == "agreement"]
    assert [(v.model, v.cost_usd) for v in votes] == [("openai/other", Decimal("0.00012"))]
    assert outcome.cost_usd == Decimal("0.00012") * 2 + Decimal("0.0012")


def test_a_late_vote_is_asked_only_when_the_gates_before_it_have_passed() -> None:
    late = gated("{agreement: {with: openai/other, late: true}}")
    models = Models(small=GOOD, other=GOOD, big=GOOD)
    assert answer(ladder(late, models)).tier == "small"
    assert models.asked() == ["small", "other"]
    models = Models(small=BAD, other=GOOD, big=GOOD)
    assert answer(ladder(late, models)).cost_usd == Decimal("0.00012") + Decimal("0.0012")
    assert models.asked() == ["small", "big"]


def test_a_score_that_is_enough_spares_the_gates_after_it() -> None:
    gates = "{agreement: {with: openai/other, threshold: 0, accept_at: 1}}, {agreement: {name: second, with: openai/third, late: true}}"
    agreeing, differing = Models(small=GOOD, other=GOOD, third=GOOD, big=GOOD), Models(small=GOOD, other=OTHER, third=GOOD, big=GOOD)
    assert verdicts(answer(ladder(gated(gates), agreeing))) == [("small", "schema", True), ("small", "agreement", True)]
    assert "third" not in agreeing.asked()
    assert verdicts(answer(ladder(gated(gates), differing)))[1:] == [("small", "agreement", True), ("small", "second", True)]


def judged(score: float) -> Any:
    def judge(call: Call) -> str:
        import re

        nonce = re.search(r"[0-9a-f]{32}", " ".join(m.content for m in call.messages))
        assert nonce
        verdict = "correct" if score > 0.5 else "incorrect"
        return json.dumps({"nonce": nonce[0], "reason": "because", "verdict": verdict, "score": score})

    return judge


JUDGE = "{judge: {model: openai/judge, threshold: 0.8}}"


def test_escalated_by_a_judge() -> None:
    outcome = answer(ladder(gated(JUDGE), Models(small=GOOD, judge=judged(0.3), big=GOOD)))
    assert verdicts(outcome) == [("small", "schema", True), ("small", "judge", False), ("big", "schema", True)]
    assert outcome.tier == "big"


def test_accepted_by_a_judge() -> None:
    outcome = answer(ladder(gated(JUDGE), Models(small=GOOD, judge=judged(0.9))))
    assert (outcome.status, outcome.tier) == ("accepted", "small")


@pytest.mark.parametrize("said", ["yes", "true", '{"verdict": "correct", "score": 1.0}', Overloaded("down")], ids=str)
def test_a_judge_that_cannot_be_understood_or_reached_has_no_opinion_and_the_request_climbs(said: Any) -> None:
    outcome = answer(ladder(gated(JUDGE), Models(small=GOOD, judge=said, big=GOOD)))
    verdict = next(e for e in outcome.trail if isinstance(e, Checked) and e.gate == "judge")
    assert (verdict.score, verdict.passed, outcome.tier) == (None, False, "big")


def test_exhausted_serves_the_best_answer_flagged() -> None:
    outcome = answer(ladder(gated('{check: "total == 5"}'), Models(small=GOOD, big=BAD)))
    assert (outcome.status, outcome.tier, outcome.output) == ("flagged", "small", {"item": "tea", "total": 4.5})
    assert (outcome.error or "").startswith("exhausted: ")
    with pytest.raises(NotAccepted, match="exhausted"):
        outcome.raise_for_status()


def test_refused() -> None:
    models = Models(small=Answer("I cannot help with that.", "refusal"), big=GOOD)
    outcome = answer(ladder(TWO, models))
    assert (outcome.status, outcome.output, models.asked()) == ("refused", None, ["small"])


def test_a_truncated_answer_is_never_checked_and_climbs() -> None:
    outcome = answer(ladder(TWO, Models(small=Answer(GOOD, "length"), big=GOOD)))
    assert verdicts(outcome) == [("big", "schema", True)]


def test_the_budget_is_asked_before_the_model_and_the_best_answer_is_served() -> None:
    models = Models(small=BAD, big=GOOD)
    outcome = answer(ladder(TWO, models, "budget: {per_request: 0.005}\ndefaults: {max_tokens: 800}\n"))
    assert (outcome.status, models.asked()) == ("flagged", ["small"])
    assert isinstance(outcome.trail[-1], Failed)
    assert outcome.trail[-1].error == "budget"
    assert outcome.cost_usd == Decimal("0.00012")


def test_the_run_budget_is_shared_by_all_requests() -> None:
    models = Models(small=GOOD)
    cascade = ladder(TWO, models, "budget: {per_run: 0.0012}\ndefaults: {max_tokens: 800}\n")

    async def three() -> list[str]:
        return [(await cascade.arun({"text": str(n)})).status for n in range(3)]

    assert asyncio.run(three()) == ["accepted", "accepted", "failed"]
    assert len(models.calls) == 2


def test_a_provider_that_is_down_climbs_to_the_next() -> None:
    outcome = answer(ladder(TWO, Models(small=Overloaded("529"), big=GOOD)))
    assert (outcome.status, outcome.tier) == ("accepted", "big")
    assert isinstance(outcome.trail[0], Failed)
    assert outcome.trail[0].error == "overloaded"


def test_all_providers_down_is_a_failure_that_says_so() -> None:
    outcome = answer(ladder(TWO, Models(small=Overloaded("529"), big=Overloaded("503 no capacity"))))
    assert (outcome.status, outcome.output, outcome.error) == ("failed", None, "overloaded: 503 no capacity")


def test_a_wrong_configuration_is_not_escalated() -> None:
    models = Models(small=ConfigurationError("openai/small: 401: bad key"), big=GOOD)
    outcome = answer(ladder(TWO, models))
    assert (outcome.status, outcome.error, models.asked()) == ("failed", "configuration: openai/small: 401: bad key", ["small"])


def test_a_judge_with_a_wrong_configuration_ends_the_request() -> None:
    outcome = answer(ladder(gated(JUDGE), Models(small=GOOD, judge=ConfigurationError("404 no such model"), big=GOOD)))
    assert (outcome.status, outcome.error) == ("failed", "configuration: 404 no such model")


def test_the_deadline_of_a_request_ends_it() -> None:
    async def never(call: Call) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    outcome = answer(ladder(TWO, never, "defaults: {deadline: 20ms}\n"))
    assert (outcome.status, (outcome.error or "").partition(":")[0]) == ("failed", "deadline")
    assert outcome.cost_usd is None


def test_cached_answers_cost_nothing_and_call_nobody() -> None:
    models = Models(small=BAD, big=GOOD)
    cascade = ladder(TWO, models)
    first, second = answer(cascade), answer(cascade)
    assert (second.status, second.output, second.tier, second.cached, second.cost_usd) == ("accepted", first.output, "big", True, Decimal(0))
    assert [(e.event, getattr(e, "cached", None)) for e in second.trail] == [("tried", True), ("checked", None)]
    assert models.asked() == ["small", "big"]


def test_a_flagged_answer_is_remembered_but_never_as_accepted() -> None:
    models = Models(small=BAD, big=BAD)
    cascade = ladder(TWO, models)
    assert [answer(cascade).status for _ in range(2)] == ["flagged", "flagged"]
    assert len(models.calls) == 2


def test_a_tier_that_failed_this_input_is_skipped_next_time() -> None:
    models = Models(small=BAD, big=[Overloaded("529"), GOOD])
    cascade = ladder(TWO, models)
    first, second = answer(cascade), answer(cascade)
    assert (first.status, second.status, second.tier) == ("flagged", "accepted", "big")
    assert isinstance(second.trail[0], Skipped)
    assert "failed this input before: schema" in second.trail[0].reason
    assert models.asked() == ["small", "big", "big"]


def test_other_inputs_and_other_policies_are_other_requests() -> None:
    models = Models(small=GOOD)
    cascade = ladder(TWO, models)
    answer(cascade)
    answer(cascade, {"text": "Two teas"})
    assert len(models.calls) == 2


def test_fifty_equal_requests_at_once_make_one_call() -> None:
    models = Models(small=GOOD)
    cascade = ladder(TWO, models)

    async def fifty() -> list[Outcome]:
        return await asyncio.gather(*(cascade.arun(INPUTS) for _ in range(50)))

    outcomes = asyncio.run(fifty())
    assert len(models.calls) == 1
    assert {o.status for o in outcomes} == {"accepted"}
    assert sum((o.cost_usd or Decimal(0) for o in outcomes), Decimal(0)) == Decimal("0.00012")


def test_a_missing_input_is_told_before_anything_is_asked() -> None:
    models = Models(small=GOOD)
    with pytest.raises(InputError, match=r"'text' is undefined; the inputs have: body"):
        answer(ladder(TWO, models), {"body": "x"})
    assert models.calls == []


def test_optional_fields_that_strict_providers_return_as_null_are_dropped_at_home() -> None:
    text = HEAD.replace("required: [item, total]", "required: [item]") + "tiers: [openai/small]\n"
    cascade = Cascade(load_text(text, "p.yaml"), ask=Models(small='{"item": "tea", "total": null}'))
    assert answer(cascade).output == {"item": "tea"}


def test_a_key_that_is_missing_for_a_dear_tier_is_told_before_the_cheap_one_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "there")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    cascade = Cascade(load_text(HEAD + "tiers: [openai/small, anthropic/claude-opus-5-5]\n", "p.yaml"))
    with pytest.raises(ConfigurationError, match="set the environment variable ANTHROPIC_API_KEY"):
        answer(cascade)


def test_sync_face_works_plainly_and_inside_a_running_loop() -> None:
    with ladder(TWO, Models(small=GOOD)) as cascade:
        assert cascade.run(INPUTS).status == "accepted"

        async def notebook() -> Outcome:
            return cascade.run({"text": "again"})

        assert asyncio.run(notebook()).status == "accepted"


def test_any_number_of_tiers() -> None:
    tiers = "".join(f"  - {{name: t{n}, model: openai/small, max_tokens: {100 + n}, params: {{reasoning_effort: low}}}}\n" for n in range(6))
    models = Models(small=[BAD, BAD, BAD, BAD, BAD, GOOD])
    outcome = answer(ladder(tiers, models))
    assert (outcome.status, outcome.tier, len(models.calls)) == ("accepted", "t5", 6)


def test_the_story_tells_each_step() -> None:
    outcome = answer(ladder(TWO, Models(small=BAD, big=GOOD)))
    story = outcome.explain()
    assert [line.split()[0] for line in story.splitlines()] == ["tier", "small", "small", "big", "big", "accepted"]
    assert "failed 0.50/1" in story
