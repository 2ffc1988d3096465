"""Tokens to dollars: the policy's own prices first, then the table of genai-prices. Unknown is None, never 0.

genai-prices takes 90 µs for a sum; the resolved unit prices are kept for a minute (some depend on
the hour), and the sum itself is done here in exact decimals. A test holds both to the same cents.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from cascade.types import NOTHING, Usage

_KEPT_SECONDS = 60.0
_MOST_KEPT = 4096

Pricing = Mapping[str, Mapping[str, Decimal]]
"""A policy's `pricing`: `provider/model` (or `model` alone) -> input, output, cached, cache_write in dollars per million tokens; `batch`
is the share of these that a call of a batch costs."""

BATCH = "batch"
"""The service tier of calls that went by a Batch API."""


@dataclass(frozen=True, slots=True)
class UnitPrices:
    """Dollars per million tokens. `cached` and `cache_write` tokens cost what `input` does when they have no price of their own.

    `reasoning`: set where reasoning tokens have a price of their own. `request`: dollars for each call. `above`: (input tokens,
    prices) from the least: a call with more input pays those prices for all its tokens. `source` names the table and its version.
    """

    input: Decimal
    output: Decimal
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    request: Decimal = Decimal(0)
    above: tuple[tuple[int, UnitPrices], ...] = ()
    source: str = "policy"

    def at(self, input_tokens: int) -> UnitPrices:
        """The prices that hold for a call with that many input tokens."""
        for start, prices in reversed(self.above):
            if input_tokens > start:
                return prices
        return self

    def cost(self, usage: Usage) -> Decimal:
        """Dollars for one call, exact."""
        prices = self.at(usage.input)
        cached = usage.cached if prices.cached is not None else 0
        written = usage.cache_written if prices.cache_write is not None else 0
        reasoning = usage.reasoning if prices.reasoning is not None else 0
        total = (usage.input - cached - written) * prices.input + (usage.output - reasoning) * prices.output
        if cached:
            total += cached * (prices.cached or 0)
        if written:
            total += written * (prices.cache_write or 0)
        if reasoning:
            total += reasoning * (prices.reasoning or 0)
        return total.scaleb(-6) + prices.request if prices.request else total.scaleb(-6)

    def most(self, input_tokens: int, output_tokens: int) -> Decimal:
        """The most a call of that size can cost: all its input written to the cache, where that is dearer."""
        prices = self.at(input_tokens)
        dearest_in = max(prices.input, prices.cache_write or prices.input, prices.cached or prices.input)
        dearest_out = max(prices.output, prices.reasoning or prices.output)
        return (input_tokens * dearest_in + output_tokens * dearest_out).scaleb(-6) + prices.request


def cost(
    usage: Usage | None,
    model_ref: str,
    pricing: Pricing = NOTHING,
    table: str | None = None,
    service_tier: str | None = None,
    answered_by: str | None = None,
) -> Decimal | None:
    """Dollars for one call, None when its tokens or its prices are unknown. Arguments as in `unit_prices`."""
    if usage is None:
        return None
    prices = unit_prices(model_ref, pricing, table, service_tier, answered_by)
    return None if prices is None else prices.cost(usage)


def unit_prices(
    model_ref: str,
    pricing: Pricing = NOTHING,
    table: str | None = None,
    service_tier: str | None = None,
    answered_by: str | None = None,
) -> UnitPrices | None:
    """What a model costs, None when nobody says.

    `model_ref` is `provider/model`; `pricing` the policy's; `table` the provider's id in genai-prices, or the URL of its server;
    `service_tier` what the response says (flex, priority …); `answered_by` the model name of the response, tried when the table
    does not know the one that was asked for (an alias, a deployment).
    """
    model = model_ref.partition("/")[2]
    own = pricing.get(model_ref) or pricing.get(model) if pricing else None
    if own:
        return _from_policy(own, service_tier)
    if table is None:
        return None
    return _kept(model, table, service_tier) or (_kept(answered_by, table, service_tier) if answered_by else None)


def _from_policy(own: Mapping[str, Decimal], service_tier: str | None) -> UnitPrices | None:
    share = own.get("batch") if service_tier == BATCH else Decimal(1)
    if share is None:
        return None
    cached, written = own.get("cached"), own.get("cache_write")
    return UnitPrices(own["input"] * share, own["output"] * share, None if cached is None else cached * share,
                      None if written is None else written * share)  # fmt: skip


def table_version() -> str:
    """The price table's name and version."""
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')}"


