"""Dollars for tokens: the policy's word first, then the table, to the cent as genai-prices itself would say; unknown is None."""

from __future__ import annotations

from decimal import Decimal

import genai_prices
import pytest

from cascade import prices
from cascade.types import Usage

PRICING = {
    "local/small": {"input": Decimal("0.01"), "output": Decimal("0.02")},
    "tuned": {"input": Decimal(1), "output": Decimal(2), "cached": Decimal("0.1"), "cache_write": Decimal("1.25")},
    "openai/gpt-6-luna": {"input": Decimal(7), "output": Decimal(7)},
}

USAGES = [
    Usage(0, 0),
    Usage(1000, 100),
    Usage(1000, 100, cached=400),
    Usage(1000, 100, cached=400, cache_written=300, reasoning=50),
    Usage(100_000, 10),
    Usage(100_001, 10, cached=50_000, cache_written=7),
    Usage(300_000, 9_999, cached=1),
]

PRICED = [
    ("openai", "gpt-6-luna", None),
    ("openai", "gpt-6-luna", "default"),
    ("openai", "gpt-6-luna", "flex"),
    ("openai", "gpt-6-luna", "priority"),
    ("openai", "gpt-6-astra", None),
    ("anthropic", "claude-haiku-5-5", None),
    ("anthropic", "claude-haiku-5-5", "standard"),
    ("anthropic", "claude-haiku-5-5", "batch"),
    ("anthropic", "claude-haiku-5-5-20261001", None),
    ("anthropic", "claude-opus-5-5", None),
    ("google", "gemini-2.5-pro", None),
    ("aws", "global.anthropic.claude-haiku-5-5", None),
    ("perplexity", "sonar", None),
    ("perplexity", "sonar-deep-research", None),
]


@pytest.mark.parametrize("usage", USAGES, ids=str)
@pytest.mark.parametrize(("table", "model", "tier"), PRICED)
def test_the_sum_is_the_tables_own(table: str, model: str, tier: str | None, usage: Usage) -> None:
    tokens = genai_prices.Usage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=usage.cached,
        cache_write_tokens=usage.cache_written,
        output_reasoning_tokens=usage.reasoning,
    )
    context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier} if tier else None
    theirs = genai_prices.calc_price(tokens, model, provider_id=table, price_context=context).total_price
    assert prices.cost(usage, f"x/{model}", table=table, service_tier=tier) == theirs


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        ("local/small", Usage(1_000_000, 500_000), "0.02"),
        ("local/small", Usage(1_000_000, 0, cached=1_000_000), "0.01"),
        ("any/tuned", Usage(100, 10, cached=40, cache_written=20, reasoning=5), "0.000089"),
        ("openai/gpt-6-luna", Usage(1_000_000, 0), "7"),
    ],
)
def test_the_policys_prices_go_first(model: str, usage: Usage, dollars: str) -> None:
    assert prices.cost(usage, model, PRICING, table="openai") == Decimal(dollars)


@pytest.mark.parametrize(
    ("usage", "model", "table"),
    [
        (None, "openai/gpt-6-luna", "openai"),
        (Usage(1, 1), "openai/gpt-6.2-sol", "openai"),
        (Usage(1, 1), "openai/gpt-6-luna", None),
        (Usage(1, 1), "openai/gpt-6-luna", "no-such-provider"),
        (Usage(1, 1), "mine/gpt-6-luna", "http://127.0.0.1:8000/v1"),
    ],
)
def test_what_nobody_knows_is_none_and_never_nothing(usage: Usage | None, model: str, table: str | None) -> None:
    assert prices.cost(usage, model, table=table) is None


def test_a_servers_address_finds_its_table() -> None:
    assert prices.unit_prices("x/gpt-6-luna", table="https://api.openai.com/v1") == prices.unit_prices("x/gpt-6-luna", table="openai")


def test_a_deployment_is_priced_by_the_model_that_answered() -> None:
    usage = Usage(1000, 100)
    assert prices.cost(usage, "azure/my-deployment", table="openai", answered_by="gpt-6-luna") == prices.cost(usage, "x/gpt-6-luna", table="openai")


def test_the_prices_name_their_table_and_version() -> None:
    known = prices.unit_prices("x/gpt-6-luna", table="openai")
    assert known is not None
    assert known.source == prices.table_version() == f"genai-prices {genai_prices.__version__}"


@pytest.mark.parametrize("usage", USAGES, ids=str)
@pytest.mark.parametrize(("table", "model"), [("openai", "gpt-6-luna"), ("anthropic", "claude-haiku-5-5"), ("perplexity", "sonar")])
def test_no_call_costs_more_than_the_worst_case(table: str, model: str, usage: Usage) -> None:
    unit = prices.unit_prices(f"x/{model}", table=table)
    assert unit is not None
    assert unit.cost(usage) <= unit.most(usage.input, usage.output)
