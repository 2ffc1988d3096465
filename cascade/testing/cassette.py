"""Cassettes: real calls recorded once by vcrpy, replayed without network or keys. Knows HTTP, not the engine.

A call is found by method, host, path and a digest of its canonical JSON body; never by port or headers. Only allow-listed headers are
kept, so no key reaches a file. A call that is not there raises MissingRecording, which names the nearest recording and what differs.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import orjson

from cascade.errors import CascadeError
from cascade.providers import replaying
from cascade.providers.transport import use_plain_transport

RecordMode = Literal["none", "all", "new_episodes"]

REQUEST_HEADERS = frozenset({"content-type", "anthropic-version"})
RESPONSE_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms"})
SHOWN = 60
"""Characters shown on either side of the first difference to the nearest recording."""


class UnplayedRecordings(CascadeError):
    """A cassette holds calls that were not made: it records another program than the one that ran."""


@contextmanager
def cassette(path: str | Path, record_mode: RecordMode = "none", *, allow_unplayed: bool = False) -> Iterator[Any]:
    """Replay (`none`), record anew (`all`), or replay and add what is missing (`new_episodes`), for all calls made within the block.

    Yields vcrpy's cassette. In mode `none` no key is needed, and nothing reaches the network. Raises MissingRecording from the call
    that is not there, and UnplayedRecordings at the end of the block when a recording was not played.
    """
    import vcr

    recorder = vcr.VCR(serializer="cascade", record_mode=record_mode, match_on=["call"], decode_compressed_response=True,
                       before_record_request=_kept_request, before_record_response=_kept_response)
    recorder.register_serializer("cascade", _Serializer)
    recorder.register_matcher("call", _same_call)
    path = Path(path)
    if record_mode == "none" and not path.exists():
        raise CascadeError(f"{path}: there is no such cassette; record it first (record mode \"all\")")
    if record_mode == "all":
        path.unlink(missing_ok=True)
    with use_plain_transport(), replaying(record_mode == "none"), recorder.use_cassette(str(path)) as tape:
        tape.explain = lambda request: _explain(tape, request)
        tape.find_requests_with_most_matches = lambda request: []  # ours says it better, and vcrpy's is quadratic
        yield tape
    unplayed = [request for i, request in enumerate(tape.requests) if not tape.play_counts[i]]
    if record_mode == "none" and unplayed and not allow_unplayed:
        raise UnplayedRecordings(f"{path}: {len(unplayed)} of {len(tape)} recordings were not played, the first one: "
                                 f"{_title(unplayed[0])}; record it anew or remove them")


class _Serializer:
    """JSON with one request and reply a block; bodies as text."""

    @staticmethod
    def deserialize(text: str) -> Any:
        return orjson.loads(text)

    @staticmethod
    def serialize(tape: Any) -> str:
        return orjson.dumps(tape, option=orjson.OPT_INDENT_2).decode() + "\n"


# ---------------------------------------------------------------- what is kept


def _kept_request(request: Any) -> Any:
    for name in list(request.headers):
        if name.lower() not in REQUEST_HEADERS:
            del request.headers[name]
    return request


def _kept_response(response: Any) -> Any:
    headers = response["headers"]
    response["headers"] = {name: value for name, value in headers.items() if name.lower() in RESPONSE_HEADERS}
    return response


# ---------------------------------------------------------------- what is the same call


def _same_call(asked: Any, recorded: Any) -> None:
    if _call_digest(asked) != _call_digest(recorded):
        raise AssertionError("another call")


def _call_digest(request: Any) -> str:
    """Over method, host, path and the canonical JSON body; kept on the request, since every call is compared with every recording."""
    known: str | None = getattr(request, "cascade_digest", None)
    if known is None:
        parts = (request.method, request.host, request.path, _canonical(request.body))
        known = request.cascade_digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return known


def _canonical(body: bytes | None) -> str:
    text = body or b""
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONDecodeError:
        return text.decode("utf-8", "replace")


# ---------------------------------------------------------------- what is nearest


def _explain(tape: Any, asked: Any) -> str:
    """Why there is no recording to play for this call: one line."""
    asked = tape.filter_request(asked)
    same = [r for r in tape.requests if _call_digest(r) == _call_digest(asked)]
    if same:
        return f"{tape.path} holds this call {len(same)} times, and all have been played: {_title(asked)}"
    if not tape.requests:
        return f"{tape.path} is empty; asked for: {_title(asked)}"
    wanted = _canonical(asked.body)
    nearest = max(tape.requests, key=lambda r: (r.path == asked.path, r.host == asked.host, _alike(wanted, _canonical(r.body))))
    for what in ("method", "host", "path"):
        if getattr(nearest, what) != getattr(asked, what):
            return (f"{tape.path} holds no such call: {_title(asked)}; nearest: {_title(nearest)}; "
                    f"{what} differs: {getattr(asked, what)} asked, {getattr(nearest, what)} recorded")
    return (f"{tape.path} holds no such call: {_title(asked)}; nearest: recording {tape.requests.index(nearest) + 1}, "
            f"{_title(nearest)}; {_difference(orjson.loads(asked.body), orjson.loads(nearest.body))}")


def _alike(wanted: str, recorded: str) -> float:
    """How much of the text two bodies share, 0 to 1: fast, since it is asked of every recording."""
    return difflib.SequenceMatcher(None, wanted, recorded, autojunk=False).real_quick_ratio() / 2 + _prefix(wanted, recorded)


def _prefix(a: str, b: str) -> float:
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return shared / max(len(a), len(b), 1)


def _difference(asked: Any, recorded: Any, where: str = "body") -> str:
    """The first place where two JSON bodies differ."""
    if isinstance(asked, dict) and isinstance(recorded, dict):
        for key in [*asked, *(k for k in recorded if k not in asked)]:
            if key not in recorded or key not in asked:
                return f"{where}.{key} is only in {'this call' if key in asked else 'the recording'}"
            if asked[key] != recorded[key]:
                return _difference(asked[key], recorded[key], f"{where}.{key}")
    if isinstance(asked, list) and isinstance(recorded, list) and len(asked) == len(recorded):
        for i, (a, r) in enumerate(zip(asked, recorded, strict=True)):
            if a != r:
                return _difference(a, r, f"{where}[{i}]")
    if isinstance(asked, str) and isinstance(recorded, str):
        at = next((i for i, (x, y) in enumerate(zip(asked, recorded, strict=False)) if x != y), min(len(asked), len(recorded)))
        start = max(0, at - SHOWN // 3)
        return f"{where} differs at character {at}: {asked[start : at + SHOWN]!r} asked, {recorded[start : at + SHOWN]!r} recorded"
    return f"{where} differs: {str(asked)[:SHOWN]!r} asked, {str(recorded)[:SHOWN]!r} recorded"


def _title(request: Any) -> str:
    body = _canonical(request.body)
    try:
        model = orjson.loads(body).get("model", "?")
    except (orjson.JSONDecodeError, AttributeError):
        model = "?"
    return f"{request.method} {request.path} (model {model})"
