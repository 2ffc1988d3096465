"""The clients that are compared and the environments they live in: what each needs, pinned, and how its venv is made."""

from __future__ import annotations

import re
import subprocess
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPENAI = "openai[aiohttp]==3.57.0"
COMMON = ("jinja2==3.1.6",)
JSONSCHEMA = "jsonschema==4.26.0"


@dataclass(frozen=True)
class Client:
    """A competitor: its script, what its environment holds, and the distribution whose version is shown.

    instructor takes the openai SDK that its own pin allows; all others the same one as the hand-written client.
    """

    name: str
    title: str
    script: str
    package: str
    requirements: tuple[str, ...]


OURS, BASE = "ours", "handwritten"
CLIENTS = (
    Client(OURS, "cascade", "ours.py", "cascade-judge", (str(ROOT), OPENAI)),
    Client(BASE, "hand-written, openai", "handwritten.py", "openai", (OPENAI, JSONSCHEMA)),
    Client("handwritten-rs", "the same with jsonschema-rs", "handwritten_rs.py", "openai", (OPENAI, "jsonschema-rs==0.61.0")),
    Client("litellm", "LiteLLM Router", "litellm_router.py", "litellm", ("litellm==1.110.2", "openai==3.57.0", JSONSCHEMA)),
    Client("instructor", "instructor", "instructor_client.py", "instructor", ("instructor==1.17.0",)),
    Client("pydantic-ai", "pydantic-ai", "pydantic_ai_client.py", "pydantic-ai-slim", ("pydantic-ai-slim[openai]==2.68.0", "openai==3.57.0")),
    Client("cascadeflow", "cascadeflow", "cascadeflow_client.py", "cascadeflow", ("cascadeflow==1.2.0", JSONSCHEMA)),
)


class CannotInstall(Exception):
    """The environment could not be made; the message is pip's last line."""


def python(envs: Path, client: Client, note: Callable[[str], None]) -> Path:
    """The interpreter of the client's environment, made and filled when it is missing or holds other pins. Ours is installed anew."""
    folder = envs.resolve() / client.name
    interpreter, done = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join((*client.requirements, *COMMON))
    if client.name != OURS and done.exists() and done.read_text(encoding="utf-8") == wanted:
        return interpreter
    note(f"{client.name}: installing {', '.join(client.requirements)}".replace(str(ROOT), "this project"))
    try:
        if not interpreter.exists():
            venv.create(folder, with_pip=True)
        command = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", *client.requirements, *COMMON]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as err:
        lines = (err.stderr or "").strip().splitlines() or [str(err)]
        raise CannotInstall(f"cannot be installed: {lines[-1][:160]}") from err
    done.write_text(wanted, encoding="utf-8")
    return interpreter


def version(interpreter: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(interpreter), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def megabytes(interpreter: Path) -> float:
    """Size of what is installed beside what every venv has; bytecode is not counted."""
    site = next((interpreter.parent.parent / "lib").glob("python*/site-packages"))
    own = re.compile(r"^(pip|setuptools|wheel|pkg_resources|_distutils_hack|distutils-precedence)\b")
    files = (f for part in site.iterdir() if not own.match(part.name) for f in ([part] if part.is_file() else part.rglob("*")))
    return sum(f.stat().st_size for f in files if f.is_file() and "__pycache__" not in f.parts) / 1e6
