"""The monitor: its tests against simulation and enumeration, what is counted, the state under crashes and processes, the step back."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, binom
from test_calibrate import COST, POLICY, cheap_ones_err, evidence
from test_cli import Cli, cli  # noqa: F401  # a fixture

from cascade import Cascade, thresholds
from cascade.calibrate import learn, path, seen
from cascade.errors import InputError
from cascade.monitor import eprocess, expect, observe
from cascade.monitor.live import MEMORY, Monitor, state_file
from cascade.monitor.observe import DIFFERS, walk
from cascade.monitor.state import Batch, Counts
from cascade.outcome import Outcome
from cascade.policy import load
from cascade.policy.lint import lint
from cascade.policy.load import load_with_places
from cascade.recording import from_line
from cascade.thresholds import Point, Score, Seen, Thresholds
from cascade.types import Answer, Call, Checked, Compared, Event, Expected, Failed, Gate, Policy, Template, Tier, Tried, Usage, Watch

ROOT = Path(__file__).parent.parent
Floats = np.ndarray


# ---------------------------------------------------------------- the test itself


def wealthy(low: float, high: float, numbers: list[float]) -> list[float]:
    """The evidence after each number."""
    bets = eprocess.bets(low, high)
    state, found = eprocess.start(len(bets)), []
    for x in numbers:
        state = eprocess.after(state, 1, x, [bet.factor(x) for bet in bets])
        found.append(state.evidence)
    return found


def crossings(p: Floats, high: float, error: float, ladders: int, seed: int = 1) -> Floats:
    """Of so many streams of yes and no, with probability p[t] of a yes: when each alarm first sounded, infinity for never."""
    bets = eprocess.bets(0.0, high)
    yes, no = (np.array([[bet.factor(x)] for bet in bets]) for x in (1.0, 0.0))
    wealth = np.repeat(np.array(eprocess.start(len(bets)).wealth)[:, None], ladders, 1)
    rng, first = np.random.default_rng(seed), np.full(ladders, np.inf)
    for t, share in enumerate(p):
        wealth = wealth * np.where(rng.random(ladders) < share, yes, no) + (eprocess._waiting(t) - eprocess._waiting(t + 1)) / len(bets)
        first[(wealth.sum(0) + eprocess._waiting(t + 1) >= 1 / error) & np.isinf(first)] = t + 1
    return first


def test_the_streams_of_these_tests_are_those_of_the_monitor() -> None:
    rng = np.random.default_rng(4)
    numbers = (rng.random(300) < 0.09).astype(float).tolist()
    found = wealthy(0.0, 0.02, numbers)
    bets = eprocess.bets(0.0, 0.02)
    wealth = np.array(eprocess.start(3).wealth)
    for t, x in enumerate(numbers):
        wealth = wealth * np.array([bet.factor(x) for bet in bets]) + (eprocess._waiting(t) - eprocess._waiting(t + 1)) / 3
        assert found[t] == pytest.approx(wealth.sum() + eprocess._waiting(t + 1))


@pytest.mark.parametrize("loss", [0.01, 0.02, 0.05])
def test_at_the_boundary_an_alarm_ever_sounds_with_no_more_than_the_stated_probability(loss: float) -> None:
    ever = np.isfinite(crossings(np.full(3000, loss), loss, 0.05, 2000)).mean()
    assert 0.005 < ever <= 0.05, "and the test is not idle"


def test_nor_below_the_boundary_nor_where_the_loss_comes_and_goes_below_it() -> None:
    waves = 0.02 * (np.arange(3000) // 300 % 2)
    for p in (np.full(3000, 0.01), waves):
        assert np.isfinite(crossings(p, 0.02, 0.05, 1000)).mean() <= 0.03


@pytest.mark.parametrize(("loss", "audits"), [(0.01, 350), (0.02, 180), (0.05, 75)])
def test_three_times_the_loss_is_found_within_some_audits(loss: float, audits: int) -> None:
    first = crossings(np.full(20 * audits, 3 * loss), loss, 0.05, 1000)
    assert np.isfinite(first).all()
    assert np.median(first) <= audits
    assert np.quantile(first, 0.9) <= 2.5 * audits


def test_a_change_after_a_long_good_time_is_found_too() -> None:
    first = crossings(np.concatenate([np.full(4000, 0.01), np.full(1500, 0.06)]), 0.02, 0.05, 500) - 4000
    assert (first < 0).mean() <= 0.02
    assert np.median(first) <= 550
    assert np.isfinite(first).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.02), (0.3, 0.4), (0.7, 1.0), (0.001, 0.999)])
def test_no_mean_inside_lets_evidence_grow_and_any_outside_does(low: float, high: float) -> None:
    bets = eprocess.bets(low, high)
    for p in np.linspace(low, high, 7):
        for bet in bets:
            assert p * bet.factor(1.0) + (1 - p) * bet.factor(0.0) <= 1 + 1e-12
    for bet in bets:
        outside = bet.edge + 0.02 * (1 - bet.edge) if bet.stake > 0 else bet.edge * 0.98
        assert outside * bet.factor(1.0) + (1 - outside) * bet.factor(0.0) > 1
        assert min(bet.factor(0.0), bet.factor(1.0)) >= 0


def test_no_wealth_comes_from_nothing() -> None:
    assert eprocess.start(6).evidence == pytest.approx(1)
    assert wealthy(0.0, 0.2, [])[-1:] == []
    after = eprocess.after(eprocess.start(3), 70, 3.0, [1.0, 1.0, 1.0])
    assert after.evidence == pytest.approx(1), "starting a bet moves wealth and makes none"
    assert eprocess.bets(0.0, 1.0) == ()
    assert eprocess.after(eprocess.start(0), 5, 2.0, []) == eprocess.State(5, 2.0, ())


def test_numbers_written_together_weigh_as_much_as_one_by_one() -> None:
    batch = Batch.of(Expected(0.2, 0.4, 0.05, 0.3))
    for x in (0.0, 1.0, 0.25):
        batch.add(x)
    bets = eprocess.bets(0.2, 0.4)
    assert batch.factors == pytest.approx([b.factor(0.0) * b.factor(1.0) * b.factor(0.25) for b in bets])
    assert (batch.n, batch.total) == (3, 1.25)


@pytest.mark.parametrize("n", [20, 150, 600])
@pytest.mark.parametrize("error", [0.05, 0.002])
def test_the_interval_misses_a_mean_with_no_more_than_its_error(n: int, error: float) -> None:
    intervals = np.array([eprocess.interval(n, k, error) for k in range(n + 1)])
    for p in (0.003, 0.02, 0.1, 0.5, 0.8, 0.99):
        chance = binom.pmf(np.arange(n + 1), n, p)
        assert chance[p > intervals[:, 1]].sum() <= error / 2
        assert chance[p < intervals[:, 0]].sum() <= error / 2
    assert eprocess.interval(0, 0.0, error) == (0.0, 1.0)
    assert intervals[0][1] == pytest.approx(1 - (error / 2) ** (1 / n)), "exactly, where nothing was seen"


@pytest.mark.parametrize(("n", "yes"), [(20, 0), (300, 5), (300, 299), (667, 40)])
def test_the_most_a_share_can_be_is_clopper_and_pearsons(n: int, yes: int) -> None:
    assert eprocess.most(n, yes, 0.003) == pytest.approx(beta.ppf(0.997, yes + 1, n - yes))
    assert eprocess.most(n, n, 0.003) == 1.0


# ---------------------------------------------------------------- what is counted of a request

GATES = (Gate("schema", "schema", 1.0), Gate("agreement", "agreement", 1.0, asks=True, advisory=True), Gate("calibrated", "calibrated", 0.7))
LADDER = Policy("p", Template("", ""), (Tier("small", "m/small", GATES), Tier("middle", "m/middle", GATES), Tier("big", "m/big")))


def tried(tier: str, gate: str | None = None, finish: str = "stop") -> Tried:
    return Tried(tier, f"m/{tier}", "{}", finish, gate=gate)  # type: ignore[arg-type]


def answer(tier: str, schema: float = 1.0, agreement: float | None = 1.0, right: float = 0.9) -> list[Event]:
    checks = [Checked(tier, "schema", schema, 1.0, schema == 1.0)]
    if schema == 1.0:
        checks += [Checked(tier, "agreement", agreement, 1.0, agreement == 1.0), Checked(tier, "calibrated", right, 0.7, right >= 0.7)]
    return [tried(tier), tried(tier, "agreement"), *checks]


STOOD = {"small: gates passed": 1.0, "small: agreement": 1.0, "small: accepted": 1.0}
CLIMBED = {"small: gates passed": 1.0, "small: agreement": 0.0, "small: accepted": 0.0}
MIDDLE = {name.replace("small", "middle"): x for name, x in CLIMBED.items()}


@pytest.mark.parametrize(
    ("trail", "stood", "numbers"),
    [
        (answer("small"), "small", STOOD),
        (answer("small", right=0.2, agreement=0.0) + answer("middle"), "middle", {**CLIMBED, **{k.replace("small", "middle"): v for k, v in STOOD.items()}}),
        (answer("small", schema=0.0) + answer("middle", right=0.2, agreement=0.0) + [tried("big")], None,
         {"small: gates passed": 0.0, "small: accepted": 0.0, **MIDDLE, observe.same("small"): 0.0, observe.same("middle"): 0.0}),
        ([*answer("small", agreement=None, right=0.2), Failed("middle", "m/middle", "overloaded", "busy"), tried("big")], None,
         {"small: gates passed": 1.0, "small: accepted": 0.0, observe.same("small"): 0.0}),
        ([tried("small", finish="length"), *answer("middle", right=0.2, agreement=0.0), tried("big")], None,
         {"small: gates passed": 0.0, "small: accepted": 0.0, **MIDDLE, observe.same("middle"): 0.0}),
        ([*answer("small", right=0.1), tried("big", finish="refusal")], None, {"small: gates passed": 1.0, "small: agreement": 1.0, "small: accepted": 0.0}),
        (answer("small") + answer("middle", right=0.2) + [tried("big")], "small", STOOD),
        ([tried("small"), Checked("small", "schema", 0.0, 1.0, False), Checked("small", "agreement", 1.0, 1.0, True), *answer("middle")], "middle",
         {"small: gates passed": 0.0, "small: accepted": 0.0, **{k.replace("small", "middle"): v for k, v in STOOD.items()}}),
    ],
    ids=["accepted", "accepted above", "climbed to the end", "a tier that failed is not counted", "cut off", "the last one refused",
         "a shadow: not beyond where the ladder stops",
         "a shadow: no score of what the ladder would not have scored"],
)  # fmt: skip
def test_a_story_as_numbers(trail: list[Event], stood: str | None, numbers: dict[str, float]) -> None:
    found = walk(LADDER, trail, ())
    assert (found.stood, dict(found.numbers)) == (stood, numbers)


def test_only_those_that_climbed_are_held_against_the_last_tier_for_nothing() -> None:
    trail = answer("small", right=0.1) + answer("middle", right=0.1) + [tried("big")]
    compared = [Compared("small", "big", True), Compared("middle", "big", False)]
    found = walk(LADDER, trail, compared).numbers
    assert (found[observe.same("small")], found[observe.same("middle")]) == (1.0, 0.0)
    assert observe.same("small") not in walk(LADDER, answer("small"), compared).numbers
    failed = [Failed("small", "m/small", "overloaded", "busy"), *answer("middle", right=0.1), tried("big")]
    assert observe.same("small") not in walk(LADDER, failed, compared).numbers, "a repair failed: what it said before does not count"


AUDIT, DIFFERENT, EQUAL = tried("small", "audit"), Compared("small", "big", False), Compared("small", "big", True)


@pytest.mark.parametrize(
    ("mode", "trail", "drawn", "says"),
    [
        ("audit", [*answer("small"), AUDIT, EQUAL], True, False),
        ("audit", [*answer("small"), AUDIT, DIFFERENT], True, True),
        ("audit", [*answer("small"), AUDIT], True, True),
        ("audit", [*answer("small"), Failed("small", "m/big", "overloaded", "busy", gate="audit")], True, None),
        (None, answer("small"), False, None),
        (None, [*answer("small", right=0.1), tried("big")], True, False),
        (None, [*answer("small", right=0.1), tried("big")], False, None),
        (None, [*answer("small", right=0.1), Failed("big", "m/big", "overloaded", "busy")], True, None),
        ("shadow", [*answer("small"), tried("big"), DIFFERENT], False, True),
        ("shadow", [*answer("small", right=0.1), tried("big"), DIFFERENT], False, False),
        ("shadow", [*answer("small"), Failed("big", "m/big", "overloaded", "busy")], False, None),
    ],
    ids=["same", "differs", "the last tier gave nothing readable", "its provider failed", "not drawn", "climbed, and drawn: nothing to pay, nothing lost",
         "climbed, not drawn", "climbed, and nobody answered", "a shadow always tells", "a shadow that would have climbed", "a shadow without a last answer"],
)  # fmt: skip
def test_whether_a_request_differs(mode: str | None, trail: list[Event], drawn: bool, says: bool | None) -> None:
    outcome = Outcome("p@1", "accepted", {}, "small", trail=tuple(trail), mode=mode)  # type: ignore[arg-type]
    two = replace(LADDER, tiers=(LADDER.tiers[0], LADDER.tiers[-1]))
    assert observe.differs(two, outcome, walk(two, trail, ()).stood, drawn) is says


def test_in_a_shadow_only_the_tier_that_would_have_been_served_counts() -> None:
    trail = (*answer("small", right=0.1), *answer("middle"), tried("big"), EQUAL, Compared("middle", "big", False))
    outcome = Outcome("p@1", "accepted", {}, "big", trail=trail, mode="shadow")
    assert observe.differs(LADDER, outcome, walk(LADDER, trail, ()).stood, False) is True


def test_over_the_requests_drawn_the_share_that_differs_is_that_over_all_requests() -> None:
    """The whole of it simulated: 80 % are accepted, of which some differ; a twentieth is drawn; at the boundary alarms stay rare."""
    rng, loss, n = np.random.default_rng(9), 0.04, 20_000
    alarms = {1.0: 0, 3.0: 0}
    for times in alarms:
        for _ in range(60):
            accepted, drawn = rng.random(n) < 0.8, rng.random(n) < 0.05
            differ = accepted & (rng.random(n) < times * loss / 0.8)
            alarms[times] += max(wealthy(0.0, loss, differ[drawn].astype(float).tolist())) >= 20
    assert alarms[1.0] <= 6, "at most 3 of 60 are expected"
    assert alarms[3.0] == 60


# ---------------------------------------------------------------- what is expected


def step(differ: int, certified: bool = True, rows: int = 300, cut: float | None = 0.8) -> Point:
    return Point({"small": cut}, 0.01, rows, differ, 0, 0.01, certified, {DIFFERS: Seen(rows, float(differ)), "small: accepted": Seen(rows, rows * 0.8)})


def found(*steps: Point, **certificate: object) -> Thresholds:
    given = {"max_loss": 0.05, "confidence": 0.95, "reference": "last", "path": 10, "min_accuracy": None, "max_cost": None, **certificate}
    return Thresholds("p", {}, "", {"small": Score((), (), (), (), 2.0)}, steps, len(steps) - 1, given)


def test_what_was_certified_of_disagreement_is_what_disagreement_is_held_against() -> None:
    assert expect.expected(found(step(6)), 0)[DIFFERS] == Expected(0.0, 0.05, pytest.approx(0.05), 0.02)


@pytest.mark.parametrize(
    ("certificate", "differ", "high"),
    [
        ({"reference": "gold"}, 30, beta.ppf(1 - 0.025 * (0.125 + 0.05), 31, 270)),
        ({"reference": "gold"}, 0, 0.05),
        ({"min_accuracy": 0.9}, 6, beta.ppf(1 - 0.025 * 0.175, 7, 294)),
    ],
    ids=["with gold: the most that calibration allows", "or what may be lost, if that is more", "an accuracy says nothing of disagreement"],
)  # fmt: skip
def test_else_it_is_the_most_that_what_was_seen_allows(certificate: dict[str, object], differ: int, high: float) -> None:
    expected = expect.expected(found(step(differ), **certificate), 0)[DIFFERS]
    assert (expected.low, expected.high, expected.error) == (0.0, pytest.approx(high), pytest.approx(0.025))


@pytest.mark.parametrize("many", [1, 2, 10, 40])
def test_the_steps_share_the_error_and_no_more(many: int) -> None:
    steps = found(*(step(3) for _ in range(many)), path=many)
    even = 0.5
    falling = sum(expect._share(steps, i) for i in range(many)) - even
    assert 2 * falling + even <= 1, "two orders share what falls off"
    assert expect._share(steps, 0) >= 0.125


def test_the_error_of_drift_is_shared_by_all_that_may_drift() -> None:
    given = found(replace(step(3), seen={**step(3).seen, "small: agreement": Seen(240, 200.0), "never": Seen(0, 0.0)}))
    expected = expect.expected(given, 0)
    assert set(expected) == {DIFFERS, "small: accepted", "small: agreement"}
    assert expected["small: agreement"].error == pytest.approx(0.05 / 2 / 2)
    assert (expected["small: agreement"].low, expected["small: agreement"].high) == pytest.approx(eprocess.interval(240, 200.0, 0.05 / 2 / 2 * 0.175))


@pytest.mark.parametrize(
    ("steps", "at", "back"),
    [
        ([step(1), step(3), step(6), step(7)], 3, 1),
        ([step(1), step(3)], 1, 0),
        ([step(2), step(3)], 1, None),
        ([step(0), step(0)], 1, None),
        ([step(0, cut=None), step(3)], 1, None),
        ([step(1, certified=False), step(3)], 1, None),
        ([step(3)], 0, None),
    ],
    ids=["half as many, nearest", "the first", "none differs so much less", "nothing differed", "that is the last tier alone", "not certified", "no other"],
)
def test_the_step_back(steps: list[Point], at: int, back: int | None) -> None:
    assert expect.safer(found(*steps), at) == back


def test_a_thresholds_file_from_before_is_served_and_has_nothing_to_be_held_against() -> None:
    assert expect.expected(found(replace(step(3), seen={})), 0) == {}


def test_calibrations_whose_luckiest_step_was_chosen_raise_no_more_false_alarms_than_stated() -> None:
    """Ten steps that differ equally often, each with rows of its own; the one that looked best is chosen; the traffic stays as it was."""
    rng, alarms = np.random.default_rng(11), 0
    for _ in range(150):
        differ = rng.binomial(300, 0.08, 10)
        expected = expect.expected(found(*(step(int(k)) for k in differ), reference="gold"), int(differ.argmin()))[DIFFERS]
        alarms += max(wealthy(0.0, expected.high, (rng.random(600) < 0.08).astype(float).tolist())) >= 1 / expected.error
    assert alarms <= 0.05 * 150


# ---------------------------------------------------------------- the state


def watched(source: str = "one", folder: Path = Path("x"), error: float = 0.05) -> Policy:
    """A chain of three: step 1, step 0, the last tier."""
    expected = {DIFFERS: Expected(0.0, 0.05, error, 0.02), "small: accepted": Expected(0.7, 0.9, 0.01, 0.8)}
    file = str(folder / "p.thresholds.json")
    last = replace(LADDER, tiers=LADDER.tiers[-1:], digest="last", watch=Watch(file, source, None))
    safe = replace(LADDER, digest="safe", watch=Watch(file, source, 0, expected), safer=last)
    return replace(LADDER, digest="loose", watch=Watch(file, source, 1, expected), safer=safe)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lossy(monitor: Monitor, times: int = 40, start: int = 0, step: int = 0) -> None:
    """So many requests whose answers differ, served by that policy of the chain."""
    for i in range(start, start + times):
        monitor.add(monitor.chain[step], {}, True, str(i).encode())


def counted(monitor: Monitor) -> dict[tuple[int, str], tuple[int, float | None]]:
    return {(line.step, line.name): (line.n, line.mean) for line in monitor.lines() if line.n}


def test_after_an_alarm_the_next_policy_of_the_chain_serves_and_is_held_against_its_own_numbers_anew(tmp_path: Path) -> None:
    monitor = Monitor(watched(), str(tmp_path / "m"))
    monitor.add(monitor.policy, {"small: accepted": 1.0}, False, b"x")
    assert (monitor.serving().digest, monitor.alarm) == ("loose", None)
    while monitor.policy.digest == "loose":
        lossy(monitor, 1, monitor.lines()[0].n)
    told = monitor.alarm
    n = monitor.lines()[0].n
    assert told == f"stepped back to step 0 of p.thresholds.json: {n - 1} of {n} requests held against big differ, at most 5.0 % were expected"
    assert n < 8
    assert [line.n for line in monitor.lines() if line.name == DIFFERS] == [n, 0]
    while monitor.policy.digest == "safe":
        lossy(monitor, 1, monitor.lines()[2].n, step=1)
    assert (monitor.policy.digest, str(monitor.alarm).partition(":")[0]) == ("last", "stepped back to always big")
    monitor.add(monitor.policy, {"small: accepted": 1.0}, True, b"z")
    monitor.close()


def test_drift_warns_and_takes_no_step() -> None:
    monitor = Monitor(watched(), MEMORY)
    for _ in range(200):
        monitor.add(monitor.policy, {"small: accepted": 0.0}, None, b"")
    assert monitor.policy.digest == "loose"
    assert monitor.alarm == "drift of small: accepted: 0.0 % of 100, 70.0 % to 90.0 % were expected"


def test_what_drifted_on_a_step_that_serves_no_more_is_not_told(tmp_path: Path) -> None:
    monitor = Monitor(watched(), MEMORY)
    for _ in range(200):
        monitor.add(monitor.chain[0], {"small: accepted": 0.0}, None, b"")
    lossy(monitor)
    assert str(monitor.alarm).startswith("stepped back to step 0")
    assert "drift" not in str(monitor.alarm)


def test_evidence_beyond_all_bounds_stays_a_number() -> None:
    monitor = Monitor(watched(), MEMORY)
    lossy(monitor, 900)
    lossy(monitor, 1, 2000)
    (line,) = [line for line in monitor.lines() if (line.step, line.name) == (1, DIFFERS)]
    assert (line.n, line.evidence > 1e6, np.isfinite(line.evidence)) == (901, True, True)


def test_a_request_tells_once_whether_it_differs() -> None:
    monitor = Monitor(watched(), MEMORY)
    for _ in range(50):
        monitor.add(monitor.policy, {}, True, b"the same")
    assert counted(monitor) == {(1, DIFFERS): (1, 1.0)}
    assert monitor.alarm is None


def test_what_is_not_expected_is_not_counted() -> None:
    bare = replace(LADDER, watch=Watch("p.json", "s", 0, {"small: accepted": Expected(0.1, 0.2, 0.05, 0.15)}))
    monitor = Monitor(bare, MEMORY)
    monitor.add(bare, {"small: accepted": 1.0, "another": 1.0}, True, b"k")
    assert counted(monitor) == {(0, "small: accepted"): (1, 1.0)}
    with pytest.raises(ValueError, match="nothing to hold"):
        Monitor(LADDER, MEMORY)


def test_an_alarm_without_anything_safer_only_warns() -> None:
    alone = replace(watched(), safer=None)
    monitor = Monitor(alone, MEMORY)
    lossy(monitor)
    assert (monitor.policy, str(monitor.alarm).partition(":")[0]) == (alone, "answers differ and nothing safer is certified")


def test_counts_wait_for_company_and_are_written_with_the_next_look_an_audit_or_the_end(tmp_path: Path) -> None:
    clock, path = Clock(), str(tmp_path / "m")
    monitor, other = Monitor(watched(), path, clock), Counts(path, "one")
    n = lambda: (state := other.state(1, "small: accepted")) and state.n  # noqa: E731
    monitor.add(monitor.policy, {"small: accepted": 1.0}, None, b"")
    monitor.serving()
    assert n() is None
    clock.now = 1.0
    monitor.serving()
    assert n() == 1
    monitor.add(monitor.policy, {"small: accepted": 1.0}, False, b"a")
    assert n() == 2
    for _ in range(100):
        monitor.add(monitor.policy, {"small: accepted": 1.0}, None, b"")
    assert n() == 102
    monitor.add(monitor.policy, {"small: accepted": 1.0}, None, b"")
    monitor.close()
    monitor.close()
    assert n() == 103


def test_the_alarm_of_one_process_is_heard_by_the_others_and_by_those_to_come(tmp_path: Path) -> None:
    clock, path = Clock(), str(tmp_path / "m")
    mine, theirs = Monitor(watched(), path, clock), Monitor(watched(), path, clock)
    lossy(theirs, 5)
    assert mine.serving().digest == "loose"
    clock.now = 2.0
    assert (mine.serving().digest, mine.alarm) == (theirs.policy.digest, theirs.alarm)
    theirs.close()
    later = Monitor(watched(), path)
    assert later.policy.digest == "safe"
    later.reset()
    clock.now = 4.0
    assert (later.policy.digest, mine.serving().digest, mine.alarm, counted(mine)) == ("loose", "loose", None, {})


def test_a_new_certificate_starts_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    old = Monitor(watched("one"), path)
    lossy(old)
    old.close()
    new = Monitor(watched("two"), path)
    assert (new.policy.digest, counted(new)) == ("loose", {})
    assert Monitor(watched("one"), path).policy.digest == "safe"


@pytest.mark.parametrize("kind", ["no folder", "not a database", "of a later version"])
def test_a_state_that_cannot_be_used_is_told_once_and_counted_without(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m"
    if kind == "no folder":
        path = tmp_path / "gone" / "m"
    elif kind == "not a database":
        path.write_bytes(b"hello, this is no database" * 50)
    else:
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 9")
    with caplog.at_level(logging.WARNING, "cascade.monitor"):
        monitor = Monitor(watched(), str(path))
        monitor.add(monitor.policy, {}, False, b"a")
    assert counted(monitor) == {(1, DIFFERS): (1, 0.0)}
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"the monitor's state in {path} cannot be used")


def test_a_state_that_breaks_while_serving_does_not_forget_the_alarm(tmp_path: Path) -> None:
    path = tmp_path / "m"
    monitor = Monitor(watched(), str(path))
    lossy(monitor)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE trial")
    lossy(monitor, 2, 100, step=1)
    assert (monitor.path, monitor.policy.digest) == (MEMORY, "safe")
    assert counted(monitor)[0, DIFFERS] == (2, 1.0)


def test_while_another_process_writes_counts_are_kept_and_the_request_goes_on(tmp_path: Path) -> None:
    clock, path = Clock(), str(tmp_path / "m")
    monitor = Monitor(watched(), path, clock)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monitor.add(monitor.policy, {"small: accepted": 1.0}, True, b"a")
    assert monitor._counts is not None
    assert monitor._counts.state(1, DIFFERS) is None
    other.execute("COMMIT")
    monitor.add(monitor.policy, {"small: accepted": 1.0}, False, b"b")
    assert counted(monitor) == {(1, DIFFERS): (2, 0.5), (1, "small: accepted"): (2, 1.0)}


PROCESS = """
import sys
from cascade.monitor.live import Monitor
from cascade.types import Expected, Policy, Template, Tier, Watch
expected = {"differs": Expected(0.0, 0.05, 1e-9, 0.02), "small: accepted": Expected(0.7, 0.9, 0.01, 0.8)}
policy = Policy("p", Template("", ""), (Tier("small", "m/small"), Tier("big", "m/big")), watch=Watch("", "one", 1, expected))
path, me, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
monitor = Monitor(policy, path)
print("ready", flush=True)
sys.stdin.readline()
for i in range(most):
    monitor.add(policy, {"small: accepted": 0.8}, i % 10 == 0, f"{me} {i}".encode())
    if i % 50 == 0:
        print(i, flush=True)
