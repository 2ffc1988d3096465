"""One contract for every Ask that is shipped as a fake: it answers, it says when it cannot, it never answers another call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from cascade.app import Cascade
from cascade.errors import CascadeError, ConfigurationError, MissingRecording, Overloaded
from cascade.policy import load_text
from cascade.providers.recorded import Recorded, recording
from cascade.providers.scripted import Scripted
from cascade.types import Answer, Ask, Call, Document, Message, Usage

CALL = Call("p/m", (Message("user", "hello"),), None, Document({"max_tokens": 5}))
ANSWER = Answer("hi", "stop", Usage(3, 1, 1), Decimal("0.0000125"), 0.5, "m-2026", service_tier="flex")


def scripted(tmp_path: Path) -> Ask:
    return Scripted({"p/m": ANSWER})


def recorded(tmp_path: Path) -> Ask:
    asyncio.run(recording(Scripted({"p/m": ANSWER}), tmp_path / "calls.jsonl")(CALL))
    return Recorded(tmp_path / "calls.jsonl")


FAKES = [scripted, recorded]


@pytest.mark.parametrize("make", FAKES)
def test_the_answer_comes_back_whole_and_as_often_as_it_is_asked_for(make: Callable[[Path], Ask], tmp_path: Path) -> None:
    ask = make(tmp_path)
    assert [asyncio.run(ask(CALL)) for _ in range(2)] == [ANSWER, ANSWER]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", FAKES)
def test_a_call_it_does_not_know_is_an_error_of_its_own_kind(make: Callable[[Path], Ask], tmp_path: Path) -> None:
    with pytest.raises((ConfigurationError, MissingRecording), match="p/n"):
        asyncio.run(make(tmp_path)(Call("p/n", CALL.messages)))  # type: ignore[arg-type]


def test_a_script_goes_on_and_its_last_reply_stays() -> None:
    ask = Scripted({"p/m": ["one", {"two": 2}, Overloaded("529"), lambda call: call.messages[0].content]})

    async def five() -> list[str]:
        told = []
        for _ in range(5):
            try:
                told.append((await ask(CALL)).text)
            except CascadeError as err:
                told.append(type(err).__name__)
        return told

    assert asyncio.run(five()) == ["one", '{"two":2}', "Overloaded", "hello", "hello"]
    assert ask.calls == [CALL] * 5


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (Call("p/m", (Message("user", "hallo"),), None, CALL.params), "differs at character 7: 'user: hallo' asked, 'user: hello' recorded"),
        (Call("p/m", CALL.messages, None, CALL.params, sample=1), "the schema, the params or the sample differ"),
        (Call("p/x", CALL.messages, None, CALL.params), "nothing was recorded of this model; nearest is p/m"),
    ],
)
def test_a_missing_recording_names_the_nearest_and_what_differs(call: Call, says: str, tmp_path: Path) -> None:
    with pytest.raises(MissingRecording) as caught:
        asyncio.run(recorded(tmp_path)(call))  # type: ignore[arg-type]
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["not json\n", "{}\n"])
def test_a_damaged_recording_is_named_with_its_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text(text)
    with pytest.raises(ConfigurationError, match=r"calls\.jsonl:1: not a recorded call"):
        Recorded(tmp_path / "calls.jsonl")
    with pytest.raises(ConfigurationError, match=r"no\.jsonl: No such file"):
        Recorded(tmp_path / "no.jsonl")


def test_both_can_stand_in_a_policy_file(tmp_path: Path) -> None:
    policy = """
version: 1
name: p
prompt: "Say {{ x }}"
cache: {backend: off}
providers: {play: {kind: scripted, replies: {m: [hello]}}}
tiers: [play/m]
"""
    with Cascade(load_text(policy, str(tmp_path / "p.yaml"))) as cascade:
        assert cascade.run({"x": "y"}).output == "hello"
