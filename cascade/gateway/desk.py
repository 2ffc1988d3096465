"""What a request of a provider's shape becomes: a policy and its inputs, and the answer in that shape. Knows no server and no client."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import jiter
import orjson

from cascade import prompts
from cascade.app import Cascade
from cascade.budget import Account
from cascade.errors import ConfigurationError, InputError, MissingRecording, TemplateError, UserError
from cascade.gateway.chat import Chat
from cascade.gateway.messages import Messages
from cascade.gateway.responses import Responses
from cascade.gateway.wire import Asked, Refused, Shape, Stream, ended, wrong
from cascade.outcome import Outcome
from cascade.story import one_line
from cascade.types import Json, Template

SHAPES: Mapping[str, Shape] = {"/chat/completions": Chat(), "/responses": Responses(), "/messages": Messages()}
"""By the path below /v1."""
MAX_BODY = 8 * 1024 * 1024
"""Bytes that a request may have."""
BAD = (InputError, TemplateError, ConfigurationError, MissingRecording)
"""What a Cascade raises before anything is asked."""
PROVIDERS_NO = re.compile(r": 4(00|13|22): ")
"""In the reason of a call that a provider refused for what was in it."""


@dataclass(frozen=True)
class Order:
    """A request that can be answered: `cascade` with `inputs` and the schema of `asked`; `id` names its trail."""

    shape: Shape
    asked: Asked
    cascade: Cascade
    inputs: dict[str, Json]
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    async def answer(self, live: Callable[[str], None] | None = None, account: Account | None = None) -> Outcome:
        """The ladder's outcome; `live` and `account` as in `Cascade.arun`. Raises Refused."""
        try:
            return await self.cascade.arun(self.inputs, id=self.id, schema=self.asked.schema, live=live, account=account)
        except BAD as err:
            raise refused(err) from err

    def answer_now(self) -> Outcome:
        """`answer` for sync code."""
        try:
            return self.cascade.run(self.inputs, id=self.id, schema=self.asked.schema)
        except BAD as err:
            raise refused(err) from err

    def reply(self, outcome: Outcome) -> dict[str, Json]:
        """The body that an outcome is. Raises Refused for one that is an error to the caller."""
        problem = ended(outcome)
        if problem is not None and problem.kind == "configuration" and PROVIDERS_NO.search(str(problem)) and _brought(self.asked):
            raise wrong(f"a model's provider refuses what the request brought: {problem}")
        if problem is not None:
            raise problem
        return self.shape.reply(self.asked, outcome, self.id, self.created)

    def stream(self) -> Stream:
        """The answer as events, before it is there."""
        return self.shape.stream(self.asked, self.id, self.created)

    def events(self, outcome: Outcome, stream: Stream | None = None) -> Iterator[bytes]:
        """The stream that an outcome is, or the rest of one that has begun; one that is an error to the caller is an event."""
        try:
            yield from (stream or self.stream()).end(self.reply(outcome))
        except Refused as problem:
            yield self.shape.broken(problem)

    def headers(self, outcome: Outcome) -> dict[str, str]:
        """What the body has no place for."""
        cost = "unknown" if outcome.cost_usd is None else f"{outcome.cost_usd:f}"
        return {"x-cascade-tier": outcome.tier or "", "x-cascade-status": outcome.status, "x-cascade-cost-usd": cost, "x-cascade-trail-id": self.id}


def _brought(asked: Asked) -> bool:
    """Whether a request has more than text, so that a provider's refusal is of that, and not of the policy."""
    return bool(asked.tools) or any(not isinstance(message["content"], str) for message in asked.messages)


def refused(err: UserError | MissingRecording) -> Refused:
    """The error of a request that was not asked."""
    return wrong(str(err)) if isinstance(err, InputError | TemplateError) else Refused(500, "configuration", str(err))


async def count(body: Mapping[str, Json], policies: Mapping[str, Cascade]) -> tuple[int, bool]:
    """How many tokens a body of Anthropic's shape has, as in `Cascade.acount`. Raises Refused."""
    ordered = _ordered(Messages(), Messages().counted(body), policies)
    try:
        return await ordered.cascade.acount(ordered.inputs)
    except BAD as err:
        raise refused(err) from err


def order(shape: Shape, body: Mapping[str, Json], policies: Mapping[str, Cascade]) -> Order:
    """What the body asks of which policy: its messages, or for a policy with a prompt of its own the one message as inputs. Raises Refused."""
    ordered = _ordered(shape, shape.asked(body), policies)
    if ordered.asked.stream:  # a stream begins with 200, so what is wrong with the request has to be found before
        try:
            ordered.cascade.require(ordered.inputs, ordered.asked.schema)
        except BAD as err:
            raise refused(err) from err
    return ordered


def _ordered(shape: Shape, asked: Asked, policies: Mapping[str, Cascade]) -> Order:
    if not asked.model:
        raise wrong(f"model: name a policy; there are: {', '.join(policies)}")
    cascade = policies.get(asked.model)
    if cascade is None:
        raise Refused(404, "model_not_found", f"there is no policy {one_line(asked.model, 80)!r}; there are: {', '.join(policies)}")
    if not asked.messages:
        raise wrong("messages: there is none")
    return Order(shape, asked, cascade, _inputs(asked, cascade.policy.prompt), uuid.uuid4().hex)


def _inputs(asked: Asked, prompt: Template | None) -> dict[str, Json]:
    """The inputs of the policy that is asked; `prompt` is its own."""
    if prompt is None:
        return {"messages": asked.messages, **asked.tools}
    own = f"the policy {asked.model} has a prompt of its own"
    content = _text(asked.messages[0]["content"])
    if len(asked.messages) != 1 or asked.tools.get("tools") or content is None:
        raise wrong(f"{own}: send one message of text, its inputs as JSON, and no tools")
    wanted = prompts.variables(prompt) - {"inputs"}
    try:
        found = strictly(content.encode("utf-8", "surrogatepass"))
    except ValueError:
        found = None
    if isinstance(found, dict) and set(found) >= wanted:
        return found
    if len(wanted) == 1:
        return {next(iter(wanted)): content}
    raise wrong(f"{own}: the message must be a JSON object with its inputs, {', '.join(sorted(wanted))}")


def _text(content: Json) -> str | None:
    """A content that is text, or one part of it."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text")
    return content if isinstance(content, str) else None


def strictly(text: bytes) -> Json:
    """The JSON value of a text. Raises ValueError, also for keys that stand twice, numbers that are none, and more levels than jiter reads."""
    orjson.loads(text)  # refuses 1e999, which is infinity to jiter
    return jiter.from_json(text, catch_duplicate_keys=True, allow_inf_nan=False)


def body_of(text: bytes) -> dict[str, Json]:
    """The JSON object of a request. Raises Refused."""
    try:
        found = strictly(text)
    except ValueError as err:
        raise wrong(f"the body is not JSON: {err}") from err
    if not isinstance(found, dict):
        raise wrong("the body must be a JSON object")
    return found