monitor.close()
"""


def processes(path: Path, many: int, each: int) -> list[subprocess.Popen[str]]:
    """So many, opened at once, which begin to count when told."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen([sys.executable, "-c", PROCESS, str(path), str(i), str(each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                text=True, env=env) for i in range(many)]
    for child in started:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "ready\n"
    for child in started:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return started


def test_several_processes_lose_no_count(tmp_path: Path) -> None:
    path = tmp_path / "m"
    for child in processes(path, 4, 300):
        child.communicate()
        assert child.returncode == 0
    assert counted(Monitor(watched(), str(path))) == {(1, DIFFERS): (1200, 0.1), (1, "small: accepted"): (1200, pytest.approx(0.8))}


def test_a_process_killed_in_the_middle_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m"
    killed, other = processes(path, 2, 2000)
    assert killed.stdout is not None
    while killed.stdout.readline() != "400\n":
        assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = [int(line) for line in killed.stdout]
    other.communicate()
    assert other.returncode == 0
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        ((trials,),) = db.execute("SELECT count(*) FROM trial").fetchall()
    n, _ = counted(Monitor(watched(), str(path)))[1, DIFFERS]
    assert n == trials, "what is counted and what was seen are of one transaction"
    assert 2000 + max([400, *done]) <= n <= 4000


