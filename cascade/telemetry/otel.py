"""OpenTelemetry by the GenAI conventions: a span for a request, one for each call in it, verdicts as evaluation results, and metrics.

Turned on by `CascadeInstrumentor().instrument()` before the first request, or from outside by `opentelemetry-instrument`. No text of prompts and
answers is told unless OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is true.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import orjson
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # it has no types
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from cascade import telemetry, tools
from cascade.errors import ProviderError
from cascade.outcome import Outcome
from cascade.types import Answer, Ask, Call, Checked, Json, Message, Part, Policy, Provider, Text, ToolCall, ToolResult

CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
PROVIDERS = {"azure": "azure.ai.openai", "bedrock": "aws.bedrock", "vertex": "gcp.vertex_ai", "gemini": "gcp.gemini", "mistral": "mistral_ai",
             "xai": "x_ai"}  # fmt: skip
"""What the conventions call a kind of provider, where it is not its own name."""
TOKENS = [4**n for n in range(14)]
SECONDS = [0.01 * 2**n for n in range(14)]
"""Bucket boundaries that the conventions advise."""
DOLLARS = [10**n / 1e6 for n in range(7)]


class OpenTelemetry:
    """See `cascade.telemetry.Telemetry`. `content`: prompts and answers are told, too."""

    def __init__(self, tracers: trace.TracerProvider | None = None, meters: metrics.MeterProvider | None = None, content: bool = False) -> None:
        ours = version("cascade-judge")
        self._tracer = trace.get_tracer("cascade", ours, tracers)
        meter = metrics.get_meter("cascade", ours, meters)
        self._content = content

        def histogram(name: str, unit: str, told: str, bounds: list[Any]) -> metrics.Histogram:
            return meter.create_histogram(name, unit, told, explicit_bucket_boundaries_advisory=bounds)

        self._tokens = histogram("gen_ai.client.token.usage", "{token}", "Tokens of a call", TOKENS)
        self._seconds = histogram("gen_ai.client.operation.duration", "s", "Seconds of a call", SECONDS)
        self._request = histogram("cascade.request.duration", "s", "Seconds of a request", SECONDS)
        self._cost = histogram("cascade.request.cost", "{USD}", "Dollars of a request, where they are known", DOLLARS)

    async def request(self, policy: Policy, answer: Callable[[], Awaitable[Outcome[Json]]]) -> Outcome[Json]:
        """One span, named after the policy."""
        named = {"cascade.policy": policy.name}
        with self._tracer.start_as_current_span(f"cascade {policy.name}", attributes=named) as span:
            outcome = await answer()
            ended = {**named, "cascade.status": outcome.status, **({"cascade.tier": outcome.tier} if outcome.tier else {})}
            self._request.record(outcome.seconds, ended)
            if outcome.cost_usd is not None:
                self._cost.record(float(outcome.cost_usd), ended)
            if span.is_recording():
                self._tell(span, outcome, ended)
            return outcome

    def _tell(self, span: Span, outcome: Outcome[Json], ended: Mapping[str, str]) -> None:
        span.set_attributes({**ended, "cascade.policy.label": outcome.policy, "cascade.cached": outcome.cached})
        if outcome.cost_usd is not None:
            span.set_attribute("cascade.cost_usd", float(outcome.cost_usd))
        for name, value in (("cascade.mode", outcome.mode), ("cascade.alarm", outcome.alarm)):
            if value:
                span.set_attribute(name, value)
        for event in outcome.trail:
            if isinstance(event, Checked):
                span.add_event("gen_ai.evaluation.result", self._verdict(event))
        if outcome.status == "failed":
            span.set_status(Status(StatusCode.ERROR, (outcome.error or "").partition(":")[0]))

    def _verdict(self, checked: Checked) -> dict[str, Any]:
        label = "pass" if checked.passed else "fail" if checked.score is not None else "unknown"
        found: dict[str, Any] = {"gen_ai.evaluation.name": checked.gate, "gen_ai.evaluation.score.label": label, "cascade.tier": checked.tier}
        if checked.score is not None:
            found["gen_ai.evaluation.score.value"] = checked.score
        if checked.reason and self._content:
            found["gen_ai.evaluation.explanation"] = checked.reason
        return found

    def traced(self, ask: Ask, policy: Policy) -> Ask:
        """One span a call, `chat MODEL`."""
        known = {name: _provider(provider) for name, provider in policy.providers.items()}

        async def told(call: Call) -> Answer:
            name, _, model = call.model.partition("/")
            about = {"gen_ai.operation.name": "chat", **known.get(name, {"gen_ai.provider.name": name}), "gen_ai.request.model": model}
            started = time.perf_counter()
            with self._tracer.start_as_current_span(f"chat {model}", kind=SpanKind.CLIENT, attributes=about, record_exception=False,
                                                    set_status_on_exception=False) as span:
                try:
                    answer = await ask(call)
                except BaseException as err:
                    kind = err.kind if isinstance(err, ProviderError) else type(err).__name__
                    about["error.type"] = kind
                    span.set_attribute("error.type", kind)
                    span.set_status(Status(StatusCode.ERROR, kind))
                    raise
                else:
                    self._answered(span, call, answer, about)
                    return answer
                finally:
                    self._seconds.record(time.perf_counter() - started, about)

        return told

    def _answered(self, span: Span, call: Call, answer: Answer, about: dict[str, Any]) -> None:
        about["gen_ai.response.model"] = answer.model or about["gen_ai.request.model"]
        usage = answer.usage
        if usage is not None and not answer.cached:
            for kind, tokens in (("input", usage.input), ("output", usage.output)):
                self._tokens.record(tokens, {**about, "gen_ai.token.type": kind})
        if not span.is_recording():
            return
        span.set_attributes({"gen_ai.response.model": about["gen_ai.response.model"], "gen_ai.response.finish_reasons": [answer.finish],
                             "gen_ai.output.type": "text" if call.schema is None else "json", "cascade.cached": answer.cached,
                             "cascade.sample": call.sample, "cascade.retries": len(answer.retries)})  # fmt: skip
        if (most := call.params.json.get("max_tokens")) is not None:
            span.set_attribute("gen_ai.request.max_tokens", most)
        if usage is not None:
            span.set_attributes({"gen_ai.usage.input_tokens": usage.input, "gen_ai.usage.output_tokens": usage.output,
                                 "gen_ai.usage.cache_read.input_tokens": usage.cached,
                                 "gen_ai.usage.cache_creation.input_tokens": usage.cache_written,
                                 "gen_ai.usage.reasoning.output_tokens": usage.reasoning})  # fmt: skip
        if answer.cost_usd is not None:
            span.set_attribute("cascade.cost_usd", float(answer.cost_usd))
        if self._content:
            span.set_attribute("gen_ai.input.messages", _messages(call.messages))
            finish = "tool_call" if answer.finish == "tool_calls" else answer.finish
            said = {"role": "assistant", "parts": _said(answer), "finish_reason": finish}
            span.set_attribute("gen_ai.output.messages", orjson.dumps([said]).decode())


class CascadeInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Tells OpenTelemetry of what cascade does; takes `tracer_provider`, `meter_provider` and `content` (default: by the environment)."""

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()

    def _instrument(self, **given: Any) -> None:
        content = given.get("content", os.environ.get(CONTENT, "").lower() in ("true", "1", "span_only", "span_and_event"))
        telemetry.active = OpenTelemetry(given.get("tracer_provider"), given.get("meter_provider"), content)

    def _uninstrument(self, **given: Any) -> None:
        telemetry.active = None


