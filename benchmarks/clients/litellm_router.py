"""LiteLLM Router. It falls back on HTTP errors, so the look at the answer and the second model are by hand, as its users do."""

from __future__ import annotations

import json

import jinja2
from harness import Ask, run
from jsonschema import Draft202012Validator
from litellm import Router
from task import CHEAP, DEAR, SCHEMA, TEMPLATE


async def make(url: str) -> Ask:
    def entry(name: str) -> dict[str, object]:
        return {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": f"{url}/v1", "api_key": "none"}}

    models = [entry(name) for name in (CHEAP, DEAR)]
    router = Router(model_list=models, fallbacks=[{CHEAP: [DEAR]}], num_retries=0)
    template = jinja2.Environment(autoescape=False).from_string(TEMPLATE)
    validator = Draft202012Validator(SCHEMA)

    async def ask(text: str) -> dict[str, object]:
        prompt = template.render(text=text)
        for model in (CHEAP, DEAR):
            reply = await router.acompletion(
                model=model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=1024,
                response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
            )
            answer: dict[str, object] = json.loads(reply.choices[0].message.content)
            if validator.is_valid(answer):
                return answer
        raise ValueError("no model gave a valid answer")

    return ask


if __name__ == "__main__":
    run(make)
