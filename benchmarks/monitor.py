"""How soon the monitor sounds, how seldom it does without a reason, and what it costs a request.

    python benchmarks/monitor.py [--streams 4000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade.monitor import eprocess, observe
from cascade.monitor.live import Monitor
from cascade.outcome import Outcome
from cascade.types import Checked, Expected, Gate, Policy, Template, Tier, Tried, Watch

ERROR = 0.05
GATES = (Gate("schema", "schema", 1.0), Gate("agreement", "agreement", 1.0, asks=True, advisory=True), Gate("calibrated", "calibrated", 0.7))


def first_alarms(shares: NDArray[np.float64], loss: float, streams: int, seed: int = 0) -> NDArray[np.float64]:
    """For so many streams of audits of which `shares[t]` differ: after how many the alarm sounds, infinity for never."""
    bets = eprocess.bets(0.0, loss)
    yes, no = (np.array([[bet.factor(x)] for bet in bets]) for x in (1.0, 0.0))
    wealth = np.repeat(np.array(eprocess.start(len(bets)).wealth)[:, None], streams, 1)
    draw, first = np.random.default_rng(seed), np.full(streams, np.inf)
    for t, share in enumerate(shares):
        one = eprocess.after(eprocess.State(t, 0.0, (0.0,) * len(bets)), 1, 0.0, (0.0,) * len(bets))  # what begins after this audit
        wealth = wealth * np.where(draw.random(streams) < share, yes, no) + np.array(one.wealth)[:, None]
        waiting = eprocess.State(t + 1, 0.0, (0.0,)).evidence
        first[(wealth.sum(0) + waiting >= 1 / ERROR) & np.isinf(first)] = t + 1
    return first


def delays(streams: int) -> None:
    print(f"Audits until the alarm, median (90th percentile); {streams:,} streams each, confidence {1 - ERROR:.0%}\n")
    print("| promised | ever, at the promise (10,000 audits) | 2× | 3× | 5× | 3× after 2,000 audits at half the promise |")
    print("| --- | --- | --- | --- | --- | --- |")
    for loss in (0.01, 0.02, 0.05):
        ever = np.isfinite(first_alarms(np.full(10_000, loss), loss, streams)).mean()
        cells = [first_alarms(np.full(round(200 / loss / (times - 1)), times * loss), loss, streams) for times in (2, 3, 5)]
        late = first_alarms(np.concatenate([np.full(2000, loss / 2), np.full(round(60 / loss), 3 * loss)]), loss, streams)
        cells.append(late[late > 2000] - 2000)
        print(f"| {loss:.0%} | {ever:.1%} | " + " | ".join(f"{np.median(c):.0f} ({np.quantile(c, 0.9):.0f})" for c in cells) + " |")


def cost(requests: int = 20_000) -> None:
    expected = {observe.DIFFERS: Expected(0.0, 0.02, ERROR, 0.01), **{name: Expected(0.2, 0.999, 0.01, 0.5) for name in (
        observe.accepted("small"), observe.gates("small"), observe.score("small", "agreement"), observe.same("small"))}}
    policy = Policy("p", Template("", ""), (Tier("small", "m/small", GATES), Tier("big", "m/big")), watch=Watch("", "benchmark", 0, expected))
    checks = [Checked("small", gate.name, 0.9, gate.threshold, gate.name != "agreement") for gate in GATES]
    trail = (Tried("small", "m/small", "{}"), Tried("small", "m/other", "{}", gate="agreement"), *checks)
    outcome = Outcome("p@1", "accepted", {}, "small", trail=trail)
    with tempfile.TemporaryDirectory() as folder:
        monitor = Monitor(policy, str(Path(folder, "state")))
        started = time.perf_counter()
        for i in range(requests):
            monitor.serving()
            walked = observe.walk(policy, outcome.trail, ())
            told = False if i % 50 == 0 else observe.differs(policy, outcome, walked.stood, False)
            monitor.add(policy, walked.numbers, told, i.to_bytes(12))
        each = (time.perf_counter() - started) / requests
        started = time.perf_counter()
        for i in range(2000):
            monitor.add(policy, {}, False, b"audit" + i.to_bytes(12))
        audit = (time.perf_counter() - started) / 2000
        monitor.close()
    print(f"\nA request of one tier and three gates, one in 50 audited: {each * 1e6:.0f} µs, writing included; an audit alone: {audit * 1e6:.0f} µs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=4000)
    delays(parser.parse_args().streams)
    cost()
