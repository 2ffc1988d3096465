"""What is seen -> the HTML of the live page and of one trail. Pure but for reading its own files.

All that comes from requests, models and policies goes through autoescaping. The Content-Security-Policy allows the page's own style and
script, by their digests, and a stream from this server; nothing is fetched from anywhere else.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from markupsafe import Markup

from cascade import prompts
from cascade.gateway.rows import Row
from cascade.gateway.seen import Ladder, Seen
from cascade.outcome import Outcome
from cascade.report import html, text
from cascade.report.page import money_chart, tier_chart
from cascade.story import HEAD, one_line, rows
from cascade.types import Json, Policy, Tried

_HERE = Path(__file__).parent
_TEMPLATES = html.environment(_HERE)
STYLE = html.style() + Markup((_HERE / "page.css").read_text(encoding="utf-8"))  # our own files
SCRIPT = Markup((_HERE / "page.js").read_text(encoding="utf-8"))
HEADERS: Mapping[str, str] = {
    "content-security-policy": f"default-src 'none'; style-src {html.source(STYLE)}; script-src {html.source(SCRIPT)}; connect-src 'self'; "
                               "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store", "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
}  # fmt: skip
NEWEST = 20
"""Requests that the page lists."""
TEXT = 20_000
"""Characters of one text that a trail's page shows."""


@dataclass(frozen=True)
class Viewer:
    """Who looks: the name of a key, None where none is needed. `trails`: whether they are kept."""

    key: str | None
    trails: bool = True


def sections(seen: Seen, viewer: Viewer) -> dict[str, str]:
    """The parts of the page by their ids, each as HTML. They change one by one."""
    template = _TEMPLATES.get_template("sections.html.j2")
    mine = [row for row in seen.rows if row.key == viewer.key][:NEWEST]
    parts = {
        "numbers": {"tiles": _tiles(seen), "alarms": [(name, one_line(one.alarm, 600)) for name, one in seen.ladders.items() if one.alarm]},
        "ladders": {"ladders": [_ladder(name, one) for name, one in seen.ladders.items()], "trails": viewer.trails},
        "drift": {"drift": [(name, text.watched(one.lines)) for name, one in seen.ladders.items() if one.lines],
                  "unwatched": [name for name, one in seen.ladders.items() if not one.lines]},
        "latest": {"latest": [_told(row, seen.trails.get(row.n)) for row in mine], "viewer": viewer},
    }  # fmt: skip
    return {name: template.render(section=name, **values) for name, values in parts.items()}


def page(parts: Mapping[str, str], viewer: Viewer, start: str | None) -> str:
    """The whole page. `start`: a command that makes a first request, where there has been none."""
    return _TEMPLATES.get_template("live.html.j2").render(
        style=STYLE, script=SCRIPT, parts={name: Markup(part) for name, part in parts.items()}, viewer=viewer, start=start)


def trail(id: str, outcome: Outcome) -> str:
    """The page of one request."""
    said = [(f"{e.tier}: {e.model}" + (f" for {e.gate}" if e.gate else ", a repair" if e.repair else ""), _cut(e.text))
            for e in outcome.trail if isinstance(e, Tried)]
    facts = [("status", outcome.status), ("tier", outcome.tier or "none"), ("policy", outcome.policy), ("cost", text.money(outcome.cost_usd)),
             ("seconds", f"{outcome.seconds:.3f}"), ("from the cache", "yes" if outcome.cached else "no")]
    facts += [(name, one_line(value, 2_000)) for name, value in (("error", outcome.error), ("alarm", outcome.alarm)) if value]
    answer = outcome.output if isinstance(outcome.output, str) else None if outcome.output is None else _pretty(outcome.output)
    return _TEMPLATES.get_template("trail.html.j2").render(
        style=STYLE, id=id, facts=facts, story=[HEAD, *rows(outcome.trail)], said=said, answer=None if answer is None else _cut(answer))


def problem(title: str, message: str) -> str:
    """A page that says what is wrong."""
    return _TEMPLATES.get_template("problem.html.j2").render(style=STYLE, title=title, message=message)


