"""explore() as a table, and the proof that the table would notice a change: hand-made mutants of explore.py must fail it."""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path

import pytest
from decision_table import BIG, MIDDLE, SMALL, TOOLED, TRUST, WEIGHED, B, Case, M, P, S, failed, no, ok, policy, tried

from cascade import explore as module
from cascade.explore import explore
from cascade.types import Check, Compared, Finish, Gate, Policy, Repair, Try

SOURCE = Path(module.__file__).read_text(encoding="utf-8")
TWO = policy(replace(SMALL, repair=0), BIG)
LOW = [tried(S), ok(S), ok(S, "judge")]
WEIGHED_LAST: Policy = policy(SMALL, WEIGHED)
LAST_CHECKED_TWICE = policy(TRUST, replace(BIG, gates=(Gate("schema", "schema"), Gate("judge", "judge", 0.8))))

TABLE = [
    Case("a recording begins at the first tier", P, [], Try(S)),
    Case("an answer goes to its tier's first gate", P, [tried(S)], Check(S, "schema")),
    Case("a passed gate leads to the next", P, [tried(S), ok(S)], Check(S, "judge")),
    Case("accepted below, the next tier is asked all the same", P, LOW, Try(M)),
    Case("a failed gate leads to the next gate", TWO, [tried(S), no(S)], Check(S, "judge")),
    Case("a gate that could not tell leads to the next gate", P, [tried(S), no(S, score=None)], Check(S, "judge")),
    Case("a repair is made where the ladder would make it", P, [tried(S), no(S)], Repair(S, 1)),
    Case("repairs are counted", policy(replace(SMALL, repair=2), BIG), [tried(S), no(S), tried(S, repair=1), no(S)], Repair(S, 2)),
    Case("after the last repair the other gates are asked", P, [tried(S), no(S), tried(S, repair=1), no(S)], Check(S, "judge")),
    Case("a failed last gate leads to the next tier", P, [tried(S), ok(S), no(S, "judge")], Try(M)),
    Case("a tier without gates leads to the next tier", policy(TRUST, BIG), [tried("trust")], Try(B)),
    Case("a refusal below leads to the next tier", P, [tried(S, "refusal")], Try(M)),
    Case("a truncated answer below is not checked", P, [tried(S, "length")], Try(M)),
    Case("a provider down leads to the next tier, whatever outcomes say", policy(error="stop"), [failed(S)], Try(M)),
    Case("an empty purse ends it", P, [*LOW, failed(M, "budget")], Finish("flagged", 0, "budget")),
    Case("a wrong configuration ends it", P, [*LOW, failed(M, "configuration")], Finish("failed", None, "configuration")),
    Case("the last tier's answer is served", TWO, [*LOW, tried(B), ok(B)], Finish("accepted", 3)),
    Case("it is flagged when a gate of its own fails", TWO, [*LOW, tried(B), no(B)], Finish("flagged", 3, "exhausted")),
    Case("an earlier failed gate counts as much as the last", LAST_CHECKED_TWICE, [tried("trust"), tried(B), no(B), ok(B, "judge")],
         Finish("flagged", 1, "exhausted")),
    Case("an advisory gate flags nothing", WEIGHED_LAST, [*LOW, tried("weighed"), ok("weighed"), no("weighed", "judge"), ok("weighed", "calibrated")],
         Finish("accepted", 3)),
    Case("a last tier without gates is accepted", policy(SMALL, TRUST), [*LOW, tried("trust")], Finish("accepted", 3)),
    Case("calls of tools go to the gates that look at them", policy(TOOLED, BIG), [tried("tooled", "tool_calls")], Check("tooled", "tools")),
    Case("where the last tier calls tools they are served", policy(SMALL, TRUST), [*LOW, tried("trust", "tool_calls")], Finish("accepted", 3)),
    Case("refused by the last tier is refused", TWO, [*LOW, tried(B, "refusal")], Finish("refused", None, "refusal")),
    Case("filtered by the last tier is refused", TWO, [*LOW, tried(B, "filter")], Finish("refused", None, "filter")),
    Case("cut off at the last tier is flagged", TWO, [*LOW, tried(B, "length")], Finish("flagged", 3, "truncated")),
    Case("the last tier down: the best below is flagged", TWO, [*LOW, failed(B)], Finish("flagged", 0, "overloaded")),
    Case("a failed repair of the last tier is a failure", policy(SMALL, replace(BIG, repair=1)),
         [*LOW, tried(B), no(B), failed(B, repair=1)], Finish("flagged", 0, "overloaded")),
    Case("nothing answered is a failure", TWO, [failed(S), failed(B, "timeout")], Finish("failed", None, "timeout")),
    Case("votes and comparisons change nothing", TWO, [*LOW, tried(B), tried(B, gate="judge"), ok(B), Compared(S, B, False)],
         Finish("accepted", 3)),
    Case("the tier in the middle is not the end", policy(SMALL, MIDDLE, BIG), [*LOW, tried(M), ok(M), ok(M, "judge")], Try(B)),
]


