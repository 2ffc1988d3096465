"""Finds the prompts, policies and cassettes that come with cascade, in a wheel as in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder(kind: str) -> Path:
    """The folder of shipped `prompts`, `policies` or `cassettes`: inside the package in a wheel, beside it in a checkout."""
    inside = _PACKAGE / "shipped_files" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind
