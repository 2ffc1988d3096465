"""`decision`: a model answers fixed questions about inputs and answer, with probabilities. For endpoints such as OpenAI's decisions (a beta).

Unlike a judge's, the reply is not text, so there is no wording that could be forged or misread. The answer is shown as data all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cascade.extract import extract
from cascade.prompts import render, variables
from cascade.shipped import folder
from cascade.types import Answer, Ask, Call, Case, Document, Json, Message, Template, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._evidence import fenced, is_empty, nonce, pictures, shown
from cascade.verifiers._options import Prompt, models
from cascade.verifiers._text import one_line

DEFAULT_PROMPT = "decision.j2"
DEFAULT_MODEL = "decisions/gpt-6-luna"
DEFAULT_STATEMENT = (
    "The answer is right: everything in it follows from the inputs, everything the inputs call for is in it, and nothing is made up."
)

MOST_QUESTIONS = 8
"""Each gives a number to weigh; see `signals.MOST_FIELDS`."""

MAX_TOKENS = 1
"""Nothing is written, and output is free: this only stands in for the limit that every call has."""

SLACK = 0.02
"""By so much may probabilities miss a sum of 1: they come rounded."""


class Question(BaseModel):
    """One question: a `predicate` (a statement about the answer), a `choice` or a `score`; `right` are the choices or levels of a good answer."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$", description="Its name among the signals; default: q1, q2 …")
    predicate: str | None = Field(default=None, min_length=1, description="A statement about the answer: how probably is it true?")
    choice: str | None = Field(default=None, min_length=1, description="A question that one of `choices` answers.")
    choices: tuple[str, ...] = Field(default=(), max_length=255, description="What may be chosen.")
    score: str | None = Field(default=None, min_length=1, description="A question that one of `levels` answers.")
    levels: tuple[str, ...] = Field(default=(), max_length=100, description="Levels, from the lowest to the highest.")
    right: tuple[str, ...] = Field(default=(), description="The choices or levels that speak for the answer.")

    @property
    def kind(self) -> str:
        """predicate, choice or score."""
        return "choice" if self.choice is not None else "score" if self.score is not None else "predicate"

    @property
    def values(self) -> tuple[str, ...]:
        """What may be chosen, or the levels."""
        return self.choices or self.levels

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if sum(text is not None for text in (self.predicate, self.choice, self.score)) != 1:
            raise ValueError("a question is one of predicate, choice and score")
        if bool(self.choices) != (self.kind == "choice") or bool(self.levels) != (self.kind == "score"):
            raise ValueError("a choice has choices, a score has levels, a predicate neither")
        if self.kind == "predicate":
            if self.right:
                raise ValueError("a predicate has no right: it is to be true")
        elif len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise ValueError(f"{self.kind}s are at least two, and different" if self.kind == "choice" else "levels are at least two, and different")
        elif not self.right or not set(self.right) < set(self.values):
            raise ValueError(f"right names some of {', '.join(self.values)}, and not all")
        return self

    def on_the_wire(self, name: str) -> dict[str, Json]:
        """As the endpoint takes it."""
        question: dict[str, Json] = {"type": self.kind, "name": name, "instructions": self.predicate or self.choice or self.score}
        if self.kind == "choice":
            question["choices"] = [{"value": value} for value in self.choices]
        elif self.kind == "score":
            question["levels"] = [{"label": label} for label in self.levels]
        return question


