"""`agreement`: other models, asked the same beside the tier, give the same answer. The best signal there is without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cascade.types import Ask, Call, Case, Document, Json, Template, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._options import Prompt, models
from cascade.verifiers._panel import Panel
from cascade.verifiers._text import one_line
from cascade.verifiers._votes import ask_all, reworded


class Options(BaseModel):
    """Who else is asked, and what has to agree."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    with_: str | tuple[str, ...] = Field(alias="with", min_length=1, description="Another model, provider/model, or several.")
    fields: tuple[str, ...] = Field(default=(), description="Fields that have to agree, e.g. [vendor, lines.amount]; default: all.")
    prompt: Prompt = Field(default=None, description="Another form of the prompt for the other models; default: the tier's messages.")
    params: dict[str, Any] = Field(default_factory=dict, description="What the other models take beside the messages.")
    max_tokens: int | None = Field(default=None, ge=1, description="Most tokens of their answers; default: the tier's.")
    late: bool = Field(default=False, description="Ask them only when the gates before have passed, not beside the tier: saves their "
                       "dollars where those fail, and costs their seconds where not.")


class AgreementVerifier:
    """The share of the other models that give the tier's answer."""

    def __init__(self, options: Options, compare: Mapping[str, Json]) -> None:
        self.models = models(options.with_)
        self.prompt = options.prompt if isinstance(options.prompt, Template) else None
        self.params = {**options.params, **({"max_tokens": options.max_tokens} if options.max_tokens else {})}
        self.late = options.late
        self.panel = Panel(options.fields, compare)

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        """The other models' calls: they do not need the answer, so they are made beside the tier's, unless they are to be late."""
        return () if self.late else self.calls(inputs, call)

    def calls(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        """The other models' calls, for the tier's."""
        messages = call.messages
        if self.prompt is not None:
            messages = reworded(messages, self.prompt, inputs)
        params = Document({"max_tokens": call.params.json.get("max_tokens", 1024), **self.params})
        return tuple(Call(model, messages, call.schema, params, 0, call.timeout, call.tools) for model in self.models)

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        answers = await ask_all(self.calls(case.inputs, case.call), ask)
        try:
            return self.panel.verdict(case, answers, own=0)
        except ValueError as err:
            return Verdict(None, one_line(str(err)))


def _make(options: Options, schema: Document | None, compare: Mapping[str, Json]) -> AgreementVerifier:
    return AgreementVerifier(options, compare)


SPEC = Spec(
    "agreement",
    Options,
    _make,
    positional="with",
    templates=("prompt",),
    models_of=lambda options: models(options.with_),
    calls_of=lambda options: len(models(options.with_)),
    max_tokens_of=lambda options: options.max_tokens,
)
