"""Policy files: sound ones load, wrong ones say all that is wrong, each mistake with its place."""

from __future__ import annotations

import json
import tomllib
from decimal import Decimal
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from cascade.errors import PolicyError
from cascade.policy import json_schema, load, load_text
from cascade.policy.reference import reference
from cascade.types import Outcomes

HERE = Path(__file__).parent / "policies"
ROOT = Path(__file__).parent.parent
WRONG = sorted(path for path in (HERE / "wrong").iterdir() if path.suffix in (".yaml", ".json", ".toml") and ".schema." not in path.name)
GOOD = sorted(path for path in (HERE / "good").iterdir() if ".schema." not in path.name)


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.name)
def test_a_wrong_policy_says_all_that_is_wrong_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with pytest.raises(PolicyError) as caught:
        load(path.name)
    assert caught.value.problems == path.with_name(path.name + ".expected").read_text().splitlines()


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_a_good_policy_loads_and_fits_the_published_schema(path: Path) -> None:
    text = path.read_text()
    value = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text.replace("\t", " "))
    assert load(str(path)).digest
    assert list(jsonschema_rs.Draft202012Validator(json_schema()).iter_errors(value)) == []


@pytest.mark.parametrize("name", ["unknown-keys", "unknown-key-in-tier", "unknown-key-in-gate", "wrong-types", "missing-keys", "version-2"])
def test_the_published_schema_refuses_what_it_can_see(name: str) -> None:
    value = yaml.safe_load((HERE / "wrong" / f"{name}.yaml").read_text())
    assert not jsonschema_rs.Draft202012Validator(json_schema()).is_valid(value)


def test_the_contract_example_means_what_it_says() -> None:
    policy = load(str(HERE / "good" / "contract.yaml"))
    small, local, premium = policy.tiers
    assert [gate.name for gate in small.gates] == ["schema", "check", "consistency", "agreement", "judge"]
    assert [gate.threshold for gate in small.gates] == [1.0, 1.0, 0.67, 1.0, 0.8]
    assert (small.repair, small.timeout, small.retries, small.max_tokens) == (1, 30.0, 2, 800)
    assert (local.name, local.model, policy.providers["local"].base_url) == ("smollm2-135m", "local/smollm2-135m", "http://127.0.0.1:8601/v1")
    assert (premium.model, premium.carry) == ("anthropic/claude-opus-5-5", "errors")
    assert policy.outcomes == Outcomes("stop", "next", "next", "best")
    assert (policy.budget_per_request, policy.budget_per_run) == (Decimal("0.05"), Decimal(20))
    assert policy.pricing == {"local/smollm2-135m": {"input": Decimal("0.01"), "output": Decimal("0.01")}}
    assert policy.cache.ttl == 30 * 86400
    assert (policy.system and policy.system.line) == 6


def test_yaml_json_and_toml_say_the_same() -> None:
    assert len({load(str(HERE / "good" / f"short.{kind}")).digest for kind in ("yaml", "json", "toml")}) == 1


def test_yaml_scalars_are_those_of_yaml_1_2() -> None:
    text = "version: 1\nname: no\nprompt: a b\ntiers: [openai/x]\nbudget: {per_request: 1e-3}\noutcomes: {refusal: stop}\n"
    policy = load_text(text, "p.yaml")
    assert (policy.name, policy.budget_per_request) == ("no", Decimal("0.001"))


BASE = """
version: 1
name: p
prompt: "Say {{ x }}"
schema: {type: object, properties: {a: {type: string}}, required: [a], additionalProperties: false}
tiers:
  - {name: small, model: openai/gpt-6-luna, gates: [schema, {check: "a != ''"}]}
  - {name: big, model: anthropic/claude-opus-5-5}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Say", "Tell"), ("type: string", "type: integer"), ("gpt-6-luna", "gpt-6-sol"), ("a != ''", "a != 'x'"),
        ("schema, {check", "{check"), ("opus-5-5}", "opus-5-5, carry: draft}"), ("opus-5-5}", "opus-5-5, max_tokens: 7}"),
        ("opus-5-5}", "opus-5-5, repair: 1}"), ("name: small", "name: tiny"), ("tiers:", "compare: {a: {text: {casefold: true}}}\ntiers:"),
        ("tiers:", "outcomes: {error: stop}\ntiers:"), ("tiers:", "system: Be brief.\ntiers:"),
        ("gpt-6-luna", "gpt-6-luna, params: {reasoning_effort: low}"),
    ],
)  # fmt: skip
def test_whatever_can_change_an_answer_changes_the_digest(old: str, new: str) -> None:
    changed = BASE.replace(old, new, 1)
    assert changed != BASE
    same = old == "schema, {check"  # the schema gate is put back by itself
    assert (load_text(changed, "p.yaml").digest == load_text(BASE, "p.yaml").digest) is same


def test_what_cannot_change_an_answer_does_not() -> None:
    more = "pricing: {openai/gpt-6-luna: {input: 1, output: 2}}\ncache: {backend: off}\nbudget: {per_request: 1}\n"
    assert load_text(BASE + more, "elsewhere/q.yaml").digest == load_text(BASE, "p.yaml").digest


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for path, says in (("no.yaml", "No such file or directory"), (".", "Is a directory"), ("latin.yaml", "not UTF-8 text (byte 9)")):
        with pytest.raises(PolicyError) as caught:
            load(str(tmp_path / path))
        assert caught.value.problems == [f"{tmp_path / path}: {says}"]


@pytest.mark.parametrize("text", ["[" * 5000, "a: " * 2000, "{" * 100, "? a\n: b\n", "---\na: 1\n---\nb: 2\n", "\x00", "a: !!binary x"])
def test_hostile_texts_are_one_line_too(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_text(text, "p.yaml")
    assert caught.value.problems[0].startswith("p.yaml:")
    assert len(caught.value.problems[0].splitlines()) == 1


def test_the_published_files_are_up_to_date() -> None:
    assert json.loads((ROOT / "policies" / "policy.schema.json").read_text()) == json.loads(json.dumps(json_schema())), "cascade schema > policies/policy.schema.json"
    assert (ROOT / "docs" / "policy.md").read_text() == reference(), "python -m cascade.policy.reference > docs/policy.md"
