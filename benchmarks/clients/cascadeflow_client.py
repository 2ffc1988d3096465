"""cascadeflow: two models and its own quality check; it has no schema check, so that is by hand as well."""

from __future__ import annotations

import json
import os

import jinja2
from harness import Ask, run
from jsonschema import Draft202012Validator
from task import CHEAP, DEAR, SCHEMA, TEMPLATE


async def make(url: str) -> Ask:
    os.environ["OPENAI_API_KEY"] = "none"
    os.environ["OPENAI_BASE_URL"] = f"{url}/v1"
    from cascadeflow import CascadeAgent, ModelConfig

    agents = [CascadeAgent(models=[ModelConfig(name=name, provider="openai", cost=0.001, base_url=f"{url}/v1")]) for name in (CHEAP, DEAR)]
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)
    validator = Draft202012Validator(SCHEMA)

    async def ask(text: str) -> dict[str, object]:
        prompt = template.render(text=text)
        for agent in agents:
            reply = await agent.run(prompt, max_tokens=1024)
            answer: dict[str, object] = json.loads(reply.content)
            if validator.is_valid(answer):
                return answer
        raise ValueError("no model gave a valid answer")

    return ask


if __name__ == "__main__":
    run(make)
