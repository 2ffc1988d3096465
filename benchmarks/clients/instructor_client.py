"""instructor in JSON-schema mode with a pydantic model and no re-asks; the second model by hand, since its re-asks go to the same one."""

from __future__ import annotations

import instructor
import jinja2
from harness import Client, run
from instructor.core.exceptions import InstructorRetryException
from model import Order
from openai import AsyncOpenAI
from task import CHEAP, DEAR, MAX_TOKENS, TEMPLATE


async def make(url: str) -> Client:
    openai = AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)
    client = instructor.from_openai(openai, mode=instructor.Mode.JSON_SCHEMA)
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)

    async def ask(text: str) -> tuple[object, int]:
        prompt = template.render(text=text)
        tokens = 0
        for model in (CHEAP, DEAR):
            try:
                order, reply = await client.chat.completions.create_with_completion(
                    model=model, messages=[{"role": "user", "content": prompt}], response_model=Order, max_retries=0, max_tokens=MAX_TOKENS
                )
            except InstructorRetryException as err:
                tokens += getattr(err.total_usage, "total_tokens", 0)
                continue
            return order.model_dump(), tokens + reply.usage.total_tokens
        raise ValueError("no model gave a valid answer")

    return Client(ask, openai.close)


if __name__ == "__main__":
    run(make)
