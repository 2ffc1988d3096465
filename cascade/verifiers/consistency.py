"""`consistency`: the same model, asked again, gives the same answer.

After "Self-Consistency Improves Chain of Thought Reasoning in Language Models" (Wang et al. 2022); it stops asking as soon as the answer is
sure to pass or to fail, in the manner of "Let's Sample Step by Step" (Aggarwal et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from cascade.types import Answer, Ask, Call, Case, Document, Json, Template, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._options import PromptForm
from cascade.verifiers._panel import Panel
from cascade.verifiers._stop import batch, needed
from cascade.verifiers._text import one_line
from cascade.verifiers._votes import NoVote, ask_all, reworded


class Options(BaseModel):
    """How many samples, and what of them has to agree."""

    model_config = ConfigDict(extra="forbid")
    samples: int = Field(default=3, ge=2, le=25, description="Answers in all, the tier's own included.")
    fields: tuple[str, ...] = Field(default=(), description="Fields that have to agree, e.g. [vendor, lines.amount]; default: all.")
    prompts: tuple[PromptForm, ...] = Field(default=(), description="Other forms of the prompt, which the samples take in turn; default: the tier's.")


class ConsistencyVerifier:
    """The share of the samples that give the tier's answer, its own included."""

    def __init__(self, options: Options, compare: Mapping[str, Json]) -> None:
        self.samples = options.samples
        self.prompts = tuple(prompt for prompt in options.prompts if isinstance(prompt, Template))
        self.panel = Panel(options.fields, compare)

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        return ()  # samples cost as much as the answer: they are drawn when the cheaper gates have passed it

    def calls(self, inputs: Mapping[str, Json], call: Call) -> list[Call]:
        """All samples but the tier's own, in the order in which they are asked."""
        forms = [reworded(call.messages, prompt, inputs) for prompt in self.prompts[: self.samples - 1]] or [call.messages]
        return [replace(call, messages=forms[(n - 1) % len(forms)], sample=call.sample + n) for n in range(1, self.samples)]

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        calls = self.calls(case.inputs, case.call)
        answers: list[Answer | NoVote] = []
        try:
            if case.enough is None:
                answers = await ask_all(calls, ask)
            else:
                agreeing = 1
                need = needed(self.samples, case.enough)
                while size := batch(self.samples, need, agreeing, len(answers) + 1 - agreeing):
                    more = await ask_all(calls[len(answers) : len(answers) + size], ask)
                    agreeing += sum(self.panel.agrees(case.value, vote, case.schema is not None) for vote in more)
                    answers += more
            found = self.panel.verdict(case, answers, own=1)
        except ValueError as err:
            return Verdict(None, one_line(str(err)))
        return found if case.enough is None else _stopped(found, len(calls) - len(answers))

    def batches(self, value: Json, is_json: bool, votes: Sequence[Answer | NoVote], enough: float) -> list[int]:
        """How many samples it would have asked for at a time, had it stopped as soon as it may: for replays of recordings that hold all."""
        sizes: list[int] = []
        need, agreeing, done = needed(self.samples, enough), 1, 0
        while (size := batch(self.samples, need, agreeing, done + 1 - agreeing)) and done < len(votes):
            agreeing += sum(self.panel.agrees(value, vote, is_json) for vote in votes[done : done + size])
            sizes.append(size)
            done += size
        return sizes


def _stopped(found: Verdict, unasked: int) -> Verdict:
    reason = found.reason
    if reason is not None and unasked:
        reason = f"{reason}; {unasked} more could not have changed it"
    return replace(found, reason=reason, signals={**found.signals, "unasked": float(unasked)})


def _make(options: Options, schema: Document | None, compare: Mapping[str, Json]) -> ConsistencyVerifier:
    return ConsistencyVerifier(options, compare)


SPEC = Spec(
    "consistency",
    Options,
    _make,
    threshold=0.67,
    positional="samples",
    templates=("prompts",),
    calls_of=lambda options: options.samples - 1,
)
