"""What a request costs and takes at best and at worst, tier by tier, before any is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

import orjson

from cascade import partial, prices, providers, verifiers
from cascade.types import Gate, Policy, Template, Tier
from cascade.verifiers._stop import most_rounds, needed, rounds_to_pass

ZERO = Decimal(0)
INPUT_BYTES = 4000
"""What the inputs are taken to add to the templates where no prompt is known: about 1,000 tokens of English."""
ANSWER_BYTES = 8
"""Bytes of an answer's token, for drafts that are shown again."""
REASON_BYTES = 1000
"""Bytes of one gate's reason, which a repair or the next tier is shown."""
PART_BYTES = 1000
"""Bytes of what a tier is told beside the fields that are kept, when it is asked for a part."""
JUDGED = 4
"""A judge sees inputs and answer as JSON within JSON: a quote takes four bytes."""


@dataclass(frozen=True, slots=True)
class TierBounds:
    """One tier's share. `best_usd`: its first answer is accepted. `calls` are those it makes then and at most. None: no price."""

    tier: str
    best_usd: Decimal | None
    worst_usd: Decimal | None
    worst_seconds: float
    calls: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Dollars and seconds of one request. `best`: the first tier's first answer, a short one, is accepted after `best_rounds` calls
    one after the other. `worst`: every tier, repair, vote and judge at its longest, within budget and deadline, after `worst_rounds` calls
    one after the other. None: a model has no price; `unpriced` names those. `prompt_bytes` is what the prompt was taken to have."""

    best_usd: Decimal | None
    worst_usd: Decimal | None
    best_rounds: int
    worst_rounds: int
    worst_seconds: float
    prompt_bytes: int
    unpriced: tuple[str, ...]
    tiers: tuple[TierBounds, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    """A kind of call that a tier makes: how often, and of how many bytes, at best and at most; `out` tokens at most."""

    model: str
    times: tuple[int, int]
    size: tuple[int, int]
    out: int


def bounds(policy: Policy, prompt_bytes: int | None = None, *, batch: bool = False) -> Bounds:
    """The bounds for prompts of that many bytes; a token is at least one byte, so at worst each byte is one. `batch`: at the rates of
    Batch APIs, where a model has one.

    Retries cost nothing: what is retried was not answered. Where no size is given it is the templates' own and INPUT_BYTES.
    """
    size = prompt_bytes if prompt_bytes is not None else INPUT_BYTES + sum(_length(t) for t in (policy.prompt, policy.system) if t)
    calls = {tier.name: list(_calls(policy, i, size)) for i, tier in enumerate(policy.tiers)}
    priced = {call.model: price(policy, call.model, batch) for each in calls.values() for call in each}
    tiers = tuple(_tier(policy, tier, calls[tier.name], priced) for tier in policy.tiers)
    unpriced = tuple(model for model, unit in priced.items() if unit is None)
    worst, seconds = _sum([tier.worst_usd for tier in tiers]), sum(tier.worst_seconds for tier in tiers)
    if worst is not None and policy.budget_per_request is not None:
        worst = min(worst, policy.budget_per_request)
    rounds = sum(_answers(policy, tier) * (1 + _rounds(tier)) for tier in policy.tiers)
    return Bounds(tiers[0].best_usd, worst, 1 + _rounds(policy.tiers[0], best=True), rounds, min(seconds, policy.deadline or seconds), size,
                  unpriced, tiers)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """What one request asks of a model, at best and at most: calls, and tokens of all of them together."""

    calls: tuple[int, int] = (0, 0)
    input: tuple[int, int] = (0, 0)
    output: tuple[int, int] = (0, 0)


def loads(policy: Policy, prompt_bytes: int) -> dict[str, Load]:
    """By model, under the assumptions of `bounds`: at best the first tier's first answer, at a quarter of a token a byte and 50 tokens an
    answer; at most all calls of all tiers, a token a byte and answers as long as they may be. Budget and deadline are left out."""
    found: dict[str, Load] = {}
    for i in range(len(policy.tiers)):
        for call in _calls(policy, i, prompt_bytes):
            now, fewest, most = found.get(call.model, Load()), call.times[0] if i == 0 else 0, call.times[1]
            found[call.model] = Load(
                (now.calls[0] + fewest, now.calls[1] + most),
                (now.input[0] + fewest * (call.size[0] // 4), now.input[1] + most * call.size[1]),
                (now.output[0] + fewest * min(50, call.out), now.output[1] + most * call.out))
    return found


def _tier(policy: Policy, tier: Tier, calls: list[_Call], priced: Mapping[str, prices.UnitPrices | None]) -> TierBounds:
    best = _sum([_least(priced[call.model], call) for call in calls])
    worst = _sum([_most(priced[call.model], call) for call in calls])
    seconds = tier.timeout * _answers(policy, tier) * (1 + _rounds(tier))
    return TierBounds(tier.name, best, worst, seconds, (sum(c.times[0] for c in calls), sum(c.times[1] for c in calls)))


def _calls(policy: Policy, i: int, prompt: int) -> Iterator[_Call]:
    """What one tier may ask: itself, and its gates for each of its answers (a vote that was lost is asked for again)."""
    tier = policy.tiers[i]
    size = prompt + (len(orjson.dumps(policy.schema.json)) if policy.schema else 0)
    answers = _answers(policy, tier)
    first = size + (_carried(policy, i) if i else 0)
    yield _Call(tier.model, (1, answers), (size, first + (_told_again(tier) if tier.repair else 0)), tier.max_tokens)
    sure = False
    for gate in tier.gates:
        count = verifiers.calls(gate.kind, gate.options)
        models = verifiers.models(gate.kind, gate.options) or (tier.model,)
        fewest = 0 if sure and not gate.early else _fewest(gate, count)
        sure = sure or gate.accept_at is not None
        text = _own_text(gate)
        sizes = (size + text, first + text)
        if gate.kind not in ("agreement", "consistency"):
            answer = sum(t.max_tokens for t in policy.tiers[: i + 1]) if _in_part(policy, tier) else tier.max_tokens
            sizes = (size + text, JUDGED * (prompt + answer * ANSWER_BYTES) + text)
        for model in models if count else ():
            each = count // len(models)
            yield _Call(model, (fewest // len(models), each * answers), sizes, verifiers.max_tokens(gate.kind, gate.options) or tier.max_tokens)


def _told_again(tier: Tier) -> int:
    """Bytes of the tier's draft, and of what was wrong with it."""
    return tier.max_tokens * ANSWER_BYTES + REASON_BYTES * max(1, len(tier.gates))