@pytest.mark.parametrize("case", TABLE, ids=[case.says for case in TABLE])
def test_exploration(case: Case) -> None:
    assert explore(case.policy, case.trail) == case.step


MUTANTS = [
    ("starts at the last tier", "return Try(policy.tiers[0].name)", "return Try(policy.tiers[-1].name)"),
    ("an empty purse leads on", "last.error in STOPPING", "False"),
    ("every failure ends it", "last.error in STOPPING", "True"),
    ("never repairs", "if not last.passed and may_repair(trail, tier, gates[at], last):", "if False:"),
    ("repairs what passed", "if not last.passed and may_repair", "if may_repair"),
    ("counts repairs one short", "repairs_of(trail, tier.name) + 1)", "repairs_of(trail, tier.name))"),
    ("leaves out the last gate", "if at + 1 < len(gates):", "if at + 2 < len(gates):"),
    ("stops at a failed gate", "if at + 1 < len(gates):", "if last.passed and at + 1 < len(gates):"),
    ("checks what was cut off", "last.finish in WHOLE and gates", "gates"),
    ("rules of the task look at calls of tools", "gates = looking(tier, None if answer is None else trail[answer])", "gates = tier.gates"),
    ("calls of tools are not looked at", "last.finish in WHOLE and gates", 'last.finish == "stop" and gates'),
    ("a call of tools by the last tier is truncated", "last.finish not in WHOLE", 'last.finish != "stop"'),
    ("begins with the last gate", "return Check(tier.name, gates[0].name)", "return Check(tier.name, gates[-1].name)"),
    ("ends after the first tier", "return Try(above.name) if above else", "return Try(above.name) if False else"),
    ("serves a refusal", 'last.finish in ("refusal", "filter")', "False"),
    ("a filter is no refusal", '("refusal", "filter")', '("refusal",)'),
    ("serves a cheap answer as accepted", 'isinstance(last, Failed | Skipped)', "isinstance(last, Skipped)"),
    ("a truncated answer is accepted", "if isinstance(last, Tried) and last.finish not in WHOLE:", "if False:"),
    ("nothing is flagged", "stood = all(", "stood = True or all("),
    ("one gate passed is enough", "stood = all(", "stood = any("),
    ("advisory gates flag", "c.passed or _advisory(policy, c)", "c.passed"),
    ("every gate is advisory", "return any(gate.advisory for gate in", "return any(True for gate in"),
    ("forgets why the last tier failed", 'last.error if isinstance(last, Failed) else "exhausted"', '"exhausted"'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new"), MUTANTS, ids=[name for name, _, _ in MUTANTS])
def test_the_table_kills_the_mutant(name: str, old: str, new: str) -> None:
    assert SOURCE.count(old) == 1, "the mutation must hit one place"
    mutant = types.ModuleType("mutant")
    exec(compile(SOURCE.replace(old, new), "mutant", "exec"), mutant.__dict__)
    assert any(_differs(mutant.explore, case) for case in TABLE), f"no row of the table notices: {name}"


def _differs(mutated: object, case: Case) -> bool:
    try:
        return bool(mutated(case.policy, case.trail) != case.step)  # type: ignore[operator]
    except (IndexError, AssertionError, AttributeError, KeyError, TypeError, StopIteration):
        return True
