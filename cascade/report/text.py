"""Numbers and advice as sentences and as plain text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from cascade.monitor.live import Line
from cascade.report.advice import Advice, pays_from
from cascade.report.numbers import Numbers, Saving
from cascade.report.spread import wilson
from cascade.story import one_line
from cascade.summary import Summary

Table = list[tuple[str, ...]]
"""A head and rows of cells."""


def money(dollars: Decimal | float | None) -> str:
    """Dollars for people: cents from a dollar up, three significant digits below, "unknown" for None."""
    if dollars is None:
        return "unknown"
    value = float(dollars)
    sign, size = ("−" if value < 0 else ""), abs(value)
    if size == 0:
        return "$0"
    if size >= 1:
        return f"{sign}${size:,.2f}"
    if size < 1e-9:
        return f"{sign}${size:.1e}"
    digits = max(2, 2 - int(f"{size:e}".split("e")[1]))
    return f"{sign}${size:.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return "unknown" if share is None else f"{share * 100:.{digits}f}\u00a0%".replace("-", "−")


def interval(low: float, high: float) -> str:
    """An interval of shares."""
    return f"{low * 100:.1f} to {high * 100:.1f}\u00a0%".replace("-", "−") if low < 0 else f"{low * 100:.1f}–{high * 100:.1f}\u00a0%"


def headline(numbers: Numbers) -> str:
    """One sentence: spent, saved (measured or estimated), quality."""
    summary, saving = numbers.summary, numbers.saving
    if not saving.requests and numbers.would_saving.requests:
        said = _saved(numbers.would_saving, "the ladder would have saved")
        return f"{summary.requests:,} recorded requests cost {money(summary.dollars)}; {said}; {quality(numbers)}."
    said = _saved(saving, "saved") if saving.requests else "nothing went up the ladder"
    beside = f" ({money(summary.beside)} of it for audits and shadows)" if summary.beside else ""
    return f"{summary.requests:,} requests cost {money(summary.dollars)}{beside}; {said}; {quality(numbers)}."


def _saved(saving: Saving, word: str) -> str:
    if saving.saved is None:
        return f"what was saved is unknown ({saving.why or 'some calls have no price'})"
    what = f"{money(abs(saving.saved))} ({percent(abs(saving.share or 0), 0)})"
    if saving.saved < 0:
        word = {"saved": "the ladder cost more by", "the ladder would have saved": "the ladder would have cost more by"}[word]
    sampled = f" on {saving.sample:,} of them" if saving.basis == "measured" and saving.sample < saving.requests else ""
    if saving.basis == "estimated":
        sampled = f" from {saving.sample:,} that climbed to it"
    return f"{word} {what} against always asking {saving.premium_tier}, {saving.basis}{sampled}"


def quality(numbers: Numbers) -> str:
    """What is known of quality, in half a sentence."""
    same, n = sum(t.same for t in numbers.sameness), sum(t.n for t in numbers.sameness)
    if not n:
        return "quality is unknown (no audits, no shadows)"
    return f"{percent(same / n)} of {n:,} accepted answers held against the last tier's are the same (95 %: {interval(*wilson(same, n))})"


def basis(saving: Saving) -> str:
    """How the saving is known."""
    if saving.basis == "unknown":
        return saving.why or "unknown"
    if saving.basis == "estimated":
        return (f"Estimated from what {saving.premium_tier} cost on the {saving.sample:,} requests that climbed to it; those may be dearer "
                f"than the rest. "
                "audit: or shadow: in the policy measures it.")
    if saving.sample >= saving.requests:
        return f"Measured: {saving.premium_tier} was asked on every one of the {saving.requests:,} requests."
    return f"Measured on {saving.sample:,} requests on which {saving.premium_tier} was asked beside (audits and shadows), carried over to the others."


def tiers(summary: Summary) -> Table:
    """Per tier: asked, accepted, converted, why not, dollars, seconds a request."""
    rows: Table = [("tier", "model", "asked", "accepted", "converted", "pays from", "dollars", "s/request", "not accepted because")]
    for tier in summary.tiers:
        why = ", ".join(f"{name} {count:,}" for name, count in tier.why.most_common(8)) + (" …" if len(tier.why) > 8 else "")
        need = pays_from(tier.accepted, tier.asked)
        repaired = f" ({tier.repaired:,} repaired)" if tier.repaired else ""
        last = tier is summary.tiers[-1]
        converted, pace = (percent(tier.accepted / tier.asked), f"{tier.seconds / tier.asked:.2f}") if tier.asked else ("–", "–")
        pays = "–" if last else f"{need:.1f}×" if need else "never"
        rows.append((tier.name, tier.model, f"{tier.asked:,}", f"{tier.accepted:,}{repaired}", converted, pays, money(tier.dollars), pace, why))
    return rows


def gates(numbers: Numbers) -> Table:
    """Per gate: checked, passed, stopped, of those known wrong and right, calls, dollars, share of spend."""
    rows: Table = [("tier", "gate", "checked", "stopped", "could not tell", "known wrong", "known right", "calls", "dollars", "of spend")]
    spent = numbers.summary.dollars
    for gate in numbers.gates:
        share = percent(float(gate.dollars / spent)) if gate.dollars is not None and spent else "–"
        wrong, good = (f"{gate.wrong:,}", f"{gate.right:,}") if gate.wrong + gate.right else ("–", "–")
        rows.append((gate.tier, gate.gate, f"{gate.checked:,}", f"{gate.stopped:,}", f"{gate.unsure:,}", wrong, good, f"{gate.calls:,}",
                     money(gate.dollars), share))
    return rows


def sameness(numbers: Numbers) -> Table:
    """Accepted answers held against the last tier's."""
    rows: Table = [("tier", "compared", "same", "different", "same, 95 %")]
    rows += [(t.tier, f"{t.n:,}", f"{t.same:,}", f"{t.n - t.same:,}", f"{percent(t.same / t.n)} ({interval(*t.interval)})") for t in numbers.sameness]
    return rows


