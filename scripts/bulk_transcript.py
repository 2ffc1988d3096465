"""Writes the transcript in docs/bulk.md anew: a run on a loopback server that is killed with -9 and gone on with.

    python scripts/bulk_transcript.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "crash")]

import stub  # noqa: E402
from crashing import Crash, Runner  # noqa: E402

COMMAND = "cascade run order.yaml in.jsonl -o out.jsonl --concurrency 3"


def say(folder: Path, command: str) -> str:
    """The command as typed, with what it prints (the table left out)."""
    code = "from cascade.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *command.split()[1:]], cwd=folder, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip() and not line.startswith(" ")]
    return "\n".join([f"$ {command}", *lines, f"$ echo $?\n{done.returncode}"])


def main() -> None:
    with stub.running() as server, tempfile.TemporaryDirectory() as folder:
        crash = Crash(Path(folder), server, Runner())
        server.default = stub.Reply(server.default.body, drip=0.002)
        pid = crash.start()
        while len(server.requests) < 5:
            time.sleep(0.001)
        os.kill(pid, 9)
        crash.runner.end()
        crash.runner.close()
        server.default = stub.Reply(server.default.body)
        told = [f"$ {COMMAND} &  # and, after its fifth call: kill -9", *(say(crash.folder, command) for command in (
            "cascade run --status out.jsonl", COMMAND, f"{COMMAND} --in-doubt retry", "cascade run --status out.jsonl"))]
    page = ROOT / "docs" / "bulk.md"
    block = "```text\n" + "\n".join(told) + "\n```"
    page.write_text(re.sub(r"```text\n.*?\n```", lambda _: block, page.read_text(), count=1, flags=re.DOTALL))


if __name__ == "__main__":
    main()
