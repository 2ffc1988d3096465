"""Small charts as inline SVG. Pure: values in, markup out; every text is escaped here, and colours are classes of the page's own style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 38


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`; `labels` are (value, text)."""

    low: float
    high: float
    labels: tuple[tuple[float, str], ...]
    title: str

    def at(self, value: float) -> float:
        """Where on the axis, 0..1; values outside are held at the ends."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low))) if self.high > self.low else 0.5


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.at(value) * (HEIGHT - TOP - BOTTOM)


def bars(title: str, desc: str, rows: Sequence[tuple[str, float, str, str]], most: float = 0.0) -> Markup:
    """Horizontal bars: (label, value >= 0, text, class); a full bar is `most`, or else the largest value."""
    most = most or max((value for _, value, _, _ in rows), default=0) or 1.0
    parts = []
    for i, (label, value, text, kind) in enumerate(rows):
        y = 4 + i * 46
        width = max(1.0, value / most * (WIDTH - 4))
        parts.append(Markup('<text x="2" y="{}" class="strong">{}</text><text x="{}" y="{}" text-anchor="end">{}</text>'
                            '<rect x="2" y="{}" width="{}" height="14" rx="3" class="track"/>'
                            '<rect x="2" y="{}" width="{}" height="14" rx="3" class="{}"/>')
                     .format(y + 12, _cut(label, 26), WIDTH - 2, y + 12, text, y + 19, WIDTH - 4, y + 19, f"{width:.1f}", kind))
    return _svg(title, desc, 4 + len(rows) * 46, parts)


def chart(title: str, desc: str, x: Axis, y: Axis, marks: Sequence[Markup]) -> Markup:
    """A frame with both axes and the given marks in it."""
    parts = []
    for value, text in y.labels:
        at = _y(y, value)
        parts.append(Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="grid"/><text x="{}" y="{}" text-anchor="end">{}</text>').format(
            LEFT, WIDTH - RIGHT, f"{at:.1f}", f"{at:.1f}", LEFT - 6, f"{at + 4:.1f}", text))
    for i, (value, text) in enumerate(x.labels):
        anchor = "start" if i == 0 and len(x.labels) > 1 else "end" if i == len(x.labels) - 1 else "middle"
        parts.append(Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(f"{_x(x, value):.1f}", HEIGHT - BOTTOM + 16, anchor, text))
    parts.append(Markup('<text x="{}" y="{}" text-anchor="middle" class="title">{}</text>').format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x.title))
    return _svg(title, desc, HEIGHT, [*parts, *marks])


def path(x: Axis, y: Axis, points: Sequence[tuple[float, float]], kind: str = "line") -> Markup:
    """A line through points."""
    return Markup('<polyline points="{}" class="{}"/>').format(" ".join(f"{_x(x, a):.1f},{_y(y, b):.1f}" for a, b in points), kind)


def dot(x: Axis, y: Axis, a: float, b: float, hint: str, kind: str = "dot", r: float = 3.5) -> Markup:
    """A point with a hint for the mouse and for screen readers."""
    return Markup('<circle cx="{}" cy="{}" r="{}" class="{}"><title>{}</title></circle>').format(f"{_x(x, a):.1f}", f"{_y(y, b):.1f}", r, kind, hint)


def whisker(x: Axis, y: Axis, a: float, low: float, high: float) -> Markup:
    """A vertical interval."""
    return Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="whisker"/>').format(f"{_x(x, a):.1f}", f"{_y(y, low):.1f}", f"{_y(y, high):.1f}")


def _svg(title: str, desc: str, height: int, parts: Sequence[Markup]) -> Markup:
    frame = Markup('<svg viewBox="0 0 {} {}" role="img"><title>{}</title><desc>{}</desc>{}</svg>')
    return frame.format(WIDTH, height, title, desc, Markup("").join(parts))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
