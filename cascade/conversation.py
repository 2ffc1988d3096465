"""A caller's messages, in the form of OpenAI's Chat Completions, as the turns that every wire can be made of. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cascade.errors import InputError
from cascade.types import Image, Json, Message, Part, Text, ToolCall, ToolResult

KEYS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content"}), "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls"}), "tool": frozenset({"role", "content", "tool_call_id", "is_error"}),
}  # fmt: skip
"""What a message of each role has; `is_error` is ours, since Anthropic's wire has it."""
PICTURE = re.compile(r"https://|data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]")


def turns(given: Json) -> tuple[Message, ...]:
    """The turns of a list of messages. Calls of tools are numbered anew: what one provider takes for an id another refuses, and a long one
    would be paid for. Raises InputError where they are no conversation that waits for an answer."""
    if not isinstance(given, list) or not given:
        raise InputError("messages: must be a list of {role, content}")
    found: list[Message] = []
    waiting: dict[str, str] = {}
    calls = 0
    for i, message in enumerate(given):
        where = f"messages[{i}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or role not in KEYS:
            raise InputError(f"{where}.role: must be one of {', '.join(KEYS)}")
        if more := set(message) - KEYS[role]:
            raise InputError(f"{where}: a message of {role} has {', '.join(sorted(KEYS[role]))}, not {', '.join(sorted(more))}")
        if role == "tool":
            if not isinstance(message.get("tool_call_id"), str) or message["tool_call_id"] not in waiting:
                raise InputError(f"{where}.tool_call_id: no call of a tool with this id waits for its result")
            message = {**message, "tool_call_id": waiting.pop(message["tool_call_id"])}
        elif waiting:
            raise InputError(f"{where}: the tool call {sorted(waiting)[0][:80]!r} has no result yet, a message of role tool")
        turn = _turn(role, message, where)
        made = [part for part in turn.content if isinstance(part, ToolCall)]
        if made:
            ids = {part.id: call_id(calls + n) for n, part in enumerate(made)}
            if len(ids) < len(made):
                raise InputError(f"{where}.tool_calls: two have the same id")
            turn, waiting, calls = _renamed(turn, ids), ids, calls + len(made)
        found.append(turn)
    if found[-1].role != "user":
        raise InputError(f"messages[{len(found) - 1}].role: the last message is the user's, or what a tool gave")
    return tuple(found)


def call_id(n: int, word: str = "call") -> str:
    """The id of the nth call of a conversation, such as every provider takes: Mistral wants nine letters and digits."""
    return f"{word}{n:0{9 - len(word)}}"


def tool_name(name: str) -> str:
    """A name that somebody called a tool by, such as every provider takes in what was said before."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name[:128]) or "_"


def _renamed(turn: Message, ids: Mapping[str, str]) -> Message:
    assert not isinstance(turn.content, str), "a turn with calls has parts"
    return Message(turn.role, tuple(replace(part, id=ids[part.id]) if isinstance(part, ToolCall) else part for part in turn.content))


def added(messages: tuple[Message, ...], note: str) -> tuple[Message, ...]:
    """The messages with a note at the end of the last one, or after it, where it is what a tool gave."""
    role, content = messages[-1]
    if isinstance(content, str):
        return (*messages[:-1], Message(role, f"{content}\n\n{note}"))
    if isinstance(content[0], ToolResult):
        return (*messages, Message("user", note))
    return (*messages[:-1], Message(role, (*content, Text(note))))


def _turn(role: str, message: Mapping[str, Json], where: str) -> Message:
    content = message.get("content")
    calls = message.get("tool_calls")
    if role == "tool":
        told = _parts(content, f"{where}.content", True)
        return Message("user", (ToolResult(message["tool_call_id"], told, message.get("is_error") is True),))
    if calls:
        said: Sequence[Text | Image] = () if content in (None, "") else _parts(content, f"{where}.content", False)
        return Message(role, (*said, *_calls(calls, f"{where}.tool_calls")))
    if isinstance(content, str):
        return Message(role, content)
    parts = _parts(content, f"{where}.content", role == "user")
    if all(isinstance(part, Text) for part in parts):
        return Message(role, "\n\n".join(part.text for part in parts if isinstance(part, Text)))
    return Message(role, parts)


def _parts(content: Json, where: str, pictures: bool) -> tuple[Text | Image, ...]:
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, list) or not content:
        raise InputError(f"{where}: must be text or a list of parts")
    return tuple(_part(part, f"{where}[{i}]", pictures) for i, part in enumerate(content))


def _part(part: Json, where: str, pictures: bool) -> Text | Image:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return Text(part["text"])
    if kind == "image_url" and pictures and isinstance(part.get("image_url"), Mapping):
        url, detail = part["image_url"].get("url"), part["image_url"].get("detail")
        if not isinstance(url, str) or PICTURE.match(url) is None:
            raise InputError(f"{where}.image_url.url: must be an https URL, or a data URL of png, jpeg, gif or webp in base64")
        if detail not in (None, "auto", "low", "high"):
            raise InputError(f"{where}.image_url.detail: must be auto, low or high")
        return Image(url, detail)
    raise InputError(f"{where}: must be {{type: text, text}}" + (" or {type: image_url, image_url: {url}}" if pictures else ""))


def _calls(given: Json, where: str) -> list[Part]:
    if not isinstance(given, list):
        raise InputError(f"{where}: must be a list")
    found: list[Part] = []
    for i, call in enumerate(given):
        told = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(told, Mapping) or not all(isinstance(text, str) for text in (call.get("id"), told.get("name"), told.get("arguments"))):
            raise InputError(f"{where}[{i}]: must be {{id, type: function, function: {{name, arguments as JSON text}}}}")
        found.append(ToolCall(call["id"], tool_name(told["name"]), told["arguments"]))
    return found
