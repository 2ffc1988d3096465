"""Which policies a recording can tell of: the same prompt, schema, models and gates; thresholds, order, subsets and budgets may differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cascade import binding
from cascade.types import Checked, Event, Gate, Policy, Tier


class Bound:
    """Holds a policy against what recordings were made with; the answer is kept for each set of digests."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.now = binding.digests(policy)
        self.asking = [gate.name for tier in policy.tiers for gate in tier.gates if gate.asks]
        self.rules = {f"tier {tier.name}: gate {gate.name}": (tier, gate) for tier in policy.tiers for gate in tier.gates if not gate.asks}
        self._known: dict[tuple[tuple[str, str], ...], list[str]] = {}

    def differs(self, then: Mapping[str, str], trail: Sequence[Event]) -> list[str]:
        """What has changed so that the recording tells nothing of the policy, a few words each; [] when it does."""
        key = tuple(then.items())
        if key not in self._known:
            found, sure = self._compare(then, trail)
            if not sure:
                return found
            self._known[key] = found
        return self._known[key]

    def _compare(self, then: Mapping[str, str], trail: Sequence[Event]) -> tuple[list[str], bool]:
        found, sure = [], True
        for name, digest in self.now.items():
            if then.get(name) == digest or name == "compare":
                continue
            if name not in then:
                found.append(f"{name} is new")
            elif name in self.rules:
                recorded = _thresholds(trail, *self.rules[name])
                sure = sure and bool(recorded)
                if recorded and not any(self._with(name, at) == then[name] for at in recorded):
                    found.append(f"{name} has changed")
            else:
                found.append(f"{name} has changed")
        found += [f"{name} is gone" for name in ("prompt", "system", "schema") if name in then and name not in self.now]
        if then.get("compare") != self.now.get("compare") and self.asking:
            found.append(f"compare has changed, and gate {self.asking[0]} was scored by it")
        return found, sure

    def _with(self, name: str, threshold: float) -> str:
        """The part's digest if the gate's threshold were this one: the thresholds of rules are part of it."""
        tier, gate = self.rules[name]
        gates = tuple(replace(g, threshold=threshold) if g is gate else g for g in tier.gates)
        return binding.digests(replace(self.policy, tiers=(replace(tier, gates=gates),)))[name]


def _thresholds(trail: Sequence[Event], tier: Tier, gate: Gate) -> set[float]:
    return {e.threshold for e in trail if isinstance(e, Checked) and (e.tier, e.gate) == (tier.name, gate.name)}


def last_tier(digests: Mapping[str, str]) -> str | None:
    """The name of the last tier of the ladder that was recorded: digests are in its order."""
    names = [name.removeprefix("tier ") for name in digests if name.startswith("tier ") and ": gate " not in name]
    return names[-1] if names else None


def approximations(policy: Policy) -> list[str]:
    """What of the policy a recording cannot show, one sentence each."""
    found = [f"tier {tier.name} has carry: {tier.carry}; its answers were recorded without what it would have been told"
             for tier in policy.tiers[1:] if tier.carry != "nothing"]
    partial = [tier.name for tier in policy.tiers[1:] if tier.escalate == "partial"]
    return found + [f"tier {name} has escalate: partial; its answers were recorded whole" for name in partial]
