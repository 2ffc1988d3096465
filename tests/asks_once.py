"""A process of its own for test_redis.py and test_disk_leases.py: loads the policy, says that it is ready, waits for a line, asks, prints the row.

Its model is one bare HTTP request, so that it takes no second to start.
"""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal
from urllib.parse import urlsplit

from cascade.app import Cascade
from cascade.policy import load
from cascade.types import Answer, Call, Usage


async def ask(call: Call) -> Answer:
    where = urlsplit(sys.argv[2])
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(b"POST /v1 HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    text = (await reader.readuntil(b"}")).decode()
    writer.close()
    return Answer(text, "stop", Usage(10, 3), Decimal("0.0001"))


with Cascade(load(sys.argv[1]), ask=ask, shared=True) as cascade:
    print("ready", flush=True)
    sys.stdin.readline()
    outcome = cascade.run({"text": "tea"})
    print(json.dumps([outcome.status, outcome.output, outcome.cached, str(outcome.cost_usd)]), flush=True)
