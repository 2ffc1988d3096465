"""What Prometheus scrapes at /metrics: requests, seconds, dollars, tokens and verdicts."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from cascade.outcome import Outcome
from cascade.types import Checked, Failed, Tried

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one gateway. `refused` are requests that were answered with an error before any model was asked."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        where = ("policy", "status", "tier")
        self._requests = Counter("cascade_requests", "Requests, by how they ended", where, registry=self._registry)
        self._seconds = Histogram("cascade_request_seconds", "Seconds of a request", ("policy",), buckets=SECONDS, registry=self._registry)
        self._dollars = Counter("cascade_cost_usd", "Dollars of requests whose cost is known", ("policy",), registry=self._registry)
        self._unpriced = Counter("cascade_unpriced_requests", "Requests whose cost is not known", ("policy",), registry=self._registry)
        self._calls = Counter("cascade_calls", "Calls of models", ("policy", "model", "result"), registry=self._registry)
        self._tokens = Counter("cascade_tokens", "Tokens of calls", ("policy", "model", "kind"), registry=self._registry)
        self._verdicts = Counter("cascade_verdicts", "Verdicts of gates", ("policy", "tier", "gate", "verdict"), registry=self._registry)
        self._reloads = Counter("cascade_reloads", "Policies loaded anew after a change", ("policy", "result"), registry=self._registry)
        self._spoilt = Gauge("cascade_policy_spoilt", "1: the policy's files cannot be loaded, and it is served as it was", ("policy",),
                             registry=self._registry, multiprocess_mode="livemax")
        self._refused = Counter("cascade_refused", "Requests refused before a model was asked", ("kind",), registry=self._registry)

    def ended(self, policy: str, outcome: Outcome) -> None:
        """One more request."""
        self._requests.labels(policy, "cached" if outcome.cached else outcome.status, outcome.tier or "").inc()
        self._seconds.labels(policy).observe(outcome.seconds)
        if outcome.cost_usd is None:
            self._unpriced.labels(policy).inc()
        else:
            self._dollars.labels(policy).inc(float(outcome.cost_usd))
        if outcome.cached:
            return
        for event in outcome.trail:
            if isinstance(event, Tried | Failed):
                self._calls.labels(policy, event.model, event.error if isinstance(event, Failed) else event.finish).inc()
            if isinstance(event, Tried) and event.usage is not None and not event.cached:
                self._tokens.labels(policy, event.model, "input").inc(event.usage.input)
                self._tokens.labels(policy, event.model, "output").inc(event.usage.output)
            if isinstance(event, Checked):
                verdict = "passed" if event.passed else "unknown" if event.score is None else "failed"
                self._verdicts.labels(policy, event.tier, event.gate, verdict).inc()

    def refused(self, kind: str) -> None:
        """One more request that was not asked."""
        self._refused.labels(kind).inc()

    def reloaded(self, policy: str, well: bool) -> None:
        """A policy was loaded anew, or could not be and is served as it was."""
        self._reloads.labels(policy, "loaded" if well else "failed").inc()
        self._spoilt.labels(policy).set(not well)

    def text(self) -> bytes:
        """The page; where several worker processes count, the sums of all of them."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
