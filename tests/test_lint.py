"""Lint and bounds: each finding has a policy that shows it, and the policy beside it that does not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from cascade.app import Cascade
from cascade.policy.bounds import bounds
from cascade.policy.check import check
from cascade.policy.lint import lint
from cascade.policy.load import _Loader, load_text
from cascade.types import Answer, CacheSettings, Call, Usage

HEAD = """version: 1
name: p
prompt: "Say {{ x }}"
schema: {type: object, properties: {a: {type: string}}, required: [a], additionalProperties: false}
"""
KEYS = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
SOUND = HEAD + "tiers: [openai/gpt-6-luna, anthropic/claude-opus-5-5]\n"


def findings(tiers: str, env: dict[str, str] | None = None, head: str = HEAD) -> list[str]:
    found = lint(_Loader("p.yaml").load(head + tiers), KEYS if env is None else env)
    return [f"{f.line}:{f.column} {f.code}" for f in found]


def gated(gate: str, params: str = "") -> str:
    return f"tiers:\n  - {{model: openai/gpt-6-luna{params}, gates: [schema, {gate}]}}\n  - anthropic/claude-opus-5-5\n"


LOCAL = "providers: {local: {kind: openai, base_url: 'http://127.0.0.1:1/v1'}}\npricing: {local/m: {input: 0, output: 0}}\n"


@pytest.mark.parametrize(
    ("tiers", "found"),
    [
        ("tiers: [openai/gpt-6-luna, anthropic/claude-opus-5-5]\n", []),
        (gated("{judge: {model: anthropic/claude-haiku-5-5}}"), []),
        (gated("{judge: {model: openai/gpt-6-luna}}"), ["6:48 judge-is-maker"]),
        (gated("{judge: {model: openai/gpt-6-sol}}"), ["6:48 judge-of-the-house"]),
        (gated("{agreement: {with: openai/gpt-6-luna}}"), ["6:48 same-voice"]),
        (gated("{agreement: {with: openai/gpt-6-luna, prompt: 'The other way round: {{ text }}'}}"), []),
        (gated("{judge: {model: anthropic/claude-haiku-5-5, threshold: 0}}"), ["6:48 open-gate"]),
        (gated("{consistency: {samples: 3, threshold: 0.67}}"), []),
        (gated("{consistency: {samples: 3, threshold: 0.9}}"), ["6:48 threshold-steps"]),
        ("tiers:\n  - {model: openai/gpt-6-luna, gates: [{check: 'len(a) > 0'}]}\n  - openai/gpt-6-sol\n", ["6:5 schema-added"]),
        ("tiers: [openai/gpt-6-luna, openai/gpt-6-luna]\n", ["5:28 same-rung"]),
        ("tiers: [anthropic/claude-opus-5-5, openai/gpt-6-luna]\n", ["5:36 order"]),
        ("tiers: [openai/gpt-99]\n", ["5:9 unpriced"]),
        ("pricing: {openai/gpt-6-lunna: {input: 1, output: 1}}\ntiers: [openai/gpt-6-luna]\n", ["5:11 unused-price"]),
        ("budget: {per_request: 0.0001}\ntiers: [openai/gpt-6-luna]\n", ["6:9 over-budget"]),
        ("gates: [schema, {judge: {model: openai/gpt-6-luna}}]\ntiers: [openai/gpt-6-luna]\n", ["5:17 judge-is-maker"]),
        (gated("{consistency: {samples: 3, fields: [a]}}"), []),
        ("tiers: [openai/gpt-4o]\n", ["5:9 retired"]),
        (LOCAL + "tiers: [{model: local/m, params: {temperature: 0}, gates: [{consistency: 3}]}]\n", ["7:9 schema-added", "7:60 same-samples"]),
        (LOCAL + "tiers: [{model: local/m, params: {temperature: 0.7}, gates: [schema, {consistency: 3}]}]\n", []),
        ("tiers: [{model: openai/gpt-6-luna, escalate: partial}]\n", ["5:46 first-partial"]),
        ("tiers: [openai/gpt-6-luna, {model: openai/gpt-6-sol, escalate: partial}]\n", ["5:64 whole-schema"]),
        (LOCAL + "tiers: [{model: local/m, params: {temperature: 0}, gates: [schema, {consistency: {samples: 3, prompts: [Say it, Tell it]}}]}]\n", []),
        (LOCAL + "tiers: [{model: local/m, params: {temperature: 0}, gates: [schema, {consistency: {samples: 3, prompts: [Say it]}}]}]\n", ["7:68 same-samples"]),
    ],
)
def test_finding(tiers: str, found: list[str]) -> None:
    assert findings(tiers) == found


def test_a_field_that_an_open_schema_does_not_name_is_told() -> None:
    open_schema = HEAD.replace(", additionalProperties: false", "")
    tiers = "compare: {aa: date, b.c: date}\ntiers: [{model: anthropic/claude-opus-5-5, gates: [schema, {consistency: {samples: 3, fields: [a, bb]}}]}]\n"
    assert findings(tiers, head=open_schema) == ["5:11 unknown-field", "5:21 unknown-field", "6:60 unknown-field"]


def test_a_part_whose_gates_ask_for_the_whole_is_told() -> None:
    two_fields = HEAD.replace("{a: {type: string}}", "{a: {type: string}, b: {type: string}}")
    tiers = "tiers: [openai/gpt-6-luna, {model: openai/gpt-6-sol, escalate: partial%s}]\n"
    votes = ", gates: [schema, {agreement: {with: anthropic/claude-haiku-5-5}}]"
    assert findings(tiers.replace("%s", ""), head=two_fields) == []
    assert findings(tiers.replace("%s", votes), head=two_fields) == ["5:64 whole-votes"]


def test_a_tier_that_accepts_everything_makes_those_above_it_dead() -> None:
    head = HEAD.split("schema:")[0]
    assert findings("tiers: [openai/gpt-6-luna, anthropic/claude-opus-5-5]\n", head=head) == ["1:1 no-schema", "4:9 dead-rung"]


def test_the_environment_is_looked_at() -> None:
    two = "tiers: [openai/gpt-6-luna, anthropic/claude-opus-5-5]\n"
    assert findings(two, {}) == ["5:9 no-key", "5:28 no-key"]
    assert findings(two, {**KEYS, "OPENAI_BASE_URL": "http://proxy"}) == ["5:9 redirected"]


def test_worst_and_best_case_of_a_request() -> None:
    text = SOUND.replace("tiers: [", "defaults: {max_tokens: 1000, timeout: 10s}\npricing: {openai/gpt-6-luna: {input: 1, output: 2}, "
                         "anthropic/claude-opus-5-5: {input: 10, output: 20}}\ntiers: [").replace("openai/gpt-6-luna, anth", "{model: openai/gpt-6-luna, repair: 1}, anth")  # fmt: skip
    policy = load_text(text, "p.yaml")
    schema = len(orjson.dumps(policy.schema.json)) if policy.schema else 0
    found = bounds(policy, prompt_bytes=1000)
    small = 2 * ((1000 + schema + 8000 + 1000) * 1 + 1000 * 2)  # its draft of 1,000 tokens, and what was wrong with it
    big = (1000 + schema) * 10 + 1000 * 20
    assert found.worst_usd == Decimal(small + big).scaleb(-6)
    assert found.best_usd == Decimal((1000 + schema) // 4 * 1 + 50 * 2).scaleb(-6)
    assert (found.worst_seconds, found.best_rounds, found.unpriced) == (30.0, 1, ())
    assert [(t.tier, t.worst_usd, t.worst_seconds, t.calls) for t in found.tiers] == [
        ("gpt-6-luna", Decimal(small).scaleb(-6), 20.0, (1, 2)),
        ("claude-opus-5-5", Decimal(big).scaleb(-6), 10.0, (1, 1)),
    ]


@pytest.mark.parametrize(
    ("gate", "calls", "rounds", "waits"),
    [
        ("{consistency: {samples: 3, threshold: 0.67}}", (2, 3), 2, 3),
        ("{consistency: {samples: 3, threshold: 1.0}}", (3, 3), 3, 3),
        ("{consistency: {samples: 2, threshold: 1.0}}", (2, 2), 2, 2),
        ("{consistency: {samples: 5, threshold: 0.67}}", (4, 5), 3, 4),
        ("{consistency: {samples: 5, threshold: 0}}", (1, 5), 1, 1),
    ],
)
def test_samples_stop_so_the_best_case_is_cheap_and_the_worst_case_slow(gate: str, calls: tuple[int, int], rounds: int, waits: int) -> None:
    found = bounds(load_text(HEAD + "defaults: {timeout: 10s}\n" + gated(gate), "p.yaml"), prompt_bytes=10)
    assert (found.tiers[0].calls, found.best_rounds, found.tiers[0].worst_seconds) == (calls, rounds, 10.0 * waits)


EVERYTHING = """
budget: {per_request: 9}
pricing: {openai/gpt-6-luna: {input: 1, output: 2}, anthropic/claude-opus-5-5: {input: 10, output: 20}, anthropic/claude-haiku-5-5: {input: 1, output: 1}}
tiers:
  - model: openai/gpt-6-luna
    repair: 2
    gates:
      - consistency: {samples: 3, threshold: 0}
      - judge: {model: anthropic/claude-haiku-5-5, threshold: 0}
      - check: "a == 'never'"
  - {model: anthropic/claude-opus-5-5, repair: 1, carry: draft, gates: [schema, {check: "a == 'no'"}, {agreement: {with: anthropic/claude-haiku-5-5}}]}
