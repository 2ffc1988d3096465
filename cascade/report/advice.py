"""Numbers -> advice, each with its evidence, and none without enough of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from cascade.report.numbers import GateNumbers, Numbers
from cascade.report.spread import wilson
from cascade.summary import Summary, TierSummary

MANY = 100
"""Checks from which a gate is judged."""
SOME = 50
"""Requests from which a tier is judged."""
FEW = 20
"""Repairs, or comparisons, from which something is said."""


@dataclass(frozen=True)
class Advice:
    """One thing to do. `numbers` are the evidence; `dollars` what it is worth over these rows, None where that is not known."""

    rule: str
    sentence: str
    numbers: Mapping[str, float | int | str]
    dollars: Decimal | None = None


def advise(numbers: Numbers, promise: float | None = None) -> tuple[Advice, ...]:
    """What the numbers say should be done, the most urgent first. `promise`: the share of answers that may differ from the last tier's."""
    found = [*_unpriced(numbers), *_alarms(numbers), *_promise(numbers, promise), *_drift(numbers)]
    worth = [*_tiers(numbers), *(a for gate in numbers.gates for a in _gate(gate, numbers)), *_repairs(numbers)]
    worth.sort(key=lambda advice: advice.dollars or Decimal(0), reverse=True)
    return (*found, *worth, *_cached(numbers))


def pays_from(accepted: int, asked: int) -> float | None:
    """The price ratio from which a tier pays.

    Let c be what the tier costs a request (its gates with it), p what it costs to go on when it does not accept, a = accepted / asked.
    Asking it costs c + (1 - a) p, passing it over costs p. It pays when c + (1 - a) p < p, so when c < a p, so when p / c > 1 / a.
    None when nothing was accepted: then it never pays. Repairs and votes are in c. That the requests it did not accept cost the same p
    further up as those it did is assumed; where they differ, p is known only for those that went on.
    """
    return asked / accepted if accepted else None


def _unpriced(numbers: Numbers) -> Iterator[Advice]:
    if names := numbers.summary.unpriced:
        yield Advice("unpriced", f"No price is known for {', '.join(names)}: what was spent and saved cannot be said. Give prices under "
                                 f"pricing: in the policy.",
                     {"models": len(names)})


def _alarms(numbers: Numbers) -> Iterator[Advice]:
    for name, count in numbers.alarms.most_common(3):
        yield Advice("alarm", f"{_n(count)} rows carry the alarm {name[:300]!r}: record and calibrate anew before trusting the "
                               f"thresholds.", {"rows": count})


def _promise(numbers: Numbers, promise: float | None) -> Iterator[Advice]:
    for tier in numbers.sameness:
        differ = tier.n - tier.same
        low, high = wilson(differ, tier.n)
        if promise is not None and tier.n >= FEW and low > promise:
            yield Advice("audit", f"Of {_n(tier.n)} accepted answers of {tier.tier} held against the last tier's, {_n(differ)} differ "
                                  f"({_p(differ / tier.n)}; 95 %: "
                         f"{_p(low)} to {_p(high)}): more than the {_p(promise)} promised. Calibrate anew, or step back to a safer point.",
                         {"compared": tier.n, "differ": differ, "low": low, "high": high, "promise": promise})


def _drift(numbers: Numbers) -> Iterator[Advice]:
    drift = numbers.drift
    if drift and drift.real and min(drift.first[1], drift.last[1]) >= SOME:
        (a, n), (b, m) = drift.first, drift.last
        yield Advice("drift", f"The first tier accepted {_p(a / n)} in the first third of the rows ({_n(a)} of {_n(n)}) and {_p(b / m)} in "
                              f"the last ({_n(b)} of {_n(m)}): "
                     "the traffic, or a model, has changed. See which inputs are new, and calibrate on them.",
                     {"first": a / n, "last": b / m, "low": drift.low, "high": drift.high})


def _tiers(numbers: Numbers) -> Iterator[Advice]:
    summary = _telling(numbers)
    for tier in summary.tiers[:-1]:
        on = numbers.downstream.get(tier.name)
        if tier.asked < SOME or tier.dollars is None or on is None or on.mean is None:
            continue
        yield from _tier(tier, tier.dollars, on.mean)


def _tier(tier: TierSummary, dollars: Decimal, on: Decimal) -> Iterator[Advice]:
    share, need = tier.accepted / tier.asked, pays_from(tier.accepted, tier.asked)
    kept_away = tier.accepted * on
    ratio = float(on * tier.asked / dollars) if dollars else None
    numbers: dict[str, float | int | str] = {"asked": tier.asked, "accepted": tier.accepted, "share": share}
    numbers |= ({"ratio": ratio} if ratio else {}) | ({"break_even": need} if need else {})
    if kept_away < dollars:
        ratio_said = f" It pays once going on costs {need:.1f} times as much as asking it; now that is {ratio:.1f}." if need and ratio else ""
        yield Advice("tier_does_not_pay", f"{tier.name} converts {_p(share)} ({_n(tier.accepted)} of {_n(tier.asked)}). It cost "
                                          f"{_d(dollars)} and kept away about "
                     f"{_d(kept_away)} of dearer calls: remove it.{ratio_said}", numbers, dollars - kept_away)
    elif wilson(tier.accepted, tier.asked)[1] < 0.1:
        yield Advice("tier_converts_little", f"{tier.name} converts only {_p(share)} ({_n(tier.accepted)} of {_n(tier.asked)}): nearly "
                                             f"every request goes on and waits for it. "
                     f"It just pays ({_d(dollars)} against {_d(kept_away)}); removing it makes answers faster.", numbers, None)


