"""Through the real gateway, over models of which three calls in ten fail in every way a network knows, each request ends as documented.

CASCADE_FAULTS=2000 makes that many requests; 200 without it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from typing import Any

import httpx2
import jsonschema
from serving import gateway, serving
from stub import Reply, Stub, chat, failure, listening

from cascade.gateway.openapi import document

REQUESTS = int(os.environ.get("CASCADE_FAULTS", "200"))
ECHO = Reply(b"echo")
WHOLE = chat("never whole").body
FAULTS = [
    failure(429, retry_after="0"), failure(429, code="insufficient_quota"), failure(500), failure(503), failure(529), Reply(drop=True), Reply(hang=True),
    Reply(WHOLE[:60]), Reply(b""), Reply(b"<html>sorry</html>", headers={"content-type": "text/html"}), Reply(WHOLE, headers={"content-encoding": "gzip"}),
    Reply(WHOLE, headers={"content-length": str(len(WHOLE) + 9)}), Reply(WHOLE[:20], drip=0.02), chat("cut of", "length"), Reply(b'{"choices": null}'),
]  # fmt: skip
SHAPES = {"/v1/chat/completions": "ChatReply", "/v1/responses": "ResponsesReply", "/v1/messages": "MessagesReply"}


class Faulty(Stub):
    """Models that say what the last message says; three replies in ten are faults."""

    def __init__(self) -> None:
        super().__init__()
        drawn = random.Random(30)
        self.replies.extend(drawn.choice(FAULTS) if drawn.random() < 0.3 else ECHO for _ in range(REQUESTS * 8))

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        asked = self.requests[-1]
        await super()._send(writer, chat(asked.json["messages"][-1]["content"]) if reply is ECHO else reply)


def body(path: str, number: int, stream: bool) -> dict[str, Any]:
    text = f"say {number}"
    asked = {"input": text} if path == "/v1/responses" else {"messages": [{"role": "user", "content": text}]}
    return {"model": "chat", "stream": stream, **asked, **({"max_tokens": 9} if path == "/v1/messages" else {})}


async def ask(client: httpx2.AsyncClient, number: int, atonce: asyncio.Semaphore) -> tuple[str, bool, int, str]:
    path, stream = list(SHAPES)[number % 3], number % 5 == 0
    async with atonce:
        reply = await client.post(path, json=body(path, number, stream))
    return path, stream, reply.status_code, reply.text


async def everyone(url: str) -> list[tuple[str, bool, int, str]]:
    async with httpx2.AsyncClient(base_url=url, timeout=30, limits=httpx2.Limits(max_connections=64)) as client:
        atonce = asyncio.Semaphore(64)
        return await asyncio.gather(*(ask(client, number, atonce) for number in range(REQUESTS)))


def test_every_request_ends_in_its_own_answer_or_a_documented_error() -> None:
    models = Faulty()
    with listening(models._serve) as models.url, serving(gateway(models.url, retries=1, timeout=0.5)) as url:
        ends = asyncio.run(everyone(url))
        counted = httpx2.get(f"{url}/metrics").text
    described = document(["chat", "sums"], keys=False)
    found: Counter[str] = Counter()
    for number, (path, stream, status, text) in enumerate(ends):
        told = described["paths"][path]["post"]["responses"]
        assert str(status) in told, (status, text)
        if stream:
            assert status == 200
            said = f"say {number}" in text
            assert said or '"error"' in text, text
            found["answered" if said else "an error in a stream"] += 1
            continue
        reply = json.loads(text)
        schema = told[str(status)]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator({**schema, "components": described["components"]}).validate(reply)
        assert (status == 200) == (f"say {number}" in text), text
        found["answered" if status == 200 else str(status)] += 1
    print(REQUESTS, "requests,", len(models.requests), "calls:", dict(found))
    assert sum(found.values()) == REQUESTS
    assert found["answered"] > REQUESTS * 0.8
    assert found["answered"] < REQUESTS, "the faults were there"
    assert sum(float(line.rpartition(" ")[2]) for line in counted.splitlines() if line.startswith("cascade_requests_total")) == REQUESTS
