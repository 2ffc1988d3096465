"""`cascade serve` as its own process, for what speaks to it from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def serving(folder: Path, policy: str, *options: str) -> Iterator[str]:
    """The root of a gateway that serves this policy; its home is `folder`."""
    (folder / "served.yaml").write_text(policy, encoding="utf-8")
    command = [sys.executable, "-c", "from cascade.cli import main; main()", "serve", str(folder / "served.yaml"), "--port", "0", "--no-log", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(folder)}) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said.startswith("serving "), said
            yield said.split(" on ")[1].partition("/v1")[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
