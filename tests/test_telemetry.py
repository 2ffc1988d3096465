"""What OpenTelemetry hears, by the SDK's own in-memory exporter."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from importlib.metadata import entry_points
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from cascade import Cascade, telemetry, tools
from cascade.errors import Overloaded
from cascade.policy.load import load_text
from cascade.telemetry.otel import CascadeInstrumentor
from cascade.types import Answer, CacheSettings, Call, Usage

POLICY = """
version: 1
name: sums
prompt: "SECRET {{ question }}"
schema: {type: object, properties: {sum: {type: integer}}, required: [sum]}
providers: {p: {kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null}}
pricing: {p/small: {input: 1, output: 2}, p/big: {input: 10, output: 20}}
defaults: {retries: 0, max_tokens: 99}
tiers: [{name: small, model: p/small}, {name: big, model: p/big}]
"""


class Heard:
    """An exporter and a reader, and what they have."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[tuple[dict[str, Any], int, float]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        every = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics if m.name == name]
        return [(dict(p.attributes or {}), p.count, p.sum) for m in every for p in m.data.data_points]  # type: ignore[union-attr]


@pytest.fixture
def heard(request: pytest.FixtureRequest) -> Iterator[Heard]:
    found = Heard()
    instrumentor = CascadeInstrumentor()
    instrumentor.instrument(tracer_provider=found.tracers, meter_provider=found.meters, **getattr(request, "param", {}))
    yield found
    instrumentor.uninstrument()


def cascade(said: dict[str, Any], backend: str = "off") -> Cascade:
    async def ask(call: Call) -> Answer:
        found = said[call.model.partition("/")[2]]
        if isinstance(found, Exception):
            raise found
        return Answer(found, usage=Usage(10, 5, 4, 3, 2), cost_usd=Decimal("0.01"), model="small-2026")

    return Cascade(load_text(POLICY, "sums.yaml"), ask=ask, cache=CacheSettings(backend=backend))


ESCALATES = {"small": '{"sum": "x"}', "big": '{"sum": 4}'}


def test_a_request_is_a_span_and_each_call_in_it_is_one(heard: Heard) -> None:
    outcome = cascade(ESCALATES).run({"question": "2 and 2"}, id="1")
    (request,) = heard.spans("cascade sums")
    (small,), (big,) = heard.spans("chat small"), heard.spans("chat big")
    assert [span.parent.span_id for span in (small, big) if span.parent] == [request.context.span_id] * 2  # type: ignore[union-attr]
    assert dict(request.attributes or {}) == {
        "cascade.policy": "sums", "cascade.policy.label": outcome.policy, "cascade.status": "accepted", "cascade.tier": "big", "cascade.cached": False,
        "cascade.cost_usd": 0.02}
    assert (small.kind, dict(small.attributes or {})) == (SpanKind.CLIENT, {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "server.address": "127.0.0.1", "server.port": 9,
        "gen_ai.request.model": "small", "gen_ai.request.max_tokens": 99, "gen_ai.response.model": "small-2026",
        "gen_ai.response.finish_reasons": ("stop",), "gen_ai.output.type": "json", "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4, "gen_ai.usage.cache_creation.input_tokens": 3, "gen_ai.usage.reasoning.output_tokens": 2,
        "cascade.cost_usd": 0.01, "cascade.cached": False, "cascade.sample": 0, "cascade.retries": 0})


def test_verdicts_are_evaluation_results(heard: Heard) -> None:
    cascade(ESCALATES).run({"question": "2 and 2"})
    (request,) = heard.spans("cascade sums")
    assert [(event.name, dict(event.attributes or {})) for event in request.events] == [
        ("gen_ai.evaluation.result", {"gen_ai.evaluation.name": "schema", "gen_ai.evaluation.score.label": label,
                                      "gen_ai.evaluation.score.value": score, "cascade.tier": tier})
        for tier, label, score in (("small", "fail", 0.0), ("big", "pass", 1.0))]


def test_tokens_seconds_and_dollars_are_measured(heard: Heard) -> None:
    cascade(ESCALATES).run({"question": "2 and 2"})
    tokens = {(a["gen_ai.request.model"], a["gen_ai.token.type"]): total for a, _, total in heard.points("gen_ai.client.token.usage")}
    assert tokens == {("small", "input"): 10, ("small", "output"): 5, ("big", "input"): 10, ("big", "output"): 5}
    assert sum(count for _, count, _ in heard.points("gen_ai.client.operation.duration")) == 2
    ended = {"cascade.policy": "sums", "cascade.status": "accepted", "cascade.tier": "big"}
    assert heard.points("cascade.request.cost") == [(ended, 1, 0.02)]
    assert [(a, count) for a, count, _ in heard.points("cascade.request.duration")] == [(ended, 1)]


