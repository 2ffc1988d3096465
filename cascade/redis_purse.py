"""A run's budget that processes share, in Redis: reserved before each call, settled after it, by all of them from the same sum."""

from __future__ import annotations

import secrets
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from cascade.budget import short
from cascade.errors import BudgetExceeded, ConfigurationError
from cascade.redis_store import redis_store
from cascade.types import CacheSettings

UNIT = Decimal("1e-9")
"""Dollars; Redis counts whole ones."""


class SharedPurse:
    """The budget called `run`, as `begin` made it; pickled, it is the same one elsewhere.

    What cannot be counted is not spent: while Redis is away, or has lost the budget, nothing can be reserved. What a process that died had
    reserved stays reserved, since it may have been paid.
    """

    def __init__(self, settings: CacheSettings, run: str) -> None:
        self._settings, self._run = settings, run
        self._store = redis_store(settings)

    @classmethod
    def begin(cls, settings: CacheSettings, limit: Decimal) -> SharedPurse:
        """A budget of so many dollars. Raises ConfigurationError when Redis does not take it."""
        purse = cls(settings, secrets.token_hex(16))
        if not purse._store.fund(purse._run, _units(limit, ROUND_FLOOR)):
            raise ConfigurationError(f"the run's budget cannot be kept in {purse._store.where}: Redis is away, or refuses it")
        return purse

    def __reduce__(self) -> tuple[type[SharedPurse], tuple[CacheSettings, str]]:
        return SharedPurse, (self._settings, self._run)

    def reserve(self, worst: Decimal) -> None:
        """As `Purse.reserve`."""
        found = self._store.draw(self._run, _units(worst, ROUND_CEILING))
        if found is None:
            raise BudgetExceeded(f"the run's budget in {self._store.where} cannot be reached, or is gone", "run")
        drawn, left = found
        if not drawn:
            raise short(worst, left * UNIT, "run")

    def settle(self, worst: Decimal, cost: Decimal | None) -> None:
        """As `Purse.settle`."""
        if cost is not None:
            self._store.pay_back(self._run, _units(worst, ROUND_CEILING) - _units(cost, ROUND_CEILING))


def _units(dollars: Decimal, rounding: str) -> int:
    return int((dollars / UNIT).to_integral_value(rounding))
