"""A policy's limits divided among workers that do not hear of each other, so that in sum they keep to them. Pure."""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal

from cascade.errors import InputError
from cascade.types import Policy, Provider

CENT = Decimal("1e-9")
LIMITS = ("concurrency", "requests_per_minute", "tokens_per_minute")


def limits(policy: Policy) -> dict[str, int]:
    """The limits of the policy's providers by their place in the file, e.g. "providers.here.concurrency"."""
    return {f"providers.{name}.{limit}": value for name, provider in policy.providers.items() for limit in LIMITS
            if (value := getattr(provider, limit)) is not None}


def divided(policy: Policy, workers: int, *, budget: bool = True) -> Policy:
    """The policy of one of so many workers: its share of each provider's limits and, with `budget`, of the run's, rounded down.

    Raises InputError where a limit is smaller than the number of workers.
    """
    for place, limit in limits(policy).items():
        if limit < workers:
            raise InputError(f"{policy.path or policy.name}: {place} is {limit}, which {workers} workers cannot divide; take at most {limit}")
    per_run = policy.budget_per_run
    if budget and per_run is not None:
        per_run = (per_run / workers).quantize(CENT, ROUND_FLOOR)
    return replace(policy, budget_per_run=per_run, providers={name: _share(one, workers) for name, one in policy.providers.items()})


def _share(provider: Provider, workers: int) -> Provider:
    shares = {limit: value // workers for limit in LIMITS if (value := getattr(provider, limit)) is not None}
    return replace(provider, **shares)
