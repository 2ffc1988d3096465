"""The hand-written client with jsonschema-rs for jsonschema: what the faster validator alone is worth."""

from __future__ import annotations

from handwritten import client_of
from harness import Client, run
from jsonschema_rs import Draft202012Validator
from task import SCHEMA


async def make(url: str) -> Client:
    return client_of(url, Draft202012Validator(SCHEMA).is_valid)


if __name__ == "__main__":
    run(make)
