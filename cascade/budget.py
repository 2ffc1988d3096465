"""Money that may still be spent: the worst case is reserved before a call, the real cost settled after it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Protocol

from cascade.errors import BudgetExceeded


class Budget(Protocol):
    """What money is reserved from: a `Purse`, or one that processes share."""

    def reserve(self, worst: Decimal) -> None: ...
    def settle(self, worst: Decimal, cost: Decimal | None) -> None: ...


class Account(Protocol):
    """Who pays for one request, of whatever kind: `paying` sets its worst case aside, None where a model has no price, and gives a purse that
    holds it; what the purse has spent at the end of the block is paid. Raises Unpaid where there is not enough; then nothing was set aside."""

    def paying(self, worst: Decimal | None) -> AbstractAsyncContextManager[Purse]: ...


def short(worst: Decimal, left: Decimal, scope: str) -> BudgetExceeded:
    """What is raised when `left` is less than the `worst` that a call may cost."""
    return BudgetExceeded(f"the next call could cost ${worst:.6f}, the {scope}'s budget has ${left:.6f} left", scope)


class Purse:
    """A limit in dollars shared by all who hold it (one event loop). `scope` is "request" or "run"."""

    __slots__ = ("limit", "reserved", "scope", "spent")

    def __init__(self, limit: Decimal, scope: str) -> None:
        self.limit = limit
        self.scope = scope
        self.spent = Decimal(0)
        self.reserved = Decimal(0)

    @property
    def left(self) -> Decimal:
        """What is neither spent nor set aside."""
        return self.limit - self.spent - self.reserved

    def reserve(self, worst: Decimal) -> None:
        """Set the worst case of a call aside. Raises BudgetExceeded if it is not there; then nothing was taken."""
        if worst > self.left:
            raise short(worst, self.left, self.scope)
        self.reserved += worst

    def settle(self, worst: Decimal, cost: Decimal | None) -> None:
        """Give the reservation back and take what the call cost; an unknown cost counts as its worst case."""
        self.reserved -= worst
        self.spent += worst if cost is None else cost
