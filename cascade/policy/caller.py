"""A policy with what one request brings: a schema, where the policy lets its callers do that, and tools."""

from __future__ import annotations

from dataclasses import replace

from cascade.errors import InputError
from cascade.policy.load import policy_digest, schema_gate
from cascade.types import NOTHING, Document, Gate, Json, Policy, Tier
from cascade.verifiers.schema import check_callers_schema


def with_schema(policy: Policy, schema: Json) -> Policy:
    """The policy with that schema in place of its own, checked by every tier; `compare` is of the other's fields, so it is left out.

    Raises InputError when the policy keeps its own, and for a schema that is none, refers to others or cannot be checked.
    """
    if not policy.caller_schema:
        raise InputError(f"the policy {policy.name} does not take a schema with a request; caller_schema: true in its file allows it")
    if problems := check_callers_schema(schema):
        raise InputError(f"the schema of the request: {problems[0]}")
    made = replace(policy, schema=Document(schema), compare=NOTHING, tiers=_behind(schema_gate(), policy.tiers))
    return replace(made, digest=policy_digest(made))


TOOLS = Gate("tools", "tools", repairable=True)


def with_tools(policy: Policy) -> Policy:
    """The policy for requests that bring tools: each tier's answer has to call them as they are. The tools are an input, so the digest is
    the same. Raises InputError for a certified policy, whose certificate has not seen any."""
    if policy.watch is not None:
        raise InputError(f"the policy {policy.name} has thresholds that were learned from answers: it takes no tools")
    return replace(policy, tiers=_behind(TOOLS, policy.tiers))


def _behind(gate: Gate, tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
    """The tiers with the gate before their others, where they have none of its kind."""
    return tuple(tier if any(one.kind == gate.kind for one in tier.gates) else replace(tier, gates=(gate, *tier.gates)) for tier in tiers)
