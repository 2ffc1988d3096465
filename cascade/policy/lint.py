"""What a sound policy may still do wrong: rungs that do nothing, thresholds that cannot be reached, judges of their own work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Literal

from cascade import partial, prices, providers, verifiers
from cascade.policy import fields
from cascade.policy.load import Loaded
from cascade.policy.mistakes import near
from cascade.policy.source import Loc, name
from cascade.types import Gate, Policy, Tier

Level = Literal["error", "warning", "info"]

RETIRED = {
    "gpt-5": date(2026, 12, 11), "gpt-5-mini": date(2026, 12, 11), "gpt-5-nano": date(2026, 12, 11),
    "gpt-4o": date(2027, 1, 14), "gpt-4o-mini": date(2027, 1, 14), "gpt-4.1": date(2027, 1, 14), "gpt-4.1-mini": date(2027, 1, 14),
}  # fmt: skip
"""Models their provider stops serving, and when."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `code` is its stable name; `line` and `column` count from 1."""

    level: Level
    code: str
    line: int
    column: int
    where: str
    message: str


def lint(loaded: Loaded, env: Mapping[str, str]) -> list[Finding]:
    """All findings in the order of the file; `env` is the environment the policy will run in."""
    policy = replace(loaded.declared, watch=loaded.policy.watch)
    found: list[Finding] = []

    def tell(level: Level, code: str, loc: Loc, message: str) -> None:
        if loc[:1] == ("tiers",) and loc[2:3] == ("gates",):
            loc = loaded.gate_places[int(loc[1]), int(loc[3])]  # perhaps among the policy's gates
        line, column = loaded.source.at(loc, key=loc[:1] in (("compare",), ("pricing",)))
        found.append(Finding(level, code, line, column, name(loc), message))

    for rule in (_rungs, _parts, _thresholds, _judges, _samples, _windows, _unpriced, _unused, _too_dear, _unknown_fields, _retiring, _keys, _beside,
                 _unaudited):
        for level, code, loc, message in rule(policy, env):
            tell(level, code, loc, message)
    if policy.schema is None and not policy.caller_schema:
        tell("info", "no-schema", (), "there is no schema: answers are text, and only your own gates look at them")
    for i in loaded.schema_added:
        tell("info", "schema-added", ("tiers", i), "the schema gate is put before its gates, since the policy has a schema")
    return sorted(dict.fromkeys(found), key=lambda f: (f.line, f.column, f.code))


Found = Iterator[tuple[Level, str, Loc, str]]


def _rungs(policy: Policy, env: Mapping[str, str]) -> Found:
    seen: dict[tuple[object, ...], str] = {}
    for i, tier in enumerate(policy.tiers):
        if not tier.gates and i + 1 < len(policy.tiers):
            above = ", ".join(t.name for t in policy.tiers[i + 1 :])
            yield "warning", "dead-rung", ("tiers", i), f"{tier.name} has no gates and accepts everything: {above} is asked on errors only"
        same = (tier.model, str(sorted(tier.params.items(), key=str)), tier.carry, tier.max_tokens)
        if same in seen:
            yield "warning", "same-rung", ("tiers", i), f"{tier.name} asks the same model in the same way as {seen[same]}"
        seen[same] = tier.name
        below = policy.tiers[i - 1] if i else None
        if below and (cheaper := _dearness(policy, tier)) is not None and (dear := _dearness(policy, below)) is not None and cheaper < dear:
            yield "warning", "order", ("tiers", i), f"{tier.name} is cheaper than {below.name} below it: the ladder goes from cheap to dear"


def _parts(policy: Policy, env: Mapping[str, str]) -> Found:
    """Where `escalate: partial` never has an effect, or costs what it saves."""
    why = partial.uncut(policy.schema)
    for i, tier in enumerate(policy.tiers):
        loc: Loc = ("tiers", i, "escalate")
        if tier.escalate != "partial":
            continue
        if not i:
            yield "warning", "first-partial", loc, f"{tier.name} is the first tier: there is no answer of which it could be asked for a part"
        elif why is not None:
            yield "warning", "whole-schema", loc, f"{tier.name} always answers the whole: the schema cannot be cut, {why}"
        elif asking := [gate.name for gate in tier.gates if gate.asks]:
            yield ("info", "whole-votes", loc,
                   f"{asking[0]} of {tier.name} asks for whole answers beside the part: what the part saves may be spent there")