def right(numbers: Numbers) -> Table:
    """Answers that are right by gold."""
    return [("tier", "graded", "right", "right, 95 %"),
            *((name, f"{n:,}", f"{hits:,}", f"{percent(hits / n)} ({interval(*wilson(hits, n))})") for name, (hits, n) in numbers.right.items())]


def facts(numbers: Numbers) -> Table:
    """What is worth a line each."""
    summary, saving = numbers.summary, numbers.saving
    statuses = ", ".join(f"{name} {count:,}" for name, count in summary.statuses.most_common())
    rows: Table = [("what", "value"), ("policies", one_line(", ".join(numbers.policies[:5]) + (" …" if len(numbers.policies) > 5 else ""))),
                   ("requests", f"{summary.requests:,} ({statuses})")]
    if summary.cached:
        rows.append(("from the cache", f"{summary.cached:,} ({percent(summary.cached / summary.requests)})"))
    rows.append(("spent", money(summary.dollars)))
    if numbers.audited or numbers.explored:
        rows.append(("of that beside the ladder", f"{money(summary.beside)} ({numbers.audited:,} audits, {numbers.explored:,} shadows and "
                                                  f"recordings)"))
    if saving.requests:
        rows += [("always the last tier", money(saving.premium)), ("saved", f"{money(saving.saved)} ({percent(saving.share)}) · {saving.basis}")]
    rows.append(("verification cost", f"{money(numbers.verification)}" + (
        f" ({percent(float(numbers.verification / summary.dollars))} of spend)" if numbers.verification is not None and summary.dollars else "")))
    if saving.requests:
        rows.append(("cost per accepted answer", money(numbers.per_accepted)))
    rows += [("cost per request", " · ".join(f"{k} {money(v)}" for k, v in numbers.cost_percentiles.items())),
             ("latency", " · ".join(f"{k} {'unknown' if v is None else f'{v:.2f} s'}" for k, v in numbers.latency_percentiles.items()))]
    rows += [(f"repairs at {tier}", f"{tried:,} requests repaired, {helped:,} accepted after "
                                    f"it") for tier, (tried, helped) in numbers.repairs.items()]
    if numbers.drift:
        (a, n), (b, m) = numbers.drift.first, numbers.drift.last
        rows.append(("accepted at the first tier", f"first third {percent(a / n)}, last third {percent(b / m)}, difference {percent(b / m - a / n)} "
                     f"(95 %: {interval(numbers.drift.low, numbers.drift.high)}), in the order of the rows"))
    rows += [(f"alarm in {count:,} rows", one_line(name)) for name, count in numbers.alarms.most_common(3)]
    return rows


