"""The policy file's own JSON Schema, for editors and validators, made from the models and the verifiers' options."""

from __future__ import annotations

from typing import Any

from cascade import verifiers
from cascade.policy.model import PolicyPart
from cascade.types import Json

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Json]:
    """The JSON Schema (Draft 2020-12) of a policy file. A file it refuses is refused by `load` as well, not the other way round."""
    schema = PolicyPart.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    definitions["Gate"] = _gate(definitions)
    for owner in (schema, definitions["TierPart"]):
        owner["properties"]["gates"] = _described(owner["properties"]["gates"], {"type": "array", "items": {"$ref": "#/$defs/Gate"}})
    tiers = schema["properties"]["tiers"]
    tiers["items"] = {"anyOf": [{"type": "string", "pattern": "^[^/:]+[/:].+$"}, {"$ref": "#/$defs/TierPart"}]}
    return {"$schema": DIALECT, **_without_titles(schema), "title": "cascade policy"}


def _gate(definitions: dict[str, Json]) -> Json:
    forms: list[Json] = [{"enum": list(verifiers.KINDS), "description": "A verifier with its default options."}]
    for kind in verifiers.KINDS:
        forms.append({"type": "object", "properties": {kind: _options(kind, definitions)}, "required": [kind], "additionalProperties": False})
    return {"description": "What an answer must pass: a verifier, with its options.", "anyOf": forms}


def _options(kind: str, definitions: dict[str, Json]) -> Json:
    spec = verifiers.KINDS[kind]
    options = spec.options.model_json_schema(by_alias=True)
    definitions.update(options.pop("$defs", {}))
    own = {
        "threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": spec.threshold, "description": "The score it takes to pass."},
        "accept_at": {"type": "number", "minimum": 0, "maximum": 1,
                      "description": "A score as high as this accepts the answer at once: no gate after it is asked."},
        "name": {"type": "string", "description": "Unique in the tier; default: the verifier's name."},
    }
    options["properties"] = {**options.get("properties", {}), **own}
    forms = [options, {"type": "null"}]
    if spec.positional:
        forms.insert(1, {key: value for key, value in options["properties"][spec.positional].items() if key != "default"})
    return {"anyOf": forms}


def _described(old: Json, new: Json) -> Json:
    return {**new, **{key: old[key] for key in ("description", "default") if key in old}}


def _without_titles(part: Any, names: bool = False) -> Any:
    """pydantic titles every field by its own name, which editors show instead of the description."""
    if isinstance(part, dict):
        return {key: _without_titles(value, key in ("properties", "$defs")) for key, value in part.items() if names or key != "title"}
    return [_without_titles(item) for item in part] if isinstance(part, list) else part
