"""The policy file: YAML, JSON or TOML to a `Policy`, its JSON Schema, lint, and what a request may cost."""

from __future__ import annotations

from cascade.policy.check import CheckReport, check
from cascade.policy.load import Loaded, load, load_text, load_with_places
from cascade.policy.schema import json_schema

__all__ = ["CheckReport", "Loaded", "check", "json_schema", "load", "load_text", "load_with_places"]