def _provider(provider: Provider) -> dict[str, Any]:
    found: dict[str, Any] = {"gen_ai.provider.name": PROVIDERS.get(provider.kind, provider.kind)}
    if provider.base_url:
        url = urlsplit(provider.base_url)
        found["server.address"] = url.hostname or ""
        if url.port:
            found["server.port"] = url.port
    return found


def _messages(messages: tuple[Message, ...]) -> str:
    """As the conventions write messages; of a picture only that it was there."""
    return orjson.dumps([{"role": m.role, "parts": [_part(part) for part in _parts(m)]} for m in messages]).decode()


def _said(answer: Answer) -> list[dict[str, Any]]:
    if answer.finish != "tool_calls":
        return [{"type": "text", "content": answer.text}]
    calls, said = tools.called(answer.text)
    beside = [{"type": "text", "content": said}] if said else []
    return [*beside, *({"type": "tool_call", "name": call["name"], "arguments": call["arguments"]} for call in calls)]


def _parts(message: Message) -> tuple[Part, ...]:
    return (Text(message.content),) if isinstance(message.content, str) else message.content


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "content": part.text}
    if isinstance(part, ToolCall):
        return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.arguments}
    if isinstance(part, ToolResult):
        return {"type": "tool_call_response", "id": part.id, "response": "\n\n".join(one.text for one in part.content if isinstance(one, Text))}
    return {"type": "uri", "modality": "image", "uri": "(left out)" if part.url.startswith("data:") else part.url}
