"""One request's trail as text: what was asked, what was found, what it cost. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from cascade.types import Checked, Compared, Event, Failed, Skipped, Status, Tried

HEAD = ("tier", "what", "result", "dollars", "seconds", "why")


def story(status: Status, tier: str | None, cost: Decimal | None, seconds: float, trail: Sequence[Event], error: str | None) -> str:
    """The trail as an aligned table, then one line that says how it ended."""
    table = [HEAD, *rows(trail)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD) - 1)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in table]
    served = f" at {tier}" if tier else ""
    lines.append(f"{status}{served}: {dollars(cost)}, {seconds:.2f} s" + (f" ({error})" if error else ""))
    return "\n".join(lines)


def rows(trail: Sequence[Event]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """One row an event, in the columns of HEAD."""
    for event in trail:
        if isinstance(event, Skipped):
            yield event.tier, "skipped", "", "", "", event.reason
        elif isinstance(event, Compared):
            differs = f"differs in {', '.join(at or 'the answer' for at in event.fields)}" if event.fields else ""
            yield event.tier, f"  with {event.against}", "same" if event.same else "different", "", "", one_line(differs)
        elif isinstance(event, Checked):
            result = "passed" if event.passed else "could not tell" if event.score is None else "failed"
            score = "" if event.score is None else f" {event.score:.2f}/{event.threshold:g}"
            yield event.tier, f"  {event.gate}", result + score, "", f"{event.seconds:.3f}", one_line(event.reason or "")
        else:
            yield _asked(event)


def _asked(event: Tried | Failed) -> tuple[str, str, str, str, str, str]:
    what = f"  {event.gate}: {event.model}" if event.gate else f"repair {event.repair}: {event.model}" if event.repair else event.model
    why = f"after {len(event.retries)} retries" if event.retries else ""
    if isinstance(event, Failed):
        return event.tier, what, event.error, dollars(event.cost_usd), f"{event.seconds:.3f}", one_line(event.reason)
    result = {"stop": "answered", "tool_calls": "calls tools", "length": "cut off", "refusal": "refused", "filter": "filtered"}[event.finish]
    if event.part:
        why = one_line(f"only {', '.join(event.part)}{f'; {why}' if why else ''}")
    return event.tier, what, "cached" if event.cached else result, dollars(event.cost_usd), f"{event.seconds:.3f}", why


def dollars(cost: Decimal | None) -> str:
    """Dollars with six decimals, or "unknown"."""
    return "unknown" if cost is None else f"${cost:.6f}"


def one_line(text: str, most: int = 160) -> str:
    """Text for one line of a terminal: no control characters, cut with an ellipsis."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if len(clean) <= most else clean[: most - 1] + "…"