def test_a_process_that_was_forked_off_counts_beside_its_parent(tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    monitor = Monitor(watched(), path)
    monitor.add(monitor.policy, {}, False, b"parent")
    monitor.add(monitor.policy, {"small: accepted": 1.0}, None, b"")
    child = os.fork()
    if child == 0:
        try:
            monitor.add(monitor.policy, {"small: accepted": 0.0}, False, b"child")
            monitor.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    monitor.add(monitor.policy, {}, False, b"parent again")
    assert counted(monitor) == {(1, DIFFERS): (3, 0.0), (1, "small: accepted"): (2, 0.5)}
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# ---------------------------------------------------------------- the whole of it


@cache
def certificate(**goal: object) -> bytes:
    """The thresholds file of two cheap models that seldom err, and never alike."""
    with tempfile.TemporaryDirectory() as folder:
        given = evidence(Path(folder), 450, cheap_ones_err)
        return thresholds.dumps(learn.calibrate(given, learn.Goal(**goal)).thresholds)  # type: ignore[arg-type]


def calibrated(folder: Path, more: str = "", file: bytes | None = None) -> Path:
    """The policy file of a ladder with that certificate, of a loss of 5 % if none is given."""
    (folder / "sums.thresholds.json").write_bytes(file or certificate(max_loss=0.05))
    path = folder / "sums.yaml"
    path.write_text(POLICY.replace("{backend: off}", "{backend: memory}") + "thresholds: sums.thresholds.json\n" + more)
    return path


class World:
    """What the models say: from `turned` on the two cheap ones err alike, so that no gate sees it."""

    def __init__(self, turned: int) -> None:
        self.turned, self.asked = turned, 0

    async def __call__(self, call: Call) -> Answer:
        self.asked += 1
        i = int(call.messages[-1].content.split()[1])
        wrong = call.model != "p/big" and (i >= self.turned or cheap_ones_err(call.model, i))
        value = i + (1000 if i >= self.turned else len(call.model)) if wrong else i
        return Answer(f'{{"answer": {value}}}', usage=Usage(10, 5), cost_usd=COST[call.model], model=call.model)


def serve(cascade: Cascade, numbers: Iterable[int]) -> list[Outcome]:
    async def all_of_them() -> list[Outcome]:
        return [await cascade.arun({"question": str(i)}, id=str(i)) for i in numbers]

    return asyncio.run(all_of_them())


def test_a_ladder_whose_cheap_models_turn_bad_steps_back_and_says_so(tmp_path: Path) -> None:
    path, state = calibrated(tmp_path, "audit: 0.2\n"), tmp_path / "state"
    with Cascade.load(path, ask=World(500), monitor=str(state)) as cascade:
        good = serve(cascade, range(1000, 1010))
        assert {o.alarm for o in serve(cascade, range(100))} == {None}
        turned = serve(cascade, range(500, 700))
        first = next(i for i, o in enumerate(turned) if o.alarm)
        assert 5 < first < 100
        assert {(o.tier, o.policy) for o in turned[first + 1 :]} == {("big", cascade.labels and turned[-1].policy)}
        assert turned[-1].policy != turned[0].policy == cascade.label
        assert {turned[0].policy, turned[-1].policy} == set(cascade.labels)
        assert str(cascade.alarm).startswith("stepped back to always big: ")
        assert turned[-1].explain().splitlines()[-1] == f"alarm: {cascade.alarm}"
        assert cascade.policy.tiers[0].name == "small", "what was loaded stays what was loaded"
        again = serve(cascade, range(1000, 1010))
        assert [o.cached for o in again] == [False] * 10, "an answer accepted by the looser step is not served any more"
        assert {o.tier for o in again} == {"big"}
        recorded = asyncio.run(cascade.arecord({"question": "7"}))
        assert {e.tier for e in recorded.trail} == {"small", "big"}, "recordings still ask every tier"
    with Cascade.load(path, ask=World(0), monitor=str(state)) as later:
        assert later.run({"question": "1"}).tier == "big"
    assert {o.tier for o in good} == {"small", "big"} or {o.tier for o in good} == {"small"}


def test_nothing_is_written_beside_the_thresholds_for_what_fakes_answer(tmp_path: Path) -> None:
    path = calibrated(tmp_path, "audit: 1\n")
    with Cascade.load(path, ask=World(0)) as cascade:
        serve(cascade, range(50))
        assert cascade.alarm
    assert not Path(state_file(load(str(path)))).exists()
    assert state_file(load(str(path))) == str(tmp_path / "sums.thresholds.monitor")


def test_what_waits_is_written_when_the_cascade_is_closed(tmp_path: Path) -> None:
    path, state = calibrated(tmp_path), str(tmp_path / "state")
    with Cascade.load(path, ask=World(9999), monitor=state) as cascade:
        serve(cascade, range(20, 23))
    assert {line.n for line in Monitor(load(str(path)), state).lines() if line.name == observe.accepted("small")} == {3}


MORE = """  - {name: middle, model: p/middle, gates: [schema]}
"""


def test_the_chain_holds_the_steps_to_fall_back_to_each_with_its_own_digest_and_models(tmp_path: Path) -> None:
    from cascade import binding

    path = tmp_path / "sums.yaml"
    text = POLICY.replace("  - {name: big", MORE + "  - {name: big").replace("{p/small:", "{p/middle: {input: 0, output: 0}, p/small:")
    path.write_text(text)
    point = {"rows": 300, "benefit": 0, "p": 0.01, "certified": True, "cost_per_request": 0.01}
    steps = tuple(Point({"small": small, "middle": middle}, harm=differ, seen={DIFFERS: Seen(300, differ)}, **point)  # type: ignore[arg-type]
                  for small, middle, differ in ((None, 0.9, 1.0), (0.95, None, 2.0), (0.9, None, 5.0)))
    file = replace(found(*steps), digests=binding.digests(load(str(path))), scores={name: Score((), (), (), (), 2.0) for name in ("small", "middle")})
    (tmp_path / "sums.thresholds.json").write_bytes(thresholds.dumps(file))
    path.write_text(text + "thresholds: sums.thresholds.json\n")
    cascade = Cascade.load(path, ask=World(0))
    assert cascade._monitor is not None
    chain = cascade._monitor.chain
    assert [policy.watch and policy.watch.step for policy in chain] == [2, 1, 0, None]
    assert [[tier.name for tier in policy.tiers] for policy in chain] == [["small", "big"], ["small", "big"], ["middle", "big"], ["big"]]
    assert len({policy.digest for policy in chain}) == 4 == len(cascade.labels)

    async def retries() -> set[str]:
        return set(cascade._wiring().per_model)

    assert asyncio.run(retries()) == {"p/small", "p/middle", "p/big"}


def test_cached_and_equal_requests_are_not_counted(tmp_path: Path) -> None:
    async def thrice(cascade: Cascade) -> None:
        await asyncio.gather(*(cascade.arun({"question": "1"}) for _ in range(5)))
        await cascade.arun({"question": "1"})

    with Cascade.load(calibrated(tmp_path, "audit: 1\n"), ask=World(9999)) as cascade:
        asyncio.run(thrice(cascade))
        assert cascade._monitor is not None
        assert {line.name: line.n for line in cascade._monitor.lines()}[DIFFERS] == 1


def test_shadows_and_climbers_tell_for_nothing(tmp_path: Path) -> None:
    with Cascade.load(calibrated(tmp_path, "shadow: 1\n"), ask=World(0)) as cascade:
        served = serve(cascade, range(40))
        assert str(cascade.alarm).startswith("stepped back to always big")
        assert {o.mode for o in served} == {"shadow", None}
    (tmp_path / "two").mkdir()
    with Cascade.load(calibrated(tmp_path / "two", "audit: 0.5\n"), ask=World(9999)) as cascade:
        outcomes = serve(cascade, range(300))
        assert cascade._monitor is not None
        lines = {line.name: line for line in cascade._monitor.lines()}
    climbed = sum(o.tier == "big" for o in outcomes)
    assert lines[observe.same("small")].n == climbed
    assert lines[observe.accepted("small")].mean == (300 - climbed) / 300
    audits = sum(o.mode == "audit" for o in outcomes)
    assert audits < lines[DIFFERS].n < audits + climbed, "those drawn that climbed count, and cost nothing"


def test_what_was_never_certified_only_warns(tmp_path: Path) -> None:
    with Cascade.load(calibrated(tmp_path, "audit: 1\n", certificate(max_cost=0.02)), ask=World(0)) as cascade:
        assert "small" in {o.tier for o in serve(cascade, range(100))[-5:]}
        assert str(cascade.alarm).startswith("answers differ and nothing safer is certified")


def test_the_last_tier_alone_is_not_watched(tmp_path: Path) -> None:
    file = learn.calibrate(evidence(tmp_path, 450, lambda m, i: m != "p/big"), learn.Goal(max_loss=0.02)).thresholds
    with Cascade.load(calibrated(tmp_path, file=thresholds.dumps(file)), ask=World(0)) as cascade:
        assert ({o.tier for o in serve(cascade, range(3))}, cascade.alarm, cascade._monitor) == ({"big"}, None, None)


def test_thresholds_without_audits_are_told(tmp_path: Path) -> None:
    codes = {more: [f.code for f in lint(load_with_places(str(calibrated(tmp_path, more))), {})] for more in ("", "audit: 0.02\n", "shadow: 0.1\n")}
    assert ["unaudited" in found for found in codes.values()] == [True, False, False]


def test_what_calibration_saw_of_each_step_is_what_the_monitor_counts_on_the_same_traffic(tmp_path: Path) -> None:
    """The rows that certify, served by the certified policy, give exactly the numbers in the thresholds file."""
    given = evidence(tmp_path, 450, cheap_ones_err)
    path = calibrated(tmp_path, "audit: 1\n")
    policy = load(str(path))
    assert policy.watch is not None
    assert policy.watch.step is not None
    step = thresholds.loads((tmp_path / "sums.thresholds.json").read_bytes()).steps[policy.watch.step]
    told, everything = step.seen, step.gates is not None  # the policy as declared: all rows test it
    rows = [int(id) for id, fitting in zip(given.ids, given.fitting, strict=True) if everything or not fitting]
    with Cascade(policy, ask=World(9999)) as cascade:
        serve(cascade, rows)
        assert cascade._monitor is not None
        lines = {line.name: (line.n, line.mean) for line in cascade._monitor.lines() if line.step == policy.watch.step}
    assert lines == {name: (one.rows, pytest.approx(one.total / one.rows)) for name, one in told.items()}


def test_scores_are_counted_of_answers_that_passed_the_other_gates(tmp_path: Path) -> None:
    given = evidence(tmp_path, 30, cheap_ones_err)
    passed = given.passed.copy()
    passed[0, :10] = False
    served = path.Ladder(replace(given, passed=passed), [np.linspace(0, 1, 30)[None]]).serve((path.Rung(0.5),))
    counted_ = seen.count(replace(given, passed=passed), served, np.arange(30), step(30, cut=0.5))
    assert (counted_["small: gates passed"], counted_["small: agreement"].rows) == (Seen(30, 20.0), 20)
    assert counted_["small: accepted"] == Seen(30, 15.0)


def test_a_thresholds_file_whose_counts_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="a total is between 0 and its rows"):
        thresholds.loads(thresholds.dumps(found(replace(step(3), seen={DIFFERS: Seen(3, 4.0)}))))