def _answers(policy: Policy, tier: Tier) -> int:
    """How often a tier may answer: to a part, and when that fails to the whole, with its repairs."""
    return 1 + tier.repair + _in_part(policy, tier)


def _in_part(policy: Policy, tier: Tier) -> bool:
    return tier.escalate == "partial" and tier is not policy.tiers[0] and partial.uncut(policy.schema) is None


def _carried(policy: Policy, i: int) -> int:
    """Bytes that a tier is shown of the last try: what is kept of it or, where a part was not enough, what its own came to."""
    tier, in_part = policy.tiers[i], _in_part(policy, policy.tiers[i])
    tries = policy.tiers[i - 1 : i + 1] if in_part else policy.tiers[i - 1 : i]
    merged = any(_in_part(policy, below) for below in policy.tiers[: i + in_part])
    draft = 2 * ANSWER_BYTES * sum(below.max_tokens for below in (policy.tiers[: i + 1] if merged else tries))
    errors = REASON_BYTES * max(1, *(len(below.gates) for below in tries))
    shown = {"nothing": 0, "errors": errors, "draft": errors + draft}[tier.carry]
    schema = len(orjson.dumps(policy.schema.json)) if policy.schema else 0  # it tells, once more, which fields are asked for
    return shown + (draft + schema + PART_BYTES if in_part else 0)


def _own_text(gate: Gate) -> int:
    """Bytes of the gate's own prompt and rubric, and of the lines around what is judged."""
    return _text_in(list(gate.options.values())) + 500


def _text_in(option: object) -> int:
    if isinstance(option, str):
        return len(option.encode())
    if isinstance(option, Template):
        return _length(option)
    inner = option.values() if isinstance(option, dict) else option if isinstance(option, list | tuple) else ()
    return sum(_text_in(value) for value in inner)


def _length(template: Template) -> int:
    return len(template.source.encode())


def _rounds(tier: Tier, best: bool = False) -> int:
    """Waits for calls, one gate after the other. Agreement's are made beside the answer, unless they are lost and asked again."""
    last = next((i for i, gate in enumerate(tier.gates) if gate.accept_at is not None), len(tier.gates)) if best else len(tier.gates)
    return sum(_waits(gate, best) for gate in tier.gates[: last + 1] if verifiers.calls(gate.kind, gate.options))


def _waits(gate: Gate, best: bool) -> int:
    if gate.early:
        return 0 if best else 1
    if gate.kind != "consistency" or gate.enough is None:
        return 1
    samples = verifiers.calls(gate.kind, gate.options) + 1
    need = needed(samples, gate.threshold)
    return rounds_to_pass(samples, need) if best else most_rounds(samples, need)


def _fewest(gate: Gate, calls: int) -> int:
    """The calls of a gate that passes: samples stop when that is sure."""
    return max(0, needed(calls + 1, gate.threshold) - 1) if gate.kind == "consistency" and gate.enough is not None else calls


def price(policy: Policy, model: str, batch: bool = False) -> prices.UnitPrices | None:
    """What a model of the ladder costs, None when nobody says; `batch`: in a batch, where it has a Batch API."""
    provider = policy.providers[model.partition("/")[0]]
    tier = prices.BATCH if batch and providers.capabilities(provider, model).batch else None
    return prices.unit_prices(model, policy.pricing, providers.kind(provider.kind).prices, tier)


def _most(unit: prices.UnitPrices | None, call: _Call) -> Decimal | None:
    return None if unit is None else call.times[1] * unit.most(call.size[1], call.out)


def _least(unit: prices.UnitPrices | None, call: _Call) -> Decimal | None:
    """A quarter of a token a byte, nothing cached, an answer of 50 tokens: what a good day looks like, not a bound."""
    if unit is None:
        return None
    return call.times[0] * ((call.size[0] // 4 * unit.input + min(50, call.out) * unit.output).scaleb(-6) + unit.request)


def _sum(amounts: list[Decimal | None]) -> Decimal | None:
    """None when one of them is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known, ZERO) if len(known) == len(amounts) else None
