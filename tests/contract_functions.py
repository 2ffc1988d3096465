"""What an outside package would bring: a user's function and a kind of verifier, for the contract test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from cascade.types import Ask, Call, Case, Verdict
from cascade.verifiers import Spec


def looks(value: Any, inputs: Any) -> Any:
    """Raises for every value that is no object with a total: a user's function is not written for odd answers."""
    return 0.5 if value["total"] > 1 else None


class Options(BaseModel):
    score: float = Field(description="What it always says.")


class Always:
    def __init__(self, score: float) -> None:
        self.score = score

    def early(self, inputs: Mapping[str, Any], call: Call) -> tuple[Call, ...]:
        return ()

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        return Verdict(self.score)


SPEC = Spec("always", Options, lambda options, schema, compare: Always(options.score))
