"""cascadeflow: one agent a model, each with its own quality check off the path; it has no schema check, so that and the second model are by hand.

Its provider `openai` takes no base URL, so the one for vLLM is used, which speaks the same wire.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import jinja2
from by_hand import FORMAT
from cascadeflow import CascadeAgent, ModelConfig
from harness import Client, run
from jsonschema import Draft202012Validator
from task import CHEAP, DEAR, MAX_TOKENS, SCHEMA, TEMPLATE


async def make(url: str) -> Client:
    logging.getLogger("cascadeflow").setLevel(logging.ERROR)
    agents = [CascadeAgent([ModelConfig(name=name, provider="vllm", cost=0.001, base_url=f"{url}/v1")]) for name in (CHEAP, DEAR)]
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)
    validator = Draft202012Validator(SCHEMA)

    async def ask(text: str) -> tuple[object, int]:
        prompt = template.render(text=text)
        tokens = 0
        for agent in agents:
            reply: Any = await agent.run(prompt, max_tokens=MAX_TOKENS, response_format=FORMAT)
            tokens += reply.metadata.get("total_tokens") or 0
            answer = json.loads(reply.content)
            if validator.is_valid(answer):
                return answer, tokens
        raise ValueError("no model gave a valid answer")

    async def close() -> None:
        for agent in agents:
            for provider in agent.providers.values():
                await provider.client.aclose()

    return Client(ask, close)


if __name__ == "__main__":
    run(make)
