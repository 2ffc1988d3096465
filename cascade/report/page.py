"""Numbers, advice and a curve -> one HTML page that needs nothing else: no network, no script. Pure but for reading its own two files.

Everything that comes from rows goes through autoescaping or through `svg`, which escapes too. The Content-Security-Policy allows only
the page's own style, by its digest.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from cascade.report import html, svg, text
from cascade.report.advice import Advice
from cascade.report.numbers import Numbers
from cascade.report.source import Curve
from cascade.report.spread import wilson
from cascade.report.svg import Axis
from cascade.story import one_line

_PERCENT = ((0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %"))
STORY = 8000
"""Characters of a story that the page shows."""


def page(numbers: Numbers, advice: Sequence[Advice], curve: Curve | None = None) -> str:
    """The page as HTML text."""
    template = html.environment().get_template("page.html.j2")
    saving, would = numbers.saving, numbers.would_saving
    said = (f"{text.basis(would)} The ladder would have cost {text.money(would.spent)}, always the last tier {text.money(would.premium)}: "
            f"{text.money(would.saved)} saved ({text.percent(would.share)}).") if numbers.explored else ""
    return template.render(
        style=html.style(), style_source=Markup(html.source(html.style())),
        policies=one_line(", ".join(numbers.policies[:3]) + (" …" if len(numbers.policies) > 3 else "")), headline=text.headline(numbers),
        unpriced=one_line(", ".join(numbers.summary.unpriced), 600), alarms=[(one_line(n), f"{c:,}") for n, c in numbers.alarms.most_common(3)],
        tiles=_tiles(numbers), advice=[{"sentence": a.sentence, "worth": a.dollars and text.money(a.dollars)} for a in advice],
        money_chart=money_chart(numbers), basis=text.basis(saving if saving.requests else would),
        tiers=text.tiers(numbers.summary) if saving.requests else [], tier_chart=tier_chart(numbers),
        would=text.tiers(numbers.would) if numbers.explored else [], would_said=said, gates=text.gates(numbers),
        sameness=text.sameness(numbers), right=text.right(numbers), charts=_charts(numbers, curve), facts=text.facts(numbers)[1:],
        told=[(title, story if len(story) <= STORY else story[:STORY] + "\n…") for title, story in text.told(numbers)])


def _tiles(numbers: Numbers) -> list[tuple[str, str, str]]:
    summary, saving = numbers.summary, numbers.saving if numbers.saving.requests else numbers.would_saving
    same, n = sum(t.same for t in numbers.sameness), sum(t.n for t in numbers.sameness)
    word = "saved" if numbers.saving.requests else "would have saved"
    if saving.saved is not None and saving.saved < 0:
        word = "lost" if numbers.saving.requests else "would have lost"
    saved = abs(saving.saved) if saving.saved is not None else None
    verified = numbers.verification
    return [
        ("spent", text.money(summary.dollars), f"{summary.requests:,} requests"),
        (word, text.money(saved), f"{text.percent(abs(saving.share))} of always {saving.premium_tier} · "
                                  f"{saving.basis}" if saving.share is not None else "see below"),
        ("same as the last tier", text.percent(same / n) if n else "unknown", f"95 %: {text.interval(*wilson(same, n))}, n = "
                                                                              f"{n:,}" if n else "no audits or shadows"),
        ("verification", text.percent(float(verified / summary.dollars)) if verified is not None and summary.dollars else text.money(verified),
         f"of spend: {text.money(verified)}"),
    ]


def money_chart(numbers: Numbers) -> Markup | None:
    """Spent, beside what the last tier alone would have cost; None when one of them is not known."""
    saving = numbers.saving if numbers.saving.requests else numbers.would_saving
    if saving.spent is None or saving.premium is None:
        return None
    rows = [("the ladder", float(saving.spent), text.money(saving.spent), "blue"),
            (f"always {saving.premium_tier}", float(saving.premium), f"{text.money(saving.premium)} ({saving.basis})", "grey")]
    return svg.bars("Spent, against always asking the last tier", "; ".join(f"{label}: {said}" for label, _, said, _ in rows), rows)


def tier_chart(numbers: Numbers) -> Markup | None:
    """Accepted answers by tier; None when no tier was asked."""
    rows = [(t.name, float(t.accepted), f"{t.accepted:,} of {t.asked:,} accepted", "blue") for t in numbers.summary.tiers[:12] if t.asked]
    return svg.bars("Accepted answers by tier", "; ".join(f"{label}: {said}" for label, _, said, _ in rows), rows,
                    max(t.asked for t in numbers.summary.tiers)) if rows else None


def _charts(numbers: Numbers, curve: Curve | None) -> list[tuple[str, Markup, str]]:
    found = []
    if curve:
        found.append(("Cost and quality", _curve(curve), f"Each point is a policy of the calibration; quality is {curve.what}. The large "
                                                         f"point is the one in force."))
    if len(numbers.over_time) > 2:
        found.append(("Accepted at the first tier, over time", _time(numbers),
                      "In the order of the rows (they carry no times)." + (" First and last third differ by more than "
                                                                           "chance." if numbers.drift and numbers.drift.real else "")))
    if numbers.reliability:
        found.append(("Reliability", _reliability(numbers), "Predicted P(right) against what came true, with 95 % intervals; counts: "
                      + ", ".join(f"{b.n:,}" for b in numbers.reliability) + "."))
    return found


def _curve(curve: Curve) -> Markup:
    costs, qualities = [s.cost for s in curve.steps], [s.quality for s in curve.steps]
    low = max(0.0, min(qualities) - 0.02)
    high = min(1.0, max(qualities) + 0.02)
    x = Axis(0.0, max(costs) * 1.05 or 1.0, ((0.0, "$0"), (max(costs), text.money(max(costs)))), "dollars a request")
    y = Axis(low, high, tuple((v, text.percent(v)) for v in (low, (low + high) / 2, high)), curve.what)
    marks = [svg.path(x, y, sorted(zip(costs, qualities, strict=True)))]
    marks += [svg.dot(x, y, s.cost, s.quality, f"{s.point}: {text.money(s.cost)}, "
                                               f"{text.percent(s.quality)}", "chosen" if s.chosen else "dot", 7 if s.chosen else 3)
              for s in sorted(curve.steps, key=lambda step: step.chosen)]
    return svg.chart("Cost and quality", f"{len(curve.steps)} policies from {text.money(min(costs))} to {text.money(max(costs))} a "
                                         f"request", x, y, marks)


def _time(numbers: Numbers) -> Markup:
    n = sum(b[1] for b in numbers.over_time)
    x = Axis(0, n, ((0, "first row"), (n, f"row {n:,}")), "requests in the order of the rows")
    y = Axis(0.0, 1.0, _PERCENT, "accepted")
    points, at = [], 0
    for hits, count in numbers.over_time:
        points.append((at + count / 2, hits / count))
        at += count
    return svg.chart("Accepted at the first tier over time", f"{len(points)} points from {text.percent(points[0][1])} to "
                                                             f"{text.percent(points[-1][1])}", x, y,
                     [svg.path(x, y, points)])


def _reliability(numbers: Numbers) -> Markup:
    x, y = Axis(0.0, 1.0, _PERCENT, "predicted"), Axis(0.0, 1.0, _PERCENT, "right")
    marks = [svg.path(x, y, [(0, 0), (1, 1)], "ideal")]
    for b in numbers.reliability:
        marks += [svg.whisker(x, y, b.predicted, *wilson(b.right, b.n)),
                  svg.dot(x, y, b.predicted, b.right / b.n, f"predicted {text.percent(b.predicted)}, right {b.right:,} of {b.n:,}")]
    return svg.chart("Reliability", f"{len(numbers.reliability)} bins; on the dashed line predictions come true", x, y, marks)