def _beside(policy: Policy, env: Mapping[str, str]) -> Found:
    for key, share in (("shadow", policy.shadow), ("audit", policy.audit)):
        if share > 0 and len(policy.tiers) == 1:
            yield "warning", f"lone-{key}", (key,), f"{key} does nothing on a ladder of one tier: there is no last tier beside the one that is served"


def _unaudited(policy: Policy, env: Mapping[str, str]) -> Found:
    if policy.watch is not None and len(policy.tiers) > 1 and not policy.audit and not policy.shadow:
        yield "info", "unaudited", ("thresholds",), ("nothing tells when these thresholds no longer hold: audit: 0.02 asks the last tier "
                                                     "about a fiftieth of the accepted answers, see docs/monitor.md")


def _dearness(policy: Policy, tier: Tier) -> Decimal | None:
    unit = _price(policy, tier.model)
    return None if unit is None else unit.input * 3 + unit.output


def _thresholds(policy: Policy, env: Mapping[str, str]) -> Found:
    for loc, _, gate in _gates(policy):
        if gate.threshold == 0 and gate.accept_at is None:
            yield "warning", "open-gate", loc, f"the threshold 0 of {gate.name} is reached by every score"
        if gate.kind in ("consistency", "agreement"):
            voices = verifiers.calls(gate.kind, gate.options) + (gate.kind == "consistency")
            # shares are rounded to two places, so that 0.67 means two of three
            reached = min(share for k in range(voices + 1) if (share := round(k / voices, 2)) >= gate.threshold)
            if reached - gate.threshold > 0.005:
                yield ("info" if reached < 1 else "warning", "threshold-steps", loc,
                       f"{gate.name} scores in steps of 1/{voices}: the threshold {gate.threshold:g} acts as {reached:g}")


def _judges(policy: Policy, env: Mapping[str, str]) -> Found:
    for loc, tier, gate in _gates(policy):
        for model in verifiers.models(gate.kind, gate.options):
            if model == tier.model and gate.kind == "judge":
                yield "warning", "judge-is-maker", loc, f"{model} judges its own answers: models prefer what they wrote themselves"
            elif model == tier.model and not gate.options.get("prompt"):
                message = f"{gate.name} asks the tier's own model {model} the same: use consistency, another form (prompt), or another maker's"
                yield "warning", "same-voice", loc, message
            elif gate.kind == "judge" and model.partition("/")[0] == tier.model.partition("/")[0] and _maker(policy, model):
                yield "info", "judge-of-the-house", loc, f"{model} and {tier.model} are of one maker; another maker's judge errs otherwise"


def _maker(policy: Policy, model: str) -> bool:
    return policy.providers[model.partition("/")[0]].kind in ("openai", "anthropic", "gemini", "mistral", "deepseek", "xai")


def _samples(policy: Policy, env: Mapping[str, str]) -> Found:
    for loc, tier, gate in _gates(policy):
        if gate.kind == "consistency":
            provider = policy.providers[tier.model.partition("/")[0]]
            forms = len(gate.options.get("prompts") or ())
            if forms < verifiers.calls(gate.kind, gate.options) and providers.capabilities(provider, tier.model, tier.params).deterministic:
                yield ("warning", "same-samples", loc,
                       f"{tier.model} answers the same each time with these params (temperature 0): its samples always agree")


def _windows(policy: Policy, env: Mapping[str, str]) -> Found:
    for i, tier in enumerate(policy.tiers[1:], 1):
        here, below = context_window(policy, tier.model), context_window(policy, policy.tiers[i - 1].model)
        if here and below and here < 0.9 * below:  # a few per cent are a rounding, not a smaller window
            yield ("warning", "smaller-window", ("tiers", i),
                   f"{tier.name} has a context window of {here} tokens, {policy.tiers[i - 1].name} below it {below}")


