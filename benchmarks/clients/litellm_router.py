"""LiteLLM Router. It falls back on HTTP errors, so the look at the answer and the second model are by hand, as its users do."""

from __future__ import annotations

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import fetches a price table from the network

from by_hand import FORMAT, cascade
from harness import Client, run
from jsonschema import Draft202012Validator
from litellm import Router
from task import CHEAP, DEAR, MAX_TOKENS, SCHEMA


async def make(url: str) -> Client:
    server = {"api_base": f"{url}/v1", "api_key": "none"}
    models = [{"model_name": name, "litellm_params": {"model": f"openai/{name}", **server}} for name in (CHEAP, DEAR)]
    router = Router(model_list=models, fallbacks=[{CHEAP: [DEAR]}], num_retries=0)

    async def create(model: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        return await router.acompletion(model=model, messages=messages, max_tokens=MAX_TOKENS, response_format=FORMAT)

    async def close() -> None:
        router.reset()

    return Client(cascade(create, Draft202012Validator(SCHEMA).is_valid), close)


if __name__ == "__main__":
    run(make)
