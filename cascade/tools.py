"""Tools that a caller gives a model to call, and answers that call them. Pure.

Such an answer has the finish `tool_calls`, and its text is `written`: the calls as JSON, and what the model said beside them. What is
compared, judged and served is its `value`, the calls alone. Ids are the wire's business: they are made where an answer is handed out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

from cascade.errors import InputError
from cascade.extract import parse
from cascade.types import Document, Json

MOST = 512
"""Tools of one request."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""What every provider takes for a tool's name (OpenAI: up to 64 characters)."""
TOKENS = 1_000
"""More than what providers add on their own where there are tools (Anthropic up to some 800 tokens of instructions)."""


class Called(NamedTuple):
    """What an answer calls: each a `name` and `arguments`, a JSON value, or text where that is no JSON. `said` is the text beside them."""

    calls: list[dict[str, Json]]
    said: str


def written(said: str, calls: Iterable[tuple[str, str]]) -> str:
    """The text of an answer that calls these tools, (name, arguments as JSON text), in that order."""
    made = {"tool_calls": [{"name": name, "arguments": _arguments(text)} for name, text in calls]}
    return orjson.dumps({"content": said, **made} if said else made, option=orjson.OPT_SORT_KEYS).decode()


def _arguments(text: str) -> Json:
    if not text.strip():
        return {}  # what many servers say for a tool without parameters
    try:
        found = parse(text)
        orjson.dumps(found)
    except (ValueError, TypeError):  # TypeError: an integer past 64 bits
        return text
    return found


def called(text: str) -> Called:
    """The calls of such an answer's text."""
    read = orjson.loads(text)
    return Called(read["tool_calls"], read.get("content", ""))


def value(text: str) -> Json:
    """What such an answer comes to: {"tool_calls": [{"name", "arguments"}, …]}."""
    return {"tool_calls": called(text).calls}


# ---------------------------------------------------------------- what is offered


def offered(inputs: Mapping[str, Json]) -> Document | None:
    """The inputs `tools`, `tool_choice` and `parallel_tool_calls`, in the form of OpenAI's Chat Completions, as {tools, choice, parallel}:
    `tools` are {name, description?, parameters, strict?}, `choice` is auto, none, required or {name}. None where there are no tools.

    Raises InputError for what is not in that form.
    """
    given = inputs.get("tools")
    if not given:
        if inputs.get("tool_choice") not in (None, "auto", "none"):
            raise InputError("tool_choice: there are no tools to choose from")
        return None
    if not isinstance(given, list) or len(given) > MOST:
        raise InputError(f"tools: must be a list of at most {MOST}")
    tools = [_tool(one, f"tools[{i}]") for i, one in enumerate(given)]
    names = [tool["name"] for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"tools: two are named {twice!r}")
    parallel = inputs.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise InputError("parallel_tool_calls: must be true or false")
    try:
        return Document({"tools": tools, "choice": _choice(inputs.get("tool_choice"), names), "parallel": parallel})
    except TypeError as err:  # orjson's, of a number beyond 64 bits
        raise InputError(f"tools: {err}") from err


def size(offered: Document | None) -> int:
    """No fewer than the tokens that the tools of a call are."""
    return len(orjson.dumps(offered.json)) + TOKENS if offered else 0


def _tool(given: Json, where: str) -> dict[str, Json]:
    told = given.get("function") if isinstance(given, Mapping) and given.get("type") == "function" else None
    if not isinstance(told, Mapping) or not isinstance(told.get("name"), str) or not told["name"]:
        raise InputError(f"{where}: must be {{type: function, function: {{name, description, parameters}}}}")
    if NAME.fullmatch(told["name"]) is None:
        raise InputError(f"{where}.function.name: must be 1 to 128 letters, digits, _ and -")
    parameters = told.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise InputError(f"{where}.function.parameters: must be a JSON Schema")
    tool: dict[str, Json] = {"name": told["name"], "parameters": parameters}
    for name, kind in (("description", str), ("strict", bool)):
        if told.get(name) is not None:
            if not isinstance(told[name], kind):
                raise InputError(f"{where}.function.{name}: must be {'text' if kind is str else 'true or false'}")
            tool[name] = told[name]
    return tool


def _choice(given: Json, names: list[str]) -> Json:
    if given is None:
        return "auto"
    if given in ("auto", "none", "required"):
        return given
    told = given.get("function") if isinstance(given, Mapping) and given.get("type") == "function" else None
    if not isinstance(told, Mapping) or told.get("name") not in names:
        raise InputError(f"tool_choice: must be auto, none, required or {{type: function, function: {{name}}}} with one of: {', '.join(names)}")
    return {"name": told["name"]}
