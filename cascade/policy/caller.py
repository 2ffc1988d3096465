"""A policy with what one request brings: a schema, where the policy lets its callers do that, and tools."""

from __future__ import annotations

from dataclasses import replace

from cascade.errors import InputError
from cascade.policy.load import policy_digest, schema_gate
from cascade.types import NOTHING, Document, Gate, Json, Policy
from cascade.verifiers.schema import check_callers_schema


def with_schema(policy: Policy, schema: Json) -> Policy:
    """The policy with that schema in place of its own, checked by every tier; `compare` is of the other's fields, so it is left out.

    Raises InputError when the policy keeps its own, and for a schema that is none, refers to others or cannot be checked.
    """
    if not policy.caller_schema:
        raise InputError(f"the policy {policy.name} does not take a schema with a request; caller_schema: true in its file allows it")
    if problems := check_callers_schema(schema):
        raise InputError(f"the schema of the request: {problems[0]}")
    unlooked = [tier.name for tier in policy.tiers if not any(gate.kind == "schema" for gate in tier.gates)]
    tiers = tuple(replace(tier, gates=(schema_gate(), *tier.gates)) if tier.name in unlooked else tier for tier in policy.tiers)
    made = replace(policy, schema=Document(schema), compare=NOTHING, tiers=tiers)
    return replace(made, digest=policy_digest(made))


TOOLS = Gate("tools", "tools", repairable=True)


def with_tools(policy: Policy) -> Policy:
    """The policy for requests that bring tools: each tier's answer has to call them as they are. The tools are an input, so the digest is
    the same. Raises InputError for a certified policy, whose certificate has not seen any."""
    if policy.watch is not None:
        raise InputError(f"the policy {policy.name} has thresholds that were learned from answers: it takes no tools")
    unlooked = [tier.name for tier in policy.tiers if not any(gate.kind == "tools" for gate in tier.gates)]
    return replace(policy, tiers=tuple(replace(tier, gates=(TOOLS, *tier.gates)) if tier.name in unlooked else tier for tier in policy.tiers))
