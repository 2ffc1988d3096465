"""The gateway's OpenAPI document is true: whatever a fuzzer makes of it gets a documented answer, from models that fail as often as not.

It is the command of docs/gateway.md, with fewer examples and a fixed seed.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import gateway, serving
from stub import Reply, Stub, chat, failure, running

from cascade.gateway.keys import Keys, new

pytestmark = pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed: pip install -e '.[dev]'")

FAULTS = [chat("four"), chat('{"sum": 4}'), chat('{"sum": 4}'), failure(429), failure(500), failure(401), Reply(drop=True), chat("fo", "length"),
          Reply(b"<html>", headers={"content-type": "text/html"}), Reply(b'{"choices": [{"mess'), chat(None, refusal="No.")]
LEFT_OUT = "not_a_server_error,positive_data_acceptance"
"""A provider that is down is a 503, and documented; a body can be wrong in ways that a schema cannot say, such as whose the last message is."""


@pytest.fixture
def models() -> Iterator[Stub]:
    with running() as stub:
        drawn = random.Random(8)
        stub.replies.extend(drawn.choice(FAULTS) for _ in range(20_000))
        yield stub


def fuzz(url: str, tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--exclude-checks", LEFT_OUT, "--seed", "8", "--max-examples", "12",
               "--generation-database", "none", "--request-timeout", "20", "--no-color", "--warnings", "off", *more]
    here = {**os.environ, "SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("fresh_keys.py")), "PYTHONPATH": os.pathsep.join(os.path.abspath(path or ".") for path in sys.path)}
    return subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("locked", [False, True], ids=["without keys", "with keys"])
def test_what_a_fuzzer_sends_gets_a_documented_answer(locked: bool, models: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, line = new("fuzzer")
    (tmp_path / "keys.txt").write_text(line + "\n")
    with serving(gateway(models.url, Keys(str(tmp_path / "keys.txt")) if locked else None)) as url:
        # a made-up x-api-key beside the header would be a second key, so nothing would be asked
        own = ["--header", f"Authorization: Bearer {key}", "--generation-with-security-parameters", "false"]
        done = fuzz(url, tmp_path, *(own if locked else []))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "9 selected / 9 total" in done.stdout, "one that is wrong would be passed over"
    assert len(models.requests) > 100, "many of them were sound, and asked"
    assert not [record.getMessage() for record in caplog.records if record.name == "uvicorn.error" and record.levelname == "ERROR"], "the gateway itself never failed"
