"""Asks several models at once, and reads what they say as votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from cascade import tools
from cascade.errors import BudgetExceeded, ProviderError
from cascade.extract import extract
from cascade.prompts import render
from cascade.types import Answer, Ask, Call, Json, Message, Template
from cascade.verifiers._text import one_line


class NoVote(str):
    """Why a call brought no vote, in a few words."""

    __slots__ = ()


async def ask_all(calls: Sequence[Call], ask: Ask) -> list[Answer | NoVote]:
    """The answers, in the order of the calls. A model that fails, or that the budget does not reach, casts no vote: what the others
    cost is not thrown away. Any other error stops them all and is raised as it is, never in a group."""
    if len(calls) == 1:
        return [await _ask(calls[0], ask)]
    answers: dict[int, Answer | NoVote] = {}

    async def one(i: int, call: Call) -> None:
        answers[i] = await _ask(call, ask)

    try:
        async with anyio.create_task_group() as group:
            for i, call in enumerate(calls):
                group.start_soon(one, i, call)
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [answers[i] for i in range(len(calls))]


async def _ask(call: Call, ask: Ask) -> Answer | NoVote:
    try:
        return await ask(call)
    except ProviderError as err:
        return NoVote(one_line(f"{call.model} {err.kind}: {err}", 120))
    except BudgetExceeded as err:
        return NoVote(one_line(f"{call.model}: {err}", 120))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def reworded(messages: tuple[Message, ...], prompt: Template, inputs: Mapping[str, Json]) -> tuple[Message, ...]:
    """The same question in another form: the system messages, and the template in place of the others."""
    return (*(message for message in messages if message.role == "system"), Message("user", render(prompt, inputs)))


def read_vote(answer: Answer | NoVote, is_json: bool) -> tuple[Json, str | None]:
    """What was voted for, or why it is no vote: no answer, a refusal, a cut-off or an unreadable one."""
    if isinstance(answer, NoVote):
        return None, str(answer)
    if answer.finish == "tool_calls":
        return tools.value(answer.text), None
    if answer.finish != "stop":
        return None, {"length": "cut off", "refusal": "refused", "filter": "filtered"}[answer.finish]
    if not is_json:
        return answer.text, None
    read = extract(answer.text)
    return read.value, read.problem