def _gate(gate: GateNumbers, numbers: Numbers) -> Iterator[Advice]:
    where = f"{gate.gate} at {gate.tier}"
    facts: dict[str, float | int | str] = {"checked": gate.checked, "failed": gate.failed, "stopped": gate.stopped,
                                           "wrong": gate.wrong, "right": gate.right, "could_not_tell": gate.unsure}
    on = numbers.downstream.get(gate.tier)
    up = gate.stopped * on.mean if on and on.mean is not None else None
    if gate.checked >= SOME and gate.unsure / gate.checked > 0.05:
        yield Advice("could_not_tell", f"{where} could not tell for {_n(gate.unsure)} of {_n(gate.checked)} answers "
                                       f"({_p(gate.unsure / gate.checked)}); each of them goes up. "
                     "See why: its model fails, its prompt is unclear, or the budget does not reach it.", facts)
    elif gate.checked >= MANY and gate.calls and gate.dollars and wilson(gate.stopped, gate.checked)[1] < 0.05:
        if gate.stopped:
            known = (f" Of these, {_n(gate.wrong)} are known to differ from the last tier's answer, {_n(gate.right)} to be the "
                     f"same." if gate.wrong + gate.right
                     else " Whether those answers were wrong is not known: no audit or shadow looked.")
            more = f", and sending them up cost about {_d(up)}" if up is not None else ""
            yield Advice("gate_catches_little", f"{where} stopped {_n(gate.stopped)} of {_n(gate.checked)} answers; it cost "
                                                f"{_d(gate.dollars)} ({_d(gate.dollars / gate.stopped)} a "
                         f"stop){more}.{known} Drop it, unless {_n(gate.stopped)} wrong answers in {_n(gate.checked)} are worth that.",
                         facts, gate.dollars + (up or 0))
        else:
            yield Advice("gate_never_failed", f"{where} let all {_n(gate.checked)} answers pass and cost {_d(gate.dollars)}: drop it, or "
                                              f"raise its threshold.", facts, gate.dollars)
    if gate.wrong + gate.right >= FEW and wilson(gate.right, gate.wrong + gate.right)[0] > 0.5:
        yield Advice("gate_stops_good_answers", f"{where} stops answers that are right: of {_n(gate.wrong + gate.right)} stopped and "
                                                f"compared, {_n(gate.right)} were the same as the "
                     "last tier's. " + ("Lower its threshold." if 2 * gate.unsure <= gate.failed else
                                        f"No threshold helps: it could not tell for {_n(gate.unsure)} of {_n(gate.checked)}."), facts)
    if gate.sampled >= MANY:
        yield from _samples(gate, where)


def _samples(gate: GateNumbers, where: str) -> Iterator[Advice]:
    low, high = wilson(gate.hung, gate.sampled)
    facts = {"decisions": gate.sampled, "hung_on_the_last": gate.hung}
    a_sample = gate.dollars / gate.calls * gate.sampled if gate.dollars and gate.calls else None
    if high < 0.05:
        saves = f", which saves about {_d(a_sample)}" if a_sample is not None else ""
        yield Advice("fewer_samples", f"{where}: at most {_n(gate.hung)} of {_n(gate.sampled)} decisions hung on the last sample: take one "
                                      f"fewer{saves}.", facts, a_sample)
    elif low > 0.3:
        yield Advice("more_samples", f"{where}: up to {_n(gate.hung)} of {_n(gate.sampled)} decisions hung on the last sample: they are "
                                     f"near a coin's toss. Raise samples by one or two.", facts)


def _repairs(numbers: Numbers) -> Iterator[Advice]:
    for tier, (tried, helped) in numbers.repairs.items():
        if tried >= FEW and wilson(helped, tried)[1] < 0.2:
            yield Advice("repairs_do_not_help", f"Repairs at {tier} helped {_n(helped)} of {_n(tried)} times: set repair: 0 "
                                                f"there.", {"tried": tried, "helped": helped})


def _cached(numbers: Numbers) -> Iterator[Advice]:
    cached, n = numbers.summary.cached, numbers.summary.requests
    if n >= SOME and cached / n >= 0.1:
        yield Advice("cache", f"{_n(cached)} of {_n(n)} requests ({_p(cached / n)}) came from the cache and cost nothing: keep it, and let "
                              f"it live long.", {"cached": cached, "requests": n})


def _telling(numbers: Numbers) -> Summary:
    """The ladder's own requests, or, where there are none, what it would have done on the explored ones."""
    return numbers.summary if any(tier.asked for tier in numbers.summary.tiers) else numbers.would


def _n(count: int) -> str:
    return f"{count:,}"


def _p(share: float) -> str:
    return f"{share * 100:.{1 if 0 < share < 0.1 else 0}f}\u00a0%"


def _d(dollars: Decimal) -> str:
    from cascade.report.text import money

    return money(dollars)
