"""`monitor`: what was counted of a calibrated policy's traffic, which of its steps serves, and setting it back to the calibrated one."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascade.cli import show
from cascade.errors import InputError

if TYPE_CHECKING:
    from cascade.monitor.live import Monitor


def monitor(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A policy file with thresholds.", show_default=False)],
    reset: Annotated[bool, typer.Option("--reset", help="Forget all counts and alarms: the policy serves as calibrated again.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell how a calibrated policy's traffic compares with its calibration, and which of its steps serves.

    \b
    Examples:
      cascade monitor policies/ticket.yaml
      cascade monitor policies/ticket.yaml --json | jq .alarm
      cascade monitor policies/ticket.yaml --reset
    """
    from cascade.monitor import live
    from cascade.policy import load

    loaded = load(policy)
    if loaded.watch is None:
        raise InputError(f"{policy}: it names no thresholds, so there is nothing to hold its traffic against; cascade calibrate makes some")
    file = live.state_file(loaded)
    wanted = file if Path(file).exists() else live.MEMORY
    watched = live.Monitor(loaded, wanted)
    if watched.path != wanted:
        raise InputError(f"{file}: is not the state of a monitor, or cannot be read; remove it to start anew")
    try:
        if reset:
            watched.reset()
        _tell(watched, file, json)
    except sqlite3.Error as err:
        raise InputError(f"{file}: {err}") from err
    finally:
        watched.close()


def _tell(watched: Monitor, file: str, json: bool) -> None:
    policy, lines = watched.policy, watched.lines()
    step = policy.watch.step if policy.watch is not None else None
    if json:
        show.data({"policy": f"{policy.name}@{policy.digest[:6]}", "state": file, "step": step, "alarm": watched.alarm,
                   "counts": [asdict(line) for line in lines]})
        return
    from cascade.report.text import aligned
    from cascade.report.text import watched as table

    serves = f"always {policy.tiers[-1].name}" if step is None else f"step {step}"
    print(f"{policy.name}@{policy.digest[:6]} serves by {serves}" + ("" if policy is watched.chain[0] else "; it stepped back"))
    if watched.alarm:
        print(f"ALARM: {watched.alarm}")
    counted = [line for line in lines if line.n or line.step == step]
    if counted:
        print("\n" + aligned(table(counted)))
