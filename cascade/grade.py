"""Whether an answer is right, by its gold, and whether two answers are the same, by the policy's comparators. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from cascade.compare import Comparators
from cascade.types import Json, Policy


class Grader:
    """Compares canonically: JSON leaf by leaf, with the comparators of `compare`. ValueError for a bad `compare`."""

    def __init__(self, schema: Json, compare: Mapping[str, Json]) -> None:
        self.schema = schema
        self.comparators = Comparators.load(compare)

    @classmethod
    def of(cls, policy: Policy) -> Grader:
        """The grader of a policy."""
        return cls(policy.schema.json if policy.schema else None, policy.compare)

    def right(self, value: Json, gold: Json) -> bool:
        """Whether the answer is right. Of an object only the fields that the gold has are compared. ValueError when a user's comparator raises."""
        if isinstance(gold, Mapping) and isinstance(value, Mapping):
            value = {key: value[key] for key in gold if key in value}
        return self.comparators.same(value, gold)

    def same(self, a: Json, b: Json) -> bool:
        """Whether two answers are the same. ValueError when a user's comparator raises."""
        return self.comparators.same(a, b)

    def differing(self, a: Json, b: Json) -> tuple[str, ...]:
        """The JSON pointers of the fields on which they differ."""
        return self.comparators.differing(a, b)

    def size(self, value: Json) -> int:
        """How many characters are compared, in canonical form: see `signals.of_answer`."""
        return self.comparators.size(value)

    def problem(self, gold: Json) -> str | None:
        """What is wrong with the shape of a gold, None if it can be held against answers of the policy's schema."""
        if self.schema is None:
            return None if isinstance(gold, str) else f"gold is {_kind(gold)}, and without a schema answers are text"
        if not isinstance(self.schema, Mapping):
            return None
        properties = self.schema.get("properties")
        if not isinstance(properties, Mapping):
            return None
        if not isinstance(gold, Mapping):
            return f"gold is {_kind(gold)}, the schema wants an object with {', '.join(properties)}"
        if not gold:
            return "gold is an empty object: it says nothing to compare with"
        for key in gold:
            if key not in properties and self.schema.get("additionalProperties") is not True:
                near = difflib.get_close_matches(key, list(properties), 1)
                return f"gold has {key!r}, which the schema has not" + (f"; did you mean {near[0]!r}?" if near else "")
        return None


def _kind(value: Json) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", type(None): "null"}
    return names.get(type(value), "an object")
