"""The process that runs what is to be killed: started once, for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from crashing import Runner


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    running = Runner()
    yield running
    running.close()
