"""Walks a JSON Schema without validating anything: its subschemas, where its references lead, how much they multiply."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urldefrag, urljoin

from cascade.compare import pointer
from cascade.types import Json

MAX_EXPANSION = 100_000
"""Subschemas that one value may be held against once every $ref is followed; see `expansion`."""

_SCHEMA = ("additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
           "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_IN_PLACE = ("allOf", "anyOf", "oneOf", "if", "then", "else", "not", "dependentSchemas")


def below(schema: Json, keywords: tuple[str, ...] = _SCHEMA + _LISTS + _MAPS) -> Iterator[tuple[str, Json]]:
    """The subschemas under those keywords, each with its pointer. What stands in `const`, `enum` or `examples` is no schema."""
    for keyword in keywords:
        if keyword not in schema:
            continue
        value = schema[keyword]
        if keyword in _SCHEMA:
            yield f"/{keyword}", value
        elif keyword in _LISTS:
            yield from ((f"/{keyword}/{i}", item) for i, item in enumerate(value))
        else:
            yield from ((f"/{keyword}/{pointer([name])[1:]}", item) for name, item in value.items())


def walk(schema: Json, at: str = "", base: str = "") -> Iterator[tuple[str, str, dict[str, Json]]]:
    """Every object schema: its pointer, its base URI, itself."""
    if isinstance(schema, dict):
        base = urljoin(base, str(schema.get("$id", "")))
        yield at, base, schema
        for under, inner in below(schema):
            yield from walk(inner, at + under, base)


def foreign(schema: Json) -> list[tuple[str, str]]:
    """The references that lead out: not `#…`, and no `$id` of the schema itself."""
    schemas = list(walk(schema))
    known = {urldefrag(base).url for _, base, _ in schemas}
    found = []
    for at, base, inner in schemas:
        for keyword in ("$ref", "$dynamicRef"):
            ref = str(inner.get(keyword, "#"))
            if not ref.startswith("#") and urldefrag(urljoin(base, ref)).url not in known:
                found.append((f"{at}/{keyword}", ref))
    return found


def is_recursive(schema: Json) -> bool:
    """Whether a $ref leads back to where it stands. Without one, the work is bounded by the size of schema and value."""
    targets = {"#" + at: inner for at, _, inner in walk(schema)}
    done: set[int] = set()

    def loops(inner: Json, above: frozenset[int]) -> bool:
        if not isinstance(inner, dict) or id(inner) in done:
            return False
        if id(inner) in above or inner.get("$ref", "#/") not in (*targets, "#/") or "$dynamicRef" in inner:
            return True  # a reference by anchor or id is not followed: it may
        above |= {id(inner)}
        refs = [targets[inner["$ref"]]] if "$ref" in inner else []
        if any(loops(next_, above) for next_ in (*refs, *(item for _, item in below(inner)))):
            return True
        done.add(id(inner))
        return False

    return loops(schema, frozenset())


def expansion(schema: Json) -> int:
    """How many subschemas one and the same value is held against, with references followed: 25 definitions that each
    name the last one twice are 33 million. Cycles end where they close; jsonschema-rs remembers what it decided there."""
    targets = {"#" + at: inner for at, _, inner in walk(schema)}
    known: dict[int, int] = {}

    def count(inner: Json, above: frozenset[int]) -> int:
        if not isinstance(inner, dict) or id(inner) in above:
            return 1
        if id(inner) not in known:
            above |= {id(inner)}
            refs = [targets[inner["$ref"]]] if inner.get("$ref") in targets else []
            total = 1 + sum(count(next_, above) for next_ in (*refs, *(item for _, item in below(inner, _IN_PLACE))))
            known[id(inner)] = min(total, 10 * MAX_EXPANSION)
        return known[id(inner)]

    return max((count(inner, frozenset()) for _, _, inner in walk(schema)), default=1)
