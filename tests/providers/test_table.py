"""The table of providers: what each model takes, which key it wants, where the clouds' clients send a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import stub

from cascade import providers
from cascade.errors import ConfigurationError, MissingRecording
from cascade.providers import Capabilities
from cascade.providers.failures import clean, retry_after
from cascade.types import Answer, Call, Document, Message

GUIDED = Capabilities(sampling=True, seed=True, logprobs=True, schema="full")
LOCAL = replace(GUIDED, tool_choice=False)


@pytest.fixture(scope="module")
def server() -> Iterator[stub.Stub]:
    with stub.running() as running:
        yield running


TAKES: list[tuple[str, dict[str, Any], str, dict[str, Any], Capabilities]] = [
    ("openai", {}, "gpt-6-luna", {}, Capabilities(batch=True)),
    ("openai", {}, "gpt-6-luna", {"reasoning_effort": "low"}, Capabilities(batch=True)),
    ("openai", {}, "gpt-6-luna", {"reasoning_effort": "none"}, Capabilities(sampling=True, logprobs=True, batch=True)),
    ("openai", {}, "gpt-4o", {}, Capabilities(sampling=True, seed=True, logprobs=True, batch=True)),
    ("anthropic", {}, "claude-haiku-5-5", {}, Capabilities(batch=True, tool_choice=False)),
    ("bedrock", {}, "global.anthropic.claude-haiku-5-5", {}, Capabilities(tool_choice=False)),
    ("groq", {}, "openai/gpt-oss-20b", {}, Capabilities(sampling=True, seed=True)),
    ("groq", {}, "llama-4", {}, Capabilities(sampling=True, seed=True, schema="object")),
    ("deepseek", {}, "deepseek-chat", {}, Capabilities(sampling=True, logprobs=True, schema="object")),
    ("ollama", {}, "qwen3:4b", {}, LOCAL),
    ("local", {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}, "smol", {}, GUIDED),
    ("local", {"kind": "openai", "base_url": "http://api.openai.com.evil.example/v1"}, "smol", {}, GUIDED),
    ("local", {"kind": "anthropic", "base_url": "http://127.0.0.1:1"}, "smol", {}, Capabilities(sampling=True, schema="none", tool_choice=False)),
    ("proxy", {"kind": "anthropic", "base_url": "http://10.0.0.1"}, "claude-haiku-5-5", {}, Capabilities(tool_choice=False)),
    ("ollama", {}, "qwen3:4b", {"temperature": 0}, replace(LOCAL, deterministic=True)),
    ("ollama", {"capabilities": {"schema": False, "seed": False}}, "qwen3:4b", {}, replace(LOCAL, seed=False, schema="none")),
    ("ollama", {"capabilities": {"schema": "object"}}, "qwen3:4b", {}, replace(LOCAL, schema="object")),
    ("deepseek", {"capabilities": {"schema": True}}, "deepseek-chat", {}, Capabilities(True, False, True, "strict")),
]


@pytest.mark.parametrize(("name", "declared", "model", "params", "takes"), TAKES)
def test_what_a_model_takes(name: str, declared: dict[str, Any], model: str, params: dict[str, Any], takes: Capabilities) -> None:
    assert providers.capabilities(providers.provider(name, declared), f"{name}/{model}", params) == takes


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("openai", {"temperature": 1}, 'openai/m takes no temperature (only with reasoning_effort: "none")'),
        ("openai", {"temperature": 1, "reasoning_effort": "none"}, None),
        ("anthropic", {"top_p": 0.5}, "anthropic/m takes no top_p"),
        ("anthropic", {"seed": 3}, "anthropic/m takes no seed"),
        ("mistral", {"logprobs": True}, "mistral/m takes no logprobs"),
        ("ollama", {"logprobs": 5}, "params.logprobs must be true or false, not 5"),
        ("ollama", {"seed": "x"}, "params.seed must be a whole number, not 'x'"),
        ("ollama", {"temperature": 1, "seed": 3, "top_p": 0.5, "logprobs": True, "max_tokens": 5}, None),
        ("ollama", {"tools": []}, "params.tools is set by cascade itself: remove it"),
    ],
)
def test_a_tier_that_asks_for_what_its_model_cannot_do_is_told_so(name: str, params: dict[str, Any], says: str | None) -> None:
    assert providers.unsupported(providers.provider(name), f"{name}/m", params) == says


def test_only_a_strict_server_minds_the_shape_of_a_schema() -> None:
    loose = {"type": "object"}
    assert providers.unsupported(providers.provider("openai"), "openai/m", {}, loose) == (
        "openai/m cannot be held to this schema: the root is an object without properties: strict servers want each one named"
    )
    assert providers.unsupported(providers.provider("ollama"), "ollama/m", {}, loose) is None


@pytest.mark.parametrize(
    ("name", "declared", "variable"),
    [
        ("openai", {}, "OPENAI_API_KEY"),
        ("groq", {}, "GROQ_API_KEY"),
        ("ollama", {}, None),
        ("local", {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}, None),
        ("local", {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key_env": "MINE"}, "MINE"),
        ("second", {"kind": "openai", "api_key_env": "SECOND_KEY"}, "SECOND_KEY"),
        ("second", {"kind": "openai"}, "OPENAI_API_KEY"),
    ],
)
def test_the_key_comes_from_one_variable(name: str, declared: dict[str, Any], variable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = providers.provider(name, declared)
    assert providers.key_env(provider) == variable
    if variable:
        monkeypatch.delenv(variable, raising=False)
        assert providers.missing_key(provider) == f'provider "{name}" has no key: set the environment variable {variable}'
    with providers.replaying():
        assert providers.missing_key(provider) is None


def test_options_a_kind_does_not_know_are_named() -> None:
    assert list(providers.problems(providers.provider("x", {"kind": "recorded", "options": {"file": "a"}}))) == [
        'options.file: kind "recorded" has no such option; it knows: path',
        'options.path: kind "recorded" needs it',
    ]


def test_a_package_can_add_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    point = importlib.metadata.EntryPoint("mine", "cascade.providers:KINDS", "cascade.providers")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group, name="mine": [point] if (group, name) == ("cascade.providers", "mine") else [])
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: providers.KINDS["ollama"])
    assert providers.kind_names()[-1] == "mine"
    assert providers.provider("mine").base_url == "http://127.0.0.1:11434/v1"
    with pytest.raises(KeyError):
        providers.kind("theirs")


# ---------------------------------------------------------------- the clouds


def ask(provider: Any, model: str = "m") -> Answer:
    async def main() -> Answer:
        adapter = providers.build(provider)
        try:
            return await adapter(Call(f"{provider.name}/{model}", (Message("user", "x"),), None, Document({"max_tokens": 5}), timeout=5.0))
        finally:
            await adapter.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "options", "base", "path", "header", "key"),
    [
        ("azure", {}, "", "/openai/v1/chat/completions", "authorization", "Bearer k1"),
        ("azure", {"api_version": "2025-04-01"}, "", "/openai/deployments/m/chat/completions?api-version=2025-04-01", "api-key", "k1"),
        ("foundry", {}, "/anthropic", "/anthropic/v1/messages", "x-api-key", "k1"),
        ("bedrock", {"region": "eu-west-1"}, "", "/model/m/invoke", "authorization", "Bearer k1"),
        ("vertex", {"region": "eu", "project": "p"}, "", "/projects/p/locations/eu/publishers/anthropic/models/m:rawPredict", "authorization", "Bearer k1"),
        ("gemini", {}, "/v1beta/openai", "/v1beta/openai/chat/completions", "authorization", "Bearer k1"),
    ],
)  # fmt: skip
def test_a_clouds_client_knows_its_address_and_its_key(
    kind: str, options: dict[str, Any], base: str, path: str, header: str, key: str, server: stub.Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_KEY", "k1")
    server.will(stub.messages() if kind in ("foundry", "bedrock", "vertex") else stub.chat())
    provider = providers.provider("c", {"kind": kind, "base_url": server.url + base, "api_key_env": "CLOUD_KEY", "options": options})
    assert ask(provider).text == "hi"
    assert (server.requests[0].path, server.requests[0].headers[header]) == (path, key)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("azure", "has no address: set base_url or AZURE_OPENAI_ENDPOINT"), ("bedrock", "region"), ("vertex", "region"), ("foundry", "resource")],
)
def test_a_cloud_without_address_or_region_says_so(kind: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_KEY", "k1")
    with pytest.raises(ConfigurationError, match=says):
        ask(providers.provider("c", {"kind": kind, "api_key_env": "CLOUD_KEY"}))


# ---------------------------------------------------------------- what errors say


@pytest.mark.parametrize(
    ("header", "milliseconds", "seconds"),
    [
        ("7", None, 7.0),
        ("0.5", None, 0.5),
        ("7", "1500", 1.5),
        (formatdate(time.time() - 60, usegmt=True), None, 0.0),
        ("soon", None, None),
        ("-3", None, None),
        ("nan", None, None),
        ("inf", None, None),
        ("99999999999", None, None),
        (None, None, None),
        ("", "", None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(header: str | None, milliseconds: str | None, seconds: float | None) -> None:
    assert retry_after(header, milliseconds) == seconds


def test_retry_after_may_be_a_date() -> None:
    wait = retry_after(formatdate(time.time() + 90, usegmt=True))
    assert wait is not None
    assert 80 < wait <= 90


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\nb\x1b[31m\u202ec", "a b [31m c"),
        ("key sk-proj-abcdefghijklmnop was refused", "key [secret] was refused"),
        ("sent Authorization: Bearer abc.def", "sent Authorization: [secret]"),
        ("x" * 1000, "x" * 299 + "…"),
        ("", ""),
    ],
)
def test_what_a_provider_says_is_one_clean_line_without_secrets(said: str, shown: str) -> None:
    assert clean(said) == shown


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_call_that_a_foreign_cassette_does_not_hold_is_no_outage(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vcr

    monkeypatch.setenv("KEY", "k1")
    provider = providers.provider("c", {"kind": kind, "base_url": "http://127.0.0.1:9", "api_key_env": "KEY"})
    with vcr.VCR(record_mode="none").use_cassette(str(tmp_path / "none.yaml")), pytest.raises(MissingRecording, match="c/m"):
        ask(provider)


def test_an_open_cassette_and_the_switch_both_choose_the_transport_that_recorders_see() -> None:
    import vcr

    from cascade.providers import transport

    assert not transport.plain()
    with transport.use_plain_transport():
        assert transport.plain()
    with vcr.VCR(record_mode="none").use_cassette("never-written.yaml"):
        assert transport.plain()
    assert not transport.plain()
