"""What comes next when everything is to be asked: `decide`'s counterpart for recordings and shadows. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cascade.decide import STOPPING, answered, exhausted, latest, looking, may_repair, next_tier, repairs_of, verdicts
from cascade.types import WHOLE, Check, Checked, Event, Failed, Finish, Policy, Repair, Skipped, Step, Tried, Try


def explore(policy: Policy, trail: Sequence[Event]) -> Step:
    """The next step when every tier and every gate is to be asked, whatever the gates say; repairs are made where `decide` makes them.

    The last tier's answer is served; without one, the best that is there, as flagged.
    """
    last = latest(trail)
    if last is None:
        return Try(policy.tiers[0].name)
    if isinstance(last, Failed) and last.error in STOPPING:
        return exhausted(policy, trail, last.error)
    tier, answer = policy.tier(last.tier), answered(trail)
    gates = looking(tier, None if answer is None else trail[answer])
    if isinstance(last, Checked):
        at = next(i for i, gate in enumerate(gates) if gate.name == last.gate)
        if not last.passed and may_repair(trail, tier, gates[at], last):
            return Repair(tier.name, repairs_of(trail, tier.name) + 1)
        if at + 1 < len(gates):
            return Check(tier.name, gates[at + 1].name)
    elif isinstance(last, Tried) and last.finish in WHOLE and gates:
        return Check(tier.name, gates[0].name)
    above = next_tier(policy, tier.name)
    return Try(above.name) if above else _explored(policy, trail, last)


def _explored(policy: Policy, trail: Sequence[Event], last: Checked | Tried | Failed | Skipped) -> Finish:
    if isinstance(last, Tried) and last.finish in ("refusal", "filter"):
        return Finish("refused", None, last.finish)
    at = answered(trail)
    if at is None or isinstance(last, Failed | Skipped) or trail[at].tier != policy.tiers[-1].name:
        return exhausted(policy, trail, last.error if isinstance(last, Failed) else "exhausted")
    if isinstance(last, Tried) and last.finish not in WHOLE:
        return Finish("flagged", at, "truncated")
    stood = all(c.passed or _advisory(policy, c) for c in verdicts(trail, at))
    return Finish("accepted", at) if stood else Finish("flagged", at, "exhausted")


def _advisory(policy: Policy, checked: Checked) -> bool:
    return any(gate.advisory for gate in policy.tier(checked.tier).gates if gate.name == checked.gate)
