"""What a request costs and takes at best and at worst, in dollars and seconds, before any is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import orjson

from cascade import prices, providers, verifiers
from cascade.types import Policy, Tier

ZERO = Decimal(0)
PROMPT_BYTES = 4000
"""The prompt's size that is reckoned with where none is known: about 1,000 tokens of English."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Dollars and seconds of one request. `best`: accepted by the first tier, short answer. `worst`: every tier, repair, vote and
    judge at its longest. None: a model has no price. `unpriced` names those. `prompt_bytes` is what the prompt was taken to have."""

    best_usd: Decimal | None
    worst_usd: Decimal | None
    worst_seconds: float
    prompt_bytes: int
    unpriced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    """A kind of call a tier may make: model, how often at most, most bytes in, most tokens out, at best made at all."""

    model: str
    times: int
    size: int
    out: int
    sure: int
    seconds: float


def bounds(policy: Policy, prompt_bytes: int = PROMPT_BYTES) -> Bounds:
    """The bounds for prompts of that many bytes (a token is at least one byte, so at worst each byte is one)."""
    calls = [(i, call) for i, tier in enumerate(policy.tiers) for call in _calls(policy, tier, prompt_bytes)]
    unpriced = tuple(dict.fromkeys(call.model for _, call in calls if _price(policy, call.model) is None))
    worst = None if unpriced else sum((call.times * _most(policy, call) for _, call in calls), ZERO)
    if worst is not None and policy.budget_per_request is not None:
        worst = min(worst, policy.budget_per_request)
    first = [call for i, call in calls if i == 0]
    best = None if any(call.model in unpriced for call in first) else sum((call.sure * _least(policy, call) for call in first), ZERO)
    seconds = sum(_seconds(policy, tier, prompt_bytes) for tier in policy.tiers)
    return Bounds(best, worst, min(seconds, policy.deadline or seconds), prompt_bytes, unpriced)


def _calls(policy: Policy, tier: Tier, size: int) -> Iterator[_Call]:
    """What one tier may ask: itself with its repairs, and its gates for each of these answers (a vote is paid once)."""
    schema = len(orjson.dumps(policy.schema.json)) if policy.schema else 0
    answer = tier.max_tokens * 8  # bytes of the draft that a repair or a dearer tier is shown
    longest = size + schema + (answer + 2000 if tier.repair or tier.carry != "nothing" else 0)
    yield _Call(tier.model, 1 + tier.repair, longest, tier.max_tokens, 1, tier.timeout)
    for gate in tier.gates:
        count = verifiers.calls(gate.kind, gate.options)
        if not count:
            continue
        models = verifiers.models(gate.kind, gate.options) or (tier.model,)
        judges = gate.kind not in ("agreement", "consistency")
        out = verifiers.max_tokens(gate.kind, gate.options) or tier.max_tokens
        for model in models:
            each = count // len(models)
            yield _Call(model, each * (1 + tier.repair if judges else 1), longest + answer if judges else longest, out, each, tier.timeout)


def _price(policy: Policy, model: str) -> prices.UnitPrices | None:
    provider = policy.providers[model.partition("/")[0]]
    return prices.unit_prices(model, policy.pricing, providers.kind(provider.kind).prices)


def _most(policy: Policy, call: _Call) -> Decimal:
    unit = _price(policy, call.model)
    assert unit is not None
    at = unit.at(call.size)
    return (call.size * max(at.input, at.cache_write or ZERO) + call.out * max(at.output, at.reasoning or ZERO)).scaleb(-6) + at.request


def _least(policy: Policy, call: _Call) -> Decimal:
    """A quarter of a token a byte, nothing cached, an answer of 50 tokens: what a good day looks like, not a bound."""
    unit = _price(policy, call.model)
    assert unit is not None
    return (call.size // 4 * unit.input + min(50, call.out) * unit.output).scaleb(-6) + unit.request


def _seconds(policy: Policy, tier: Tier, size: int) -> float:
    """The tier and its repairs one after the other, and its gates' calls after each answer."""
    gates = sum(1 for gate in tier.gates if verifiers.calls(gate.kind, gate.options))
    return tier.timeout * (1 + tier.repair) * (1 + gates)
