"""Policies in CI: annotations, SARIF, the GitHub action and the pre-commit hooks."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cascade.cli.app import app

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
SOUND = """\
version: 1
name: sums
prompt: "Add {{ question }}"
schema: {type: object, properties: {answer: {type: integer}}, required: [answer], additionalProperties: false}
providers: {p: {kind: scripted, replies: {small: {answer: 1}, big: {answer: 2}}}}
pricing: {p/small: {input: 1, output: 1}, p/big: {input: 9, output: 9}}
cache: {backend: off}
tiers: [p/small, p/big]
"""
WARNED = SOUND.replace("tiers: [p/small, p/big]", "gates: [{judge: {model: p/small, threshold: 0}}]\ntiers: [p/small, p/big]")
BROKEN = SOUND.replace("tiers:", "teirs:").replace("version: 1", "version: 2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("sound", SOUND), ("warned", WARNED), ("broken", BROKEN)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def check(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", *args])
    return done.exit_code, done.stdout


def test_github_shows_what_was_found_beside_its_line(folder: Path) -> None:
    code, said = check("sound.yaml", "warned.yaml", "broken.yaml", "no,such.yaml", "--format", "github")
    lines = said.splitlines()
    assert code == 2
    assert all(re.fullmatch(r"::(error|warning|notice) file=[^:,]+,line=\d+,col=\d+,title=[^:,]+::.+", line) for line in lines), said
    assert "::warning file=warned.yaml,line=8,col=9,title=open-gate::gates[0]: the threshold 0 of judge is reached by every score" in lines
    assert [line for line in lines if "broken.yaml" in line] == [
        '::error file=broken.yaml,line=1,col=1,title=policy::the key "tiers" is missing',
        "::error file=broken.yaml,line=1,col=10,title=policy::version: this version of cascade reads version 1",
        '::error file=broken.yaml,line=8,col=1,title=policy::teirs: unknown key, did you mean "tiers"?']
    assert "::error file=no%2Csuch.yaml,line=1,col=1,title=policy::No such file or directory" in lines
    assert not any("sound.yaml" in line for line in lines), "what a request costs is no annotation"


def test_ci_needs_no_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (folder / "hosted.yaml").write_text(SOUND.replace("[p/small, p/big]", "[openai/gpt-6-luna]").replace("pricing", "#"))
    assert check("hosted.yaml", "--strict")[0] == 1
    assert check("hosted.yaml", "--strict", "--no-keys")[0] == 0
    assert "OPENAI_API_KEY" not in step("Check", folder, policies="hosted.yaml").stdout


def test_a_message_cannot_make_a_command_of_its_own(folder: Path) -> None:
    (folder / "evil.yaml").write_text(SOUND.replace("name: sums", 'name: "a\\n::error::b%"'))
    _, said = check("evil.yaml", "--format", "github")
    assert len(said.splitlines()) == 1
    assert "%25" in said


def test_sarif_holds_the_same(folder: Path) -> None:
    code, said = check("warned.yaml", "broken.yaml", "--format", "sarif")
    log = json.loads(said)
    (run,) = log["runs"]
    assert (code, log["version"], run["tool"]["driver"]["name"]) == (2, "2.1.0", "cascade check")
    found = [(r["ruleId"], r["level"], r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
              r["locations"][0]["physicalLocation"]["region"]["startLine"]) for r in run["results"]]  # fmt: skip
    assert ("open-gate", "warning", "warned.yaml", 8) in found
    assert ("policy", "error", "broken.yaml", 8) in found
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {rule for rule, _, _, _ in found}


# ---------------------------------------------------------------- the action: its own steps, run as GitHub runs them


def step(name: str, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """One step of the action by bash, its `env` filled in as GitHub does; `cascade` is this interpreter's."""
    found: dict[str, Any] = next(s for s in ACTION["runs"]["steps"] if s["name"] == name)
    given = {key: inputs.get(key, spec.get("default", "")) for key, spec in ACTION["inputs"].items()}
    env = {key: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda m: given[m[1]], value) for key, value in found["env"].items()}
    assert "${{" not in found["run"], "inputs reach a script by its environment only, or they could be commands"
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    (bin_ / "cascade").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "from cascade.cli import main; main()" "$@"\n')
    (bin_ / "cascade").chmod(0o755)
    env = {**os.environ, **env, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    return subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", found["run"]], env=env, cwd=folder, capture_output=True, text=True)


def test_the_action_checks_policies(folder: Path) -> None:
    assert step("Check", folder, policies="sou*.yaml").returncode == 0
    assert step("Check", folder, policies="sound.yaml warned.yaml").returncode == 0
    strict = step("Check", folder, policies="warned.yaml", strict="true")
    assert (strict.returncode, "::warning file=warned.yaml" in strict.stdout) == (1, True)
    assert step("Check", folder, policies="broken.yaml").returncode == 2


def test_the_action_replays_and_writes_a_summary(folder: Path) -> None:
    rows = [{"id": str(i), "inputs": {"question": str(i)}, "gold": {"answer": 1 + i % 2}} for i in range(6)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(app, ["record", "sound.yaml", "in.jsonl", "-o", "trails.jsonl"])
    assert done.exit_code == 0, done.output
    good = step("Replay", folder, policy="sound.yaml", trails="trails.jsonl", **{"fail-if": "accuracy<0.4\nfailed>0.1\n"})
    assert (good.returncode, good.stderr) == (0, "")
    assert "6 recordings: right on 50.0" in (folder / "summary.md").read_text()
    bad = step("Replay", folder, policy="sound.yaml", trails="tra*.jsonl", against="sound.yaml", **{"fail-if": "accuracy<0.9"})
    assert (bad.returncode, "failed: accuracy" in bad.stderr) == (1, True)


def test_the_hooks_run_commands_that_there_are(folder: Path) -> None:
    for hook in HOOKS:
        command, *args = shlex.split(hook["entry"])
        assert (command, hook["language"]) == ("cascade", "python")
        assert CliRunner().invoke(app, [*args, "--help"]).exit_code == 0
    (check_hook,) = (hook for hook in HOOKS if hook["id"] == "cascade-check")
    assert [bool(re.search(check_hook["files"], path)) for path in ("policies/a.yaml", "x/policies/a.yml", "policies/a.jsonl", "a.yaml")] == [True, True, False, False]
