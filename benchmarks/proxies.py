"""Chat completions' servers, started for a benchmark: the stub, and the proxies that stand before it. Measures nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from environments import CannotInstall, Client, python, version
from overhead import note

LITELLM = Client("litellm-proxy", "LiteLLM proxy", "", "litellm", ("litellm[proxy]==1.108.7",))
FIRSTPASS = Client("firstpass", "firstpass", "", "firstpass", ("firstpass==0.9.0",))
ANSWER = '{"sentiment": "positive", "stars": 4, "summary": "Works well, came late."}'
REPLY = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-2026-10-01",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER, "refusal": None}, "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 120, "completion_tokens": 25, "total_tokens": 145, "prompt_tokens_details": {"cached_tokens": 0},
              "completion_tokens_details": {"reasoning_tokens": 0}},
}  # fmt: skip
NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; default_type application/json; client_body_temp_path tmp;
  proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server {{ listen 127.0.0.1:{port}; location /v1/chat/completions {{ return 200 '{reply}'; }} location /health {{ return 200 '{{}}'; }} }}
}}
"""
POLICY = """
version: 1
name: chat
prompt: messages
providers: {{stub: {{kind: openai, base_url: "{stub}/v1", api_key_env: null}}}}
pricing: {{stub/m: {{input: 1, output: 2}}}}
cache: {{backend: off}}
"""
BARE = POLICY + "tiers: [{{name: only, model: stub/m}}]\n"
GATED = POLICY + """
tiers: [{{name: first, model: stub/m, gates: [schema]}}, {{name: last, model: stub/m}}]
schema:
  type: object
  properties: {{sentiment: {{enum: [positive, negative, mixed]}}, stars: {{type: integer, minimum: 1, maximum: 5}}, summary: {{type: string}}}}
  required: [sentiment, stars, summary]
  additionalProperties: false
"""
LITELLM_CONFIG = """
model_list:
  - model_name: chat
    litellm_params: {{model: openai/m, api_base: "{stub}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
"""
LITELLM_ENVIRONMENT = {
    "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_DOCS": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}  # fmt: skip
FIRSTPASS_CONFIG = """
[[route]]
match = {{}}
mode = "enforce"
ladder = ["openai/m"]
gates = ["json-valid"]
[[price]]
model = "openai/m"
input_per_mtok = 1.0
output_per_mtok = 2.0
"""


class CannotStart(Exception):
    """A server does not come up; the message says why."""


@dataclass
class Server:
    """Something that answers chat completions at `url`; `child` is None for what cannot be had, and `why` tells."""

    name: str
    title: str
    url: str = ""
    child: subprocess.Popen[bytes] | None = None
    why: str = ""
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)

    @property
    def able(self) -> bool:
        return self.child is not None

    def cpu(self) -> float:
        """Seconds of processor that it and its children have had."""
        assert self.child is not None
        ticks = sum(int(field) for pid in tree(self.child.pid) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak(self) -> float:
        """MB of memory at most, all its processes together."""
        assert self.child is not None
        lines = [line for pid in tree(self.child.pid) for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def tree(pid: int) -> list[int]:
    """The process and those below it."""
    below = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [pid, *(each for child in below for each in tree(child))]


# ---------------------------------------------------------------- servers


def port() -> int:
    """A free one."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def child(command: Sequence[str], folder: Path, at: int, extra: Mapping[str, str], patience: float = 60.0) -> Iterator[subprocess.Popen[bytes]]:
    """The command, from when it listens on the port until the block ends. Raises CannotStart."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()} | extra
    with open(folder / "stderr", "wb") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=said)
    try:
        until = time.monotonic() + patience
        while True:
            if process.poll() is not None or time.monotonic() > until:
                lines = (folder / "stderr").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise CannotStart(f"does not start: {lines[-1][:160]}")
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", at)) == 0:
                    break
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def launched(stack: ExitStack, name: str, title: str, command: Callable[[int, Path], Sequence[str]], files: Mapping[str, str],
             extra: Mapping[str, str] | None = None) -> Server:  # fmt: skip
    """A server in a folder of its own with these files, until the stack is left; it has answered once."""
    note(f"{name}: starting")
    folder, at = Path(stack.enter_context(tempfile.TemporaryDirectory())), port()
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    server = Server(name, title, f"http://127.0.0.1:{at}")
    try:
        server.child = stack.enter_context(child(command(at, folder), folder, at, extra or {}))
        once(server.url)
    except (CannotStart, OSError, ValueError) as err:
        note(f"{name}: {err}")
        return Server(name, title, why=str(err))
    return server


def once(url: str) -> None:
    """Asks until it is answered, for ten seconds at most: some listen before they can. ValueError for another answer than the stub's."""
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "once"}]}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"content-type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 10
    while True:
        try:
            with opener.open(request, timeout=10) as reply:
                said = json.loads(reply.read())["choices"][0]["message"]["content"]
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    if json.loads(said) != json.loads(ANSWER):
        raise ValueError(f"answers {said!r:.80}")


