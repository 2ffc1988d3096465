"""Cassettes: recorded through the real SDKs from a loopback server, replayed without it, strict about what is missing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import stub

from cascade.app import Cascade
from cascade.errors import CascadeError, MissingRecording
from cascade.outcome import Outcome
from cascade.policy import load_text
from cascade.testing.cassette import UnplayedRecordings, cassette
from cascade.testing.network import NetworkBlocked, no_network

pytest_plugins = ["pytester"]

POLICY = """
version: 1
name: order
prompt: "Extract the order. {{ text }}"
schema: {type: object, properties: {item: {type: string}}, required: [item], additionalProperties: false}
cache: {backend: off}
defaults: {retries: 0}
providers:
  cheap: {kind: openai, base_url: "URL/v1", api_key_env: CANARY_KEY}
  dear: {kind: anthropic, base_url: "URL", api_key_env: CANARY_KEY, capabilities: {schema: none}}
tiers: [cheap/small, dear/big]
"""
CANARY = "canary-0123456789abcdef"


@pytest.fixture
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


def ask(url: str, *texts: str, policy: str = POLICY) -> list[Outcome]:
    async def main() -> list[Outcome]:
        async with Cascade(load_text(policy.replace("URL", url), "p.yaml")) as cascade:
            return [await cascade.arun({"text": text}) for text in texts]

    return asyncio.run(main())


@pytest.fixture
def tape(server: stub.Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cassette of one request that climbed from the OpenAI wire to the Anthropic wire."""
    monkeypatch.setenv("CANARY_KEY", CANARY)
    server.will(stub.chat('{"thing": "tea"}'), stub.messages('{"item": "tea"}'))
    path = tmp_path / "tape.json"
    with cassette(path, "all"):
        (outcome,) = ask(server.url, "One tea")
    assert (outcome.status, outcome.tier) == ("accepted", "big")
    monkeypatch.delenv("CANARY_KEY")
    return path


def test_a_recorded_ladder_replays_without_server_key_or_network_on_another_port(tape: Path) -> None:
    with no_network(), cassette(tape) as played:
        (outcome,) = ask("http://127.0.0.1:9", "One tea")
    assert (outcome.status, outcome.tier, outcome.output, played.play_count) == ("accepted", "big", {"item": "tea"}, 2)


def test_a_cassette_holds_no_secret_and_only_listed_headers(tape: Path) -> None:
    text = tape.read_text()
    assert CANARY not in text
    assert "Bearer" not in text
    for interaction in json.loads(text)["interactions"]:
        assert {name.lower() for name in interaction["request"]["headers"]} <= {"content-type", "anthropic-version"}
        assert {name.lower() for name in interaction["response"]["headers"]} <= {"content-type", "retry-after", "retry-after-ms"}


def test_a_changed_prompt_is_a_missing_recording_that_names_the_nearest_and_the_difference(tape: Path) -> None:
    with pytest.raises(MissingRecording) as caught, cassette(tape):
        ask("http://127.0.0.1:9", "Two teas")
    message = str(caught.value)
    assert "POST /v1/chat/completions (model small); nearest: recording 1" in message
    assert "'Extract the order. Two teas' asked, 'Extract the order. One tea' recorded" in message


def test_a_missing_recording_of_the_anthropic_wire_stops_too_and_never_looks_like_an_outage(tape: Path) -> None:
    interactions = json.loads(tape.read_text())
    interactions["interactions"] = interactions["interactions"][:1]
    tape.write_text(json.dumps(interactions))
    with pytest.raises(MissingRecording, match=r"POST /v1/messages \(model big\)"), cassette(tape):
        ask("http://127.0.0.1:9", "One tea")


def test_a_call_made_more_often_than_recorded_is_missing(tape: Path) -> None:
    with pytest.raises(MissingRecording, match="holds this call 1 times, and all have been played"), cassette(tape):
        ask("http://127.0.0.1:9", "One tea", "One tea")


def test_every_recording_must_be_played(tape: Path) -> None:
    with pytest.raises(UnplayedRecordings, match=r"2 of 2 recordings were not played, the first one: POST /v1/chat"), cassette(tape):
        pass
    with cassette(tape, allow_unplayed=True):
        pass


def test_a_cassette_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CascadeError, match=r"no\.json: there is no such cassette"), cassette(tmp_path / "no.json"):
        pass


def test_new_episodes_adds_what_is_missing(tape: Path, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)
    server.will(stub.chat('{"item": "cake"}'))
    with cassette(tape, "new_episodes"):
        assert [o.output for o in ask(server.url, "One tea", "One cake")] == [{"item": "tea"}, {"item": "cake"}]
    with cassette(tape) as played:
        ask("http://127.0.0.1:9", "One cake", "One tea")
    assert played.play_count == 3


def test_no_network_lets_nothing_out_and_is_no_outage() -> None:
    with no_network(), pytest.raises(NetworkBlocked):
        ask("http://127.0.0.1:9", "One tea", policy=POLICY.replace(", api_key_env: CANARY_KEY", ""))


INNER = '''
import pytest
from cascade.app import Cascade
from cascade.policy import load_text

POLICY = """{policy}"""


def test_order(cascade_cassette):
    with Cascade(load_text(POLICY, "p.yaml")) as cascade:
        assert cascade.run({{"text": "One tea"}}).output == {{"item": "tea"}}
'''


def test_the_fixture_records_on_demand_and_replays_by_default(pytester: pytest.Pytester, server: stub.Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("CANARY_KEY", CANARY)
    # installed, pytest finds the plugin by itself; from a checkout on the path it must be named
    plugin = () if pytester._request.config.pluginmanager.hasplugin("cascade") else ("-p", "cascade.testing.plugin")
    pytester.makepyfile(test_mine=INNER.format(policy=POLICY.replace("URL", server.url)))
    pytester.runpytest_inprocess(*plugin).assert_outcomes(errors=1)
    server.will(stub.chat('{"item": "tea"}'))
    pytester.runpytest_inprocess(*plugin, "--cascade-record", "all").assert_outcomes(passed=1)
    assert (pytester.path / "cassettes" / "test_mine" / "test_order.json").exists()
    pytester.runpytest_inprocess(*plugin, "--cascade-block-network").assert_outcomes(passed=1)
    monkeypatch.setenv("CI", "true")
    pytester.runpytest_inprocess(*plugin, "--cascade-record", "all").assert_outcomes(passed=1)
    assert len(server.requests) == 1
