"""Scores as words: a table for a terminal, markdown for a pull request, and JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from cascade.replay.conditions import measured
from cascade.replay.files import Result
from cascade.replay.score import Difference, Interval, Paired, Row, Scored, Share
from cascade.report.text import Table, aligned, interval, money, percent
from cascade.story import one_line
from cascade.types import Json

UNKNOWN = "–"
Quote = Callable[[str], str]
"""How foreign text (names, ids) is put down."""


def plain_text(text: str) -> str:
    """Foreign text on a terminal: one line, no control characters."""
    return one_line(text)


def plain(result: Result, held: Sequence[str] = ()) -> str:
    """For a terminal."""
    parts = [headline(result), "", aligned(facts(result)), "", aligned(tiers(result))]
    parts += ["", *remarks(result)] if remarks(result) else []
    if result.paired and result.paired.shown:
        parts += ["", differing(result.paired), aligned(differences(result.paired.shown))]
    parts += ["", *(f"FAILED {line}" for line in held)] if held else []
    return "\n".join(parts)


def markdown(result: Result, held: Sequence[str] = ()) -> str:
    """For a pull-request comment: a heading sentence, a small table, what differs folded away."""
    parts = [f"### cascade replay: {code(result.scored.policy)}", "", headline(result, code)]
    parts += ["", *(f"**Failed:** {code(line)}" for line in held)] if held else []
    parts += ["", *_grid(facts(result, code))]
    parts += ["", *(f"- {line}" for line in remarks(result, code))] if remarks(result) else []
    parts += ["", "<details><summary>Tiers and gates</summary>", "", *_grid(tiers(result, code)), "", "</details>"]
    if result.paired and result.paired.shown:
        parts += ["", f"<details><summary>{differing(result.paired)}</summary>", "", *_grid(differences(result.paired.shown, code)), "", "</details>"]
    return "\n".join(parts)


def code(text: str) -> str:
    """Foreign text in markdown: a code span that neither ends early nor splits a table, and in which nobody is mentioned."""
    return "`" + one_line(text).replace("`", "'").replace("|", "\\|") + "`"


def headline(result: Result, quote: Quote = plain_text) -> str:
    """One sentence: how right, how dear, what is saved; and the difference to the other policy."""
    scored = result.scored
    said = f"{scored.rows:,} recordings: {_quality(scored, quote)}, {money(scored.cost_per_request)} a request{_saved(scored, quote)}."
    if result.paired is None:
        return said
    return f"{said} Against {quote(result.paired.other)}: {_difference(result.paired, result.other)}."


def _quality(scored: Scored, quote: Quote) -> str:
    if scored.accuracy.n:
        return f"right on {_share(scored.accuracy)}"
    return f"the same answer as {quote(scored.reference)} on {_share(scored.same)}"


def _saved(scored: Scored, quote: Quote) -> str:
    if scored.saving is None:
        return ""
    return f", {percent(abs(scored.saving))} {'less' if scored.saving >= 0 else 'more'} than always {quote(scored.reference)}"


def _difference(paired: Paired, other: Scored | None) -> str:
    right = "accuracy unknown without gold" if paired.accuracy is None else f"accuracy {_points(paired.accuracy, paired.accuracy_interval)}"
    return f"{right}, cost {_dearer(paired, other)}"


def _dearer(paired: Paired, other: Scored | None) -> str:
    if paired.cost is None:
        return "unknown"
    per = other.cost_per_request if other else None
    return f"{signed(paired.cost)}{f' ({100 * float(paired.cost / per):+.1f} %)'.replace('-', '−') if per else ''} a request"


def facts(result: Result, quote: Quote = plain_text) -> Table:
    """What is measured; two more columns with another policy."""
    scored, other, paired = result.scored, result.other, result.paired
    both = [scored] if other is None else [scored, other]
    rows: list[tuple[str, ...]] = [("", *(quote(one.policy) for one in both))]
    rows.append(("right by gold", *(_share(one.accuracy) if one.accuracy.n else UNKNOWN for one in both)))
    rows.append((f"same as {quote(scored.reference)}", *(_share(one.same) if one.same.n else UNKNOWN for one in both)))
    rows.append(("dollars a request", *(money(one.cost_per_request) for one in both)))
    rows.append(("dollars in all", *(money(one.cost) for one in both)))
    rows.append((f"saved against always {quote(scored.reference)} ({money(scored.baseline)})", *(percent(one.saving) for one in both)))
    rows.append(("escalated", *(f"{one.escalated:,} ({percent(one.escalated / one.rows)})" for one in both)))
    for status in dict.fromkeys(name for one in both for name in one.statuses):
        rows.append((status, *(f"{one.statuses.get(status, 0):,} ({percent(one.status(status))})" for one in both)))
    rows.append(("calls a request", *(f"{one.calls / one.rows:.2f}" for one in both)))
    if paired is None:
        return list(rows)
    found: Table = [(*rows[0], "difference, 95 %")]
    for row in rows[1:]:
        found.append((*row, _delta(row[0], result)))
    return found


def _delta(what: str, result: Result) -> str:
    paired = result.paired
    if paired is not None and what == "right by gold" and paired.accuracy is not None:
        return f"{_points(paired.accuracy, paired.accuracy_interval)}: {paired.wins:,} better, {paired.losses:,} worse"
    if paired is not None and what == "dollars a request" and paired.cost is not None:
        low = f" ({signed(paired.cost_interval[0])} to {signed(paired.cost_interval[1])})" if paired.cost_interval else ""
        return f"{signed(paired.cost)}{low}"
    return ""


def tiers(result: Result, quote: Quote = plain_text) -> Table:
    """Of each policy's tiers: asked, served, and which gates failed how many."""
    rows: Table = [("policy", "tier", "asked", "served", "answers failed by gate")]
    for one in [result.scored] if result.other is None else [result.scored, result.other]:
        for tier, asked in one.asked.items():
            gates = ", ".join(f"{quote(gate)} {n:,} of {one.checked[tier][gate]:,}" for gate, n in one.failed[tier].items())
            rows.append((quote(one.policy), quote(tier), f"{asked:,}", f"{one.served[tier]:,}", gates))
    return rows


