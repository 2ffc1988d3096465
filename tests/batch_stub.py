"""A loopback server that speaks OpenAI's and Anthropic's Batch APIs and both live wires, charges for what it answers, and goes wrong as told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import stub

Verdict = str | tuple[int, str]
"""What becomes of one request of a batch: "ok", "expired", "cancelled", "missing" or (status, error type)."""

LIVE = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


@dataclass
class Batch:
    """A batch as the server keeps it. `looks` are left before it ends; None: it never does."""

    id: str
    vendor: str
    requests: list[tuple[str, Any]]
    metadata: dict[str, str]
    looks: int | None
    end: str
    input_file: str = ""
    results: list[tuple[str, str, Any]] = field(default_factory=list)  # (custom id, verdict, body)

    @property
    def ended(self) -> bool:
        return self.looks == 0


class BatchStub:
    """`url` is the server's root.

    `says(model, prompt)` is an answer's text; `verdict(prompt, n)` what becomes of a request in the n-th batch (from 1); `ends(n, size)` how that
    batch ends: completed, expired, cancelled, or for OpenAI failed or failed-limit. `looks`: so many polls before it does, None: never.
    `cut_off(n, request)` may cut the connection of the n-th request "before" it is heard or "after". `create(n)` is what happens to the n-th creation: "", "lost" (taken, no reply), a status (refused), "500" (taken, and denied) or "html" (taken, nonsense said).
    `charged` counts (model, prompt) that were answered by batch, `live` those by a live call. `reverse`: results come last first. `extra`
    lines stand among the results. `slow(prompt)`: seconds that a live call takes.
    """

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.says: Callable[[str, str], str] = lambda model, prompt: '{"item": "tea"}'
        self.verdict: Callable[[str, int], Verdict] = lambda prompt, n: "ok"
        self.ends: Callable[[int, int], str] = lambda n, size: "completed"
        self.create: Callable[[int], str | int] = lambda n: ""
        self.looks: int | None = 1
        self.reverse = False
        self.extra: list[bytes] = []
        self.created = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.charged: Counter[tuple[str, str]] = Counter()
        self.live: Counter[tuple[str, str]] = Counter()
        self.paths: list[str] = []
        self.cut_next_results = False
        self.live_refused = False
        self.cut_off: Callable[[int, str], str] = lambda n, path: ""
        self.slow: Callable[[str], float] = lambda prompt: 0.0

    # ------------------------------------------------------------ routes

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        """(status, body) of a reply; None as the body: the connection is cut."""
        parts = urlsplit(target)
        path, query = parts.path.removeprefix("/v1"), {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.paths.append(f"{method} {path}")
        cut_off = self.cut_off(len(self.paths), self.paths[-1])
        if cut_off == "before":
            return 200, None
        status, said = self._live(path, json.loads(body)) if target in LIVE else self._heard(method, path, query, body)
        return status, None if cut_off else said

    def _heard(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        if path == "/files":
            return self._upload(body)
        if found := re.fullmatch(r"/files/([\w-]+)/content", path):
            return 200, self._cut(self.files[found[1]])
        vendor = "anthropic" if path.startswith("/messages") else "openai"
        rest = path.removeprefix("/messages").removeprefix("/batches").strip("/").split("/")
        if rest == [""]:
            return self._create(vendor, json.loads(body)) if method == "POST" else self._list(vendor, query)
        batch = self.batches.get(rest[0])
        if batch is None:
            return 404, _error("not_found_error", f"no batch {rest[0]}")
        if rest[1:] == ["cancel"]:
            batch.looks, batch.end = 1, "cancelled"
        elif rest[1:] == ["results"]:
            return 200, self._cut(self._lines(batch))
        else:
            self._look(batch)
        return 200, self._shown(batch)

    def _live(self, path: str, body: Any) -> tuple[int, Any]:
        if self.live_refused:
            return 401, _error("authentication_error", "no")
        self.live[body["model"], _prompt(body)] += 1
        return 200, self._reply("anthropic" if path == "/messages" else "openai", body)

    def _upload(self, body: bytes) -> tuple[int, Any]:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = re.split(rb'name="file".*?\r\n\r\n', body, maxsplit=1, flags=re.S)[1].rpartition(b"\r\n--")[0].partition(b"\r\n--")[0]
        return 200, {"id": name, "object": "file", "bytes": len(body), "created_at": 1, "filename": "x.jsonl", "purpose": "batch", "status": "processed"}

    def _create(self, vendor: str, body: Any) -> tuple[int, Any]:
        self.created += 1
        fault = self.create(self.created)
        if isinstance(fault, int):
            return fault, _error("api_error", "not now")
        if vendor == "openai":
            assert body["completion_window"] == "24h"
            lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
            assert {(line["method"], line["url"]) for line in lines} == {("POST", body["endpoint"])}
            assert len({line["body"]["model"] for line in lines}) == 1, "a batch of OpenAI's has one model"
            requests = [(line["custom_id"], line["body"]) for line in lines]
        else:
            requests = [(item["custom_id"], item["params"]) for item in body["requests"]]
            assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name, _ in requests)
        assert len({name for name, _ in requests}) == len(requests), "custom ids are unique"
        n = len(self.batches) + 1
        end = self.ends(n, len(requests))
        looks = 1 if end.startswith("failed") else self.looks  # that is told before anything is processed
        batch = Batch(f"batch_{n}", vendor, requests, body.get("metadata") or {}, looks, end, body.get("input_file_id", ""))
        self.batches = {batch.id: batch, **self.batches}  # newest first
        self._process(batch, n)
        if fault == "lost":
            return 200, None
        if fault == "500":
            return 500, _error("api_error", "not now")
        return (200, b"<html>hello</html>") if fault == "html" else (200, self._shown(batch))

    def foreign(self, vendor: str, count: int, looks: int = 0) -> None:
        """Another run's batch of so many requests, which has ended or does after so many looks."""
        n = len(self.batches) + 1
        body = {"model": "small", "messages": [{"content": "not ours"}]}
        batch = Batch(f"batch_{n}", vendor, [(f"theirs-{i}", body) for i in range(count)], {"cascade": "another"}, looks, "completed")
        batch.results = [(name, "ok", self._reply(vendor, body)) for name, _ in batch.requests]
        self.batches = {batch.id: batch, **self.batches}

    def _process(self, batch: Batch, n: int) -> None:
        for name, body in batch.requests:
            verdict = "failed" if batch.end.startswith("failed") else self.verdict(_prompt(body), n)
            if verdict == "ok":
                self.charged[body["model"], _prompt(body)] += 1
                batch.results.append((name, "ok", self._reply(batch.vendor, body)))
            elif isinstance(verdict, tuple):
                batch.results.append((name, "error", verdict))
            elif verdict in ("expired", "cancelled"):
                batch.results.append((name, verdict, None))
        if self.reverse:
            batch.results.reverse()

    def _list(self, vendor: str, query: dict[str, str]) -> tuple[int, Any]:
        ours = [batch for batch in self.batches.values() if batch.vendor == vendor]
        after = query.get("after") or query.get("after_id")
        start = next((at + 1 for at, batch in enumerate(ours) if batch.id == after), 0)
        limit = min(int(query.get("limit", "20")), 2)  # so that pages turn
        page = ours[start : start + limit]
        for batch in page:
            self._look(batch)
        last = page[-1].id if page else None
        return 200, {"object": "list", "data": [self._shown(batch) for batch in page], "has_more": start + limit < len(ours),
                     "first_id": page[0].id if page else None, "last_id": last}  # fmt: skip

    def _look(self, batch: Batch) -> None:
        if batch.looks:
            batch.looks -= 1
            if batch.ended and batch.vendor == "openai":
                self.files[f"out-{batch.id}"], self.files[f"err-{batch.id}"] = self._outputs(batch)

    # ------------------------------------------------------------ shapes

    def _shown(self, batch: Batch) -> dict[str, Any]:
        ok = sum(verdict == "ok" for _, verdict, _ in batch.results) if batch.ended else 0
        bad = len(batch.results) - ok if batch.ended else 0
        total = len(batch.requests)
        if batch.vendor == "anthropic":
            counts = {"processing": 0 if batch.ended else total, "succeeded": ok, "errored": total - ok if batch.ended else 0,
                      "canceled": 0, "expired": 0}  # fmt: skip
            when = "2026-11-25T00:00:00Z"
            return {"id": batch.id, "type": "message_batch", "created_at": when, "expires_at": when, "request_counts": counts,
                    "processing_status": "ended" if batch.ended else "in_progress",
                    "results_url": f"{self.url}/v1/messages/batches/{batch.id}/results" if batch.ended else None}  # fmt: skip
        status = batch.end.removesuffix("-limit") if batch.ended else "in_progress"
        code = "token_limit_exceeded" if batch.end == "failed-limit" else "invalid_json_line"
        errors = {"object": "list", "data": [{"code": code, "message": "no such file", "line": None}]} if status == "failed" else None
        there = batch.ended and status != "failed"
        return {"id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h", "created_at": 1,
                "input_file_id": batch.input_file, "status": status, "metadata": batch.metadata, "errors": errors,
                "output_file_id": f"out-{batch.id}" if there and ok else None, "error_file_id": f"err-{batch.id}" if there and bad else None,
                "request_counts": {"total": total, "completed": ok, "failed": bad}}  # fmt: skip

    def _outputs(self, batch: Batch) -> tuple[bytes, bytes]:
        good, bad = [*self.extra], []
        for name, verdict, body in batch.results:
            line: dict[str, Any] = {"id": f"r-{name[:8]}", "custom_id": name, "response": None, "error": None}
            if verdict == "ok":
                good.append(_line({**line, "response": {"status_code": 200, "request_id": "q", "body": body}}))
            elif verdict == "error":
                bad.append(_line({**line, "response": {"status_code": body[0], "request_id": "q", "body": _error(body[1], "no")}}))
            else:
                bad.append(_line({**line, "error": {"code": f"batch_{verdict}", "message": "not in time"}}))
        return b"\n".join(good), b"\n".join(bad)

    def _lines(self, batch: Batch) -> bytes:
        found = [*self.extra]
        for name, verdict, body in batch.results:
            result: dict[str, Any] = {"type": "canceled" if verdict == "cancelled" else verdict}
            if verdict == "ok":
                result = {"type": "succeeded", "message": body}
            elif verdict == "error":
                result = {"type": "errored", "error": {"type": "error", "error": _error(body[1], "no")["error"]}}
            found.append(_line({"custom_id": name, "result": result}))
        return b"\n".join(found) + b"\n"

    def _reply(self, vendor: str, body: Any) -> Any:
        text = self.says(body["model"], _prompt(body))
        if "input" in body:
            return json.loads(stub.responses(text).body)
        return json.loads((stub.chat(text) if vendor == "openai" else stub.messages(text)).body)

    def _cut(self, body: bytes) -> Any:
        if self.cut_next_results:
            self.cut_next_results = False
            return body[: len(body) // 2], len(body)
        return body

    # ------------------------------------------------------------ the wire

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in rest if item)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, target, _ = line.split(" ")
                if target in LIVE:
                    await asyncio.sleep(self.slow(_prompt(json.loads(body))))
                status, said = self.answer(method, target, body)
                if said is None:
                    break
                length = None
                if isinstance(said, tuple):
                    said, length = said
                text = said if isinstance(said, bytes) else json.dumps(said).encode()
                writer.write(f"HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length or len(text)}\r\n\r\n".encode() + text)
                await writer.drain()
                if length:
                    break
        writer.close()


def _prompt(body: Any) -> str:
    text: str = body.get("messages", body.get("input"))[-1]["content"]
    return text


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "code": None, "message": message}}


@contextlib.contextmanager
def running() -> Iterator[BatchStub]:
    """A server that listens."""
    server = BatchStub()
    with stub.listening(server._serve) as server.url:
        yield server
