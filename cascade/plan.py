"""Tokens, dollars and hours of a run before any money is spent: at best, at worst and, from rows of a past run, as expected. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from cascade import compose
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.policy.bounds import bounds, loads, price
from cascade.providers import capabilities
from cascade.rows import Row
from cascade.types import Failed, Policy, Tried


@dataclass(frozen=True, slots=True)
class Estimate:
    """A whole run. None: not known. `hours` at so many requests at a time and within the providers' limits; `slowest` says what holds it up."""

    calls: int
    input_tokens: int | None
    output_tokens: int | None
    usd: Decimal | None
    hours: float | None
    slowest: str | None


@dataclass(frozen=True, slots=True)
class Share:
    """One tier in the past: which share of the requests reached it, and which it answered in the end."""

    tier: str
    reached: float
    accepted: float


@dataclass(frozen=True, slots=True)
class ByBatch:
    """The same calls by Batch APIs: dollars at their rates (None: not known), how many batches a request waits for one after the other at
    best and at most, each for up to 24 hours, and the models that are asked live all the same."""

    best_usd: Decimal | None
    expected_usd: Decimal | None
    worst_usd: Decimal | None
    waves: tuple[int, int]
    live: tuple[str, ...]
    unpriced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """`best`: every first answer is accepted. `worst`: every tier, repair, vote and judge at its longest. `expected`: as the past rows went;
    None without any. `invalid` rows cannot be asked and are in no number; `budget` is the policy's for a run, which `worst` keeps to.
    `batch` is the same run by batches, None where no model has a Batch API."""

    requests: int
    invalid: tuple[str, ...]
    best: Estimate
    expected: Estimate | None
    worst: Estimate
    past_requests: int
    shares: tuple[Share, ...]
    unpriced: tuple[str, ...]
    budget: Decimal | None
    batch: ByBatch | None = None


@dataclass
class _Load:
    """What is asked of one model. Floats, since what is expected comes from shares; tokens are None once they are not known."""

    calls: float = 0
    input: float | None = 0
    output: float | None = 0
    seconds: float | None = None

    def add(self, calls: float, input: float | None, output: float | None, seconds: float | None = None) -> None:
        self.calls += calls
        self.input = None if self.input is None or input is None else self.input + input
        self.output = None if self.output is None or output is None else self.output + output
        if seconds is not None:
            self.seconds = (self.seconds or 0.0) + seconds


@dataclass
class _Past:
    requests: int = 0
    usd: Decimal | None = Decimal(0)
    batch_usd: Decimal | None = Decimal(0)
    seconds: float = 0.0
    reached: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    loads: dict[str, _Load] = field(default_factory=dict)


def plan(policy: Policy, rows: Iterable[Row], past: Iterable[Outcome] = (), at_once: int = 16) -> Plan:
    """The plan of a run over these rows, `at_once` requests at a time.

    Prompts are rendered and their bytes counted; bytes become tokens as in `policy.bounds`. What is expected takes calls, tokens, dollars
    and seconds per request from `past`, the rows of a run of the same ladder that were not answered from a cache: it holds for
    inputs like those. Raises InputError when a past row knows a tier that the policy has not, TemplateError.
    """
    sizes: Counter[int] = Counter()
    invalid: list[str] = []
    for row in rows:
        try:
            if row.problem:
                raise InputError(row.problem)
            sizes[compose.size(policy, row.inputs)] += 1
        except InputError as err:
            invalid.append(str(err) if row.problem else f"row {row.id}: {err}")
    count = sizes.total()
    limits = {size: bounds(policy, size) for size in sizes}
    seen = _seen(policy, past)
    first = policy.tiers[0].model
    call_seconds = seen.loads[first].seconds if first in seen.loads else None
    per_call = None if call_seconds is None else call_seconds / seen.loads[first].calls
    rounds = sum(limits[size].best_rounds * times for size, times in sizes.items())
    best = _estimate(policy, _bounded(policy, sizes, 0), _sum(limits[size].best_usd for size in sizes.elements()),
                     None if per_call is None else rounds * per_call / at_once, at_once)
    worst_usd = _sum(limits[size].worst_usd for size in sizes.elements())
    if worst_usd is not None and policy.budget_per_run is not None:
        worst_usd = min(worst_usd, policy.budget_per_run)
    longest = sum(limits[size].worst_seconds * times for size, times in sizes.items())
    most = _bounded(policy, sizes, 1)
    narrowest = min([at_once, *(policy.providers[model.partition("/")[0]].concurrency or at_once for model in most)])
    worst = _estimate(policy, most, worst_usd, longest / narrowest, narrowest)
    unpriced = tuple(dict.fromkeys(model for limit in limits.values() for model in limit.unpriced))
    shares = tuple(Share(tier.name, seen.reached[tier.name] / seen.requests, seen.accepted[tier.name] / seen.requests)
                   for tier in policy.tiers) if seen.requests else ()  # fmt: skip
    expected = _expected(policy, seen, count, at_once) if seen.requests else None
    batch = _by_batch(policy, sizes, seen, tuple(most))
    return Plan(count, tuple(invalid), best, expected, worst, seen.requests, shares, unpriced, policy.budget_per_run, batch)


