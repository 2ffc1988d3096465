"""A Cascade in another process: what is carried there, what is read there, and what is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import stub

from cascade import errors
from cascade.app import Cascade, anywhere
from cascade.errors import CascadeError, ConfigurationError, NotAccepted, PolicyError
from cascade.outcome import Outcome
from cascade.policy import load
from cascade.testing import Scripted
from cascade.types import CacheSettings, Policy, Provider, Template, Watch

HERE = Path(__file__).parent
ROOT = HERE.parent
CANARIES = {"CANARY_KEY": "canary-key-4711", "REDIS_PASSWORD": "canary-pass-4711"}


def by_cloudpickle(value: object) -> bytes:
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs cloudpickle, which comes with ray: pip install 'cascade-judge[ray]'")
    found: bytes = cloudpickle.dumps(value)
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


@pytest.fixture
def policy(server: stub.Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy of several files, with keys in the environment."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "policies"
    (folder / "parts").mkdir(parents=True)
    (folder / "ask.j2").write_text('{% include "parts/head.j2" %}\n{{ text }}\n')
    (folder / "parts" / "head.j2").write_text('{% include "parts/first.j2" %} the order.')
    (folder / "parts" / "first.j2").write_text("Extract")
    (folder / "order.schema.json").write_text('{"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}')
    (folder / "judge.j2").write_text('Judge. {% include "parts/first.j2" %} {{ nonce }}\n')
    (folder / "order.yaml").write_text(f"""version: 1
name: order
prompt: ask.j2
schema: order.schema.json
cache: {{path: cache}}
defaults: {{retries: 0}}
providers: {{here: {{kind: openai, base_url: "{server.url}/v1", api_key_env: CANARY_KEY}}}}
pricing: {{here/small: {{input: 1, output: 1}}, here/judge: {{input: 1, output: 1}}}}
tiers: [{{model: here/small, gates: [schema, {{judge: {{model: here/judge, prompt: judge.j2, threshold: 0.0}}}}]}}]
""")
    return folder / "order.yaml"


def elsewhere(code: str, given: bytes, cwd: Path, **environment: str) -> str:
    """What the code prints in another process and folder, with the pickle on its stdin."""
    env = {name: value for name, value in os.environ.items() if name not in CANARIES} | environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, cwd=cwd, env=env, check=False)
    assert not done.stderr, done.stderr.decode()
    return done.stdout.decode().strip()


ANSWER = """
import pickle, sys
from cascade.errors import ConfigurationError
cascade = pickle.load(sys.stdin.buffer)
try:
    with cascade:
        outcome = cascade.run({"text": "One tea"})
    print(outcome.status, outcome.policy, outcome.trail[0].text)
except ConfigurationError as err:
    print(err)
"""


@pytest.mark.parametrize("dumps", [pickle.dumps, by_cloudpickle], ids=["pickle", "cloudpickle"])
def test_it_answers_in_another_process_where_none_of_its_files_are_and_carries_no_key(
    dumps: Callable[[object], bytes], policy: Path, server: stub.Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, secret in CANARIES.items():
        monkeypatch.setenv(name, secret)
    server.will(stub.chat('{"item": "tea"}'))
    server.default = stub.chat("no verdict")
    monkeypatch.chdir(policy.parent)
    with Cascade.load("order.yaml") as cascade:
        cascade.run({"text": "One tea"})  # its clients are open, with their keys
        carried = dumps(cascade)
        label = cascade.label
    kept = dumps(Cascade(load("order.yaml"), cache=CacheSettings("redis://127.0.0.1:1/0", password_env="REDIS_PASSWORD")))
    assert not [secret for secret in CANARIES.values() if secret.encode() in carried + kept]
    policy.parent.rename(tmp_path / "gone")
    (tmp_path / "there").mkdir()
    server.will(stub.chat('{"item": "tea"}'))
    assert elsewhere(ANSWER, carried, tmp_path / "there", CANARY_KEY="key-of-there") == f'flagged {label} {{"item": "tea"}}'
    asked, judged = server.requests
    assert (asked.headers["authorization"], asked.json["messages"][0]["content"]) == ("Bearer key-of-there", "Extract the order.One tea")
    assert judged.json["messages"][0]["content"].startswith("Judge. Extract")
    assert elsewhere(ANSWER, carried, tmp_path / "there") == 'provider "here" has no key: set the environment variable CANARY_KEY'


def test_what_comes_back_is_the_same_policy_and_the_same_places(policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(policy.parent)
    made = Cascade.load("order.yaml")
    monkeypatch.chdir(tmp_path)
    again: Cascade = pickle.loads(pickle.dumps(made))
    assert (again.policy, again.label, again.digests) == (anywhere(made.policy), made.label, made.digests)
    once_more: Any = pickle.loads(pickle.dumps(Cascade(made.policy, cache=CacheSettings(backend="memory"))))
    assert (again._settings.path, once_more._settings.backend) == (str(tmp_path / "cache"), "memory")


def test_cache_monitor_and_recordings_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    played = Provider("play", "recorded", options={"path": "calls.jsonl"})
    made = Policy("p", Template("x", "x.j2"), (), providers={"play": played}, cache=CacheSettings(path="c"), watch=Watch("w.json", "", 1))
    made = replace(made, safer=replace(made, cache=CacheSettings(path="~/c")))
    found = anywhere(made)
    assert found.safer is not None
    assert found.watch is not None
    assert (found.cache.path, found.safer.cache.path, found.watch.file, found.safer.providers["play"].options["path"]) == (
        str(tmp_path / "c"), "~/c", str(tmp_path / "w.json"), str(tmp_path / "calls.jsonl"))


def test_every_shipped_policy_crosses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = sorted((ROOT / "policies").glob("*.yaml"))
    assert len(found) > 5
    for path in found:
        made = Cascade(load(str(path)), cache=CacheSettings(backend="off"))
        again: Cascade = pickle.loads(pickle.dumps(made))
        assert (again.label, again.digests) == (made.label, made.digests)


@pytest.mark.parametrize(("more", "ask", "says"), [
    ("", Scripted({}), "a Cascade with an `ask` of its own cannot cross to another process; make one there"),
    ("budget: {per_run: 1}\n", None, "each process that a Cascade with budget.per_run crosses to would spend it once more; cascade.bulk.map_batches"),
])
def test_what_cannot_cross_is_refused(policy: Path, more: str, ask: Any, says: str) -> None:
    policy.write_text(policy.read_text() + more)
    with pytest.raises(ConfigurationError) as refused:
        pickle.dumps(Cascade.load(policy, ask=ask))
    assert says in str(refused.value)


def test_a_key_is_not_looked_for_before_a_request_comes(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CANARY_KEY", raising=False)
    assert pickle.loads(pickle.dumps(Cascade.load(policy))).policy.name == "order"


@pytest.mark.parametrize("error", [
    PolicyError(["p.yaml:1:1: one", "p.yaml:2:1: two"]), NotAccepted("flagged: no", Outcome("p@1", "flagged", cost_usd=Decimal(1))),
    errors.BudgetExceeded("too much", "run"), *(kind("why") for kind in errors.ProviderError.__subclasses__()), errors.InputError("x"),
], ids=lambda error: type(error).__name__)
def test_errors_come_through_whole(error: CascadeError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
