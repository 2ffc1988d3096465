"""`cascade` with a fault, many times: a process that has imported all it needs forks one child a command, so a run takes some 0.05 s, not 2.

Reads JSON lines on stdin: {"fault", "at", "args", "cwd"}; writes {"pid"} at once and {"code", "calls", "err"} when the child has ended.
The child does the fault at its `at`-th write or sync of a regular file: `kill` (before the call), `torn` (half of a write, then killed), `after`
(the call, then killed), `ENOSPC`, `EIO` (half of a write, and the call fails), `ENOSPC-on`, `EIO-on` (all later ones too), `count` (none).
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

import cascade.cli.app
from cascade import policy
from cascade.cli import main

for name in ("openai.resources.chat", "cascade.cli.app", "cascade.app", "cascade.bulk", "cascade.rows", "cascade.policy", "rich.progress",
             "openai.types.chat", "openai.resources.batches", "anthropic.resources.messages", "rich.table", "cascade.providers.openai", "cascade.verifiers._explain", "cascade.verifiers.schema",
             "cascade.providers.openai_batch", "cascade.providers.anthropic_batch", "cascade.cli.batch"):
    importlib.import_module(name)
batched = importlib.import_module("cascade.bulk.batched")
importlib.import_module("cascade.providers.batch")._certificates()
batched.PACE = batched.Pace(settle=0.01, first=0.002, longest=0.01)
policy.load(str(Path(__file__).parents[2] / "policies" / "invoice.yaml"))  # what a policy needs is found and compiled once
cascade.cli.app.app = typer.main.get_command(cascade.cli.app.app)  # type: ignore[assignment]
gc.freeze()

calls = 0


def wrapped(real: Callable[..., Any], fault: str, at: int) -> Callable[..., Any]:
    def call(file: int, *rest: Any) -> Any:
        global calls
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return real(file, *rest)
        calls += 1
        here = calls == at or (fault.endswith("-on") and calls >= at)
        if not here or fault == "count":
            return real(file, *rest)
        if fault == "after":
            real(file, *rest)
        elif rest and fault != "kill":
            real(file, rest[0][: len(rest[0]) // 2])
        if fault in ("kill", "torn", "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, fault.removesuffix("-on"))
        raise OSError(number, os.strerror(number))

    return call


def child(fault: str, at: int, args: list[str], cwd: str, told: int) -> None:
    """Runs the command; ends the process."""
    os.setsid()
    os.chdir(cwd)
    os.dup2(told, 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    for name in ("write", "fsync", "fdatasync"):
        setattr(os, name, wrapped(getattr(os, name), fault, at))
    sys.argv = ["cascade", *args]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stderr.flush()
    Path(cwd, "calls").write_text(str(calls))
    os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        counted = Path(asked["cwd"], "calls")
        counted.unlink(missing_ok=True)
        with tempfile.TemporaryFile() as told:
            pid = os.fork()
            if pid == 0:
                child(asked["fault"], asked["at"], asked["args"], asked["cwd"], told.fileno())
            print(json.dumps({"pid": pid}), flush=True)
            _, ended = os.waitpid(pid, 0)
            told.seek(0)
            err = told.read().decode()
        text = counted.read_text() if counted.exists() else ""  # empty when it was killed here
        done = int(text) if text else None
        print(json.dumps({"code": os.waitstatus_to_exitcode(ended), "calls": done, "err": err}), flush=True)
