"""Answers kept in a file by what was asked: a recording of calls above the wire, for replays that need no HTTP and no SDK."""

from __future__ import annotations

from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from cascade.errors import ConfigurationError, MissingRecording
from cascade.prices import Pricing
from cascade.providers import Adapter
from cascade.types import NOTHING, Answer, Ask, Call, Json, Provider, Usage

SHOWN = 60


def recording(ask: Ask, path: str | Path) -> Ask:
    """An Ask that writes each answer to a JSONL file as well, one line a call, for `Recorded` to replay. Errors are not kept."""
    file = Path(path)

    async def keeping(call: Call) -> Answer:
        answer = await ask(call)
        row = {"call": call.digest, "model": call.model, "prompt": _prompt(call), "sample": call.sample, "answer": to_row(answer)}
        with file.open("ab") as out:
            out.write(orjson.dumps(row) + b"\n")
        return answer

    return keeping


class Recorded:
    """An `Ask` that replays what `recording` wrote. A call that is not there raises MissingRecording, which names the nearest one.

    Equal calls are told apart by nothing, so each gets the same answer, as often as it asks.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._answers: dict[str, Answer] = {}
        self._known: list[tuple[str, str]] = []
        try:
            lines = Path(path).read_bytes().splitlines()
        except OSError as err:
            raise ConfigurationError(f"{path}: {err.strerror or err}") from err
        for number, line in enumerate(lines, 1):
            try:
                row = orjson.loads(line)
                self._answers[row["call"]] = from_row(row["answer"])
                self._known.append((row["model"], row["prompt"]))
            except (orjson.JSONDecodeError, KeyError, TypeError) as err:
                raise ConfigurationError(f"{path}:{number}: not a recorded call ({type(err).__name__}: {err})") from err

    async def __call__(self, call: Call) -> Answer:
        """The recorded answer."""
        answer = self._answers.get(call.digest)
        if answer is None:
            raise MissingRecording(f"{self.path} holds no such call: {call.model}, sample {call.sample}; {self._nearest(call)}")
        return answer

    async def close(self) -> None:
        """Nothing is open."""

    def _nearest(self, call: Call) -> str:
        if not self._known:
            return "it is empty"
        wanted = _prompt(call)
        model, prompt = max(self._known, key=lambda known: (known[0] == call.model, _shared(known[1], wanted)))
        if model != call.model:
            return f"nothing was recorded of this model; nearest is {model}"
        at = _shared(prompt, wanted)
        if prompt == wanted:
            return "nearest has the same prompt; the schema, the params or the sample differ"
        start = max(0, at - SHOWN // 3)
        return f"nearest differs at character {at}: {wanted[start : at + SHOWN]!r} asked, {prompt[start : at + SHOWN]!r} recorded"


def build(provider: Provider, pricing: Pricing = NOTHING) -> Adapter:
    """A policy's provider of kind recorded."""
    return Recorded(provider.options["path"])


def _prompt(call: Call) -> str:
    return "\n".join(f"{message.role}: {message.text}" for message in call.messages)


def _shared(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def to_row(answer: Answer) -> dict[str, Json]:
    """An answer as a dict of JSON values, without its retries."""
    row = asdict(replace(answer, retries=(), cached=False))
    row["cost_usd"] = None if answer.cost_usd is None else str(answer.cost_usd)
    return row


def from_row(row: dict[str, Any]) -> Answer:
    """The answer of a dict; KeyError or TypeError when it is none."""
    usage = None if row["usage"] is None else Usage(**row["usage"])
    cost = None if row["cost_usd"] is None else Decimal(row["cost_usd"])
    return Answer(**{**row, "usage": usage, "cost_usd": cost, "retries": ()})