def test_what_fails_says_how(heard: Heard) -> None:
    cascade({"small": Overloaded("529"), "big": Overloaded("529")}).run({"question": "2 and 2"})
    (call,) = heard.spans("chat small")
    (request,) = heard.spans("cascade sums")
    assert ((call.attributes or {})["error.type"], call.status.status_code, request.status.status_code) == ("overloaded", StatusCode.ERROR, StatusCode.ERROR)
    assert {a["error.type"] for a, _, _ in heard.points("gen_ai.client.operation.duration")} == {"overloaded"}


def test_what_a_cache_gives_is_a_request_without_a_call_and_what_is_shared_is_counted_once(heard: Heard) -> None:
    one = cascade({"small": '{"sum": 4}', "big": ""}, backend="memory")

    async def twice_and_again() -> None:
        await asyncio.gather(one.arun({"question": "2 and 2"}), one.arun({"question": "2 and 2"}))
        await one.arun({"question": "2 and 2"})

    asyncio.run(twice_and_again())
    assert [(span.attributes or {})["cascade.cached"] for span in heard.spans("cascade sums")].count(True) == 2
    assert len(heard.spans("chat small")) == 1
    assert sum(count for _, count, _ in heard.points("gen_ai.client.token.usage")) == 2


def test_a_recording_is_a_request_too(heard: Heard) -> None:
    cascade(ESCALATES).record({"question": "2 and 2"})
    assert [(span.attributes or {})["cascade.mode"] for span in heard.spans("cascade sums")] == ["record"]


def told(heard: Heard) -> str:
    return json.dumps([span.to_json() for span in heard.exporter.get_finished_spans()])


def test_no_text_is_told_unasked(heard: Heard) -> None:
    cascade(ESCALATES).run({"question": "2 and 2"})
    assert "SECRET" not in told(heard)
    assert "2 and 2" not in told(heard)
    assert "is not" not in told(heard), "nor a verdict's reason, which quotes the answer"


@pytest.mark.parametrize("heard", [{"content": True}], indirect=True)
def test_text_is_told_where_it_is_asked_for(heard: Heard) -> None:
    cascade(ESCALATES).run({"question": "2 and 2"})
    (small,) = heard.spans("chat small")
    assert json.loads(str((small.attributes or {})["gen_ai.input.messages"])) == [{"role": "user", "parts": [{"type": "text", "content": "SECRET 2 and 2"}]}]
    assert json.loads(str((small.attributes or {})["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": '{"sum": "x"}'}], "finish_reason": "stop"}]
    (request,) = heard.spans("cascade sums")
    assert "gen_ai.evaluation.explanation" in (request.events[0].attributes or {})


@pytest.mark.parametrize("heard", [{"content": True}], indirect=True)
def test_tools_and_pictures_are_told_as_the_conventions_name_them(heard: Heard) -> None:
    async def ask(call: Call) -> Answer:
        return Answer(tools.written("Hm.", [("add", '{"a": 2}')]), "tool_calls", Usage(1, 1), Decimal(0), model="m")

    made = Cascade(load_text(POLICY.replace('prompt: "SECRET {{ question }}"', "prompt: messages"), "sums.yaml"), ask=ask, cache=CacheSettings(backend="off"))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    calls = [{"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    made.run({"messages": [{"role": "user", "content": [{"type": "text", "text": "Add."}, picture]}, {"role": "assistant", "content": None, "tool_calls": calls},
                           {"role": "tool", "tool_call_id": "c", "content": "4"}],
              "tools": [{"type": "function", "function": {"name": "add"}}]})  # fmt: skip
    (small,) = heard.spans("chat small")
    assert json.loads(str((small.attributes or {})["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "Add."}, {"type": "uri", "modality": "image", "uri": "(left out)"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "call00000", "name": "add", "arguments": "{}"}]},
        {"role": "user", "parts": [{"type": "tool_call_response", "id": "call00000", "response": "4"}]}]  # fmt: skip
    assert json.loads(str((small.attributes or {})["gen_ai.output.messages"])) == [{"role": "assistant", "finish_reason": "tool_call", "parts": [
        {"type": "text", "content": "Hm."}, {"type": "tool_call", "name": "add", "arguments": {"a": 2}}]}]  # fmt: skip


def test_opentelemetry_instrument_finds_it() -> None:
    (found,) = entry_points(group="opentelemetry_instrumentor", name="cascade")
    assert found.load() is CascadeInstrumentor


def test_without_it_nobody_listens_and_nothing_is_imported() -> None:
    assert telemetry.active is None
    code = "import sys, cascade.app; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
