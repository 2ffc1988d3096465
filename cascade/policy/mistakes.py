"""What pydantic refuses, in our words: one line for each mistake, with its place in the file. Knows no policy's meaning."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError

from cascade.policy.source import Loc
from cascade.types import Json


class Mistake(NamedTuple):
    """`loc` is the place in the file, `at_key`: the key is at fault, not its value; `missing` names a key that is not there."""

    loc: Loc
    message: str
    at_key: bool = False
    missing: str | None = None


def mistakes(error: ValidationError, value: Json, model: type[BaseModel]) -> list[Mistake]:
    """What is wrong with `value`, which `model` refused: each mistake once, also where several types were possible."""
    found: list[Mistake] = []
    either: dict[Loc, list[tuple[Any, Loc]]] = {}
    for problem in error.errors():
        loc, fork = _place(problem, value)
        if fork is None:
            found.append(_told(problem, loc, model))
        else:
            either.setdefault(fork, []).append((problem, loc))
    for fork, problems in either.items():
        found += _of_alternatives(fork, problems, model)
    return found


def _place(problem: Any, value: Json) -> tuple[Loc, Loc | None]:
    """The place in the file, and the place at which several types were possible. pydantic puts each type's name into its path."""
    loc: Loc = ()
    fork: Loc | None = None
    names_a_key = problem["type"] in ("missing", "extra_forbidden")
    parts = [part for part in problem["loc"] if part != "[key]"]
    for i, part in enumerate(parts):
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value, loc = value[part], (*loc, part)
        elif names_a_key and i == len(parts) - 1:
            loc = (*loc, part)
        else:
            fork = loc
    return loc, fork


def _of_alternatives(fork: Loc, problems: list[tuple[Any, Loc]], model: type[BaseModel]) -> list[Mistake]:
    """Of several possible types: what is wrong inside the one that was meant; else which types there are."""
    inside = [(problem, loc) for problem, loc in problems if loc != fork or not _is_of_type(problem)]
    if inside:
        return [_told(problem, loc, model) for problem, loc in inside]
    wanted = dict.fromkeys(_type(problem) for problem, _ in problems)
    return [Mistake(fork, f"must be {' or '.join(wanted)}, this is {kind(problems[0][0]['input'])}")]


def _is_of_type(problem: Any) -> bool:
    return str(problem["type"]).endswith("_type") or problem["type"] == "is_instance_of"


def _told(problem: Any, loc: Loc, model: type[BaseModel]) -> Mistake:
    if problem["type"] == "extra_forbidden":
        return Mistake(loc, f"unknown key{near(str(loc[-1]), keys_at(model, loc[:-1]))}", True)
    if problem["type"] == "missing":
        return Mistake(loc[:-1], f'the key "{loc[-1]}" is missing', True, str(loc[-1]))
    return Mistake(loc, _plain(problem))


_TYPES = {
    "string": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list", "tuple": "a list",
    "dict": "a mapping", "model": "a mapping", "model_attributes": "a mapping",
}  # fmt: skip


def _type(problem: Any) -> str:
    name = str(problem["type"]).removesuffix("_type")
    return _TYPES.get(name, name)


def _plain(problem: Any) -> str:
    """A pydantic message in our words."""
    sort, context, given = problem["type"], problem.get("ctx", {}), problem.get("input")
    if sort == "literal_error":
        return f"{given!r} is none of {context['expected'].replace(chr(39), '')}"
    if sort.endswith("_type"):
        return f"must be {_type(problem)}, this is {kind(given)}"
    if sort == "too_short":
        return "must not be empty"
    if sort in ("greater_than_equal", "less_than_equal"):
        return f"must be at least {context['ge']}" if "ge" in context else f"must be at most {context['le']}"
    message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def plainly(message: str) -> str:
    """pydantic's sentences as others pass them on, in our words."""
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", re.sub(r"a valid boolean\b", "true or false", message))
    return message.replace("nput should be a valid ", "nput should be a ").replace("input should be ", "must be ")


def kind(value: Json) -> str:
    """What sort of JSON value it is, in plain words."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def near(word: str, words: Iterable[str]) -> str:
    """`, did you mean "x"?`, or which words there are."""
    known = list(dict.fromkeys(words))
    close = difflib.get_close_matches(word, known, 1, cutoff=0.6)
    if close:
        return f', did you mean "{close[0]}"?'
    return f"; there are: {', '.join(known)}" if known else ""


def keys_at(model: type[BaseModel], loc: Loc) -> tuple[str, ...]:
    """The keys the mapping at that place may have."""
    here: type[BaseModel] | None = model
    named = False  # the next part is a name of the user's own, as in providers.local
    for part in loc:
        if isinstance(part, int) or named:
            named = False
            continue
        found = next((f for key, f in here.model_fields.items() if (f.alias or key) == part), None) if here else None
        if found is None:
            return ()
        here, named = _inner(found.annotation), get_origin(found.annotation) is dict
    return tuple(f.alias or key for key, f in here.model_fields.items()) if here else ()


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [found for arg in get_args(annotation) if (found := _inner(arg)) is not None]
    return models[-1] if models else None
