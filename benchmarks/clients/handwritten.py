"""What a careful engineer writes by hand: AsyncOpenAI, chat.completions.create, a kept validator, a second model on failure."""

from __future__ import annotations

import json

import jinja2
from harness import Ask, run
from jsonschema import Draft202012Validator
from openai import AsyncOpenAI
from task import CHEAP, DEAR, SCHEMA, TEMPLATE


async def make(url: str) -> Ask:
    client = AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)
    validator = Draft202012Validator(SCHEMA)
    tokens = 0

    async def ask(text: str) -> dict[str, object]:
        nonlocal tokens
        prompt = template.render(text=text)
        for model in (CHEAP, DEAR):
            reply = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": prompt}],
                max_completion_tokens=1024,
                response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
            )
            if reply.usage:
                tokens += reply.usage.total_tokens
            answer: dict[str, object] = json.loads(reply.choices[0].message.content or "")
            if validator.is_valid(answer):
                return answer
        raise ValueError("no model gave a valid answer")

    return ask


if __name__ == "__main__":
    run(make)
