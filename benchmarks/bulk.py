"""What durability costs `cascade run`, whether it stays so from 1,000 rows to 100,000, and what it does in an outage; on a loopback server.

    python benchmarks/bulk.py                 rates, sizes, an outage of 30 s, a rate limit: ten minutes on two cores
    python benchmarks/bulk.py --write docs/benchmarks-bulk.md
    python benchmarks/bulk.py --rounds 1 --rows 1000 --sizes 1000,5000 --outage 6       to see that it works

Progress goes to stderr, the page to stdout. Needs an environment with cascade (PYTHONPATH=. is enough in a checkout).
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
import urllib.request
from datetime import date
from pathlib import Path

from overhead import note, stub
from tables import machine

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "clients"))

from task import FIRST, calls  # noqa: E402

CONCURRENCY = 64
DELAY = 0.2
"""Seconds an answer takes around the outage."""
BEFORE, AFTER = 10, 15
"""Seconds of the run before the outage, and after it."""
PER_SECOND, LIMITED_ROWS = 100, 1500
"""Calls a second of the server with a rate limit, and rows it is asked for."""
KINDS = ("bare", "unkept", "durable")


def started(kind: str, url: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(HERE / "clients" / "bulk.py"), kind, url, str(count), str(CONCURRENCY)],
                            stdout=subprocess.PIPE, text=True)


def finished(child: subprocess.Popen[str], count: int | None = None) -> dict[str, float]:
    told, _ = child.communicate()
    assert child.returncode == 0, "the run did not end well"
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    assert count in (None, found["accepted"]), f"{found['accepted']} of {count} rows were accepted"
    return found


def one(kind: str, url: str, count: int) -> dict[str, float]:
    note(f"{kind}: {count} rows")
    return finished(started(kind, url, count), count)


def rates(url: str, rounds: int, count: int) -> str:
    found = [{kind: one(kind, url, count) for kind in KINDS} for _ in range(rounds)]

    def median(kind: str, what: str) -> float:
        return statistics.median(turn[kind][what] for turn in found)

    def over(kind: str, what: str) -> float:
        return statistics.median(turn[kind][what] / turn["bare"][what] for turn in found)

    lines = ["| | rows/s | of the bare engine | CPU µs a row | of the bare engine |", "| --- | ---: | ---: | ---: | ---: |"]
    names = ("bare engine: `arun` in a gather", "`cascade run -o -`, no journal", "`cascade run -o OUT.jsonl`")
    lines += [f"| {name} | {count / median(kind, 'wall'):.0f} | {1 / over(kind, 'wall'):.2f}× | {median(kind, 'cpu') / count * 1e6:.0f} "
              f"| {over(kind, 'cpu'):.2f}× |" for name, kind in zip(names, KINDS, strict=True)]  # fmt: skip
    share = statistics.median(1 - turn["unkept"]["cpu"] / turn["durable"]["cpu"] for turn in found)
    return "\n".join([*lines, "", f"Share of the journal in the CPU time of `cascade run`: {share:.1%} (what `-o -` does not spend)."])


def sizes(url: str, counts: list[int]) -> str:
    lines = ["| rows | µs a row | CPU µs a row | memory at most, MB |", "| ---: | ---: | ---: | ---: |"]
    for count in counts:
        found = one("durable", url, count)
        lines.append(f"| {count:,} | {found['wall'] / count * 1e6:.0f} | {found['cpu'] / count * 1e6:.0f} | {found['mb']:.0f} |")
    return "\n".join(lines)


def outage(seconds: float) -> str:
    count = int((BEFORE + AFTER) / DELAY * CONCURRENCY)
    with stub(DELAY) as url:
        child = started("durable", url, count)
        while _get(f"{url}/answered") < 5 * CONCURRENCY:  # warm
            time.sleep(0.05)
        first = _get(f"{url}/answered")
        time.sleep(BEFORE)
        before = (_get(f"{url}/answered") - first) / BEFORE
        note(f"down for {seconds:g} s, at {before:.0f} calls a second")
        _get(f"{url}/down")
        time.sleep(seconds)
        _get(f"{url}/up")
        up, seen = time.monotonic(), [_get(f"{url}/answered")]
        back = None
        while back is None:
            time.sleep(0.5)
            seen.append(_get(f"{url}/answered"))
            if len(seen) > 2 and seen[-1] - seen[-3] >= 0.9 * before:
                back = time.monotonic() - up - 1.0
        finished(child, count)
        made, answered = _get(f"{url}/calls"), _get(f"{url}/answered")
    return (f"{count:,} rows at {before:.0f} calls a second; after {BEFORE} s every call is answered 529 for {seconds:g} s. "
            f"{made - answered} calls were made in vain, {made / answered:.3f} × those answered; 90 % of the rate was there again {back:.1f} s "
            "after the recovery; every row was accepted.")


def rate_limit() -> str:
    with stub(DELAY, PER_SECOND) as url:
        note(f"{PER_SECOND} calls a second")
        found = finished(started("durable", url, LIMITED_ROWS))
        made, answered = _get(f"{url}/calls"), _get(f"{url}/answered")
    return (f"{LIMITED_ROWS:,} rows, a server that answers {PER_SECOND} calls a second (of {CONCURRENCY / DELAY:.0f} that {CONCURRENCY} at a time "
            f"would make) and the others 429, a policy without limits: {calls(FIRST, LIMITED_ROWS) / found['wall']:.0f} calls a second were "
            f"answered, {made - answered} of {made:,} were 429; {found['accepted']:.0f} rows were accepted.")


def _get(url: str) -> int:
    with urllib.request.urlopen(url) as reply:
        return int(reply.read())


def page(args: argparse.Namespace) -> str:
    command = shlex.join(["python", "benchmarks/bulk.py", *sys.argv[1:]])
    with stub() as url:
        rate, size = rates(url, args.rounds, args.rows), sizes(url, [int(n) for n in args.sizes.split(",")])
    return f"""# Bulk runs, measured

*Written on {date.today().isoformat()} by `{command}`*
*on {machine()}.*

The task of [the overhead benchmark](benchmarks-overhead.md) (one model answers, a schema of 15 fields looks, one row in five climbs),
{CONCURRENCY} rows at a time, without a cache. The server answers at once, so that
nothing but cascade is measured: with a real model the shares are far smaller.

## What durability costs
{args.rows:,} rows, medians of {args.rounds} interleaved rounds; each ratio is within its round. The bare engine reads and writes no rows.

{rate}

## From {size.splitlines()[2].split("|")[1].strip()} rows to {size.splitlines()[-1].split("|")[1].strip()}
One run each.

{size}

## An outage
{outage(args.outage)}

## A rate limit
{rate_limit()}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of the rates (%(default)s)")
    parser.add_argument("--rows", type=int, default=5000, help="rows of each of them (%(default)s)")
    parser.add_argument("--sizes", default="1000,10000,100000", help="rows of the runs that show growth (%(default)s)")
    parser.add_argument("--outage", type=float, default=30.0, help="seconds of the outage (%(default)s)")
    parser.add_argument("--write", type=Path, help="write the page to this file too")
    args = parser.parse_args()
    text = page(args)
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
