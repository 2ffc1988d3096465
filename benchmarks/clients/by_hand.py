"""The cascade that users write themselves over an API of the shape of `chat.completions.create`: ask, parse, look, ask the next model."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import jinja2
from task import CHEAP, DEAR, SCHEMA, TEMPLATE

FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


def cascade(
    create: Callable[[str, str], Awaitable[Any]], is_valid: Callable[[Any], bool]
) -> Callable[[str], Awaitable[tuple[object, int]]]:
    """`create(model, prompt)` asks for a chat completion."""
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)

    async def ask(text: str) -> tuple[object, int]:
        prompt = template.render(text=text)
        tokens = 0
        for model in (CHEAP, DEAR):
            reply = await create(model, prompt)
            if reply.usage:
                tokens += reply.usage.prompt_tokens + reply.usage.completion_tokens
            answer = json.loads(reply.choices[0].message.content or "")
            if is_valid(answer):
                return answer, tokens
        raise ValueError("no model gave a valid answer")

    return ask
