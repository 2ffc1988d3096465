"""docs/curl.md as it is written: real curl, a real gateway, and what the page says comes of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_process import serving

ROOT = Path(__file__).parent.parent
POLICY = """
version: 1
name: chat
prompt: messages
caller_schema: true
providers: {play: {kind: scripted, replies: {small: REPLY, big: REPLY}}}
pricing: {play/small: {input: 1, output: 2}, play/big: {input: 10, output: 20}}
cache: {backend: off}
tiers: [{name: small, model: play/small, gates: [{check: "1 < 2"}]}, {name: premium, model: play/big}]
"""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="curl is not here")


def commands() -> list[tuple[str, str]]:
    """Each command of the page with what is shown of its output."""
    text = (ROOT / "docs" / "curl.md").read_text(encoding="utf-8")
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            lines, command = part.splitlines(), ""
            while lines and (not command or subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True).returncode):
                command += lines.pop(0) + "\n"
            found.append((command, "\n".join(lines)))
    return found


def shape(shown: str) -> str:
    """What is shown, as a pattern: a line `…` is any lines, `…` within one is anything in it."""
    lines = [r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + "\n" for line in shown.splitlines()]
    return "".join(lines)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path, POLICY.replace("REPLY", "'4'")) as at:
        yield at


def test_every_curl_of_the_page_gives_what_the_page_shows(tmp_path: Path, url: str) -> None:
    script, wanted = "set -eu\n", []
    for command, shown in commands():
        if "json_schema" not in command:  # that one is answered by another model, below
            script += f"{command.replace('http://127.0.0.1:8600', url)}\nprintf '\\n%s\\n' '-- next'\n"
            wanted.append(shown)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = [part.strip("\n").replace("\r", "") for part in done.stdout.split("\n-- next\n")][:-1]
    wrong = [(pattern, text) for pattern, text in zip(wanted, said, strict=True) if not re.fullmatch(shape(pattern), f"{text}\n" if text else "")]
    assert (len(said), wrong) == (9, [])


def test_the_curl_with_a_schema_gives_what_the_page_shows(tmp_path: Path) -> None:
    (command, shown), = [(command, shown) for command, shown in commands() if "json_schema" in command]
    with serving(tmp_path, POLICY.replace("REPLY", "{sum: 4}")) as url:
        done = subprocess.run(["bash", "-c", command.replace("http://127.0.0.1:8600", url)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == shown