# ---------------------------------------------------------------- as a user meets it


@pytest.fixture
def turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy file whose models, in the file itself, are no longer what they were: the cheap ones say 0 to everything."""
    monkeypatch.chdir(tmp_path)
    path = calibrated(tmp_path, "audit: 1\n")
    replies = json.dumps({"small": {"answer": 0}, "other": {"answer": 0}, "big": {"answer": 1}})
    old = 'kind: openai, base_url: "http://127.0.0.1:9/v1", api_key_env: null'
    path.write_text(path.read_text().replace(old, f"kind: scripted, replies: {replies}"))
    return path


def rebind(path: Path) -> None:
    """Let the certificate hold for the policy as it is now: providers are part of what it is bound to."""
    from cascade import binding

    file = path.with_name("sums.thresholds.json")
    old = thresholds.loads(file.read_bytes())
    file.write_bytes(thresholds.dumps(replace(old, digests=binding.digests(load(str(path), calibrated=False)))))


def test_run_report_and_monitor_say_it(turned: Path, cli: Cli) -> None:
    rebind(turned)
    Path("in.jsonl").write_text("".join(f'{{"id": "{i}", "inputs": {{"question": "{i}"}}}}\n' for i in range(40)))
    code, _, err = cli("run", "sums.yaml", "in.jsonl", "-o", "out.jsonl", "--concurrency", "1")
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    alarmed = [row for row in rows if "alarm" in row]
    assert (code, len(rows), rows[-1]["tier"]) == (0, 40, "big")
    assert 30 < len(alarmed) < 40
    assert f"ALARM: {alarmed[-1]['alarm']}" in err
    assert f"{len(alarmed)} rows carry an alarm; cascade monitor sums.yaml tells more" in err
    code, out, _ = cli("report", "out.jsonl")
    assert "rows carry the alarm 'stepped back to always big: " in out
    code, out, _ = cli("monitor", "sums.yaml")
    assert code == 0
    assert out.splitlines()[0].endswith("serves by always big; it stepped back")
    assert out.splitlines()[1].startswith("ALARM: stepped back to always big: ")
    before = Path("out.jsonl").read_bytes()
    assert cli("run", "sums.yaml", "in.jsonl", "-o", "out.jsonl")[0] == 0
    assert Path("out.jsonl").read_bytes() == before, "rows of both steps are this run's own"
    told = json.loads(cli("monitor", "sums.yaml", "--json")[1])
    assert (told["step"], told["alarm"]) == (None, alarmed[-1]["alarm"])
    assert next(one for one in told["counts"] if one["name"] == DIFFERS)["alarm"] is True
    assert cli("monitor", "sums.yaml", "--reset")[0] == 0
    told = json.loads(cli("monitor", "sums.yaml", "--json")[1])
    assert (told["alarm"], {one["n"] for one in told["counts"]}) == (None, {0})
    code, out, err = cli("run", "sums.yaml", "in.jsonl", "-o", "again.jsonl", "--json")
    assert str(json.loads(out)["alarm"]).startswith("stepped back")


def test_a_policy_without_thresholds_has_nothing_to_monitor(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(POLICY)
    code, _, err = cli("monitor", str(path))
    assert (code, err.strip()) == (2, f"{path}: it names no thresholds, so there is nothing to hold its traffic against; cascade calibrate makes some")


def test_a_state_that_is_none_is_told(cli: Cli, turned: Path) -> None:
    rebind(turned)
    Path("sums.thresholds.monitor").write_bytes(b"nothing of the kind" * 50)
    code, _, err = cli("monitor", "sums.yaml")
    assert code == 2
    assert "is not the state of a monitor, or cannot be read" in err


def test_a_row_keeps_its_alarm(tmp_path: Path) -> None:
    from cascade import records

    outcome = Outcome("p@1", "accepted", {"a": 1}, "small", alarm="stepped back")
    assert records.from_line(records.to_line(outcome)) == outcome
    with pytest.raises(InputError, match="not whole"):
        records.from_line(records.dumps({**records.to_row(outcome), "alarm": 3}))
    with pytest.raises(InputError):
        from_line(records.to_line(outcome))
