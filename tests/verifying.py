"""What the tests of verifiers share: a case to look at, an `ask` that answers from a table, and one line to run a verifier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cascade.types import Answer, Call, Case, Document, Json, Message, Verdict, Verifier

CALL = Call(
    "openai/small",
    (Message("system", "Be exact."), Message("user", "Extract the invoice.")),
    Document({"type": "object"}),
    Document({"max_tokens": 300}),
    timeout=9.0,
)


def a_case(value: Json, *, inputs: Mapping[str, Json] | None = None, problem: str | None = None, schema: Json = True) -> Case:
    """A case with that value; `schema=None` for a policy without one."""
    return Case(inputs or {"text": "an invoice"}, "…", value, CALL, None if schema is None else Document(schema), problem=problem)


@dataclass
class Asked:
    """An `ask` that gives what `reply` makes of a call (an Answer, a text, or an error to raise), and keeps the calls."""

    reply: Callable[[Call], Any]
    calls: list[Call] = field(default_factory=list)

    async def __call__(self, call: Call) -> Answer:
        self.calls.append(call)
        given = self.reply(call)
        if isinstance(given, BaseException):
            raise given
        return given if isinstance(given, Answer) else Answer(given)


def refuse(call: Call) -> Any:
    """For verifiers that ask nobody."""
    raise AssertionError(f"nobody was to be asked, but {call.model} was")


def verdict(verifier: Verifier, case: Case, reply: Callable[[Call], Any] = refuse) -> Verdict:
    """What the verifier says."""
    return asyncio.run(_run(verifier, case, Asked(reply)))


async def _run(verifier: Verifier, case: Case, ask: Asked) -> Verdict:
    return await verifier(case, ask)
