"""`schema`: the answer is valid against the policy's JSON Schema, Draft 2020-12.

jsonschema-rs decides: it is fast, its patterns run in linear or bounded time, and it fetches nothing. What is wrong with a refused
answer is said by `_explain`, which is imported with the first schema.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from itertools import islice
from typing import Any

import jsonschema_rs
from pydantic import BaseModel, ConfigDict

from cascade.types import Ask, Call, Case, Document, Json, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._subschemas import MAX_EXPANSION, expansion, foreign, walk
from cascade.verifiers._text import one_line

MAX_PATTERN_SECONDS = 0.25
"""CPU time that a schema's patterns may take to be compiled: a few thousand of the dearest would hold up everything for minutes."""
MAX_CALLERS_ENUM = 20_000
"""Values of all enums of a caller's schema: each item of an answer may be held against each, 200,000 by 400 of them take 12 s."""
MAX_ERRORS = 5
"""Errors named in a reason, and problems named of a schema."""

VALID = Verdict(1.0, signals={"errors": 0.0})


class Options(BaseModel):
    """None: the schema is the policy's."""

    model_config = ConfigDict(extra="forbid")


class SchemaVerifier:
    """1.0 for a valid answer; else the share of its leaves that are valid, below 1.0, with the errors as reason."""

    def __init__(self, schema: Json) -> None:
        problems = check_schema(schema)
        if problems:
            raise ValueError("\n".join(problems))
        self._schema = schema
        self._is_valid: Callable[[Json], bool] = _validator(schema).is_valid

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        return ()

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        try:
            if self._is_valid(case.value):
                return VALID
        except (ValueError, TypeError) as err:  # not JSON: a lone surrogate, a value no parser gives
            return Verdict(0.0, one_line(f"not JSON: {err}"))
        return self._explained(case.value)

    def _explained(self, value: Json) -> Verdict:
        from cascade.verifiers._explain import explain, share

        errors = explain(self._schema, value)
        if not errors:
            return Verdict(0.0, "does not fit the schema, in a place that would take too long to find")
        lines = dict.fromkeys(f"{error.path or 'the answer'}: {error.message}" for error in errors)
        more = f" (and {len(lines) - MAX_ERRORS} more)" if len(lines) > MAX_ERRORS else ""
        fields = dict.fromkeys(error.path for error in errors)
        said = one_line("; ".join(islice(lines, MAX_ERRORS)), 900) + more
        return Verdict(share(value, errors), said, tuple(fields), {"errors": float(len(lines))})


def _validator(schema: Json) -> Any:
    """The deciding validator; it asserts formats and has no way out."""
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True, offline=True)


def check_schema(schema: Json) -> list[str]:
    """What is wrong with a JSON Schema (Draft 2020-12), a line each; [] when it can be used.

    Refused: invalid keywords, patterns that are no regular expression or take too long to be compiled, `$ref` to anything outside the
    schema itself, and schemas whose references multiply (over MAX_EXPANSION subschemas for one value).
    """
    if not isinstance(schema, dict | bool):
        return ["a JSON Schema is an object, or true or false"]
    try:
        jsonschema_rs.meta.validate({**schema, "$schema": DRAFT} if isinstance(schema, dict) else schema)
    except RecursionError:
        return ["nested too deeply"]
    except (ValueError, TypeError) as err:
        from cascade.verifiers._explain import invalid_keywords

        return invalid_keywords(schema, MAX_ERRORS) or [_first_line(err)]
    if outside := [f"{at}: {ref!r} leads out of the schema; nothing is fetched" for at, ref in foreign(schema)]:
        return outside
    if _patterns_take_too_long(schema):
        return ["its patterns take too long to be compiled: make them fewer, or simpler"]
    try:
        _validator(schema).is_valid(None)
    except (ValueError, TypeError) as err:  # a bad pattern, a $ref to nothing
        return [_first_line(err)]
    return [f"its references multiply to more than {MAX_EXPANSION} subschemas"] if expansion(schema) > MAX_EXPANSION else []


def check_callers_schema(schema: Json) -> list[str]:
    """As `check_schema`, for one that came with a request."""
    problems = check_schema(schema)
    if not problems and sum(len(inner.get("enum", ())) for _, _, inner in walk(schema)) > MAX_CALLERS_ENUM:
        return [f"its enums have more than {MAX_CALLERS_ENUM} values"]
    return problems


def _patterns_take_too_long(schema: Json) -> bool:
    """Each is compiled once here, and wherever it stands later."""
    used = Counter(pattern for _, _, inner in walk(schema) for pattern in (*inner.get("patternProperties", ()), inner.get("pattern")) if pattern)
    left = MAX_PATTERN_SECONDS
    for pattern, times in used.items():
        started = time.thread_time()
        with suppress(ValueError):  # a bad one is told with its place
            _validator({"pattern": pattern})
        left -= (time.thread_time() - started) * times
        if left < 0:
            return True
    return False


DRAFT = "https://json-schema.org/draft/2020-12/schema"


def _first_line(err: Exception) -> str:
    return one_line(str(err).partition("\n\n")[0], 240)


SPEC = Spec("schema", Options, lambda options, schema, compare: _make(schema), threshold=1.0, repairable=True)


def _make(schema: Document | None) -> SchemaVerifier:
    if schema is None:
        raise ValueError("the policy has no schema to hold answers against")
    import_module("cascade.verifiers._explain")  # a tenth of a second that loading may take, the first wrong answer may not
    return SchemaVerifier(schema.json)
