"""One request's story as numbers in [0, 1], under the names that calibration gave them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade.decide import verdicts
from cascade.outcome import Outcome
from cascade.types import WHOLE, Compared, Event, Failed, Policy, Tier, Tried

DIFFERS = "differs"
"""Whether what is served differs from the last tier's answer, over all requests: those that climbed to it never do."""


def accepted(tier: str) -> str:
    """Whether the tier's answer was accepted, of the requests it answered."""
    return f"{tier}: accepted"


def gates(tier: str) -> str:
    """Whether it passed all gates that ask no model, of the requests it answered."""
    return f"{tier}: gates passed"


def score(tier: str, gate: str) -> str:
    """A model-asking gate's score, of the answers that passed the others."""
    return f"{tier}: {gate}"


def same(tier: str) -> str:
    """Whether it had said the same as the last tier, of the requests that climbed to that; what cannot be read is not the same."""
    return f"{tier}: same as the last tier when escalated"


@dataclass(frozen=True, slots=True)
class Walk:
    """What the ladder's gates made of a trail: the tier that stood (None: the last one has to answer) and the numbers of those asked."""

    stood: str | None
    numbers: Mapping[str, float]


def walk(policy: Policy, trail: Sequence[Event], compared: Sequence[Compared]) -> Walk:
    """Up the ladder to the first tier that stands, also where more was asked than that. `compared` holds tiers against the last one."""
    found: dict[str, float] = {}
    climbed = []
    for tier in policy.tiers[:-1]:
        at = _answer(trail, tier.name)
        if at is None:
            continue
        if _look(tier, trail, at, found):
            return Walk(tier.name, found)
        if _whole(trail[at]):
            climbed.append(tier.name)
    at = _answer(trail, policy.tiers[-1].name)
    if at is not None and _whole(trail[at]):
        alike = {one.tier for one in compared if one.same}
        found.update({same(tier): float(tier in alike) for tier in climbed})
    return Walk(None, found)


def _whole(event: Event) -> bool:
    return isinstance(event, Tried) and event.finish in WHOLE


def _answer(trail: Sequence[Event], tier: str) -> int | None:
    """The index of the tier's last answer; None when it gave none, or was not asked."""
    for i in range(len(trail) - 1, -1, -1):
        event = trail[i]
        if event.tier == tier and isinstance(event, Tried | Failed) and event.gate is None:
            return i if isinstance(event, Tried) else None
    return None


def _look(tier: Tier, trail: Sequence[Event], at: int, found: dict[str, float]) -> bool:
    """Write down one tier's numbers; whether its answer stands."""
    stands, checks = _whole(trail[at]), {c.gate: c for c in verdicts(trail, at)}
    hard = [gate.name for gate in tier.gates if not gate.asks and gate.kind != "calibrated"]
    passed = stands and all(name in checks and checks[name].passed for name in hard)
    if hard:
        found[gates(tier.name)] = float(passed)
    for gate in tier.gates if stands else ():
        checked = checks.get(gate.name)
        if passed and gate.asks and checked is not None and checked.score is not None:
            found[score(tier.name, gate.name)] = checked.score
        if not gate.advisory and (checked is None or not checked.passed):
            stands = False
            break
        if checked is not None and gate.accepts(checked.score):
            break
    found[accepted(tier.name)] = float(stands)
    return stands


def differs(policy: Policy, outcome: Outcome, stood: str | None, drawn: bool) -> bool | None:
    """Whether the ladder's answer to this request differs from the last tier's; None when that is not known, or was not to be looked at.

    `drawn`: the request is one of those that are audited if a lower tier stands. If none does, the answer is the last tier's, so nothing
    differs and nothing is to be paid: over the requests drawn, the share that differs is the share over all requests. A shadow asks
    every tier and always tells.
    """
    if outcome.mode == "shadow":
        known = _answer(outcome.trail, policy.tiers[-1].name) is not None
    elif not drawn:
        known = False
    elif stood is None:
        known = _answer(outcome.trail, policy.tiers[-1].name) is not None
    else:
        known = any(isinstance(e, Tried) and e.gate == "audit" for e in outcome.trail)
    if not known:
        return None
    return stood is not None and not any(isinstance(e, Compared) and e.tier == stood and e.same for e in outcome.trail)
