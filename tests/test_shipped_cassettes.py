"""The shipped cassettes: no secret, no header that was not meant to be kept, both wires, and real servers behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

TAPES = sorted((Path(__file__).parent.parent / "cassettes").glob("*.json"))


def test_there_are_cassettes() -> None:
    assert [tape.name for tape in TAPES] == ["demo-always-top.json", "demo-ladder.json"]


@pytest.mark.parametrize("tape", TAPES, ids=lambda tape: tape.name)
def test_nothing_secret_is_in_it(tape: Path) -> None:
    text = tape.read_text(encoding="utf-8")
    assert not re.search(r"sk-[A-Za-z0-9]{8}|Bearer|[Aa]uthorization|[Aa]pi-?[Kk]ey|[Cc]ookie|organization", text)
    for interaction in json.loads(text)["interactions"]:
        assert {name.lower() for name in interaction["request"]["headers"]} <= {"content-type", "anthropic-version"}
        assert {name.lower() for name in interaction["response"]["headers"]} <= {"content-type", "retry-after", "retry-after-ms"}


def test_one_ladder_speaks_both_wires() -> None:
    uris = [i["request"]["uri"] for i in json.loads(TAPES[-1].read_text(encoding="utf-8"))["interactions"]]
    assert {uri.rpartition("/v1/")[2] for uri in uris} == {"chat/completions", "messages"}


def test_the_demo_plays_every_recording_and_ends_as_it_was_recorded() -> None:
    from cascade.demo import play

    played = play()
    assert len(played.ladder) == len(played.top) == len(played.rows) == 24
    assert {o.status for o in played.ladder} <= {"accepted", "flagged"}
    events = [e for o in played.ladder for e in o.trail]
    assert any(getattr(e, "repair", 0) for e in events)
    assert len({o.tier for o in played.ladder}) > 1
