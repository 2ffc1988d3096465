"""`tools`: the answer calls the caller's tools as they are, or none: names, arguments by their schemas, and the caller's `tool_choice`.

It is put before a tier's other gates where a request brings tools; a policy may name it, too.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

import orjson
from pydantic import BaseModel, ConfigDict

from cascade.extract import extract
from cascade.types import Ask, Call, Case, Document, Json, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._text import one_line
from cascade.verifiers.schema import MAX_ERRORS, SchemaVerifier, check_callers_schema

MOST = 1024
"""So many tools are kept compiled."""
LARGEST = 32 * 1024
"""Bytes of the parameters of one that is."""
MOST_CALLS = 128
"""Calls of one answer: more are looked at by nobody, and a loop of a model's."""
MAX_SECONDS = 2.0
"""CPU time that the tools of a request may take to be checked; eight megabytes of plain ones take 0.8."""
FITS = Verdict(1.0)


class Options(BaseModel):
    """None: the tools are the caller's."""

    model_config = ConfigDict(extra="forbid")


class ToolsVerifier:
    """1.0 where every call fits, and tools are called where they must be; else 0.0 with what is wrong."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, SchemaVerifier] = OrderedDict()

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        return ()

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        if case.call.tools is None:
            return FITS
        calls = case.value["tool_calls"] if case.finish == "tool_calls" else []
        if len(calls) > MOST_CALLS:
            return Verdict(0.0, f"{len(calls)} tools are called at a time; at most {MOST_CALLS} may be")
        offered, named = case.call.tools.json, {call["name"] for call in calls}
        wrong = _unlike(offered, [call["name"] for call in calls])
        if not calls and offered["choice"] != "none" and (name := _in_words(case.text, [tool["name"] for tool in offered["tools"]])):
            wrong.append(f"the tool {name} is called in the text, and not as a call of a tool")
        verifiers = {tool["name"]: self._verifier(tool["parameters"]) for tool in offered["tools"] if tool["name"] in named}
        for call in calls:
            if call["name"] in verifiers and len(wrong) < MAX_ERRORS:
                wrong += await self._arguments(call, verifiers[call["name"]], case, ask)
        return Verdict(0.0, one_line("; ".join(wrong), 900)) if wrong else FITS

    async def _arguments(self, call: Mapping[str, Json], verifier: SchemaVerifier, case: Case, ask: Ask) -> list[str]:
        name, arguments = one_line(call["name"], 80), call["arguments"]
        if not isinstance(arguments, dict):
            return [f"the arguments of {name} are no JSON object"]
        verdict = await verifier(replace(case, value=arguments, problem=None), ask)
        return [] if verdict.score == 1.0 else [f"the arguments of {name}: {verdict.reason}"]

    def _verifier(self, schema: Json) -> SchemaVerifier:
        text = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
        key = hashlib.sha256(text).hexdigest()
        found = self._known.get(key)
        if found is None:
            found = SchemaVerifier(schema)
            if len(text) <= LARGEST:
                self._known[key] = found
            if len(self._known) > MOST:
                self._known.popitem(last=False)
        return found


def _in_words(text: str, names: list[str]) -> str | None:
    """The tool that a text calls, as small models do: a JSON object with its name and arguments, and nothing else."""
    if not text.lstrip().startswith(("{", "```")):
        return None
    found = extract(text).value
    calls = isinstance(found, dict) and found.get("name") in names and set(found) in ({"name", "arguments"}, {"name", "parameters"})
    return str(found["name"]) if calls else None


def _unlike(offered: Mapping[str, Json], called: list[str]) -> list[str]:
    """How the calls are not what was asked for, whatever their arguments are."""
    names, choice = [tool["name"] for tool in offered["tools"]], offered["choice"]
    unknown = [repr(name[:80]) for name in dict.fromkeys(called) if name not in names][:MAX_ERRORS]
    wrong = [f"there is no tool {', '.join(unknown)}; there are: {one_line(', '.join(names), 600)}"] if unknown else []
    if choice == "required" and not called:
        wrong.append("no tool is called, and one has to be")
    if choice == "none" and called:
        wrong.append("a tool is called, and none was to be")
    if isinstance(choice, Mapping) and (not called or set(called) != {choice["name"]}):
        wrong.append(f"the tool {choice['name']} has to be called, and no other")
    if offered["parallel"] is False and len(called) > 1:
        wrong.append("more than one tool is called at a time")
    return wrong


_problems: OrderedDict[str, str | None] = OrderedDict()


def problem(offered: Document) -> str | None:
    """Why these tools cannot be offered, if one's parameters are no JSON Schema, refer to others or cannot be checked. Remembered by the
    digest alone: the tools themselves may have megabytes."""
    if offered.digest not in _problems:
        _problems[offered.digest] = _problem(offered)
        if len(_problems) > MOST:
            _problems.popitem(last=False)
    return _problems[offered.digest]


def _problem(offered: Document) -> str | None:
    started = time.thread_time()
    for i, tool in enumerate(offered.json["tools"]):
        if problems := check_callers_schema(tool["parameters"]):
            return f"tools[{i}].function.parameters: {problems[0]}"
        if time.thread_time() - started > MAX_SECONDS:
            return "tools: their parameters take too long to be checked: make them fewer, or simpler"
    return None


SPEC = Spec("tools", Options, lambda options, schema, compare: ToolsVerifier(), repairable=True)
