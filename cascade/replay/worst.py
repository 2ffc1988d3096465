"""The most a call can cost, so that a budget per request holds in a replay as it does in the engine. Pure but for template files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import orjson

from cascade import compose, prices, providers, verifiers
from cascade.types import Call, Document, Event, Failed, Gate, Json, Message, Policy, Tier, Tried
from cascade.verifiers.agreement import AgreementVerifier
from cascade.verifiers.consistency import ConsistencyVerifier

ZERO = Decimal(0)


class Worst:
    """Worst cases in dollars, 0 where a model has no price (as in the engine, no budget holds it then).

    Exact for tiers, `agreement` and `consistency`. Of other gates' calls the prompt is not known: what they cost counts.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.params = {tier.name: Document({"max_tokens": tier.max_tokens, **tier.params}) for tier in policy.tiers}
        self.schema = len(orjson.dumps(policy.schema.json)) if policy.schema else 0
        self.asking = {(tier.name, gate.name): verifiers.build(gate.kind, gate.options, policy.schema, policy.compare)
                      for tier in policy.tiers for gate in tier.gates if gate.kind in ("agreement", "consistency")}
        self.kinds = {name: providers.kind(provider.kind).prices for name, provider in policy.providers.items()}

    def of_tier(self, tier: Tier, inputs: Mapping[str, Json], trail: Sequence[Event], repair: int) -> Decimal:
        """Of the tier's own call after that trail."""
        messages = compose.prompt(self.policy, inputs)
        if not repair:
            return self.of(self._call(tier, compose.carried(self.policy, messages, tier, trail)))
        first = next(i for i, e in enumerate(trail) if isinstance(e, Tried | Failed) and e.gate is None and e.tier == tier.name)
        return self.of(self._call(tier, compose.repaired(compose.carried(self.policy, messages, tier, trail[:first]), trail)))

    def of_gate(self, tier: Tier, gate: Gate, event: Tried | Failed, inputs: Mapping[str, Json]) -> Decimal:
        """Of one of the gate's calls."""
        verifier = self.asking.get((tier.name, gate.name))
        if verifier is None:
            return event.cost_usd or ZERO
        call = self._call(tier, compose.prompt(self.policy, inputs))
        assert isinstance(verifier, AgreementVerifier | ConsistencyVerifier)
        calls = [c for c in verifier.calls(inputs, call) if (c.model, c.sample) == (event.model, event.sample)]
        return self.of(calls[0]) if calls else ZERO

    def of(self, call: Call) -> Decimal:
        """A token is at least one byte of the prompt, and the answer is as long as it may be."""
        return self.of_size(call.model, sum(m.size + 16 for m in call.messages) + self.schema, call.params.json["max_tokens"])

    def of_size(self, model: str, size: int, max_tokens: int) -> Decimal:
        """Of a call of that many bytes."""
        unit = prices.unit_prices(model, self.policy.pricing, self.kinds.get(model.partition("/")[0]))
        return ZERO if unit is None else unit.most(size, max_tokens)

    def _call(self, tier: Tier, messages: tuple[Message, ...]) -> Call:
        return Call(tier.model, messages, self.policy.schema, self.params[tier.name], 0, tier.timeout)
