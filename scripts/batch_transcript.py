"""Writes the transcript in docs/batch.md anew: a run by batches on a loopback server that is interrupted and gone on with.

    python scripts/batch_transcript.py
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import batch_stub  # noqa: E402

COMMAND = "cascade run order.yaml in.jsonl -o out.jsonl --engine batch"
CODE = "from cascade.bulk import batched; batched.PACE = batched.Pace(0.1, 0.1, 0.1); from cascade.cli import main; main()"


def start(folder: Path, command: str) -> subprocess.Popen[str]:
    """The command, with polls that follow each other faster."""
    return subprocess.Popen([sys.executable, "-c", CODE, *command.split()[1:]], cwd=folder, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def told(command: str, process: subprocess.Popen[str]) -> str:
    """The command as typed, with what it prints (the table left out)."""
    out, _ = process.communicate()
    lines = [line for line in out.splitlines() if line.strip() and not line.startswith(" ")]
    return "\n".join([f"$ {command}", *lines, f"$ echo $?\n{process.returncode}"])


def main() -> None:
    with batch_stub.running() as server, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "order.yaml").write_text(f"""version: 1
name: order
prompt: "Extract the order. {{{{ text }}}}"
schema: {{type: object, properties: {{item: {{type: string}}}}, required: [item], additionalProperties: false}}
cache: {{backend: "off"}}
providers:
  openai: {{kind: openai, base_url: "{server.url}/v1", capabilities: {{batch: true}}}}
  anthropic: {{kind: anthropic, base_url: "{server.url}", capabilities: {{batch: true}}}}
pricing:
  openai/gpt-6-luna: {{input: 0.1, output: 0.5, batch: 0.5}}
  anthropic/claude-opus-5-5: {{input: 4, output: 20, batch: 0.5}}
tiers: [openai/gpt-6-luna, anthropic/claude-opus-5-5]
""")
        (folder / "in.jsonl").write_text("".join(f'{{"id": "r{n}", "text": "<{n}>"}}\n' for n in range(200)))
        server.says = lambda model, prompt: '{"thing": 1}' if "gpt" in model and re.search(r"<\d*7>", prompt) else '{"item": "tea"}'
        server.looks = None
        first = start(folder, COMMAND)
        while not any(path.startswith("GET /batches/") for path in server.paths):
            time.sleep(0.01)
        first.send_signal(signal.SIGINT)
        blocks = [told(f"{COMMAND}    # and, while it waits: Ctrl-C", first)]
        blocks.append(told("cascade run --status out.jsonl", start(folder, "cascade run --status out.jsonl")))
        server.looks = 2
        for batch in server.batches.values():
            batch.looks = 2
        blocks.append(told(COMMAND, start(folder, COMMAND)))
    page = ROOT / "docs" / "batch.md"
    block = "```text\n" + "\n".join(blocks) + "\n```"
    page.write_text(re.sub(r"```text\n.*?\n```", lambda _: block, page.read_text(), count=1, flags=re.DOTALL))


if __name__ == "__main__":
    main()
