"""How inputs and an answer are shown to a model that judges them: as data, between two lines that carry a nonce. And what is not worth showing."""

from __future__ import annotations

import hashlib

import orjson

from cascade.types import Case, Image, Json, ToolResult


def shown(case: Case) -> tuple[str, str]:
    """The inputs and the answer as text: the JSON value that is served if the answer passes, without the prose around it, or the text
    where there is no schema. TypeError or ValueError where they cannot be written down (integers past 64 bits, lone surrogates)."""
    answer = case.value if isinstance(case.value, str) else orjson.dumps(case.value).decode()
    inputs = _without_pictures(dict(case.inputs)) if pictures(case) else dict(case.inputs)
    return orjson.dumps(inputs, option=orjson.OPT_SORT_KEYS).decode(), answer


def pictures(case: Case) -> tuple[Image, ...]:
    """The pictures that the model was shown, in their order: who judges its answer has to see them, too."""
    parts = [part for message in case.call.messages if not isinstance(message.content, str) for part in message.content]
    inner = [one for part in parts for one in (part.content if isinstance(part, ToolResult) else (part,))]
    return tuple(one for one in inner if isinstance(one, Image))


def _without_pictures(value: Json) -> Json:
    """The inputs with its digest in place of each picture's bytes, so that no picture holds the nonce. A text stays, whatever it begins with."""
    if isinstance(value, dict):
        return {name: _told(item) if name == "image_url" else _without_pictures(item) for name, item in value.items()}
    return [_without_pictures(item) for item in value] if isinstance(value, list) else value


def _told(picture: Json) -> Json:
    url = picture.get("url") if isinstance(picture, dict) else None
    if not isinstance(url, str) or not url.startswith("data:image/"):
        return picture
    return {**picture, "url": f"picture {hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}"}


def nonce(*parts: str) -> str:
    """128 bits the answer cannot hold, being a digest of it; equal cases have equal calls, for cache and cassettes."""
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]


def fenced(nonce: str, inputs: str, answer: str) -> str:
    """Inputs and answer as JSON strings on one line: there is no line break with which to leave the fence."""
    data = orjson.dumps({"inputs": inputs, "answer": answer}).decode()
    return f"<<<{nonce}\n{data}\n{nonce}>>>"


_OPENERS = frozenset(
    ("thought process", "let's solve this problem step by step", "lets solve this problem step by step", "solution", "answer",
     "final answer", "the answer is", "reasoning", "解", "かいせつ", "respuesta")
)  # fmt: skip
"""After "One Token to Fool LLM-as-a-Judge" (Zhao et al. 2025): texts without content that judges take for right answers."""

_FILLING = " \t\r\n.,:;…·'\"`*_#\u3002\u3001\uff1a"


def is_empty(value: Json) -> bool:
    """Whether an answer says nothing: no text but punctuation and openers such as "Thought process:", and no other value at all."""
    leaves = list(_leaves(value))
    return value == {} or (bool(leaves) and all(isinstance(leaf, str) and _says_nothing(leaf) for leaf in leaves))


def _says_nothing(text: str) -> bool:
    return text.strip(_FILLING).lower().replace("\u2019", "'") in _OPENERS | {""}


def _leaves(value: Json) -> list[Json]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
