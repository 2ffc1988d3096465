"""What our HTML pages have in common: one style, its digest for a Content-Security-Policy, and templates that escape all they are given."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

import jinja2
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from cascade.report.text import Table

_HERE = Path(__file__).parent


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of these folders, and those that pages share. Everything is escaped, and nothing may be undefined."""
    loader = jinja2.FileSystemLoader([*folders, _HERE])
    made = SandboxedEnvironment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=loader)
    made.globals["numeric"] = numeric
    return made


@functools.cache
def style() -> Markup:
    """The style, our own file."""
    return Markup((_HERE / "page.css").read_text(encoding="utf-8"))


def source(text: str) -> str:
    """What a Content-Security-Policy calls an inline style or script of that text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def numeric(table: Table) -> list[bool]:
    """Which columns hold numbers only, so stand to the right."""
    def number(cell: str) -> bool:
        return len(cell) < 24 and (cell[:1] in "$−–0123456789" or cell in ("never", "unknown"))

    return [all(number(row[i]) for row in table[1:]) and any(row[i] for row in table[1:]) for i in range(len(table[0]))]
