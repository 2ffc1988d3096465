"""`python`: what a user's function may be and say, and that nothing it does harms the request."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from verifying import a_case, verdict

from cascade.types import Verdict
from cascade.verifiers import build


def true(value: Any, inputs: Any) -> Any:
    return True


def false(value: Any, inputs: Any) -> Any:
    return False


def score(value: Any, inputs: Any) -> Any:
    return value["score"]


def pair(value: Any, inputs: Any) -> Any:
    return 0.25, "the\nvendor is\x00 unknown"


def full(value: Any, inputs: Any) -> Any:
    return Verdict(0.5, "half", ("/a",), {"x": 1.0})


async def waits(value: Any, inputs: Any) -> Any:
    return 1 if inputs == {"text": "an invoice"} else 0


def raises(value: Any, inputs: Any) -> Any:
    raise LookupError("no \x1b[0m table")


def meddles(value: Any, inputs: Any) -> Any:
    value["total"] = inputs["text"] = "changed"
    return True


class Callable:
    async def __call__(self, value: Any, inputs: Any) -> Any:
        return True


an_object = Callable()
off_thread: list[bool] = []


def thread(value: Any, inputs: Any) -> Any:
    off_thread.append(threading.current_thread() is not threading.main_thread())
    return True


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        ("true", 1, Verdict(1.0)),
        ("false", 1, Verdict(0.0)),
        ("score", {"score": 0.75}, Verdict(0.75)),
        ("score", {"score": 1}, Verdict(1.0)),
        ("score", {"score": None}, Verdict(None)),
        ("pair", 1, Verdict(0.25, "the vendor is unknown")),
        ("full", 1, Verdict(0.5, "half", ("/a",), {"x": 1.0})),
        ("waits", 1, Verdict(1.0)),
        ("an_object", 1, Verdict(1.0)),
        ("raises", 1, Verdict(None, "test_python_verifier:raises: LookupError: no [0m table")),
        ("score", {"score": 85}, Verdict(None, "test_python_verifier:score: ValueError: gave 85, which is not from 0 to 1")),
        ("score", {"score": float("nan")}, Verdict(None, "test_python_verifier:score: ValueError: gave nan, which is not from 0 to 1")),
        ("score", {"score": "no"},
         Verdict(None, "test_python_verifier:score: TypeError: gave a str, and neither true, false nor a score from 0 to 1")),
        ("score", {"score": (1, 2, 3)}, Verdict(None, "test_python_verifier:score: TypeError: a tuple has to be (score, reason)")),
    ],
)  # fmt: skip
def test_what_a_function_says_is_the_verdict(function: str, value: Any, expected: Verdict) -> None:
    assert verdict(build("python", f"test_python_verifier:{function}", None), a_case(value)) == expected


def test_a_plain_function_runs_beside_the_event_loop() -> None:
    verdict(build("python", {"function": "test_python_verifier:thread"}, None), a_case(1))
    assert off_thread == [True]


def test_a_function_cannot_change_what_is_served() -> None:
    value = {"total": 1}
    case = a_case(value)
    assert verdict(build("python", "test_python_verifier:meddles", None), case) == Verdict(1.0)
    assert (value, case.inputs) == ({"total": 1}, {"text": "an invoice"})


def test_an_answer_without_json_does_not_reach_the_function() -> None:
    assert verdict(build("python", "test_python_verifier:raises", None), a_case(None, problem="no JSON")) == Verdict(0.0, "no JSON")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("nowhere", "is not of the form package.module:function"),
        ("no_such_module_here:f", "cannot import 'no_such_module_here:f': ModuleNotFoundError"),
        ("test_python_verifier:nothing", "cannot import 'test_python_verifier:nothing': AttributeError"),
        ("test_python_verifier:off_thread", "'test_python_verifier:off_thread' is not a function"),
        ({"func": "a:b"}, "func: unknown key, did you mean 'function'?"),
    ],
)
def test_a_function_that_is_not_there_is_found_at_load(options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        build("python", options, None)
    assert says in str(caught.value)
