"""How a policy reads an answer: as text without a schema, else as JSON, without the nulls a strict provider had to add. Pure.

What an answer of a trail comes to (`said`) is told from the trail alone: the answer to a part is put into the one it was kept of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cascade import partial, projection, tools
from cascade.extract import Extracted, extract
from cascade.types import Event, Json, Policy, Tried

Read = Callable[[str], Extracted]


def reader(policy: Policy) -> Read:
    """The function from an answer's text to its value."""
    if policy.schema is None:
        return lambda text: Extracted(text)
    return _reader(policy.schema.json)


def _reader(schema: Json) -> Read:
    if projection.keeps(schema):
        return extract
    wrapped = projection.wrapped(schema)

    def read(text: str) -> Extracted:
        found = extract(text)
        untouched = not wrapped and "null" not in text  # nulls are all that is taken out
        return found if found.problem or untouched else found._replace(value=projection.restore(found.value, schema))

    return read


def of_answer(tried: Tried, read: Read) -> Extracted:
    """What a whole answer says: the tools that it calls, or its text as the policy reads it."""
    return Extracted(tools.value(tried.text)) if tried.finish == "tool_calls" else read(tried.text)


class Said(NamedTuple):
    """What an answer comes to: its whole `text`, and that read. The answer to a part is merged into what was kept; when the part cannot
    be read there is a problem, and the text is the part's."""

    text: str
    read: Extracted


def said(policy: Policy, trail: Sequence[Event], at: int, read: Read | None = None) -> Said:
    """What the answer at that index comes to; `read` is `reader(policy)` where there is one already."""
    tried = trail[at]
    assert isinstance(tried, Tried)
    if not tried.part:
        return Said(tried.text, of_answer(tried, read or reader(policy)))
    found = _part(policy, tried)
    if found.problem is not None:
        return Said(tried.text, found)
    below = next((i for i in range(at - 1, -1, -1) if _own(trail[i])), None)
    kept = None if below is None else said(policy, trail, below, read).read.value
    if not isinstance(kept, dict):
        return Said(tried.text, Extracted(None, "it is the answer to a part, and the trail does not hold the rest"))
    value = partial.merge(kept, found.value, tried.part)
    return Said(written(value), found._replace(value=value))


def written(value: Json) -> str:
    """A JSON value as the text of an answer."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def whole_text(policy: Policy, trail: Sequence[Event], at: int) -> str:
    """The text of the answer at that index, without reading what needs no merging."""
    tried = trail[at]
    assert isinstance(tried, Tried)
    return said(policy, trail, at).text if tried.part else tried.text


def _part(policy: Policy, tried: Tried) -> Extracted:
    smaller = partial.cut(policy.schema, tried.part) if policy.schema is not None else None
    found = (extract if smaller is None else _reader(smaller.json))(tried.text)
    if found.problem is None and not isinstance(found.value, dict):
        return found._replace(value=None, problem="the answer is no object, and only some fields of one were asked for")
    return found


def _own(event: Event) -> bool:
    return isinstance(event, Tried) and event.gate is None
