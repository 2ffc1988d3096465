"""The question before a run that may be dear: it goes on when someone at the terminal, or --yes, says so."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

import typer

from cascade.cli import STOPPED, show
from cascade.errors import InputError

if TYPE_CHECKING:
    from cascade.rows import Row
    from cascade.types import Policy


def confirm(policy: Policy, rows: Iterable[Row], concurrency: int, above: float) -> None:
    """Returns when the run may begin: it costs at most `above` dollars at worst, or the answer was yes.

    What is not priced is told and not asked about. Raises InputError where nobody can be asked, Exit where the answer is no.
    """
    from cascade.plan import plan

    if policy.budget_per_run is not None and policy.budget_per_run <= Decimal(str(above)):
        return
    found = plan(policy, (row for row in rows if not row.problem), (), concurrency)
    worst = found.worst.usd
    if worst is None:
        show.note(f"what this run may cost is not known; unpriced: {', '.join(found.unpriced)}")
        return
    if worst <= Decimal(str(above)):
        return
    what = f"this run may cost {show.money(worst)} at worst ({found.requests:,} rows; cascade plan tells more)"
    if not sys.stdin.isatty():
        raise InputError(f"{what}, more than --confirm-above {above:g}: nothing was asked. Give --yes, a higher --confirm-above, or set "
                         "budget.per_run in the policy")
    if not typer.confirm(f"{what}. Go on?", err=True):
        show.note("nothing was asked")
        raise typer.Exit(STOPPED)
