"""When votes need no company any more: the share can reach its threshold no longer, or can miss it no longer. Pure."""

from __future__ import annotations

from functools import cache


def needed(total: int, threshold: float) -> int:
    """How many of `total` votes have to agree; shares are rounded to two places, so that 0.67 is reached by two of three."""
    return next(agreeing for agreeing in range(total + 1) if round(agreeing / total, 2) >= threshold)


def batch(total: int, need: int, agreeing: int, against: int) -> int:
    """How many more votes to ask for at once: as few as can decide, so that none is paid in vain; 0 when it is decided."""
    return max(0, min(need - agreeing, total - need + 1 - against))


@cache
def most_rounds(total: int, need: int, agreeing: int = 1, against: int = 0) -> int:
    """How often one has to wait for votes at worst."""
    size = batch(total, need, agreeing, against)
    if not size:
        return 0
    return 1 + max(most_rounds(total, need, agreeing + k, against + size - k) for k in range(size + 1))


def rounds_to_pass(total: int, need: int) -> int:
    """How often one has to wait for votes when all agree."""
    rounds, agreeing = 0, 1
    while size := batch(total, need, agreeing, 0):
        rounds, agreeing = rounds + 1, agreeing + size
    return rounds
