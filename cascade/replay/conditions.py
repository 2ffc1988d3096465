"""--fail-if: a condition on a score, e.g. `accuracy<0.95`. What is not known is an error, never a pass. Pure."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from cascade.errors import InputError
from cascade.replay.score import Paired, Scored

Value = float | Decimal | None
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
NO_GOLD = "no row has gold: give it to cascade record"
NO_PRICE = "a model has no price: give one under pricing: in the policy, and record again"
NO_LAST = "the last tier never gave an answer that could be read"

_ALONE: Mapping[str, tuple[Callable[[Scored], Value], str]] = {
    "accuracy": (lambda s: s.accuracy.value, NO_GOLD),
    "accuracy_low": (lambda s: s.accuracy.interval and s.accuracy.interval[0], NO_GOLD),
    "same": (lambda s: s.same.value, NO_LAST),
    "same_low": (lambda s: s.same.interval and s.same.interval[0], NO_LAST),
    "cost": (lambda s: s.cost, NO_PRICE),
    "cost_per_request": (lambda s: s.cost_per_request, NO_PRICE),
    "saving": (lambda s: s.saving, NO_PRICE),
    "escalated": (lambda s: s.escalated / s.rows, ""),
    "accepted": (lambda s: s.status("accepted"), ""),
    "flagged": (lambda s: s.status("flagged"), ""),
    "refused": (lambda s: s.status("refused"), ""),
    "failed": (lambda s: s.status("failed"), ""),
    "calls_per_request": (lambda s: s.calls / s.rows, ""),
}
_PAIRED: Mapping[str, tuple[Callable[[Paired], Value], str]] = {
    "accuracy_delta": (lambda p: p.accuracy, NO_GOLD),
    "accuracy_delta_low": (lambda p: p.accuracy_interval and p.accuracy_interval[0], NO_GOLD),
    "cost_delta": (lambda p: p.cost, NO_PRICE),
}
NAMES = (*_ALONE, *_PAIRED)
"""What a condition may name: shares are 0 to 1, dollars are US dollars; `_low` is the lower end of the 95 % interval, `_delta` is against OTHER."""
_FORM = re.compile(r"\s*([A-Za-z_]+)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Condition:
    """`name` `sign` `limit`, as it was written in `text`."""

    text: str
    name: str
    sign: str
    limit: Decimal

    def holds(self, scored: Scored, paired: Paired | None) -> str | None:
        """The measured value in a sentence when the condition holds, else None. InputError when the value is not known."""
        value, why = self._value(scored, paired)
        if value is None:
            raise InputError(f"--fail-if {self.text!r}: {self.name} is not known: {why}")
        exact = value if isinstance(value, Decimal) else Decimal(repr(value))
        return f"{self.text}: {self.name} is {shown(value)}" if OPERATORS[self.sign](exact, self.limit) else None  # type: ignore[arg-type]

    def _value(self, scored: Scored, paired: Paired | None) -> tuple[Value, str]:
        if self.name in _ALONE:
            measure, why = _ALONE[self.name]
            return measure(scored), why
        if paired is None:
            return None, "it wants another policy: --against OTHER"
        compare, why = _PAIRED[self.name]
        return compare(paired), why


def parse(text: str, paired: bool) -> Condition:
    """The condition of a text. InputError says what is wrong, before any row is read."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InputError(f"--fail-if {text!r}: write NAME<NUMBER such as accuracy<0.95, with <, <=, > or >=")
    name, sign, number, percent = found.groups()
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1)
        told = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(NAMES)}"
        raise InputError(f"--fail-if {text!r}: unknown name {name!r}{told}")
    if name in _PAIRED and not paired:
        raise InputError(f"--fail-if {text!r}: {name} wants another policy: --against OTHER")
    limit = Decimal(number) / (100 if percent else 1)
    if not math.isfinite(float(limit)):
        raise InputError(f"--fail-if {text!r}: {number} is too large a number")
    return Condition(text, name, sign, limit)


def measured(scored: Scored, paired: Paired | None) -> dict[str, Value]:
    """Every value a condition may name; None where it is not known."""
    found: dict[str, Value] = {name: measure(scored) for name, (measure, _) in _ALONE.items()}
    if paired is not None:
        found |= {name: measure(paired) for name, (measure, _) in _PAIRED.items()}
    return found


def shown(value: float | Decimal) -> str:
    """Six significant digits, without an exponent."""
    text = f"{float(value):.6g}"
    return f"{float(value):.12f}".rstrip("0") if "e" in text else text
