"""docs/promptfoo.md as it is written, by the real promptfoo: a ladder in its process, and one behind a real gateway."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_process import serving

ROOT = Path(__file__).parent.parent
PROMPTFOO = os.environ.get("PROMPTFOO") or shutil.which("promptfoo")
POLICY = """
version: 1
name: review
prompt: "How is this meant? {{ text }}"
schema: {type: object, properties: {stars: {type: integer}}, required: [stars], additionalProperties: false}
providers: {play: {kind: scripted, replies: {small: {stars: five}, big: {stars: 5}}}}
pricing: {play/small: {input: 1, output: 2}, play/big: {input: 10, output: 20}}
cache: {backend: off}
tiers: [{name: small, model: play/small}, {name: premium, model: play/big}]
"""
QUIET = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1", "PROMPTFOO_DISABLE_REMOTE_GENERATION": "true",
         "PROMPTFOO_DISABLE_SHARING": "1", "NO_COLOR": "1"}  # fmt: skip

pytestmark = pytest.mark.skipif(PROMPTFOO is None, reason="promptfoo is not here: npm install -g promptfoo, or PROMPTFOO=PATH of its command")


def file(name: str) -> str:
    """A file that the page shows."""
    found = re.search(rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)```", (ROOT / "docs" / "promptfoo.md").read_text(encoding="utf-8"), re.S)
    assert found is not None, name
    return found[1]


def evaluated(folder: Path, url: str) -> list[dict[str, Any]]:
    assert PROMPTFOO is not None
    (folder / "policies").mkdir()
    (folder / "policies" / "review.yaml").write_text(POLICY, encoding="utf-8")
    (folder / "cascade_provider.py").write_text(file("cascade_provider.py"), encoding="utf-8")
    (folder / "promptfooconfig.yaml").write_text(file("promptfooconfig.yaml").replace("http://127.0.0.1:8600", url), encoding="utf-8")
    where = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, **QUIET, "PROMPTFOO_CONFIG_DIR": str(folder / "home"), "PROMPTFOO_PYTHON": sys.executable, "PYTHONPATH": where}
    command = [PROMPTFOO, "eval", "-c", "promptfooconfig.yaml", "--no-cache", "-o", "out.json"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=180)
    assert (folder / "out.json").exists(), done.stdout + done.stderr
    results: list[dict[str, Any]] = json.loads((folder / "out.json").read_text(encoding="utf-8"))["results"]["results"]
    return results


def test_promptfoo_judges_a_ladder_in_its_process_and_behind_the_gateway(tmp_path: Path) -> None:
    with serving(tmp_path, POLICY) as url:
        results = evaluated(tmp_path, url)
    told = {(one["provider"]["label"], one["vars"]["text"], json.loads(one["response"]["output"])["stars"], one["success"]) for one in results}
    good, bad = "Arrived early, fits perfectly.", "Broke on the first day."
    assert told == {(label, text, 5, text == good) for label in ("in process", "by the gateway") for text in (good, bad)}
    ours = [one for one in results if one["provider"]["label"] == "in process"]
    assert {(one["vars"]["text"], one["cost"], one["response"]["metadata"]["tier"]) for one in ours} == {
        (good, 0.000213, "premium"), (bad, 0.000191, "premium")}  # fmt: skip
    gateways = [one["response"]["metadata"]["http"]["headers"] for one in results if one["provider"]["label"] == "by the gateway"]
    assert sorted(headers["x-cascade-cost-usd"] for headers in gateways) == ["0.000191", "0.000213"]
