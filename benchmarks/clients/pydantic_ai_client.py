"""pydantic-ai: one agent a model with native structured output; the step to the second is by hand: a FallbackModel minds HTTP errors only."""

from __future__ import annotations

import jinja2
from harness import Client, run
from model import Order
from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import RunUsage
from task import CHEAP, DEAR, MAX_TOKENS, TEMPLATE


async def make(url: str) -> Client:
    openai = AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)
    provider = OpenAIProvider(openai_client=openai)
    agents = [
        Agent(OpenAIChatModel(name, provider=provider), output_type=NativeOutput(Order), retries=0, model_settings={"max_tokens": MAX_TOKENS})
        for name in (CHEAP, DEAR)
    ]
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)

    async def ask(text: str) -> tuple[object, int]:
        prompt = template.render(text=text)
        usage = RunUsage()  # given to the run, it is kept when the run fails
        for agent in agents:
            try:
                result = await agent.run(prompt, usage=usage)
            except UnexpectedModelBehavior:
                continue
            return result.output.model_dump(), usage.input_tokens + usage.output_tokens
        raise ValueError("no model gave a valid answer")

    return Client(ask, openai.close)


if __name__ == "__main__":
    run(make)