def start(policy: Policy, url: str) -> str:
    """A command that asks this policy."""
    wanted = set() if policy.prompt is None else prompts.variables(policy.prompt) - {"inputs"}
    asked = "What is 2 and 2?" if policy.prompt is None else json.dumps(dict.fromkeys(sorted(wanted), "…"), ensure_ascii=False)
    body = json.dumps({"model": policy.name, "messages": [{"role": "user", "content": asked}]}, ensure_ascii=False)
    return f"curl {shlex.quote(f'{url}/v1/chat/completions')} -H 'content-type: application/json' -d {shlex.quote(body)}"


# ---------------------------------------------------------------- numbers


def _tiles(seen: Seen) -> list[tuple[str, str, str]]:
    requests = sum(one.requests for one in seen.sums)
    accepted = sum(one.requests for one in seen.sums if one.status == "accepted")
    unpriced, known = sum(one.unpriced for one in seen.sums), sum((one.cost_usd for one in seen.sums), Decimal(0))
    ever, cached = seen.rows[0].n if seen.rows else 0, sum(one.cached for one in seen.sums)
    waited = sorted(row.seconds for row in seen.rows)
    return [
        ("requests", f"{requests:,}", (f"the newest of {ever:,}; " if ever > requests else "") + f"{cached:,} from the cache, or shared"),
        ("accepted", text.percent(accepted / requests if requests else None), f"{accepted:,} answers"),
        ("spent", "unknown" if unpriced else text.money(known),
         f"{unpriced:,} requests have no price; the others {text.money(known)}" if unpriced else "all priced"),
        _saved(seen),
        ("latency, p50", _seconds(_percentile(waited, 0.5)), f"of the newest {len(waited):,}"),
        ("latency, p99", _seconds(_percentile(waited, 0.99)), f"slowest {_seconds(waited[-1] if waited else None)}"),
    ]


def _saved(seen: Seen) -> tuple[str, str, str]:
    asked = {name: one.numbers.saving for name, one in seen.ladders.items() if one.numbers.saving.requests}
    found, unknown = list(asked.values()), [name for name, saving in asked.items() if saving.saved is None]
    if unknown or not found:
        return "saved", "unknown", f"it is not known yet what the last tier of {unknown[0]} costs" if unknown else "nothing was asked yet"
    saved, premium = (sum((value or Decimal(0) for value in values), Decimal(0)) for values in ([s.saved for s in found], [s.premium for s in found]))
    how = "measured" if all(one.basis == "measured" for one in found) else "estimated"
    share = f"{text.percent(abs(float(saved / premium)), 0)} of " if premium else ""
    return ("saved" if saved >= 0 else "lost", text.money(abs(saved)),
            f"{share}always the last tier, {how}; newest {sum(one.requests for one in found):,}")


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank."""
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)] if ordered else None


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value * 1000:.0f}\u00a0ms" if value < 1 else f"{value:.2f}\u00a0s"


def _ladder(name: str, one: Ladder) -> dict[str, Json]:
    numbers = one.numbers
    saving = numbers.saving if numbers.saving.requests else numbers.would_saving
    asked = any(tier.asked for tier in numbers.summary.tiers)
    return {"name": name, "label": one.label, "requests": f"{numbers.summary.requests:,}", "tier_chart": tier_chart(numbers),
            "money_chart": money_chart(numbers), "basis": _sentence(text.basis(saving)),
            "tiers": text.tiers(numbers.summary) if asked else [], "gates": text.gates(numbers)}


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:] + ("" if said.endswith(".") else ".")


def _told(row: Row, outcome: Outcome | None) -> dict[str, Json]:
    at = datetime.fromtimestamp(row.at, UTC)
    served = f" at {row.tier}" if row.tier else ""
    return {"id": row.id, "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"), "clock": at.strftime("%H:%M:%S"), "policy": row.policy, "status": row.status,
            "served": f"{row.status}{served}" + (" from the cache" if row.cached else ""), "cost": text.money(row.cost_usd),
            "seconds": _seconds(row.seconds), "error": row.error, "story": None if outcome is None else [HEAD, *rows(outcome.trail)]}


def _pretty(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _cut(said: str) -> str:
    clean = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in said[:TEXT])
    return clean if len(said) <= TEXT else f"{clean}\n… {len(said) - TEXT:,} characters more"