def watched(lines: Sequence[Line]) -> Table:
    """What a monitor counted, against what calibration saw."""
    rows: Table = [("step", "of the requests", "counted", "mean", "calibrated", "expected", "e-value", "alarm at")]
    for line in lines:
        mean = "–" if line.mean is None else f"{line.mean:.3f}"
        rows.append((str(line.step), line.name, f"{line.n:,}", mean, f"{line.calibrated:.3f}", f"{line.low:.3f}–{line.high:.3f}",
                     f"{line.evidence:.2g}", f"{line.alarm_at:.0f}" + (" ALARM" if line.alarm else "")))
    return rows


def told(numbers: Numbers) -> list[tuple[str, str]]:
    """(title, story) of the slowest and the dearest requests, each request once."""
    found: dict[str, str] = {}
    for what, requests in (("slowest", numbers.slowest), ("dearest", numbers.dearest)):
        for r in requests:
            clean = "\n".join("".join(c if c.isprintable() else " " for c in line) for line in r.story.splitlines())
            found[f"{what}: {one_line(r.id, 60)} · {r.status} · {money(r.cost_usd)} · {r.seconds:.2f} s"] = clean
    return list(found.items())


def plain(numbers: Numbers, advice: Sequence[Advice], stories: bool = True) -> str:
    """The whole report as text."""
    parts = [headline(numbers), ""]
    if numbers.summary.unpriced:
        parts += [f"UNPRICED: {', '.join(numbers.summary.unpriced)}: what was spent is not known", ""]
    parts += [aligned(facts(numbers)[1:])]
    if numbers.saving.requests:
        parts += ["", basis(numbers.saving), "", aligned(tiers(numbers.summary))]
    if numbers.explored:
        parts += ["", f"What the ladder would have done on the {numbers.explored:,} requests with every tier asked. {basis(numbers.would_saving)}",
                  f"ladder {money(numbers.would_saving.spent)}, always the last tier {money(numbers.would_saving.premium)}, saved "
                  f"{money(numbers.would_saving.saved)} "
                  f"({percent(numbers.would_saving.share)})", aligned(tiers(numbers.would))]
    parts += [f"\n{aligned(table)}" for table in (gates(numbers), sameness(numbers), right(numbers)) if len(table) > 1]
    parts += ["", "Advice" if advice else "No advice: nothing stands out in these rows, or there are too few of them."]
    parts += [f"- {one_line(item.sentence, 1000)}" for item in advice]
    if stories and numbers.slowest:
        title, story = told(numbers)[0]
        parts += ["", title, story]
    return "\n".join(parts)


def aligned(table: Table) -> str:
    """Cells in columns: numbers to the right; the last column is free."""
    clean = [[one_line(cell, 300) for cell in row] for row in table]
    widths = [max(len(row[i]) for row in clean) for i in range(len(clean[0]))]
    right = [all(row[i][:1] in "$−–0123456789" for row in clean[1:]) and len(clean) > 1 and len(clean[0]) > 2 for i in range(len(clean[0]))]
    return "\n".join("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip() for row in clean)
