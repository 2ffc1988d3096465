"""The same walk over a row as it was parsed, without events: for the plain rows, which are nearly all. A test holds it to `walk` on every row.

It says None wherever a row is out of the ordinary (a failure, a refusal, something missing, a budget that might bind): then `walk` is asked,
which has the rule, and the words for what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from cascade import signals
from cascade.extract import Extracted
from cascade.replay.roomy import Roomy
from cascade.replay.seen import Reference, Seen
from cascade.replay.walk import UNASKED, Stop, Walker
from cascade.types import NOTHING, Gate, Json, Policy
from cascade.verifiers.calibrated import score

ZERO = Decimal(0)
MOST_KEPT = 1 << 16
_dollars: dict[float, Decimal] = {}


def dollars(value: float) -> Decimal:
    """The decimal that a row's literal stands for."""
    found = _dollars.get(value)
    if found is None:
        if len(_dollars) >= MOST_KEPT:
            _dollars.clear()
        found = _dollars[value] = Decimal(repr(value)) if value else ZERO
    return found


class _Answer:
    """One whole answer of a tier: its event, what gates said of it by name, and the calls that gates made."""

    __slots__ = ("checks", "event", "votes")

    def __init__(self, event: dict[str, Any]) -> None:
        self.event = event
        self.checks: dict[str, dict[str, Any]] = {}
        self.votes: list[dict[str, Any]] = []


class _Gate(NamedTuple):
    """A gate as the walk needs it; `weigh` are the options of a calibrated one."""

    name: str
    threshold: float
    advisory: bool
    accept_at: float
    repairable: bool
    early: bool
    weigh: Mapping[str, Json] | None
    stops: Stop | None


class _Tier(NamedTuple):
    name: str
    gates: tuple[_Gate, ...]
    early: tuple[tuple[str, frozenset[str]], ...]
    repair: int


class Fast:
    """One policy, taken apart once."""

    def __init__(self, walker: Walker) -> None:
        policy = self.policy = walker.policy
        self.read: Callable[[str], Extracted] = walker.read
        self.grader = walker.grader
        early = {tier: {gate.name: frozenset(models) for gate, models in gates} for tier, gates in walker.early.items()}
        stops = walker.stops
        self.tiers = tuple(
            _Tier(tier.name, tuple(_gate(gate, early[tier.name], stops.get((tier.name, gate.name))) for gate in tier.gates),
                  tuple(early[tier.name].items()), tier.repair)
            for tier in policy.tiers)  # fmt: skip
        self.roomy = None if walker.worst is None else Roomy(policy, walker.worst)
        self.exhausted = policy.outcomes.exhausted
        shared = (walker.heard_by_gate, walker.heard_by_tier, walker.known_votes)
        self.usable = not any(any(one.values()) for one in shared) and not _twice(policy, early)

    def play(self, row: Mapping[str, Any], last: str | None) -> tuple[Seen, Reference] | None:
        """What `see(walk(…))` and `reference` say of the row; None for `walk` to say. Raises whatever a row that is not whole raises."""
        if not self.usable:
            return None
        answers = _by_tier(row["trail"])
        if answers is None:
            return None
        found = self._climb(answers)
        if found is None or last not in answers:
            return None
        if any(answer.event["cached"] for answer in answers[last]):
            return None
        if self.roomy is not None and not self.roomy(row["inputs"], row["trail"]):
            return None
        return found, _reference(answers[last])

    def _climb(self, answers: Mapping[str, list[_Answer]]) -> Seen | None:
        total, calls, known = ZERO, 0, True
        asked: list[str] = []
        checks: list[tuple[str, str, bool]] = []
        best: tuple[float, str, str] | None = None
        for name, gates, early, repair in self.tiers:
            of_tier = answers.get(name)
            if of_tier is None:
                return None
            asked.append(name)
            paid: set[int] = set()
            n = 0
            while True:
                answer = of_tier[n]
                event = answer.event
                bills = [event]
                if n == 0:
                    for gate, models in early:
                        votes = _first_votes(of_tier, gate, models)
                        if votes is None:
                            return None
                        bills += votes
                        paid.update(map(id, votes))
                passed, stopped = 0, None
                for gate_ in gates:
                    if gate_.weigh is not None:
                        value = self._weigh(gate_.weigh, event, gates, answer)
                    else:
                        check = answer.checks.get(gate_.name)
                        if check is None:
                            return None
                        value = check["score"]
                        if gate_.stops is not None:
                            samples = [v for v in _samples(of_tier[: n + 1], gate_.name, gate_.stops) if id(v) not in paid]
                            bills += samples
                            paid.update(map(id, samples))
                        elif answer.votes:
                            bills += [v for v in answer.votes if v["gate"] == gate_.name and id(v) not in paid]
                    good = value is not None and value >= gate_.threshold
                    passed += good
                    if not gate_.advisory:
                        checks.append((name, gate_.name, good))
                        if not good:
                            stopped = gate_.repairable and value is not None and n < repair
                            break
                    if value is not None and value >= gate_.accept_at:
                        break
                for bill in bills:
                    cost = bill["cost_usd"]
                    if cost is None:
                        known = False
                    else:
                        total += dollars(cost)
                calls += len(bills)
                if stopped is None:
                    return Seen("accepted", name, event["text"], total if known else None, calls, tuple(asked), tuple(checks))
                stands = passed / len(gates)
                if best is None or self.exhausted == "last" or stands >= best[0]:
                    best = (stands, name, event["text"])
                if not stopped:
                    break
                n += 1
                if n >= len(of_tier):
                    return None
        assert best is not None, "every tier has answered"
        status, tier, text = ("failed", None, None) if self.exhausted == "error" else ("flagged", best[1], best[2])
        return Seen(status, tier, text, total if known else None, calls, tuple(asked), tuple(checks))

    def _weigh(self, options: Mapping[str, Json], event: dict[str, Any], gates: tuple[_Gate, ...], answer: _Answer) -> float | None:
        read = self.read(event["text"])
        if read.problem is not None:
            return 0.0
        before = []
        for gate in gates:
            if gate.weigh is options:
                break
            if gate.weigh is not None:
                continue
            before.append(_Looked(gate.name, answer.checks[gate.name]))
        return score(options, signals.gather(_Said(event), read.notes, self.grader.size(read.value), before))  # type: ignore[arg-type]