def remarks(result: Result, quote: Quote = plain_text) -> list[str]:
    """What a reader should know before trusting the numbers, one line each."""
    scored = result.scored
    found = []
    if scored.accuracy.n < scored.rows:
        without = scored.rows - scored.accuracy.n
        found.append(f"{without:,} of {scored.rows:,} rows have no gold: they count in cost, not in accuracy" if scored.accuracy.n else
                     "no row has gold, so accuracy is unknown: give it to cascade record")
    if scored.same.n < scored.rows:
        found.append(f"{scored.rows - scored.same.n:,} rows have no answer of {quote(scored.reference)} that can be read: they are not in \"same\"")
    for one in [scored] if result.other is None else [scored, result.other]:
        if one.unpriced:
            found.append(f"{quote(one.policy)}: {one.unpriced:,} rows have a call without a price, so its cost is unknown")
        found += [f"{quote(one.policy)}: {line}" for line in one.notes]
    if result.passed_over:
        found.append(f"{result.passed_over:,} rows are no recordings and were passed over")
    return found


def differing(paired: Paired) -> str:
    """How many rows differ, and how many are shown."""
    shown = f", {len(paired.shown):,} of them here" if len(paired.shown) < paired.differing else ""
    return f"{paired.differing:,} rows end otherwise{shown}"


def differences(shown: Sequence[Difference], quote: Quote = plain_text) -> Table:
    """One line a row: how it ends here and there."""
    rows: Table = [("row", "this policy", "the other", "right")]
    for one in shown:
        rows.append((quote(one.id), _end(one.this, quote), _end(one.other, quote), _change(one)))
    return rows


def _end(row: Row, quote: Quote) -> str:
    return f"{row.seen.status}{f' at {quote(row.seen.tier)}' if row.seen.tier else ''}, {money(row.seen.cost)}"


def _change(one: Difference) -> str:
    names = {True: "right", False: "wrong", None: "?"}
    here, there = names[one.this.right], names[one.other.right]
    return here if here == there else f"{here}, was {there}"


def _share(share: Share) -> str:
    return f"{percent(share.value)} ({interval(*share.interval)}) of {share.n:,}" if share.interval else UNKNOWN


def _points(value: float, low_high: Interval | None) -> str:
    text = f"{100 * value:+.1f} points" + (f" ({100 * low_high[0]:+.1f} to {100 * low_high[1]:+.1f})" if low_high else "")
    return text.replace("-", "−")


def signed(dollars: Decimal | float) -> str:
    """Dollars with a sign."""
    return money(dollars) if dollars <= 0 else f"+{money(dollars)}"


def _grid(table: Table) -> Iterator[str]:
    head, *rows = table
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


# ---------------------------------------------------------------- JSON


def as_json(result: Result, held: Sequence[str] = ()) -> Json:
    """Everything, for programs; dollars are exact decimals, `values` are what --fail-if may name, null where not known."""
    found: dict[str, Json] = {"headline": headline(result), **_scored(result.scored), "values": measured(result.scored, result.paired),
                              "passed_over": result.passed_over, "remarks": remarks(result), "fail_if": list(held)}
    if result.other is not None and result.paired is not None:
        paired = result.paired
        found["against"] = _scored(result.other)
        found["paired"] = {
            "graded": paired.graded, "better": paired.wins, "worse": paired.losses, "accuracy": paired.accuracy,
            "accuracy_interval": paired.accuracy_interval, "cost_per_request": paired.cost, "cost_interval": paired.cost_interval,
            "differing": paired.differing, "rows": [one.id for one in paired.shown]}  # fmt: skip
    return found


def _scored(scored: Scored) -> dict[str, Json]:
    return {
        "policy": scored.policy, "rows": scored.rows, "accuracy": _of(scored.accuracy), "same": {**_of(scored.same), "as": scored.reference},
        "cost_usd": scored.cost, "cost_per_request": scored.cost_per_request, "baseline_usd": scored.baseline, "saving": scored.saving,
        "unpriced_rows": scored.unpriced, "calls": scored.calls, "escalated": scored.escalated, "statuses": scored.statuses,
        "tiers": [{"tier": name, "asked": n, "served": scored.served[name], "checked": scored.checked[name], "failed": scored.failed[name]}
                  for name, n in scored.asked.items()]}  # fmt: skip


def _of(share: Share) -> dict[str, Json]:
    return {"value": share.value, "interval": share.interval, "hits": share.hits, "n": share.n}


def difference_row(one: Difference) -> dict[str, Json]:
    """One line of --diff."""
    return {"id": one.id, "this": _end_row(one.this), "other": _end_row(one.other)}


def _end_row(row: Row) -> dict[str, Json]:
    seen = row.seen
    return {"status": seen.status, "tier": seen.tier, "right": row.right, "same": row.same, "cost_usd": seen.cost, "calls": seen.calls,
            "text": seen.text}  # fmt: skip
