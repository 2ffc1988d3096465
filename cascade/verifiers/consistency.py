"""`consistency`: the same model, asked again, gives the same answer.

After "Self-Consistency Improves Chain of Thought Reasoning in Language Models" (Wang et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from cascade.types import Ask, Call, Case, Document, Json, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._panel import Panel
from cascade.verifiers._text import one_line
from cascade.verifiers._votes import ask_all


class Options(BaseModel):
    """How many samples, and what of them has to agree."""

    model_config = ConfigDict(extra="forbid")
    samples: int = Field(default=3, ge=2, le=25, description="Answers in all, the tier's own included.")
    fields: tuple[str, ...] = Field(default=(), description="Fields that have to agree, e.g. [vendor, lines.amount]; default: all.")


class ConsistencyVerifier:
    """The share of the samples that give the tier's answer, its own included."""

    def __init__(self, options: Options, compare: Mapping[str, Json]) -> None:
        self.samples = options.samples
        self.panel = Panel(options.fields, compare)

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        return ()  # samples cost as much as the answer: they are drawn when the cheaper gates have passed it

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        calls = [replace(case.call, sample=case.call.sample + n) for n in range(1, self.samples)]
        answers = await ask_all(calls, ask)
        try:
            return self.panel.verdict(case, answers, own=1)
        except ValueError as err:
            return Verdict(None, one_line(str(err)))


def _make(options: Options, schema: Document | None, compare: Mapping[str, Json]) -> ConsistencyVerifier:
    return ConsistencyVerifier(options, compare)


SPEC = Spec("consistency", Options, _make, threshold=0.67, positional="samples", calls_of=lambda options: options.samples - 1)
