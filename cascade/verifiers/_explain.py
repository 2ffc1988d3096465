"""Says why an answer is not valid against its schema, one step at a time under a budget; `schema` decides whether it is.

jsonschema finds the errors, and never runs a pattern: Python's `re` can hang. What runs a pattern, or may take quadratic time, is
jsonschema-rs's to answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, NamedTuple, cast

import jsonschema
import jsonschema_rs
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry

from cascade.compare import pointer
from cascade.types import Json
from cascade.verifiers._subschemas import is_recursive
from cascade.verifiers._text import one_line

MAX_FOUND = 50
"""Errors looked for; more do not help anyone."""

MAX_STEPS = 20_000
"""Keywords looked at, and at most MAX_SECONDS."""

MAX_SECONDS = 0.15


class Found(NamedTuple):
    """An error: a JSON pointer, what is wrong there, and what it costs in the score: the value there, with all in it, a member that
    is missing, or one leaf's worth."""

    path: str
    message: str
    spoils: Literal["all", "missing", "one"]


class _Spent(Exception):
    """The explanation's budget is used up."""


_left: ContextVar[list[float]] = ContextVar("_left")


def explain(schema: Json, value: Json) -> list[Found]:
    """Why `value` is not valid: up to MAX_FOUND errors. [] when none was found within the budget."""
    token = _left.set([MAX_STEPS, time.monotonic() + MAX_SECONDS])
    errors: list[ValidationError] = []
    try:
        for error in islice(_explainer()(schema, registry=Registry()).iter_errors(value), MAX_FOUND):
            errors.append(error)
    except (_Spent, RecursionError, ArithmeticError):  # out of budget; or numbers that Python's floats cannot take
        pass
    finally:
        _left.reset(token)
    found = [told for error in errors for told in _told(error)]
    return found or _unevaluated(schema, value)


def _unevaluated(schema: Json, value: Json) -> list[Found]:
    """What jsonschema-rs says of members and items left over. It lists errors without a budget, so of small values only."""
    text = str(schema)
    if "'unevaluated" not in text or len(text) > 50_000 or len(_leaves(value)) > 1_000 or is_recursive(schema):
        return []
    errors = jsonschema_rs.Draft202012Validator(schema, validate_formats=True, offline=True).iter_errors(value)
    return [Found(pointer(error.instance_path), one_line(error.message, 200), "one") for error in islice(errors, MAX_FOUND)]


def _told(error: ValidationError) -> list[Found]:
    """An error in our words. Of several alternatives the one that came nearest is told."""
    path, wanted = pointer(error.absolute_path), cast(Any, error.validator_value)
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = [name for name in wanted if name not in error.instance and error.message.startswith(repr(name))]
        return [Found(path + pointer([name]), "is missing", "missing") for name in missing[:1]]
    if error.validator in ("anyOf", "oneOf") and error.context:
        return _nearest(error) or [Found(path, f"fits none of the {len(wanted)} alternatives", "all")]
    spoils: Literal["all", "one"] = "all" if error.validator in ("type", "const", "enum", "not", None) else "one"
    return [Found(path, one_line(error.message, 200), spoils)]