class Options(BaseModel):
    """Who is asked, and what."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(default=DEFAULT_MODEL, description="A model of a provider of kind decisions, provider/model.")
    questions: tuple[str | Question, ...] = Field(
        default=(), max_length=MOST_QUESTIONS, description="Statements, or {predicate: …}, {choice: …, choices, right}, {score: …, levels, right}. "
        "Default: that the answer is right.")  # fmt: skip
    prompt: Prompt = Field(default=None, description="Instructions; variable: nonce. Inputs and answer are added. Default: shipped.")
    params: dict[str, Any] = Field(default_factory=dict, description="What the endpoint takes beside input and questions.")


class DecisionVerifier:
    """The least of the probabilities that speak for the answer; None when a question was not answered, 0 for an answer without content."""

    def __init__(self, options: Options) -> None:
        if isinstance(options.prompt, str):
            raise ValueError("prompt: a Template is wanted here; a policy's loader reads the path or text")
        (self.model,) = models(options.model)
        self.prompt = options.prompt or _shipped()
        if unknown := sorted(variables(self.prompt) - {"nonce"}):
            raise ValueError(f"prompt: {self.prompt.path}: the template of a decision has the variable nonce, not {', '.join(unknown)}: "
                             "inputs and answer are added as data in a message of their own")  # fmt: skip
        if taken := sorted({"questions", "max_tokens"} & set(options.params)):
            raise ValueError(f"params: {taken[0]} is set by cascade itself")
        self.questions = _named(options.questions)
        wire = [question.on_the_wire(name) for name, question in self.questions.items()]
        self.params = Document({"max_tokens": MAX_TOKENS, "questions": wire, **options.params})

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        return ()

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        if is_empty(case.value):
            return Verdict(0.0, "the answer has no content; nobody was asked about it")
        if pictures(case):
            return Verdict(None, "the request has pictures, and this endpoint takes none")
        try:
            inputs, answer = shown(case)
        except (TypeError, ValueError) as err:
            return Verdict(None, one_line(f"cannot be shown: {err}"))
        return read_reply(await ask(self.call(inputs, answer, case.call.timeout)), self.questions)

    def call(self, inputs: str, answer: str, timeout: float | None) -> Call:
        code = nonce("cascade decision nonce 1", self.model, self.prompt.source, self.params.digest, inputs, answer)
        messages = (Message("system", render(self.prompt, {"nonce": code})), Message("user", fenced(code, inputs, answer)))
        return Call(self.model, messages, None, self.params, 0, timeout)


def _shipped() -> Template:
    path = folder("prompts") / DEFAULT_PROMPT
    return Template(path.read_text(encoding="utf-8"), str(path))


def _named(given: Sequence[str | Question]) -> dict[str, Question]:
    """The questions by name. ValueError when a name is taken."""
    found: dict[str, Question] = {}
    for i, one in enumerate(given, 1):
        question = Question(predicate=one) if isinstance(one, str) else one
        name = question.name or f"q{i}"
        if name in found:
            raise ValueError(f"questions: the name {name!r} is taken: names of questions are unique")
        found[name] = question
    return found or {"right": Question(predicate=DEFAULT_STATEMENT)}


# ---------------------------------------------------------------- the reply


class _Told(NamedTuple):
    """What an answer says: the `probability` that speaks for the judged one, or the `problem`; `confidence` where there is one."""

    probability: float | None
    problem: str = ""
    confidence: float | None = None


def read_reply(reply: Answer, questions: Mapping[str, Question]) -> Verdict:
    """The verdict in the endpoint's answers. Nothing is guessed: as many answers as questions, in order, each with all its probabilities."""
    answers = _answers(reply, len(questions))
    if isinstance(answers, str):
        return Verdict(None, one_line(answers))
    told = {name: _told(answer, name, question) for (name, question), answer in zip(questions.items(), answers, strict=True)}
    signals: dict[str, float] = {}
    for name, one in told.items():
        if one.probability is not None:
            signals[f"p:{name}"] = one.probability
        if one.confidence is not None:
            signals[f"confidence:{name}"] = one.confidence
    problems = [f"{name}: {one.problem}" for name, one in told.items() if one.probability is None]
    if problems:
        return Verdict(None, one_line(f"not decided: {'; '.join(problems)}"), signals=signals)
    score = min(one.probability for one in told.values() if one.probability is not None)
    said = ", ".join(f"{name} {one.probability:.2f}" for name, one in told.items())
    return Verdict(score, None if score == 1.0 else one_line(said), signals=signals)


def _answers(reply: Answer, count: int) -> list[Json] | str:
    """The answers, or why there are none."""
    if reply.finish != "stop":
        return f"not decided: {reply.finish}"
    read = extract(reply.text)
    answers = read.value.get("answers") if isinstance(read.value, dict) and read.notes == () else None
    if not isinstance(answers, list):
        return "the reply cannot be read: it is not an object with answers"
    return answers if len(answers) == count else f"the reply cannot be used: {len(answers)} answers to {count} questions"


def _told(answer: Json, name: str, question: Question) -> _Told:
    if not isinstance(answer, dict) or answer.get("name", name) not in (name, None):
        return _Told(None, "the answer is another question's")
    if answer.get("type") == "refusal":
        return _Told(None, "refused")
    if answer.get("type") != question.kind:
        return _Told(None, f"the answer is no {question.kind}")
    if question.kind == "predicate":
        probability = _share(answer.get("probability"))
        return _Told(probability, "its probability is not a number from 0 to 1")
    confidence = _share(answer.get("confidence"))
    found = _probabilities(answer.get("probabilities"), "value" if question.kind == "choice" else "label")
    if found is None or set(found) != set(question.values) or not math.isclose(sum(found.values()), 1.0, abs_tol=SLACK):
        return _Told(None, "its probabilities are not those of its values", confidence)
    return _Told(min(1.0, math.fsum(found[value] for value in question.right)), "", confidence)


def _probabilities(given: Json, key: str) -> dict[str, float] | None:
    if not isinstance(given, list):
        return None
    found: dict[str, float] = {}
    for one in given:
        value = one.get(key) if isinstance(one, dict) else None
        probability = _share(one.get("probability")) if isinstance(one, dict) else None
        if not isinstance(value, str) or value in found or probability is None:
            return None
        found[value] = probability
    return found


def _share(value: Json) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None


def _make(options: Options, schema: Document | None, compare: Mapping[str, Json]) -> DecisionVerifier:
    return DecisionVerifier(options)


SPEC = Spec(
    "decision",
    Options,
    _make,
    threshold=0.8,
    templates=("prompt",),
    default_prompt=DEFAULT_PROMPT,
    decides=True,
    models_of=lambda options: models(options.model),
    calls_of=lambda options: 1,
    max_tokens_of=lambda options: MAX_TOKENS,
)
