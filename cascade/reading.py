"""How a policy reads an answer's text: as text without a schema, else as JSON, without the nulls a strict provider had to add. Pure."""

from __future__ import annotations

from collections.abc import Callable

from cascade import projection
from cascade.extract import Extracted, extract
from cascade.types import Policy


def reader(policy: Policy) -> Callable[[str], Extracted]:
    """The function from an answer's text to its value."""
    if policy.schema is None:
        return lambda text: Extracted(text)
    schema = policy.schema.json
    if projection.keeps(schema):
        return extract
    wrapped = projection.wrapped(schema)

    def read(text: str) -> Extracted:
        found = extract(text)
        untouched = not wrapped and "null" not in text  # nulls are all that is taken out
        return found if found.problem or untouched else found._replace(value=projection.restore(found.value, schema))

    return read