"""


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_in_which_everything_fails_stays_within_the_worst_case(anyio_backend: str) -> None:
    policy = load_text(HEAD + EVERYTHING, "p.yaml")
    limits, calls = bounds(policy, prompt_bytes=5), []

    async def fail(call: Call) -> Answer:
        calls.append(call)
        size = sum(len(m.content.encode()) for m in call.messages)
        pays = policy.pricing[call.model]
        cost = (size * pays["input"] + call.params.json["max_tokens"] * pays["output"]).scaleb(-6)
        text = '{"a": "%s"}' % (f"{len(calls)}" * 40)  # never the same: no vote agrees
        return Answer(text, usage=Usage(size, 1), cost_usd=cost, model=call.model)

    async with Cascade(policy, ask=fail, cache=CacheSettings("off")) as cascade:
        outcome = await cascade.arun({"x": "z"})
    assert outcome.status == "flagged"
    assert len(calls) <= sum(tier.calls[1] for tier in limits.tiers)
    assert sum(call.model == "anthropic/claude-opus-5-5" for call in calls) == 2
    assert outcome.cost_usd is not None
    assert limits.worst_usd is not None
    assert 0 < outcome.cost_usd <= limits.worst_usd


def test_the_budget_caps_the_worst_case_and_an_unpriced_model_leaves_it_unknown() -> None:
    assert bounds(load_text(SOUND + "budget: {per_request: 0.001}\n", "p.yaml")).worst_usd == Decimal("0.001")
    found = bounds(load_text(SOUND.replace("opus-5-5", "opus-99"), "p.yaml"))
    assert (found.worst_usd, found.unpriced) == (None, ("anthropic/claude-opus-99",))
    assert found.best_usd is not None


def test_check_tells_people_and_programs_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(SOUND)
    Path("bad.yaml").write_text(SOUND + "cash: 1\n")
    report = check(["good.yaml", "bad.yaml"], {})
    assert report.exit_code == 2
    assert report.lines[-1] == 'bad.yaml:6:1: cash: unknown key, did you mean "cache"?'
    assert [p["path"] for p in report.as_json()["policies"]] == ["good.yaml", "bad.yaml"]
    assert check(["good.yaml"], {}).exit_code == 0
    assert check(["good.yaml"], {}, strict=True).exit_code == 1
    assert check(["good.yaml"], KEYS, strict=True).exit_code == 0
