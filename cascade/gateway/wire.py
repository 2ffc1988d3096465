"""What the shapes have in common: what a caller asks, how it ends, and what goes wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from cascade import tools
from cascade.outcome import Outcome
from cascade.story import one_line
from cascade.types import Json, Tried, Usage

LONGEST = 4_000
"""Characters of an error's message: what was wrong may be megabytes, and is not sent back whole."""


class Refused(Exception):
    """A request that gets an error: the HTTP `status`, a `kind` for programs, a message for people; `retry`: trying again may help. `headers`
    go with it."""

    def __init__(self, status: int, kind: str, message: str, retry: bool = False) -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]}…")
        self.status, self.kind, self.retry = status, kind, retry
        self.headers: Mapping[str, str] = {}


@dataclass(frozen=True)
class Asked:
    """A request: `model` is a policy's name; `messages`, and in `tools` its tools, tool_choice and parallel_tool_calls, are in the form of
    Chat Completions, as a policy's inputs are. `told`: a stream ends with the usage."""

    model: str
    messages: list[dict[str, Json]]
    schema: Json = None
    stream: bool = False
    told: bool = False
    tools: dict[str, Json] = field(default_factory=dict)


class Stream(Protocol):
    """One answer as server-sent events."""

    def piece(self, text: str) -> bytes:
        """Some of its text, before the rest is known."""

    def end(self, reply: dict[str, Json]) -> Iterable[bytes]:
        """All of the reply that is not yet told."""


class Shape(Protocol):
    """One provider's way to ask, to answer, to stream and to say no. `created` is in seconds since 1970."""

    def asked(self, body: Mapping[str, Json]) -> Asked: ...
    def reply(self, asked: Asked, outcome: Outcome, id: str, created: int) -> dict[str, Json]: ...
    def stream(self, asked: Asked, id: str, created: int) -> Stream: ...
    def alive(self) -> bytes: ...
    def error(self, problem: Refused) -> dict[str, Json]: ...
    def broken(self, problem: Refused) -> bytes: ...


ROLES: Mapping[str, str] = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""OpenAI's roles, and ours."""


class OpenAi:
    """What OpenAI's shapes have in common."""

    def alive(self) -> bytes:
        return b": verifying\n\n"

    def error(self, problem: Refused) -> dict[str, Json]:
        return {"error": {"message": str(problem), "type": problem.kind, "param": None, "code": problem.kind}}


def usage(outcome: Outcome) -> Usage:
    """The tokens of all that this request asked: tries, repairs, votes and judges; what a cache gave costs none."""
    used = [e.usage for e in outcome.trail if isinstance(e, Tried) and e.usage is not None and not e.cached]
    return Usage(*(sum(getattr(one, name) for one in used) for name in ("input", "output", "cached", "cache_written", "reasoning")))


def text_of(outcome: Outcome) -> str:
    """What is served, as text: JSON for a policy with a schema."""
    return outcome.output if isinstance(outcome.output, str) else orjson.dumps(outcome.output).decode()


def called(outcome: Outcome) -> tools.Called | None:
    """The tools that the answer calls; None for one that calls none."""
    served = next((e for e in reversed(outcome.trail) if isinstance(e, Tried) and e.gate is None and e.tier == outcome.tier), None)
    return tools.called(served.text) if served is not None and served.finish == "tool_calls" else None


def arguments(call: Mapping[str, Json]) -> str:
    """The arguments of a call as JSON text."""
    return orjson.dumps(call["arguments"]).decode()


def refusal_of(outcome: Outcome) -> str:
    """What the model said instead of an answer."""
    said = [e.text for e in outcome.trail if isinstance(e, Tried) and e.gate is None and e.finish in ("refusal", "filter")]
    return said[-1] if said and said[-1] else "The model refused to answer."


ENDS: Mapping[str, tuple[int, bool]] = {
    "budget": (402, False), "run_budget": (402, False), "deadline": (504, True), "configuration": (500, False), "truncated": (422, False),
}  # fmt: skip
"""HTTP status of a request that failed, by its reason, and whether trying again may help; any other reason is a provider's failure: 503."""


def ended(outcome: Outcome) -> Refused | None:
    """The error that an outcome is to a caller; None for one that is answered: accepted, or refused by the model."""
    if outcome.status in ("accepted", "refused"):
        return None
    if outcome.status == "flagged":
        return Refused(422, "not_accepted", f"no tier's answer passed its gates ({outcome.error})")
    kind = (outcome.error or "failed").partition(":")[0]
    status, retry = ENDS.get(kind, (503, True))
    return Refused(status, kind, str(outcome.error), retry)


def fields(body: Mapping[str, Json], known: Iterable[str], ignored: Iterable[str]) -> None:
    """Refuse what would be silently without effect: what is neither `known` nor among the sampling parameters, which are the policy's. What is
    null or false asks for nothing."""
    allowed = {*known, *ignored}
    for name, value in body.items():
        if name not in allowed and value is not None and value is not False:
            raise wrong(f"unknown parameter {one_line(name, 80)!r}: leave it out, how models are asked is the policy's business")


def one_of(body: Mapping[str, Json], name: str, kind: type[Any], default: Any = None) -> Any:
    """The body's value of that name, of that type; null is as good as none. Raises Refused."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong(f"{name}: must be {WORDS[kind]}")
    return value


def lengths(body: Mapping[str, Json], *names: str) -> None:
    """Refuse a limit of tokens that is none. One that is has no effect: the policy's own limits what is paid for."""
    for name in names:
        if one_of(body, name, int, 1) < 1:
            raise Refused(400, "invalid_request_error", f"{name}: must be 1 or more")


WORDS = {str: "text", bool: "true or false", list: "a list", dict: "an object", int: "a whole number"}


def given(body: Mapping[str, Json], *names: str) -> dict[str, Json]:
    """Those of the body's values that are not null."""
    return {name: body[name] for name in names if body.get(name) is not None}


def wrong(what: str) -> Refused:
    """The error of a body that is not as it should be."""
    return Refused(400, "invalid_request_error", what)


def sse(data: Json, event: str | None = None) -> bytes:
    """One server-sent event."""
    return (b"event: %b\n" % event.encode() if event else b"") + b"data: " + orjson.dumps(data) + b"\n\n"