# ---------------------------------------------------------------- genai-prices

_Key = tuple[str, str, str | None]
_resolved: dict[_Key, tuple[float, UnitPrices | None]] = {}
_source: list[str] = []


def _kept(model: str, table: str, service_tier: str | None) -> UnitPrices | None:
    key = (model, table, service_tier)
    known = _resolved.get(key)
    now = time.monotonic()
    if known is not None and known[0] > now:
        return known[1]
    prices = _looked_up(model, table, service_tier)
    if len(_resolved) >= _MOST_KEPT:
        _resolved.clear()
    _resolved[key] = (now + _KEPT_SECONDS, prices)
    return prices


def _looked_up(model: str, table: str, service_tier: str | None) -> UnitPrices | None:
    from genai_prices import Usage as TableUsage
    from genai_prices import calc_price

    place: dict[str, Any] = {"provider_api_url": table} if "://" in table else {"provider_id": table}
    context = {"processing": "batch"} if service_tier == BATCH else {"service_tier": service_tier} if service_tier else None
    try:
        found = calc_price(TableUsage(input_tokens=0, output_tokens=0), model, price_context=context, **place)
    except LookupError:
        return None
    if service_tier == BATCH and not _has_batch_rate(found):
        return None  # the table would give the ordinary price
    if not _source:
        _source.append(table_version())
    return _from_table(vars(found.model_price))


def _has_batch_rate(found: Any) -> bool:
    """Whether the table knows what a batch call costs: a variant in force, of a model that is the provider's own."""
    now = datetime.now(tz=UTC)
    own = any(found.model is model for model in found.provider.models)
    return own and any(variant.when == {"processing": "batch"} and (variant.constraint is None or variant.constraint.active(now))
                       for variant in found.model.price_variants or ())  # fmt: skip


def _from_table(price: Mapping[str, Any]) -> UnitPrices | None:
    """A genai-prices `ModelPrice`, whose values are decimals or tiers of them by the number of input tokens."""
    if price.get("input_mtok") is None and price.get("output_mtok") is None and price.get("requests_kcount") is None:
        return None
    starts = sorted({tier.start for value in price.values() for tier in getattr(value, "tiers", ())})
    above = tuple((start, _unit(price, start)) for start in starts)
    base = _unit(price, -1)
    return UnitPrices(
        base.input, base.output, base.cached, base.cache_write, base.reasoning, base.request, above, source=_source[0]
    )


def _unit(price: Mapping[str, Any], start: int) -> UnitPrices:
    return UnitPrices(
        _rate(price.get("input_mtok"), start) or Decimal(0),
        _rate(price.get("output_mtok"), start) or Decimal(0),
        _rate(price.get("cache_read_mtok"), start),
        _rate(price.get("cache_write_mtok"), start),
        _rate(price.get("output_reasoning_mtok"), start),
        (_rate(price.get("requests_kcount"), start) or Decimal(0)) / 1000,
        source=_source[0],
    )


def _rate(value: Any, start: int) -> Decimal | None:
    """The price of one kind of token in the tier that begins at `start` input tokens."""
    tiers = getattr(value, "tiers", None)
    if tiers is None:
        return value if isinstance(value, Decimal) else None
    price: Decimal = value.base
    for tier in tiers:
        if tier.start <= start:
            price = tier.price
    return price
