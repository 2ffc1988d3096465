"""`cascade report`: outcomes to numbers, advice with its evidence, text, JSON and a page that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cascade import records
from cascade.cli.app import app
from cascade.errors import InputError
from cascade.outcome import Outcome
from cascade.report import source
from cascade.report.advice import advise, pays_from
from cascade.report.numbers import Cost, Counting, climbed, hung_on_last
from cascade.report.page import page
from cascade.report.spread import OverTime, Reliability, Spread, difference, wilson
from cascade.report.text import headline, money, plain
from cascade.summary import summarise
from cascade.types import Checked, Compared, Event, Gate, Tried

EVIL = '</svg></script><script>alert(1)</script>"\'&'


def tried(tier: str, cost: str | None, gate: str | None = None, **more: Any) -> Tried:
    return Tried(tier, f"m/{tier}", '{"a": 1}', cost_usd=None if cost is None else Decimal(cost), seconds=0.5, gate=gate, **more)


def checked(tier: str, gate: str, passed: bool, score: float | None = None, threshold: float = 0.5, reason: str | None = None) -> Checked:
    return Checked(tier, gate, (1.0 if passed else 0.0) if score is None else score, threshold, passed, reason)


def row(*trail: Event, tier: str | None = "small", status: Any = "accepted", mode: Any = None, id: str = "x", **more: Any) -> Outcome:
    costs = [getattr(e, "cost_usd", Decimal(0)) for e in trail]
    cost = None if None in costs else sum(costs, Decimal(0))
    return Outcome("p@1", status, {"a": 1}, tier, cost, seconds=1.0, trail=trail, id=id, mode=mode, **more)


SMALL = (tried("small", "0.001"), checked("small", "schema", True))
FAILS = (tried("small", "0.001"), checked("small", "schema", False))
BIG = (tried("big", "0.010"),)
ACCEPTED, ESCALATED = row(*SMALL), row(*FAILS, *BIG, tier="big")
AUDIT = row(*SMALL, tried("small", "0.008", gate="audit"), Compared("small", "big", True), mode="audit")
SHADOW = row(*SMALL, *BIG, Compared("small", "big", False, ("/a",)), tier="big", mode="shadow")


def count(*outcomes: Outcome) -> Counting:
    counting = Counting()
    for outcome in outcomes:
        counting.add(outcome)
    return counting


# ---------------------------------------------------------------- numbers


def test_audits_and_shadows_are_paid_but_are_not_the_ladders() -> None:
    summary = summarise([ACCEPTED, ESCALATED, AUDIT, SHADOW])
    assert [(t.name, t.asked, t.accepted, t.calls, t.dollars) for t in summary.tiers] == [("small", 3, 2, 3, Decimal("0.003")), ("big", 1, 1, 1, Decimal("0.010"))]
    assert (summary.requests, summary.escalated, summary.dollars, summary.beside, summary.calls) == (4, 1, Decimal("0.032"), Decimal("0.019"), 7)


@pytest.mark.parametrize(
    ("outcomes", "spent", "premium", "basis", "sample"),
    [
        ([ACCEPTED] * 3, "0.003", None, "unknown", 0),
        ([ACCEPTED] * 3 + [ESCALATED], "0.014", "0.04", "estimated", 1),
        ([ACCEPTED] * 3 + [ESCALATED] + [AUDIT] * 30, "0.044", "0.274", "measured", 30),
        ([ESCALATED, row(*SMALL, tried("small", None, gate="judge"))], None, "0.02", "estimated", 1),
        ([SHADOW], "0", None, "unknown", 0),
    ],
    ids=["one tier only", "from those that climbed", "from audits", "a price missing", "nothing climbed"],
)
def test_what_was_saved_says_how_it_is_known_and_is_never_0_for_unknown(outcomes: list[Outcome], spent: str | None, premium: str | None, basis: str, sample: int) -> None:
    saving = count(*outcomes).numbers().saving
    assert (saving.spent, saving.premium, saving.basis, saving.sample) == (spent and Decimal(spent), premium and Decimal(premium), basis, sample)
    assert saving.saved == (None if spent is None or premium is None else Decimal(premium) - Decimal(spent))


def test_shadows_measure_what_the_ladder_would_have_saved() -> None:
    numbers = count(*[SHADOW] * 2).numbers()
    assert (numbers.would_saving.spent, numbers.would_saving.premium, numbers.would_saving.basis) == (Decimal("0.002"), Decimal("0.020"), "measured")
    assert [(s.tier, s.same, s.n) for s in numbers.sameness] == [("small", 0, 2)]


@pytest.mark.parametrize(
    ("trail", "advisory", "events", "tier"),
    [
        ((*SMALL, *BIG), set(), 2, "small"),
        ((*FAILS, tried("small", "1", gate="judge"), checked("small", "judge", True), *BIG), set(), 3, "big"),
        ((*FAILS, checked("small", "calibrated", True), *BIG), {("small", "schema")}, 3, "small"),
        ((*FAILS, tried("small", "0.001", repair=1), checked("small", "schema", True), *BIG), set(), 4, "small"),
        ((*FAILS, tried("big", "1"), checked("big", "schema", False)), set(), 4, None),
    ],
    ids=["stands at once", "a failed gate ends the tier", "an advisory one does not", "a repair mends", "nothing stands"],
)
def test_an_explored_trail_is_cut_to_what_the_ladder_had_asked(trail: tuple[Event, ...], advisory: set[tuple[str, str]], events: int, tier: str | None) -> None:
    found, stood = climbed(trail, advisory)
    assert (len(found), stood) == (events, tier)


def test_what_stands_behind_a_gate_that_was_enough_had_not_been_asked() -> None:
    trail = (*SMALL, tried("small", "1", gate="judge"), checked("small", "judge", True), *BIG)
    enough = {("small", "schema"): Gate("schema", "schema", accept_at=0.5)}
    assert climbed(trail, set(), enough) == (SMALL, "small")


def test_a_tier_whose_answer_was_a_vote_below_is_priced_as_if_it_were_asked_alone() -> None:
    vote = replace(tried("small", "0.03", gate="agreement"), model="m/big")
    shared = replace(tried("big", "0"), cached=True)
    ladder = (SMALL[0], vote, checked("small", "agreement", False), shared, checked("big", "schema", True))
    counting = count(row(*ladder, tier="big"))
    assert counting.own["big"] == Cost(Decimal("0.03"), 1)
    assert counting.ladder.summary().dollars == Decimal("0.031")


def test_a_gates_spend_stops_and_known_truth_are_its_own() -> None:
    judge = (tried("small", "0.002", gate="judge"), checked("small", "judge", False))
    numbers = count(row(*SMALL, *judge, *BIG, Compared("small", "big", False), tier="big", mode="shadow"), row(*SMALL, *judge, *BIG, tier="big")).numbers()
    gate = next(g for g in numbers.gates if g.gate == "judge")
    assert (gate.checked, gate.stopped, gate.wrong, gate.right, gate.calls, gate.dollars) == (2, 2, 1, 0, 2, Decimal("0.004"))
    assert numbers.verification == Decimal("0.004")


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_percentiles_are_true_to_one_per_cent(values: list[float], share: float) -> None:
    import math

    spread = Spread()
    for value in values:
        spread.add(value)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert spread.percentile(share) == pytest.approx(exact, rel=0.0101, abs=1e-12)


def test_acceptance_over_time_keeps_every_row_in_few_buckets() -> None:
    time = OverTime()
    for i in range(10_000):
        time.add(i < 5000)
    assert len(time.buckets) <= 60
    assert [sum(b[i] for b in time.buckets) for i in (0, 1)] == [5000, 10_000]
    (first, n), (last, m) = time.thirds() or ((0, 0), (0, 0))
    assert (first, last) == (n, 0)
    assert 3000 < n < 3700
    assert 3000 < m < 3700


def test_intervals_agree_with_statsmodels() -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    assert wilson(9, 171) == pytest.approx(proportion.proportion_confint(9, 171, method="wilson"))
    assert difference(56, 70, 48, 80) == pytest.approx(
        proportion.confint_proportions_2indep(48, 80, 56, 70, method="newcomb", compare="diff"), abs=1e-9)
    assert (wilson(0, 0), wilson(0, 50)[0], wilson(50, 50)[1]) == ((0.0, 1.0), 0.0, 1.0)


def test_reliability_bins_have_about_equal_counts_and_lose_nothing() -> None:
    reliability = Reliability()
    for i in range(1000):
        reliability.add(i / 1000, i % 2 == 0)
    bins = reliability.bins()
    assert [b.n for b in bins] == [100] * 10
    assert sum(b.right for b in bins) == 500


@pytest.mark.parametrize(("score", "n", "threshold", "hung"), [(1.0, 3, 0.67, False), (2 / 3, 3, 0.6, True), (1 / 3, 3, 0.67, False), (0.9, 10, 0.5, False)])
def test_a_decision_hangs_on_the_last_sample_when_the_others_alone_may_say_otherwise(score: float, n: int, threshold: float, hung: bool) -> None:
    assert hung_on_last(score, n, threshold) is hung


def test_samples_that_stopped_as_soon_as_they_may_do_not_tell_whether_fewer_would_do() -> None:
    def sampled(**signals: float) -> int:
        looked = Checked("small", "consistency", 1.0, 0.67, True, signals=signals)
        outcome = row(tried("small", "0.001"), *[tried("small", "0.001", gate="consistency", sample=n) for n in (1, 2)], looked)
        return count(outcome).numbers().gates[0].sampled

    assert (sampled(votes=2.0), sampled(votes=2.0, unasked=1.0), sampled(votes=2.0, unasked=0.0)) == (1, 0, 0)


def test_with_gold_the_reliability_and_each_tier_are_graded_by_it_not_by_sameness() -> None:
    counting = Counting(right=lambda text, gold: text == gold)
    said = Tried("small", "m/small", "wrong", cost_usd=Decimal(0))
    counting.add(row(said, checked("small", "calibrated", True, 0.9), Tried("big", "m/big", "right", cost_usd=Decimal(1)), Compared("small", "big", True),
                     tier="big", mode="record"), gold="right")
    numbers = counting.numbers()
    assert numbers.right == {"small": (0, 1), "big": (1, 1)}
    assert [(b.right, b.n) for b in numbers.reliability] == [(0, 1)]


# ---------------------------------------------------------------- advice


def rules(*outcomes: Outcome, promise: float | None = None) -> set[str]:
    return {advice.rule for advice in advise(count(*outcomes).numbers(), promise)}


JUDGED = row(*SMALL, tried("small", "0.002", gate="judge"), checked("small", "judge", True))
REPAIRED = row(*FAILS, tried("small", "0.001", repair=1), checked("small", "schema", False), *BIG, tier="big")
UNSURE = row(tried("small", "0.001"), Checked("small", "judge", None, 0.5, False), *BIG, tier="big")
DIFFERS = row(*SMALL, tried("small", "0.008", gate="audit"), Compared("small", "big", False), mode="audit")


@pytest.mark.parametrize(
    ("outcomes", "promise", "expected"),
    [
        ([ACCEPTED] * 300 + [ESCALATED] * 100, None, {"drift"}),
        ([ACCEPTED, ESCALATED] * 200, None, set()),
        ([ESCALATED] * 400, None, {"tier_does_not_pay"}),
        ([ESCALATED] * 49, None, set()),
        ([JUDGED] * 200, None, {"gate_never_failed"}),
        ([JUDGED] * 60, None, set()),
        ([REPAIRED, ACCEPTED, ACCEPTED] * 30, None, {"repairs_do_not_help"}),
        ([UNSURE, ACCEPTED, ACCEPTED] * 60, None, {"could_not_tell"}),
        ([DIFFERS, AUDIT] * 30, 0.02, {"audit"}),
        ([DIFFERS, AUDIT] * 30, None, set()),
        ([row(*SMALL, cached=True), ACCEPTED] * 30, None, {"cache"}),
        ([row(tried("small", None), unpriced=("m/small",))], None, {"unpriced"}),
    ],
    ids=["drift", "a ladder that pays", "never converts", "too few", "never failed", "too few checks", "repairs", "could not tell", "audits", "no promise", "cache", "unpriced"],
)
def test_advice_is_given_when_its_evidence_is_there_and_only_then(outcomes: list[Outcome], promise: float | None, expected: set[str]) -> None:
    assert rules(*outcomes, promise=promise) == expected


@pytest.mark.parametrize(("score", "told"), [(0.5, "Lower its threshold."), (None, "No threshold helps: it could not tell for 40 of 40.")])
def test_a_lower_threshold_is_advised_only_where_the_gate_could_tell(score: float | None, told: str) -> None:
    stopped = row(*SMALL, Checked("small", "judge", score, 0.9, False), *BIG, Compared("small", "big", True), tier="big", mode="shadow")
    advice = {a.rule: a for a in advise(count(*[stopped] * 40).numbers())}["gate_stops_good_answers"]
    assert advice.sentence.endswith(told)


def test_a_gate_that_catches_little_is_told_with_counts_dollars_and_what_is_not_known() -> None:
    caught = row(*SMALL, tried("small", "0.002", gate="judge"), checked("small", "judge", False), *BIG, tier="big")
    advice = {a.rule: a for a in advise(count(*[JUDGED] * 397, *[caught] * 3).numbers())}["gate_catches_little"]
    assert "stopped 3 of 400 answers; it cost $0.800" in advice.sentence
    assert "is not known" in advice.sentence
    assert (advice.numbers["stopped"], advice.numbers["checked"], advice.dollars) == (3, 400, Decimal("0.830"))


@given(st.integers(1, 99), st.integers(100, 200))
def test_from_the_break_even_ratio_on_and_only_then_a_tier_pays(accepted: int, asked: int) -> None:
    ratio = pays_from(accepted, asked)
    assert ratio is not None
    share = accepted / asked
    for premium, pays in ((ratio * 1.01, True), (ratio * 0.99, False)):
        assert (1 + (1 - share) * premium < premium) is pays


def test_means_leave_unknown_costs_out_and_count_them() -> None:
    cost = Cost()
    for value in (Decimal(1), None, Decimal(3)):
        cost.add(value)
    assert (cost.mean, cost.n, cost.unknown, Cost().mean) == (Decimal(2), 2, 1, None)


# ---------------------------------------------------------------- faces


@pytest.mark.parametrize(("value", "text"), [(None, "unknown"), (Decimal(0), "$0"), (Decimal("1234.5"), "$1,234.50"), (Decimal("0.0001234"), "$0.000123"), (Decimal("-0.5"), "−$0.500")])
def test_dollars_read_well(value: Decimal | None, text: str) -> None:
    assert money(value) == text


def test_unpriced_models_are_named_loudly_and_nothing_is_called_free() -> None:
    numbers = count(row(tried("small", None), unpriced=("m/small",)), ESCALATED).numbers()
    said = plain(numbers, advise(numbers))
    assert "UNPRICED: m/small" in said
    assert "2 requests cost unknown" in headline(numbers)
    assert "unknown" in headline(numbers).split(";")[1]


def hostile(n: int = 90) -> Counting:
    bad = checked("small", "calibrated", False, 0.2, 0.5, EVIL)
    counting = count(*[AUDIT] * 3)
    for i in range(n):
        counting.add(row(*SMALL, bad, tried(f"big {EVIL}", "0.01", signals={}), Compared("small", "big", i % 2 == 0), tier=f"big {EVIL}", id=f"{EVIL}{i}", alarm=EVIL))
    counting.add(row(tried("x", None), unpriced=(EVIL,), id=EVIL))
    return counting


def steps() -> source.Curve:
    return source.Curve((source.Step(0.01, 1.0, False, EVIL), source.Step(0.002, 0.98, True, "b")), EVIL, 0.02)


def html(tmp_path: Path) -> Path:
    numbers = hostile().numbers()
    at = tmp_path / "report.html"
    at.write_text(page(numbers, advise(numbers, 0.02), steps()), encoding="utf-8")
    return at


def test_hostile_text_stays_text_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    text = html(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("</svg>") == text.count("<svg ")
    for outside in ("http:", "https:", "url(", "@import", " src=", " href=", " style=", "onload"):
        assert outside not in text, outside
    assert "default-src 'none'; style-src 'sha256-" in text
    assert len(text) < 300_000


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_in_a_browser_nothing_overflows_a_phone_nothing_is_fetched_and_nothing_complains(tmp_path: Path) -> None:
    html(tmp_path)
    frame = tmp_path / "frame.html"
    frame.write_text("""<iframe id="f" src="report.html" width="390" height="844" style="border:0"></iframe><pre id="out"></pre><script>
    f.onload = () => { const d = f.contentDocument, w = d.documentElement;
      const wide = [...d.body.querySelectorAll('*')].filter(e => !e.closest('.scroll,pre,svg') && e.getBoundingClientRect().right > 391).map(e => e.outerHTML.slice(0, 80));
      const small = [...d.querySelectorAll('p,td,th,dd,dt,li,text,summary')].filter(e => parseFloat(f.contentWindow.getComputedStyle(e).fontSize) < 12).length;
      out.textContent = 'FOUND' + JSON.stringify({width: w.scrollWidth, wide, small, charts: d.querySelectorAll('svg').length,
        fetched: f.contentWindow.performance.getEntriesByType('resource').length, styled: f.contentWindow.getComputedStyle(d.body).margin}) + 'END'; };
    </script>""", encoding="utf-8")
    done = subprocess.run(
        [str(chromium()), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files", "--enable-logging=stderr",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=800,900", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=60, check=False)
    said = re.search(r'<pre id="out">FOUND(.*?)END</pre>', done.stdout, re.S)
    assert said, done.stderr[-2000:]
    found = json.loads(unescape(said[1]))
    assert found == {"width": 390, "wide": [], "small": 0, "charts": 4, "fetched": 0, "styled": "0px"}
    assert "CONSOLE" not in done.stderr


# ---------------------------------------------------------------- the command


def write(path: Path, *outcomes: Outcome, end: bytes = b"") -> str:
    path.write_bytes(b"".join(records.to_line(o) + b"\n" for o in outcomes) + end)
    return str(path)


def test_the_command_reads_several_files_and_writes_json_and_a_page(tmp_path: Path) -> None:
    a, b, at = write(tmp_path / "a.jsonl", ACCEPTED, ESCALATED), write(tmp_path / "b.jsonl", SHADOW), tmp_path / "r.html"
    result = CliRunner().invoke(app, ["report", a, b, "--json", "--html", str(at)])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["summary"]["requests"], value["explored"], value["saving"]["basis"], value["saving"]["saved"]) == (3, 1, "estimated", 0.008)
    assert at.read_text(encoding="utf-8").lstrip().startswith("<!doctype html>")


def test_a_torn_last_line_is_told_and_passed_over_stdin_is_read(tmp_path: Path) -> None:
    told: list[str] = []
    path = write(tmp_path / "a.jsonl", ACCEPTED, end=b'{"format": 1, "id"')
    assert [line.outcome.id for line in source.read(path, told.append)] == ["x"]
    assert told == [f"{path}:2: the last line is torn; it is left out (is a run still writing?)"]
    assert CliRunner().invoke(app, ["report", "-"], input=records.to_line(ACCEPTED) + b"\n").stdout.startswith("1 requests cost $0.00100;")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"format": 1\n{"format": 1}\n', ":1: not a JSON line"),
        (b'{"hello": 1}\n', ':1: not a row of cascade: "format" is None'),
        (b'{"format": 2}\n', ':1: not a row of cascade: "format" is 2'),
        (b'{"format": 1, "id": "a"}\n', ":1: a row of cascade that is not whole"),
        (b"\n", ": there are no rows in it"),
        (None, ": No such file or directory"),
    ],
    ids=["torn in the middle", "not ours", "another format", "not whole", "empty", "missing"],
)
def test_what_is_not_ours_is_told_with_file_and_line(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as told:
        list(source.read(str(path), lambda text: None))
    assert str(told.value).startswith(f"{path}{said}")


def test_a_curve_is_read_from_a_thresholds_file_or_its_fault_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.thresholds.json"
    points = [{"thresholds": {"small": None}, "cost_per_request": 0.1, "rows": 100, "harm": 0, "benefit": 0, "p": 0.01, "certified": True},
              {"thresholds": {"small": 0.9}, "cost_per_request": 0.05, "rows": 100, "harm": 2, "benefit": 1, "p": 0.04, "certified": True}]
    whole = {"format": 1, "policy": "p", "digests": {}, "statement": "", "scores": {}, "steps": points, "chosen": 1,
             "certificate": {"max_loss": 0.02}, "baseline": {}}
    path.write_text(json.dumps(whole))
    found = source.curve(str(path))
    assert ([(s.cost, s.quality, s.chosen) for s in found.steps], found.promise) == ([(0.1, 1.0, False), (0.05, 0.99, True)], 0.02)
    path.write_text(json.dumps({**whole, "steps": [], "chosen": None}))
    with pytest.raises(InputError, match="nothing was certified"):
        source.curve(str(path))
    path.write_text('{"steps": [{"same": 1}]}')
    with pytest.raises(InputError, match="this version reads 1"):
        source.curve(str(path))
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        source.curve(str(path))


def test_alarms_that_rows_carry_are_counted(tmp_path: Path) -> None:
    row_ = records.to_row(ACCEPTED) | {"alarm": "stepped back"}
    path = tmp_path / "a.jsonl"
    path.write_bytes(records.dumps(row_) + b"\n")
    assert [line.outcome.alarm for line in source.read(str(path), lambda text: None)] == ["stepped back"]
    assert hostile(2).numbers().alarms == Counter({EVIL: 2})
