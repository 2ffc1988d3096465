"""decide() as a table, and the proof that the table would notice a change: hand-made mutants of decide.py must fail it."""

from __future__ import annotations

import types
from decimal import Decimal
from pathlib import Path

import pytest
from decision_table import TABLE, Case, failed, no, ok, tried

from cascade import decide as module
from cascade.decide import decide, spent, unpriced, verdicts
from cascade.types import Checked, Tried, Usage

SOURCE = Path(module.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("case", TABLE, ids=[case.says for case in TABLE])
def test_decision(case: Case) -> None:
    assert decide(case.policy, case.trail) == case.step


MUTANTS = [
    ("starts at the last tier", "return Try(policy.tiers[0].name)", "return Try(policy.tiers[-1].name)"),
    ("skips the first gate", "return Check(tried.tier, gates[0].name)", "return Check(tried.tier, gates[-1].name)"),
    ("accepts before the last gate", "at + 1 == len(gates) or", "at + 2 == len(gates) or"),
    ("asks on where the score is high enough", " or gates[at].accepts(checked.score)", ""),
    ("repairs for ever", "repairs_of(trail, tier.name) < tier.repair", "repairs_of(trail, tier.name) <= tier.repair"),
    ("never repairs", "repairs_of(trail, tier.name) < tier.repair", "False"),
    ("repairs what cannot be repaired", "gate.repairable and ", ""),
    ("repairs what could not be told", "checked.score is not None and ", ""),
    ("counts repairs of all tiers", "e.gate is None and e.tier == tier and e.repair > 0", "e.gate is None and e.repair > 0"),
    ("counts repairs one short", "repairs_of(trail, tier.name) + 1)", "repairs_of(trail, tier.name))"),
    ("takes a vote for the answer", "if isinstance(event, Checked | Skipped) or (not isinstance(event, Compared) and event.gate is None):\n            return event", "return event"),
    ("serves the first answer", "for i in range(len(trail) - 1, -1, -1):", "for i in range(len(trail)):"),
    ("serves a vote", "if isinstance(event, Tried) and event.gate is None:\n            return i", "if isinstance(event, Tried):\n            return i"),
    ("climbs on a refusal", 'if policy.outcomes.refusal == "stop" else', 'if policy.outcomes.refusal == "next" else'),
    ("accepts a filtered answer", 'if tried.finish in ("refusal", "filter"):', 'if tried.finish == "refusal":'),
    ("checks a truncated answer", 'if tried.finish == "length":', "if False:"),
    ("stops on truncation", 'if policy.outcomes.truncated == "stop" else', 'if policy.outcomes.truncated == "next" else'),
    ("stops on an error", 'if policy.outcomes.error == "stop":', "if True:"),
    ("climbs on an error that should stop", 'if policy.outcomes.error == "stop":', "if False:"),
    ("climbs without money", "if last.error in STOPPING:", "if False:"),
    ("the deadline does not stop", '"run_budget", "deadline", "configuration"', '"run_budget", "configuration"'),
    ("a wrong configuration climbs", '"deadline", "configuration"', '"deadline"'),
    ("a wrong configuration is served", 'if why == "configuration" or ', "if "),
    ("the run's budget does not stop", '"budget", "run_budget"', '"budget"'),
    ("a skipped tier is asked", "if isinstance(last, Skipped):\n        return _climb(policy, trail, last.tier)", "if isinstance(last, Skipped):\n        return Try(last.tier)"),
    ("skips a tier on the way up", "at = names.index(name) + 1", "at = names.index(name) + 2"),
    ("serves the worst", "best = usable[-1] if policy.outcomes.exhausted == \"last\" else max(", "best = usable[-1] if policy.outcomes.exhausted == \"last\" else min("),
    ("of equals the first is served", "(standing(policy, trail, i), i))", "(standing(policy, trail, i), -i))"),
    ("ignores exhausted: last", 'usable[-1] if policy.outcomes.exhausted == "last" else ', ""),
    ("ignores exhausted: error", ' or policy.outcomes.exhausted == "error"', ""),
    ("a truncated answer stands like any other", "if tried.finish not in WHOLE:\n        return -1.0", "pass"),
    ("truncated answers are never served", 'e.finish in (*WHOLE, "length")', "e.finish in WHOLE"),
    ("refusals are served", 'e.finish in (*WHOLE, "length")]', "True]"),
    ("a refusal hides the budget", 'if refusals and why == "exhausted":', "if refusals:"),
    ("a refusal at the end is a failure", 'if refusals and why == "exhausted":', "if False:"),
    ("names the first failure", "failures[-1].error if failures", "failures[0].error if failures"),
    ("never asks for a part", 'if tier.escalate != "partial" or', "if True or"),
    ("asks every tier for a part", 'if tier.escalate != "partial" or not', "if not"),
    ("asks for a part where nobody looks", "not tier.gates or policy", "policy"),
    ("asks for a part of what no schema tells", "or policy.schema is None or", "or"),
    ("asks for a part though a gate named none", "not failing or not all(checked.fields for checked in failing)", "not failing"),
    ("asks for what passed gates name", "if not checked.passed]\n    if not failing", "]\n    if not failing"),
    ("a failed part is given up", "if partial_tier(trail) == tier.name:", "if False:"),
    ("the whole never ends", "if partial_tier(trail) == tier.name:", "if True:"),
    ("any answer is one to a part", "isinstance(tried, Tried) and tried.part else None", "isinstance(tried, Tried) else None"),
    ("an advisory gate stops an answer", "checked.passed or gates[at].advisory", "checked.passed"),
    ("rules of the task look at calls of tools", "if answer is None or not calls_tools(answer):", "if True:"),
    ("only tools looks at calls of tools", "if gate.asks or gate.kind", "if gate.kind"),
    ("what asks models alone looks at calls of tools", 'if gate.asks or gate.kind == "tools"', "if gate.asks"),
    ("a call of tools is asked for in part", " or calls_tools(trail[at]):", ":"),
    ("a call of tools stands below all others", "if tried.finish not in WHOLE:", 'if tried.finish != "stop":'),
    ("calls of tools are never served", 'e.finish in (*WHOLE, "length")', 'e.finish in ("stop", "length")'),
    ("a comparison is looked at", "not isinstance(event, Compared) and ", ""),
    ("checks of a later answer count for an earlier one", "elif isinstance(event, Skipped | Compared) or event.gate is None:\n            break", "elif False:\n            break"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), MUTANTS, ids=[name for name, _, _ in MUTANTS])
def test_the_table_kills_the_mutant(name: str, old: str, new: str) -> None:
    assert SOURCE.count(old) == 1, "the mutation must hit one place"
    mutant = types.ModuleType("mutant")
    exec(compile(SOURCE.replace(old, new), "mutant", "exec"), mutant.__dict__)
    assert any(_differs(mutant.decide, case) for case in TABLE), f"no row of the table notices: {name}"


def _differs(mutated: object, case: Case) -> bool:
    try:
        return bool(mutated(case.policy, case.trail) != case.step)  # type: ignore[operator]
    except (IndexError, AssertionError, AttributeError, KeyError, TypeError, StopIteration):
        return True


def test_what_is_spent_is_the_sum_of_all_events_and_unknown_when_one_is() -> None:
    assert spent([tried("small"), ok("small"), tried("small", gate="judge")]) == Decimal("0.02")
    assert spent([]) == Decimal(0)
    free = Tried("small", "p/local", "", usage=Usage(1, 1), cost_usd=None)
    assert spent([tried("small"), free]) is None
    assert unpriced([tried("small"), free, free]) == ("p/local",)


def test_verdicts_belong_to_one_answer() -> None:
    trail = [tried("small"), ok("small"), tried("small", gate="judge"), no("small", "judge"), tried("middle"), ok("middle")]
    assert [c.gate for c in verdicts(trail, 0)] == ["schema", "judge"]
    assert verdicts(trail, 4) == [Checked("middle", "schema", 1.0, 1.0, True)]
    assert verdicts([failed("small")], 0) == []
