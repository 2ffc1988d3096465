"""pydantic-ai: an agent with native structured output over a FallbackModel's job done by hand, since validation does not fall back."""

from __future__ import annotations

import jinja2
from harness import Ask, run
from model import Order
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from task import CHEAP, DEAR, TEMPLATE


async def make(url: str) -> Ask:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    agents = [Agent(OpenAIChatModel(name, provider=provider), output_type=NativeOutput(Order), retries=0) for name in (CHEAP, DEAR)]
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)

    async def ask(text: str) -> dict[str, object]:
        prompt = template.render(text=text)
        for agent in agents:
            try:
                return dict((await agent.run(prompt)).output.model_dump())
            except UnexpectedModelBehavior:
                continue
        raise ValueError("no model gave a valid answer")

    return ask


if __name__ == "__main__":
    run(make)
