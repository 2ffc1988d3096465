"""`python`: a function of yours looks at the answer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field

from cascade.compare import resolve
from cascade.types import Ask, Call, Case, Document, Json, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._text import one_line


class Options(BaseModel):
    """Which function."""

    model_config = ConfigDict(extra="forbid")
    function: str = Field(
        description="package.module:function of (value, inputs): true or false, a score from 0 to 1, (score, reason) or None."
    )


class PythonVerifier:
    """What the function says. One that raises could not tell."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.function = resolve(path)
        self.is_async = inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(
            getattr(self.function, "__call__", None)  # noqa: B004  an object's own async call, not whether it can be called
        )

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        return ()

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        value, inputs = copy.deepcopy((case.value, dict(case.inputs)))  # what a function does to them must not change what is served
        try:
            if self.is_async:
                result = await self.function(value, inputs)
            else:  # in a thread, so that a slow one holds up nobody; its thread is left behind when the request's time is up
                result = await anyio.to_thread.run_sync(self.function, value, inputs, abandon_on_cancel=True)
            return _verdict(result)
        except Exception as err:  # a user's function can raise anything
            return Verdict(None, one_line(f"{self.path}: {type(err).__name__}: {err}"))


def _verdict(result: Any) -> Verdict:
    """ValueError or TypeError for what is no verdict: "no" is true for Python, and 85 is not 0.85."""
    if isinstance(result, Verdict):
        return Verdict(_score(result.score), result.reason and one_line(result.reason), result.fields, result.signals)
    if isinstance(result, tuple):
        if len(result) != 2 or not isinstance(result[1], str | None):
            raise TypeError("a tuple has to be (score, reason)")
        return Verdict(_score(result[0]), one_line(result[1]) if result[1] else None)
    return Verdict(_score(result))


def _score(score: Any) -> float | None:
    if score is None:
        return None
    if isinstance(score, bool):
        return 1.0 if score else 0.0
    if not isinstance(score, int | float):
        raise TypeError(f"gave a {type(score).__name__}, and neither true, false nor a score from 0 to 1")
    if not 0 <= score <= 1:
        raise ValueError(f"gave {score}, which is not from 0 to 1")
    return float(score)


def _make(options: Options, schema: Document | None, compare: Mapping[str, Json]) -> PythonVerifier:
    return PythonVerifier(options.function)


SPEC = Spec("python", Options, _make, repairable=True, positional="function")
