"""Whether a field that a policy names is one the answer's JSON Schema knows. A misspelt one would be compared with nothing, and agree."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Literal, NamedTuple

from cascade.compare import parse_field
from cascade.types import Document, Json

MAX_NODES = 200
"""Subschemas looked at for one step of a path; a schema that forks wider is taken to know the field."""


class Found(NamedTuple):
    """`known`: the schema names it. `open`: it does not, but allows more. `unknown`: no answer can have it. `hint`: the nearest name."""

    state: Literal["known", "open", "unknown"]
    hint: str = ""


KNOWN = Found("known")


def find(field: str, schema: Document | None) -> Found:
    """What the schema says of a field such as `lines.amount`. ValueError when it is not the form of a field."""
    parts = parse_field(field)
    if schema is None:
        return KNOWN
    here: list[Json] = [schema.json]
    for part in parts:
        nodes = _all(here, schema.json)
        if len(nodes) >= MAX_NODES:
            return KNOWN
        below, opens, names = _step(nodes, part, schema.json)
        if not below and not opens:
            close = difflib.get_close_matches(str(part), names, 1)
            return Found("unknown", f', did you mean "{close[0]}"?' if close else f"; there are: {', '.join(names)}" if names else "")
        if not below:  # what is below something the schema does not name cannot be known
            close = difflib.get_close_matches(str(part), names, 1)
            return Found("open", f', did you mean "{close[0]}"?' if close else "") if names else KNOWN
        here = below
    return KNOWN


def _step(nodes: list[Json], part: str | int, root: Json) -> tuple[list[Json], bool, list[str]]:
    """The subschemas below, whether something else may be there too, and the names there are."""
    below: list[Json] = []
    names: list[str] = []
    opens = False
    if isinstance(part, int):
        inner = list(_items(nodes))
        return inner, not inner, []
    objects = [*nodes, *_all(list(_items(nodes)), root)]  # `lines.amount` goes into each line by itself
    closed = _closed(objects)
    for node in objects:
        if not isinstance(node, dict):
            opens = opens or node is True
            continue
        members = node.get("properties")
        members = members if isinstance(members, dict) else {}
        names += members
        if part in members:
            below.append(members[part])
        more = node.get("additionalProperties")
        if isinstance(more, dict) and part not in members:
            below.append(more)
    return below, opens or not closed, list(dict.fromkeys(names))


def _closed(nodes: list[Json]) -> bool:
    """Whether each object that can stand here says that it has no other members. Names by pattern are taken as open."""
    objects = [node for node in nodes if isinstance(node, dict) and ("properties" in node or node.get("type") == "object")]
    ends = [False in (node.get("additionalProperties"), node.get("unevaluatedProperties")) for node in objects]
    return bool(objects) and all(ends) and not any("patternProperties" in node for node in objects)


def _items(nodes: list[Json]) -> Iterator[Json]:
    for node in nodes:
        if isinstance(node, dict):
            if "items" in node:
                yield node["items"]
            yield from node.get("prefixItems", ())


def _all(nodes: list[Json], root: Json) -> list[Json]:
    """The subschemas with those they refer to and combine, at the same place of the answer."""
    found = list(nodes)
    for node in found:
        if len(found) >= MAX_NODES:
            break
        if not isinstance(node, dict):
            continue
        further = [inner for key in ("allOf", "anyOf", "oneOf") for inner in node.get(key, ())]
        further += [node[key] for key in ("then", "else", "if") if key in node]
        if isinstance(node.get("$ref"), str):
            further.append(_referred(node["$ref"], root))
        found += [inner for inner in further if all(inner is not seen for seen in found)]
    return found


def _referred(ref: str, root: Json) -> Json:
    """The subschema of a local reference; True (anything goes) for one that is not a plain pointer."""
    if ref != "#" and not ref.startswith("#/"):
        return True
    here = root
    for part in ref.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and key in here:
            here = here[key]
        elif isinstance(here, list) and key.isdigit() and int(key) < len(here):
            here = here[int(key)]
        else:
            return True
    return here
