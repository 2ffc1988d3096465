"""What a walk comes to: the numbers of one row that scores are made of. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from cascade.decide import decide, each_paying, spent
from cascade.recording import Recording
from cascade.replay.walk import unasked
from cascade.types import Checked, Compared, Failed, Finish, Policy, Skipped, Trail, Tried


class Seen(NamedTuple):
    """One row under one policy. `text` is the served answer; `cost` in dollars, None when a model has no price. `asked` are the tiers
    that were asked, `checks` (tier, gate, passed) the verdicts, without those of gates that only advise."""

    status: str
    tier: str | None
    text: str | None
    cost: Decimal | None
    calls: int
    asked: tuple[str, ...]
    checks: tuple[tuple[str, str, bool], ...]


class Reference(NamedTuple):
    """The last tier that was recorded, asked alone: its last whole answer (None when it gave none) and its dollars, gates included."""

    text: str | None
    cost: Decimal | None


def see(policy: Policy, trail: Trail) -> Seen:
    """The row of a walked trail."""
    finish = decide(policy, trail)
    assert isinstance(finish, Finish), "a walk ends"
    served = trail[finish.answer] if finish.answer is not None else None
    tier, text = (served.tier, served.text) if isinstance(served, Tried) else (None, None)
    asked = tuple(dict.fromkeys(e.tier for e in trail if isinstance(e, Tried | Failed) and e.gate is None and not unasked(e)))
    advisory = {(t.name, gate.name) for t in policy.tiers for gate in t.gates if gate.advisory}
    checks = tuple((e.tier, e.gate, e.passed) for e in trail if isinstance(e, Checked) and (e.tier, e.gate) not in advisory)
    return Seen(finish.status, tier, text, spent(trail), sum(not unasked(e) for e in trail), asked, checks)


def reference(recording: Recording, last: str | None) -> Reference:
    """What the recorded ladder's last tier said and cost."""
    trail = each_paying(recording.outcome.trail)
    own = [e for e in trail if not isinstance(e, Skipped | Compared) and e.tier == last and getattr(e, "gate", None) != "audit"]
    answers = [e for e in own if isinstance(e, Tried | Failed) and e.gate is None]
    text = answers[-1].text if answers and isinstance(answers[-1], Tried) and answers[-1].finish == "stop" else None
    return Reference(text, spent(own) if answers else None)
