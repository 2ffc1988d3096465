"""instructor in JSON-schema mode, no re-asks, the second model by hand."""

from __future__ import annotations

import instructor
import jinja2
from harness import Ask, run
from model import Order
from openai import AsyncOpenAI
from task import CHEAP, DEAR, TEMPLATE


async def make(url: str) -> Ask:
    client = instructor.from_openai(AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0), mode=instructor.Mode.JSON_SCHEMA)
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)

    async def ask(text: str) -> dict[str, object]:
        prompt = template.render(text=text)
        for model in (CHEAP, DEAR):
            try:
                order = await client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": prompt}], response_model=Order, max_retries=0, max_tokens=1024
                )
            except Exception:  # it wraps the validation error in its own
                continue
            return dict(order.model_dump())
        raise ValueError("no model gave a valid answer")

    return ask


if __name__ == "__main__":
    run(make)
