"""What a careful engineer writes by hand: AsyncOpenAI, chat.completions.create, a kept jsonschema validator, a second model on failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from by_hand import FORMAT, cascade
from harness import Client, run
from openai import AsyncOpenAI
from task import MAX_TOKENS, SCHEMA


def client_of(url: str, is_valid: Callable[[Any], bool]) -> Client:
    client = AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)

    async def create(model: str, prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        return await client.chat.completions.create(  # type: ignore[call-overload]
            model=model, messages=messages, max_completion_tokens=MAX_TOKENS, response_format=FORMAT
        )

    return Client(cascade(create, is_valid), client.close)


async def make(url: str) -> Client:
    from jsonschema import Draft202012Validator

    return client_of(url, Draft202012Validator(SCHEMA).is_valid)


if __name__ == "__main__":
    run(make)
