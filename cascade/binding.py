"""What recordings and certificates are bound to: a digest for each part of a policy, so that a mismatch can say which part changed. Pure.

Thresholds of gates that ask models are left out: they are what calibration sets. Prices, limits, budgets and names of keys too.
"""

from __future__ import annotations

from collections.abc import Mapping

from cascade import prompts
from cascade.types import Gate, Policy, Tier, digest

LENGTH = 12


def digests(policy: Policy) -> dict[str, str]:
    """A short digest for each part, by the words a person uses for it: "prompt", "schema", "tier small", "tier small: gate sums" …"""
    parts = {
        "prompt": prompts.digest(policy.prompt),
        "system": prompts.digest(policy.system),
        "schema": policy.schema.digest if policy.schema else None,
        "compare": dict(policy.compare),
    }
    found = {name: digest(part)[:LENGTH] for name, part in parts.items() if part}
    for tier in policy.tiers:
        found[f"tier {tier.name}"] = digest(_tier(policy, tier))[:LENGTH]
        for gate in tier.gates:
            if gate.kind == "calibrated":
                continue  # what was learned, not what it was learned from
            found[f"tier {tier.name}: gate {gate.name}"] = digest(_gate(gate))[:LENGTH]
    return found


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, a few words each: "the prompt has changed", "tier small: gate judge is new"; [] when nothing does."""
    found = []
    for name in dict.fromkeys([*then, *now]):
        if name not in now:
            found.append(f"{name} is gone")
        elif name not in then:
            found.append(f"{name} is new")
        elif then[name] != now[name]:
            found.append(f"{name} has changed")
    return found


def _tier(policy: Policy, tier: Tier) -> list[object]:
    provider = policy.providers.get(tier.model.partition("/")[0])
    where = [provider.kind, dict(provider.capabilities)] if provider else None
    return [tier.model, where, dict(tier.params), tier.max_tokens, tier.repair]


def _gate(gate: Gate) -> list[object]:
    options = {key: value for key, value in gate.options.items() if key != "late"}  # when it is asked changes no answer
    return [gate.kind, None if gate.asks else gate.threshold, prompts.by_content(options)]
