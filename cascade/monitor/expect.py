"""A thresholds file to what its policy is held against while it serves, and to the step that serves after an alarm. Pure."""

from __future__ import annotations

from cascade.monitor import eprocess
from cascade.monitor.observe import DIFFERS
from cascade.thresholds import Thresholds
from cascade.types import Expected


def expected(found: Thresholds, step: int) -> dict[str, Expected]:
    """The interval of each number, so wide that on traffic like that calibrated on the loss alarm is false with probability
    1 - confidence at most, and any of the others with the same, both over calibration and all the time the step serves.

    {} for a file that says nothing of it.
    """
    seen, error = found.steps[step].seen, 1 - found.certificate.get("confidence", 0.95)
    drift = [name for name, one in seen.items() if name != DIFFERS and one.rows]
    wanted = {name: _between(found, step, name, error / len(drift)) for name in drift}
    return wanted if DIFFERS not in seen else {DIFFERS: _loss(found, step, error), **wanted}


def _between(found: Thresholds, step: int, name: str, error: float) -> Expected:
    """Half of the error for where calibration can have missed the mean, shared by the steps; half for the watch."""
    one = found.steps[step].seen[name]
    low, high = eprocess.interval(one.rows, one.total, error / 2 * _share(found, step))
    return Expected(low, high, error / 2, one.total / one.rows)


def _loss(found: Thresholds, step: int, error: float) -> Expected:
    """At most `max_loss` where that was certified of disagreement; else the most disagreement that what was seen allows, or `max_loss` if
    that is more: less than that cannot lose more than was certified."""
    certificate, one = found.certificate, found.steps[step].seen[DIFFERS]
    promised = found.steps[step].certified and certificate.get("min_accuracy") is None
    most = float(certificate["max_loss"]) if promised else 0.0
    if promised and certificate.get("reference") != "gold":
        return Expected(0.0, most, error, one.total / one.rows)
    high = eprocess.most(one.rows, round(one.total), error / 2 * _share(found, step))
    return Expected(0.0, max(high, most), error / 2, one.total / one.rows)


def _share(found: Thresholds, step: int) -> float:
    """The part of an error that goes to a step; over the path these sum to 1 at most.

    Calibration chose by the same rows that were counted, so the interval has to hold on every step it might have chosen. The path begins
    where the rows that fit expect most, so the first steps are chosen most: half of the error falls off with the step, half is shared evenly.
    That first half is for two orders: with the policy as it was written at the head, and, where that fails, without it.
    """
    path = found.certificate.get("path")
    many = path if isinstance(path, int) and path >= len(found.steps) else len(found.steps)
    return 0.25 / ((step + 1) * (step + 2)) + 0.5 / many


def safer(found: Thresholds, step: int) -> int | None:
    """The nearest certified step before this one on which at most half as many answers differed: a step that is nearly the same would be
    no step back. None: only the last tier is."""
    here = found.steps[step].seen.get(DIFFERS)
    for i in range(step - 1, -1, -1):
        there = found.steps[i].seen.get(DIFFERS)
        if found.steps[i].certified and here and here.total and there and there.total <= here.total / 2:
            return i if any(cut is not None for cut in found.steps[i].thresholds.values()) else None
    return None
