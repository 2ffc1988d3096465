"""`calibrated`: weighs the signals of an answer and of the gates before it into P(right). Written by calibration, not by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cascade.types import Ask, Call, Case, Document, Json, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._text import one_line


class Options(BaseModel):
    """A logistic regression; see `thresholds.Score`."""

    model_config = ConfigDict(extra="forbid")
    signals: tuple[str, ...] = Field(description="Names of the signals, in the order of the numbers.")
    mean: tuple[float, ...] = Field(description="Of each signal, where it was learned.")
    scale: tuple[float, ...] = Field(description="Standard deviation of each signal.")
    weights: tuple[float, ...] = Field(description="Of each standardised signal.")
    intercept: float = Field(description="Log-odds at the mean.")
    optional: tuple[str, ...] = Field(default=(), description="Signals that may be missing: then they count as their mean.")


def score(options: Mapping[str, Any], signals: Mapping[str, float]) -> float | None:
    """P(right), 0 to 1; None when a signal is missing that never was where this was learned."""
    total = options["intercept"]
    for name, mean, scale, weight in zip(options["signals"], options["mean"], options["scale"], options["weights"], strict=True):
        value = signals.get(name)
        if value is not None:
            total += weight * (value - mean) / scale
        elif name not in options["optional"]:
            return None
    return 1 / (1 + math.exp(-total)) if total > -700 else 0.0


class CalibratedVerifier:
    """P(right) from `case.signals`."""

    def __init__(self, options: Options) -> None:
        self.options = options.model_dump()
        if len({len(self.options[key]) for key in ("signals", "mean", "scale", "weights")}) != 1:
            raise ValueError("signals, mean, scale and weights have different lengths")

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        return ()

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        found = score(self.options, case.signals)
        if found is None:
            missing = [n for n in self.options["signals"] if n not in case.signals and n not in self.options["optional"]]
            return Verdict(None, f"no signal {missing[0]}, so P(right) is not known")
        return Verdict(found, f"right with probability {found:.2f}")


def _make(options: Options, schema: Document | None, compare: Mapping[str, Json]) -> CalibratedVerifier:
    return CalibratedVerifier(options)


SPEC = Spec("calibrated", Options, _make)