def _nearest(error: ValidationError) -> list[Found]:
    """The errors of the one alternative that is of the value's type, when there is just one: there a repair can set in."""
    branches: dict[Any, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(inner.schema_path[0], []).append(inner)
    near = [inners for inners in branches.values() if not any(_is_other_kind(inner) for inner in inners)]
    return [told for inner in near[0] for told in _told(inner)] if len(near) == 1 else []


def _is_other_kind(error: ValidationError) -> bool:
    """An alternative that was never meant: another type, or another value of the member that tells the alternatives apart."""
    return (error.validator == "type" and not error.path) or (error.validator == "const" and len(error.path) <= 1)


def share(value: Json, errors: list[Found]) -> float:
    """The share of the answer's leaves (its own and those missing) that are valid; at most 0.99, since some are not.

    0 when there were too many errors to list them all."""
    if len(errors) >= MAX_FOUND:
        return 0.0
    spoilt = {error.path for error in errors if error.spoils == "all"}
    ones = {error.path for error in errors if error.spoils == "one"}
    absent = {error.path for error in errors if error.spoils == "missing"}
    bare = {path.rpartition("/")[0] for path in absent}
    leaves = [path for path in _leaves(value) if path not in bare]  # `{}` without its members is no leaf of its own
    bad = sum(any(path[:i] in spoilt for i in _ends(path)) for path in leaves) if spoilt else 0
    total = len(leaves) + len(absent)
    return round(min(0.99, max(0.0, (len(leaves) - bad - len(ones)) / total if total else 0.0)), 4)


def _ends(path: str) -> Iterator[int]:
    """Where the pointers of a pointer's ancestors end, itself included."""
    return (i for i in range(len(path) + 1) if i == len(path) or path[i] == "/")


def _leaves(value: Json, most: int = 2_000) -> list[str]:
    """The JSON pointers of the leaves of a value, the first `most` of them."""
    found: list[str] = []
    stack: list[tuple[str, Json]] = [("", value)]
    while stack and len(found) < most:
        path, item = stack.pop()
        if isinstance(item, dict) and item:
            stack += [(path + pointer([name]), inner) for name, inner in islice(item.items(), most)]
        elif isinstance(item, list) and item:
            stack += [(f"{path}/{i}", inner) for i, inner in enumerate(item[:most])]
        else:
            found.append(path)
    return found


def _short(value: Json) -> str:
    return one_line(repr(value), 60)


def _ticking(keyword: Callable[..., Any]) -> Callable[..., Any]:
    """The keyword's validator, one step dearer."""

    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0 or time.monotonic() > left[1]:
            raise _Spent
        yield from keyword(validator, value, instance, schema) or ()

    return check


@lru_cache(maxsize=512)
def _pattern(pattern: str) -> Callable[[str], bool]:
    return jsonschema_rs.Draft202012Validator({"pattern": pattern}, offline=True).is_valid


@lru_cache(maxsize=64)
def _format(name: str) -> Callable[[Json], bool]:
    return jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True, offline=True).is_valid


_unique: Callable[[Json], bool] = jsonschema_rs.Draft202012Validator({"uniqueItems": True}, offline=True).is_valid


def _explain_pattern(validator: Any, pattern: str, instance: Json, schema: Json) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _pattern(pattern)(instance):
        yield ValidationError(f"{_short(instance)} does not match {pattern!r}")


def _explain_format(validator: Any, name: str, instance: Json, schema: Json) -> Iterator[ValidationError]:
    if not _format(name)(instance):
        yield ValidationError(f"{_short(instance)} is not a {name}")


def _explain_unique(validator: Any, wanted: bool, instance: Json, schema: Json) -> Iterator[ValidationError]:
    if wanted and isinstance(instance, list) and not _unique(instance):
        yield ValidationError("has the same item more than once")


def _explain_pattern_properties(validator: Any, patterns: Mapping[str, Json], instance: Json, schema: Json) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, inner in patterns.items():
            matches = _pattern(pattern)
            for name, item in instance.items():
                if matches(name):
                    yield from validator.descend(item, inner, path=name, schema_path=pattern)


def _explain_additional(validator: Any, inner: Json, instance: Json, schema: Json) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    patterns = [_pattern(pattern) for pattern in schema.get("patternProperties", {})]
    extra = [name for name in instance if name not in schema.get("properties", {}) and not any(matches(name) for matches in patterns)]
    if inner is False:
        if extra:
            yield ValidationError(f"has members the schema does not know: {', '.join(map(_short, extra))}")
        return
    for name in extra:
        yield from validator.descend(instance[name], inner, path=name)


def _unexplained(validator: Any, inner: Json, instance: Json, schema: Json) -> Iterator[ValidationError]:
    """jsonschema finds what is left over with `re`, and in quadratic time; see `_unevaluated`."""
    yield from ()


@lru_cache(maxsize=1)
def _explainer() -> Any:
    """jsonschema's validator with a budget, and with jsonschema-rs in the place of what runs a pattern or may be slow."""
    own = {
        "pattern": _explain_pattern, "format": _explain_format, "uniqueItems": _explain_unique,
        "patternProperties": _explain_pattern_properties, "additionalProperties": _explain_additional,
        "unevaluatedProperties": _unexplained, "unevaluatedItems": _unexplained,
    }  # fmt: skip
    keywords = {**jsonschema.Draft202012Validator.VALIDATORS, **own}
    return cast(Any, extend)(jsonschema.Draft202012Validator, {name: _ticking(check) for name, check in keywords.items()})


def invalid_keywords(schema: Json, most: int) -> list[str]:
    """What the metaschema has against a schema, a line each."""
    meta = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)
    return [f"{pointer(e.absolute_path) or 'the schema'}: {one_line(e.message, 160)}" for e in islice(meta.iter_errors(schema), most)]