def _by_batch(policy: Policy, sizes: Mapping[int, int], seen: _Past, models: tuple[str, ...]) -> ByBatch | None:
    live = tuple(model for model in models if not capabilities(policy.providers[model.partition("/")[0]], model).batch)
    if len(live) == len(models):
        return None
    limits = [(bounds(policy, size, batch=True), times) for size, times in sizes.items()]
    best = _sum(None if limit.best_usd is None else times * limit.best_usd for limit, times in limits)
    worst = _sum(None if limit.worst_usd is None else times * limit.worst_usd for limit, times in limits)
    if worst is not None and policy.budget_per_run is not None:
        worst = min(worst, policy.budget_per_run)
    expected = None if not seen.requests or seen.batch_usd is None else seen.batch_usd * sum(sizes.values()) / seen.requests
    waves = (max((limit.best_rounds for limit, _ in limits), default=0), max((limit.worst_rounds for limit, _ in limits), default=0))
    return ByBatch(best, expected, worst, waves, live, tuple(dict.fromkeys(model for limit, _ in limits for model in limit.unpriced)))


def _bounded(policy: Policy, sizes: Mapping[int, int], end: int) -> dict[str, _Load]:
    """What the run asks of each model, at best (0) or at most (1)."""
    found: dict[str, _Load] = {}
    for size, times in sizes.items():
        for model, load in loads(policy, size).items():
            found.setdefault(model, _Load()).add(times * load.calls[end], times * load.input[end], times * load.output[end])
    return found


def _seen(policy: Policy, past: Iterable[Outcome]) -> _Past:
    seen, names = _Past(), {tier.name for tier in policy.tiers}
    for outcome in past:
        if outcome.cached or outcome.mode is not None or not outcome.trail:
            continue
        if unknown := {event.tier for event in outcome.trail} - names:
            raise InputError(f"the past row {outcome.id} was asked of tier {min(unknown)!r}, which this policy does not have")
        seen.requests += 1
        seen.usd = None if seen.usd is None or outcome.cost_usd is None else seen.usd + outcome.cost_usd
        seen.seconds += outcome.seconds
        seen.reached.update({event.tier for event in outcome.trail if isinstance(event, Tried | Failed)})
        if outcome.status == "accepted" and outcome.tier is not None:
            seen.accepted[outcome.tier] += 1
        for event in outcome.trail:
            if isinstance(event, Tried) and not event.cached:
                usage = event.usage
                unit = price(policy, event.model, batch=True) if _is_asked(policy, event.model) else None
                paid = None if unit is None or usage is None else unit.cost(usage)
                seen.batch_usd = None if seen.batch_usd is None or paid is None else seen.batch_usd + paid
                seen.loads.setdefault(event.model, _Load()).add(
                    1, usage.input if usage else None, usage.output if usage else None, event.seconds)
    return seen


def _is_asked(policy: Policy, model: str) -> bool:
    return model.partition("/")[0] in policy.providers


def _expected(policy: Policy, seen: _Past, count: int, at_once: int) -> Estimate:
    factor = count / seen.requests
    scaled = {model: _Load(load.calls * factor, _times(load.input, factor), _times(load.output, factor), _times(load.seconds, factor))
              for model, load in seen.loads.items()}  # fmt: skip
    usd = None if seen.usd is None else seen.usd * count / seen.requests
    return _estimate(policy, scaled, usd, seen.seconds * factor / at_once, at_once)


def _estimate(policy: Policy, asked: Mapping[str, _Load], usd: Decimal | None, seconds: float | None, at_once: int) -> Estimate:
    tokens_in, tokens_out = _total(load.input for load in asked.values()), _total(load.output for load in asked.values())
    holding = [(seconds, f"{at_once} requests at a time")] if seconds is not None else []
    by_provider: dict[str, _Load] = {}
    for model, load in asked.items():
        by_provider.setdefault(model.partition("/")[0], _Load()).add(load.calls, load.input, load.output, load.seconds)
    for name, load in by_provider.items():
        provider = policy.providers[name]
        if provider.concurrency and load.seconds is not None:
            holding.append((load.seconds / provider.concurrency, f"{name}: concurrency {provider.concurrency}"))
        if provider.requests_per_minute:
            rate = provider.requests_per_minute
            holding.append((load.calls / rate * 60, f"{name}: requests_per_minute {rate}"))
        if provider.tokens_per_minute and load.input is not None and load.output is not None:
            rate = provider.tokens_per_minute
            holding.append(((load.input + load.output) / rate * 60, f"{name}: tokens_per_minute {rate}"))
    longest, slowest = max(holding, default=(None, None), key=lambda held: held[0] or 0.0)
    calls = round(sum(load.calls for load in asked.values()))
    return Estimate(calls, tokens_in, tokens_out, usd, None if longest is None else longest / 3600, slowest)


def _times(amount: float | None, factor: float) -> float | None:
    return None if amount is None else amount * factor


def _total(amounts: Iterable[float | None]) -> int | None:
    known = list(amounts)
    return None if None in known else round(sum(amount for amount in known if amount is not None))


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    known = list(amounts)
    return None if None in known else sum((amount for amount in known if amount is not None), Decimal(0))
