"""A provider that says what it is told to: for tests and examples, shipped so that nobody writes it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import orjson

from cascade.errors import ConfigurationError
from cascade.prices import Pricing, cost
from cascade.providers import Adapter
from cascade.types import NOTHING, Answer, Call, Json, Provider, Usage

Reply: TypeAlias = "str | Answer | Exception | Mapping[str, Json] | Callable[[Call], Any]"


class Scripted:
    """An `Ask` that answers from a script, by model: one reply for ever, or a list of replies, the last of which is repeated.

    A reply is text, a mapping (sent as JSON), an `Answer`, an exception to raise, or a function of the call that gives one of these.
    `calls` holds what was asked, in order. Text is given a usage of one token for four characters; `pricing` as in a policy.
    """

    def __init__(self, replies: Mapping[str, Reply | Sequence[Reply]], pricing: Pricing = NOTHING) -> None:
        self._replies = {model: list(said) if isinstance(said, list | tuple) else [said] for model, said in replies.items()}
        self._pricing = pricing
        self.calls: list[Call] = []

    async def __call__(self, call: Call) -> Answer:
        """The next reply for that model; ConfigurationError when the script has none."""
        self.calls.append(call)
        said = self._replies.get(call.model)
        if not said:
            raise ConfigurationError(f"{call.model}: the script has no reply for it; there are: {', '.join(self._replies) or 'none'}")
        reply = said.pop(0) if len(said) > 1 else said[0]
        if callable(reply) and not isinstance(reply, Exception):
            reply = reply(call)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Answer) else self._answer(call, reply)

    def _answer(self, call: Call, reply: Any) -> Answer:
        text = reply if isinstance(reply, str) else orjson.dumps(reply).decode()
        usage = Usage(sum(m.size for m in call.messages) // 4 + 1, len(text) // 4 + 1)
        dollars: Decimal | None = cost(usage, call.model, self._pricing)
        return Answer(text, usage=usage, cost_usd=dollars, model=call.model.partition("/")[2])

    async def close(self) -> None:
        """Nothing is open."""


def build(provider: Provider, pricing: Pricing = NOTHING) -> Adapter:
    """A policy's provider of kind scripted: its `replies` by the model's own name."""
    replies = {f"{provider.name}/{model}": said for model, said in provider.options["replies"].items()}
    return Scripted(replies, pricing)
