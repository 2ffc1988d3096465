"""Which model calls of a ladder are one and the same, so that a request pays them once. Pure; a test holds it to the engine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

from cascade import verifiers
from cascade.types import Document, Policy, Tier

Vote = tuple[str, str, str]
"""(tier, gate, model)."""


class Calls(NamedTuple):
    """A key for each tier's first call and for each call that gates make beside it: equal keys are equal calls."""

    own: Mapping[str, Hashable]
    votes: Mapping[Vote, Hashable]


def calls(policy: Policy, recorded: bool = False) -> Calls:
    """The keys. A tier that is told of the answers below (`carry`) makes a call like no other, but not in a recording: there it is asked as
    it stands alone."""

    def carried(tier: Tier) -> str | None:
        return None if recorded or tier.carry == "nothing" else tier.name

    params = {tier.name: Document({"max_tokens": tier.max_tokens, **tier.params}) for tier in policy.tiers}
    own: dict[str, Hashable] = {tier.name: (tier.model, params[tier.name].digest, None, carried(tier)) for tier in policy.tiers}
    votes: dict[Vote, Hashable] = {}
    for tier in policy.tiers:
        for gate in tier.gates:
            if gate.kind == "agreement":
                most = {"max_tokens": gate.options["max_tokens"]} if gate.options.get("max_tokens") else {}
                asked = Document({"max_tokens": params[tier.name].json["max_tokens"], **(gate.options.get("params") or {}), **most})
                for model in verifiers.models(gate.kind, gate.options):
                    votes[tier.name, gate.name, model] = (model, asked.digest, gate.options.get("prompt"), carried(tier))
    return Calls(own, votes)