class _Said:
    """Of an answer's event what `signals.gather` looks at."""

    __slots__ = ("repair", "signals", "text", "usage")

    def __init__(self, event: dict[str, Any]) -> None:
        self.text: str = event["text"]
        self.repair: int = event["repair"]
        self.signals: Mapping[str, float] = event.get("signals", NOTHING)
        usage = event.get("usage")
        self.usage = None if usage is None else _Usage(usage["input"], usage["output"])


class _Usage(NamedTuple):
    input: int
    output: int


class _Looked:
    """Of a check's event what `signals.gather` looks at."""

    __slots__ = ("gate", "score", "signals")

    def __init__(self, gate: str, event: dict[str, Any]) -> None:
        self.gate = gate
        self.score: float | None = event["score"]
        self.signals: Mapping[str, float] = event.get("signals", NOTHING)


def _by_tier(trail: list[dict[str, Any]]) -> dict[str, list[_Answer]] | None:
    """The answers of each tier, the first and its repairs in order; None unless each is whole and all that was asked was answered."""
    found: dict[str, list[_Answer]] = {}
    now: _Answer | None = None
    name = None
    for event in trail:
        kind = event["event"]
        if kind == "tried":
            gate = event["gate"]
            if gate is None:
                name = event["tier"]
                if event["finish"] != "stop":
                    return None
                now = _Answer(event)
                of_tier = found.setdefault(name, [])
                if event["repair"] != len(of_tier):
                    return None
                of_tier.append(now)
            elif now is None or event["tier"] != name:
                return None
            else:
                now.votes.append(event)
        elif kind == "checked":
            if now is None or event["tier"] != name or event["gate"] in now.checks:
                return None
            now.checks[event["gate"]] = event
        elif kind == "failed":
            if now is None or event["gate"] is None or event["tier"] != name or event["error"] in UNASKED:
                return None
            now.votes.append(event)
        elif kind != "compared":
            return None
    return found


def _first_votes(of_tier: list[_Answer], gate: str, models: frozenset[str]) -> list[dict[str, Any]] | None:
    """What the gate asked, whenever it was collected; None unless each of its models was asked once."""
    votes = [vote for answer in of_tier for vote in answer.votes if vote["gate"] == gate]
    asked = {vote["model"] for vote in votes}
    return votes if len(votes) == len(asked) and asked == models else None


def _samples(of_tier: list[_Answer], gate: str, stops: Stop) -> list[dict[str, Any]]:
    """The samples that it takes to decide on the last of these answers."""
    last = {vote["sample"]: vote for answer in of_tier for vote in answer.votes if vote["gate"] == gate}
    votes = [last[sample] for sample in sorted(last)]
    said = [(vote["text"], vote["finish"]) if vote["event"] == "tried" else None for vote in votes]
    return votes[: sum(stops(of_tier[-1].event["text"], said))]


def _reference(of_tier: list[_Answer]) -> Reference:
    total: Decimal | None = ZERO
    for answer in of_tier:
        for event in (answer.event, *answer.votes, *answer.checks.values()):
            cost = event["cost_usd"]
            total = None if total is None or cost is None else total + dollars(cost)
    return Reference(of_tier[-1].event["text"], total)


def _gate(gate: Gate, early: Mapping[str, frozenset[str]], stops: Stop | None) -> _Gate:
    weigh = gate.options if gate.kind == "calibrated" else None
    sure = math.inf if gate.accept_at is None else gate.accept_at
    return _Gate(gate.name, gate.threshold, gate.advisory, sure, gate.repairable, gate.name in early, weigh, stops)


def _twice(policy: Policy, early: Mapping[str, Mapping[str, frozenset[str]]]) -> bool:
    """Whether two gates ask the same model early: then one of them pays for both, and which one is for `walk` to say."""
    models = [model for of_tier in early.values() for asked in of_tier.values() for model in asked]
    return len(models) != len(set(models))

