"""The pytest plugin: fixture `cascade_cassette`, flag `--cascade-record`, marker `cascade_network`. Loaded by pytest, so it imports little."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cascade.testing.cassette import RecordMode


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cascade")
    group.addoption("--cascade-record", choices=("none", "new", "all"), default="none",
                    help="none: replay cassettes (default, and always in CI); new: add what is missing; all: record anew")
    group.addoption("--cascade-block-network", action="store_true", help="let no test reach the network but those marked cascade_network")
    parser.addini("cascade_cassettes", "folder of cassettes, relative to the test's file", default="cassettes")
    parser.addini("cascade_block_network", "as --cascade-block-network", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cascade_network: this test may use the network although it is blocked")


@pytest.fixture
def cascade_cassette(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Replays the calls of this test from `cassettes/<file>/<test>.json` beside it; records them with `--cascade-record`.

    A call that was not recorded raises MissingRecording and stops the test; so does a recording that is not played.
    """
    from cascade.testing.cassette import cassette

    path = _path(request)
    mode = _mode(request.config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with cassette(path, mode) as tape:
        yield tape


@pytest.fixture(autouse=True)
def _cascade_network(request: pytest.FixtureRequest) -> Iterator[None]:
    blocked = request.config.getoption("--cascade-block-network") or request.config.getini("cascade_block_network")
    if not blocked or request.node.get_closest_marker("cascade_network"):
        yield
        return
    from cascade.testing.network import no_network

    with no_network():
        yield


def _mode(config: pytest.Config) -> RecordMode:
    """What the flag says; in CI nothing is ever recorded."""
    if os.environ.get("CI"):
        return "none"
    modes: dict[str, RecordMode] = {"none": "none", "new": "new_episodes", "all": "all"}
    return modes[config.getoption("--cascade-record")]


def _path(request: pytest.FixtureRequest) -> Path:
    folder = request.path.parent / str(request.config.getini("cascade_cassettes")) / request.path.stem
    return folder / (re.sub(r"[^\w.-]+", "-", request.node.name).strip("-") + ".json")
