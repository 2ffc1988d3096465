"""The choke point for replies: bytes that came with a 200 become a dict of known shape, or a `BadReply`. Knows no wire."""

from __future__ import annotations

from typing import Any

import orjson

from cascade.providers.failures import bad_reply
from cascade.types import Usage

MAX_TOKENS = 1_000_000_000
"""More tokens than any call can have: a count above it is nonsense."""

_MAX_DEPTH = 64
_SUSPECT_BRACKETS = 512


def load(body: bytes, where: str) -> dict[str, Any]:
    """The JSON object in a reply's body. BadReply says what came instead: HTML, an event stream, cut or deep JSON, bad UTF-8 …"""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_reply(where, f"200, but {_looks_like(body)}: {body[:80].decode('utf-8', 'replace')}") from error
    if not isinstance(value, dict):
        raise bad_reply(where, f"200, but the JSON is {type(value).__name__}, not an object")
    if body.count(b"[") + body.count(b"{") > _SUSPECT_BRACKETS and _deeper(value, _MAX_DEPTH):
        raise bad_reply(where, f"200, but the JSON is nested more than {_MAX_DEPTH} deep")
    return value


def _looks_like(body: bytes) -> str:
    start = body.lstrip()[:16].lower()
    if not start:
        return "an empty body"
    if start.startswith(b"<"):
        return "HTML"
    if start.startswith((b"data:", b"event:")):
        return "an event stream"
    if start.startswith((b"{", b"[")):
        return "broken JSON"
    return "no JSON"


def _deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True


def count(record: Any, name: str, where: str) -> int:
    """A count of tokens: 0 when absent or null, BadReply when it is no count."""
    value = record.get(name) if isinstance(record, dict) else None
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_TOKENS:
        raise bad_reply(where, f"200, but usage.{name} is {value!r:.40}")
    return value


def usage(input: int, output: int, cached: int, written: int, reasoning: int) -> Usage | None:
    """The counts as one record, None when they contradict each other."""
    if cached + written > input or reasoning > output:
        return None
    return Usage(input, output, cached, written, reasoning)


def in_and_out(record: Any, where: str) -> Usage | None:
    """A usage record with `input_tokens`, `output_tokens` and details of both, as OpenAI's Responses give it; None when there is none."""
    if not isinstance(record, dict):
        return None
    details = record.get("input_tokens_details")
    return usage(
        count(record, "input_tokens", where),
        count(record, "output_tokens", where),
        count(details, "cached_tokens", where),
        count(details, "cache_write_tokens", where),
        count(record.get("output_tokens_details"), "reasoning_tokens", where),
    )


def text(value: Any, what: str, where: str) -> str:
    """A string, "" for null; BadReply for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad_reply(where, f"200, but {what} is {type(value).__name__}, not text")
    return value