def stub(stack: ExitStack) -> Server:
    """An nginx with a canned reply."""
    def command(at: int, folder: Path) -> list[str]:
        (folder / "nginx.conf").write_text(NGINX.format(port=at, reply=json.dumps(REPLY).replace("\\", "\\\\")), encoding="utf-8")
        return ["nginx", "-p", str(folder), "-c", "nginx.conf"]

    return launched(stack, "stub", "the stub itself", command, {})


def ours(stack: ExitStack, name: str, title: str, policy: str, upstream: str) -> Server:
    """`cascade serve` of the interpreter that runs this."""
    def command(at: int, folder: Path) -> list[str]:
        return [sys.executable, "-c", "from cascade.cli import main; main()", "serve", "policy.yaml", "--port", str(at)]

    where = os.pathsep.join(os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)
    return launched(stack, name, title, command, {"policy.yaml": policy.format(stub=upstream)}, {"PYTHONPATH": where, "HOME": "."})


def litellm(stack: ExitStack, given: str | None, envs: Path, upstream: str) -> Server:
    """By the interpreter `given`, else by one made in `envs`."""
    try:
        interpreter = Path(given).absolute() if given else python(envs, LITELLM, note)
    except CannotInstall as err:
        return Server(LITELLM.name, LITELLM.title, why=str(err))

    def command(at: int, folder: Path) -> list[str]:
        return [str(interpreter.parent / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(at), "--telemetry", "False"]

    title = f"{LITELLM.title} {version(interpreter, LITELLM.package)}"
    return launched(stack, "litellm", title, command, {"config.yaml": LITELLM_CONFIG.format(stub=upstream)}, LITELLM_ENVIRONMENT)


def firstpass(stack: ExitStack, given: str | None, envs: Path, upstream: str) -> Server:
    """As `litellm`: one rung, and the gate that wants JSON."""
    try:
        interpreter = Path(given).absolute() if given else python(envs, FIRSTPASS, note)
    except CannotInstall as err:
        return Server(FIRSTPASS.name, FIRSTPASS.title, why=str(err))
    extra = {"FIRSTPASS_MODE": "enforce", "FIRSTPASS_CONFIG": "firstpass.toml", "FIRSTPASS_UPSTREAM_OPENAI": upstream, "FIRSTPASS_DB": "firstpass.db",
             "OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none", "RUST_LOG": "error"}  # fmt: skip

    def command(at: int, folder: Path) -> list[str]:
        return ["env", f"FIRSTPASS_BIND=127.0.0.1:{at}", str(interpreter.parent / "firstpass-proxy")]

    title = f"{FIRSTPASS.title} {version(interpreter, FIRSTPASS.package)}"
    return launched(stack, "firstpass", title, command, {"firstpass.toml": FIRSTPASS_CONFIG.format()}, extra)
