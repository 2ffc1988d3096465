"""Makes models' and users' text fit to stand in a reason: one line, no control characters, cut."""

from __future__ import annotations

import re

_BAD = r"\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
_CONTROL = re.compile(f" *[{_BAD}]+[ {_BAD}]*")


def one_line(text: str, most: int = 400) -> str:
    """`text` on one line of at most `most` characters, without control, direction and zero-width characters."""
    text = _CONTROL.sub(" ", text[: 2 * most]).strip()
    return text if len(text) <= most else text[: most - 1] + "…"