def context_window(policy: Policy, model: str) -> int | None:
    """The model's context window in tokens by the price table; None when it does not say."""
    from genai_prices import data_snapshot

    table = providers.kind(policy.providers[model.partition("/")[0]].kind).prices
    if table is None:
        return None
    try:
        _, info = data_snapshot.get_snapshot().find_provider_model(model.partition("/")[2], None, table, None)
    except LookupError:
        return None
    window: int | None = info.context_window
    return window


def _unpriced(policy: Policy, env: Mapping[str, str]) -> Found:
    for loc, model in _models(policy):
        if _price(policy, model) is None:
            yield "warning", "unpriced", loc, f"{model} has no price: its cost is unknown, and no budget holds it; set it under pricing"


def _unused(policy: Policy, env: Mapping[str, str]) -> Found:
    models = dict.fromkeys(model for _, model in _models(policy))
    bare = {model.partition("/")[2] for model in models}
    for ref in policy.pricing:
        if ref not in models and ref not in bare:
            yield "warning", "unused-price", ("pricing", ref), f"no tier and no gate asks {ref}{near(ref, models)}"


def _too_dear(policy: Policy, env: Mapping[str, str]) -> Found:
    """The budget sets a call's worst case aside before it is made."""
    budget = policy.budget_per_request
    sure = sum(len(t.source.encode()) for t in (policy.prompt, policy.system) if t) + (len(str(policy.schema.json)) if policy.schema else 0)
    for i, tier in enumerate(policy.tiers):
        unit = _price(policy, tier.model)
        if budget is None or unit is None:
            continue
        most = unit.most(sure, tier.max_tokens)
        if most > budget:
            yield ("warning", "over-budget", ("tiers", i), f"{tier.name} is never asked: one call may cost ${most:.6f}, the request's budget "
                   f"is ${budget:f}; lower max_tokens or raise budget.per_request")


def _unknown_fields(policy: Policy, env: Mapping[str, str]) -> Found:
    named: list[tuple[Loc, str]] = [(("compare", key), key) for key in policy.compare]
    named += [(loc, key) for loc, _, gate in _gates(policy) for key in gate.options.get("fields", ())]
    for loc, key in named:
        found = fields.find(key, policy.schema)
        if found.state == "open":
            yield "warning", "unknown-field", loc, f"the schema does not name the field {key!r}{found.hint}; if no answer has it, it always agrees"


def _retiring(policy: Policy, env: Mapping[str, str]) -> Found:
    for loc, model in _models(policy):
        ends = RETIRED.get(model.partition("/")[2])
        if ends:
            yield "warning", "retired", loc, f"{model} is served until {ends.isoformat()} only"


def _keys(policy: Policy, env: Mapping[str, str]) -> Found:
    told: set[str] = set()
    for loc, model in _models(policy):
        provider = policy.providers[model.partition("/")[0]]
        name = providers.key_env(provider)
        if name and not env.get(name) and name not in told:
            told.add(name)
            yield "warning", "no-key", loc, f"the environment variable {name} is not set: {provider.name} cannot be asked"
        redirect = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL"}.get(provider.kind)
        if redirect and provider.base_url is None and env.get(redirect) and redirect not in told:
            told.add(redirect)
            yield "warning", "redirected", loc, f"{redirect} is set: calls to {provider.name} go to {env[redirect]}"


# ---------------------------------------------------------------- walking


def _gates(policy: Policy) -> Iterator[tuple[Loc, Tier, Gate]]:
    for i, tier in enumerate(policy.tiers):
        for j, gate in enumerate(tier.gates):
            yield ("tiers", i, "gates", j), tier, gate


def _models(policy: Policy) -> Iterator[tuple[Loc, str]]:
    seen: set[str] = set()
    for i, tier in enumerate(policy.tiers):
        for loc, model in [(("tiers", i, "model"), tier.model)] + [
            (("tiers", i, "gates", j), m) for j, g in enumerate(tier.gates) for m in verifiers.models(g.kind, g.options)
        ]:
            if model not in seen:
                seen.add(model)
                yield loc, model


def _price(policy: Policy, model: str) -> prices.UnitPrices | None:
    return prices.unit_prices(model, policy.pricing, providers.kind(policy.providers[model.partition("/")[0]].kind).prices)


