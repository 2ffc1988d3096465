"""What a request of a provider's shape becomes: a policy and its inputs, and the answer in that shape. Knows no server and no client."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jiter
import orjson

from cascade import prompts
from cascade.app import Cascade
from cascade.budget import Account
from cascade.errors import ConfigurationError, InputError, MissingRecording, TemplateError, UserError
from cascade.gateway.chat import Chat
from cascade.gateway.messages import Messages
from cascade.gateway.responses import Responses
from cascade.gateway.wire import Asked, Refused, Shape, ended
from cascade.outcome import Outcome
from cascade.story import one_line
from cascade.types import Json

SHAPES: Mapping[str, Shape] = {"/chat/completions": Chat(), "/responses": Responses(), "/messages": Messages()}
"""By the path below /v1."""
MAX_BODY = 8 * 1024 * 1024
"""Bytes that a request may have."""
BAD = (InputError, TemplateError, ConfigurationError, MissingRecording)
"""What a Cascade raises before anything is asked."""


@dataclass(frozen=True)
class Order:
    """A request that can be answered: `cascade` with `inputs` and the schema of `asked`; `id` names its trail."""

    shape: Shape
    asked: Asked
    cascade: Cascade
    inputs: dict[str, Json]
    id: str

    async def answer(self, account: Account | None = None) -> Outcome:
        """The ladder's outcome, paid for by the account. Raises Refused."""
        try:
            return await self.cascade.arun(self.inputs, id=self.id, schema=self.asked.schema, account=account)
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
        if problem is not None:
            raise problem
        return self.shape.reply(self.asked, outcome, self.id, int(time.time()))

    def events(self, outcome: Outcome) -> Iterator[bytes]:
        """The stream that an outcome is; one that is an error to the caller is an event."""
        try:
            yield from self.shape.events(self.asked, self.reply(outcome))
        except Refused as problem:
            yield self.shape.broken(problem)

    def headers(self, outcome: Outcome) -> dict[str, str]:
        """What the body has no place for."""
        cost = "unknown" if outcome.cost_usd is None else f"{outcome.cost_usd:f}"
        return {"x-cascade-tier": outcome.tier or "", "x-cascade-status": outcome.status, "x-cascade-cost-usd": cost, "x-cascade-trail-id": self.id}


def refused(err: UserError | MissingRecording) -> Refused:
    """The error of a request that was not asked."""
    wrong = isinstance(err, InputError | TemplateError)
    return Refused(400, "invalid_request_error", str(err)) if wrong else Refused(500, "configuration", str(err))


def order(shape: Shape, body: Mapping[str, Json], policies: Mapping[str, Cascade]) -> Order:
    """What the body asks of which policy: its messages, or for a policy with a prompt of its own the one message as inputs. Raises Refused."""
    asked = shape.asked(body)
    if not asked.model:
        raise Refused(400, "invalid_request_error", f"model: name a policy; there are: {', '.join(policies)}")
    cascade = policies.get(asked.model)
    if cascade is None:
        raise Refused(404, "model_not_found", f"there is no policy {one_line(asked.model, 80)!r}; there are: {', '.join(policies)}")
    if not asked.messages:
        raise Refused(400, "invalid_request_error", "messages: there is none")
    prompt = cascade.policy.prompt
    if prompt is not None and len(asked.messages) != 1:
        raise Refused(400, "invalid_request_error", f"the policy {asked.model} has a prompt of its own: send one message, its inputs as JSON")
    inputs = ({"messages": asked.messages} if prompt is None
              else _inputs(asked.messages[0]["content"], prompts.variables(prompt) - {"inputs"}, asked.model))  # fmt: skip
    return Order(shape, asked, cascade, inputs, uuid.uuid4().hex)


def _inputs(content: str, wanted: set[str], policy: str) -> dict[str, Json]:
    try:
        found = strictly(content.encode("utf-8", "surrogatepass"))
    except ValueError:
        found = None
    if isinstance(found, dict) and set(found) >= wanted:
        return found
    if len(wanted) == 1:
        return {next(iter(wanted)): content}
    raise Refused(400, "invalid_request_error", f"the policy {policy} has a prompt of its own: the message must be a JSON object with its inputs, "
                                                f"{', '.join(sorted(wanted))}")


def strictly(text: bytes) -> Json:
    """The JSON value of a text. Raises ValueError, also for keys that stand twice, numbers that are none, and more levels than jiter reads."""
    orjson.loads(text)  # refuses 1e999, which is infinity to jiter
    return jiter.from_json(text, catch_duplicate_keys=True, allow_inf_nan=False)


def body_of(text: bytes) -> dict[str, Json]:
    """The JSON object of a request. Raises Refused."""
    try:
        found = strictly(text)
    except ValueError as err:
        raise Refused(400, "invalid_request_error", f"the body is not JSON: {err}") from err
    if not isinstance(found, dict):
        raise Refused(400, "invalid_request_error", "the body must be a JSON object")
    return found
