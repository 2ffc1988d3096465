"""`check`: an expression over the answer's fields holds, e.g. `abs(sum(line.amount for line in lines) - total) <= 0.01`."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from cascade.compare import pointer
from cascade.types import Ask, Call, Case, Document, Json, Verdict
from cascade.verifiers import Spec
from cascade.verifiers._expression import CannotTell, Compiler, Node, Run, Wrong, is_number, kind_of, parse, show
from cascade.verifiers._text import one_line


class Options(BaseModel):
    """What has to hold."""

    model_config = ConfigDict(extra="forbid")
    expression: str = Field(
        description="True or false, or a score from 0 to 1. Names are the answer's fields; also `answer` (all of it) and `inputs`."
    )


def _parts(node: ast.expr) -> list[ast.expr]:
    """The conditions that all have to hold."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [part for value in node.values for part in _parts(value)]
    return [node]


def _speaks_of_all(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "answer" for part in ast.walk(node))


class _Part:
    """One of the conditions, with what it takes to say why it does not hold, and the fields it names (none when it looks at `answer`)."""

    def __init__(self, compiler: Compiler, node: ast.expr) -> None:
        self.text = one_line(ast.get_source_segment(compiler.source, node) or ast.unparse(node), 200)
        outside, compiler.fields = compiler.fields, {}
        self.holds = compiler.compile(node)
        self.fields = () if _speaks_of_all(node) else tuple(pointer([name]) for name in compiler.fields)
        compiler.fields = {**compiler.fields, **outside}
        self.sides: tuple[Node, Node] | None = None
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            self.sides = compiler.compile(node.left), compiler.compile(node.comparators[0])

    def why(self, names: dict[str, Any]) -> str:
        if self.sides is None:
            return f"{self.text} is false"
        run = Run(names)
        left, right = (side(run) for side in self.sides)
        return f"{self.text} is false: left side {show(left)}, right side {show(right)}"


class CheckVerifier:
    """1.0 when the expression holds, 0.0 when it does not or a field is missing; a number from 0 to 1 is the score."""

    def __init__(self, expression: str, schema: Document | None = None) -> None:
        source = expression.strip().replace("\n", " ")
        tree, compiler = parse(source), Compiler(source)
        self.source = one_line(source, 200)
        self.parts = [_Part(compiler, part) for part in _parts(tree)]
        _require_fields(compiler.fields, schema)

    def early(self, inputs: Mapping[str, Json], call: Call) -> tuple[Call, ...]:
        return ()

    async def __call__(self, case: Case, ask: Ask) -> Verdict:
        if case.problem is not None:
            return Verdict(0.0, one_line(case.problem))
        fields = case.value if isinstance(case.value, dict) else {}
        return self._score({**fields, "answer": case.value, "inputs": dict(case.inputs)})

    def _score(self, names: dict[str, Any]) -> Verdict:
        run = Run(names)
        score = 1.0
        disputed: tuple[str, ...] = ()
        part = self.parts[0]
        try:
            for part in self.parts:
                result = part.holds(run)
                if result is False:
                    return Verdict(0.0, one_line(part.why(names), 600), part.fields)
                if (found := _as_score(result)) < score:
                    score, disputed = found, part.fields
        except Wrong as err:
            return Verdict(0.0, one_line(f"check `{self.source}`: {err}", 600), part.fields)
        except (TypeError, ValueError, ArithmeticError, LookupError) as err:  # what Python's own operators say of odd values
            return Verdict(0.0, one_line(f"check `{self.source}`: {err}", 600), part.fields)
        except (CannotTell, RecursionError) as err:
            return Verdict(None, one_line(f"check `{self.source}`: {err}", 600))
        return Verdict(score, None if score == 1.0 else one_line(f"check `{self.source}`: {score:g}", 600), disputed)


def _as_score(result: Any) -> float:
    if result is True:
        return 1.0
    if is_number(result) and 0 <= result <= 1:
        return float(result)
    raise CannotTell(f"gives {kind_of(result)}, and neither true, false nor a score from 0 to 1")


def _require_fields(fields: Mapping[str, int], schema: Document | None) -> None:
    """Names the schema does not have are mistakes, where it says that there are no others."""
    root = schema.json if schema is not None else None
    if not isinstance(root, dict) or root.get("additionalProperties") is not False or "patternProperties" in root or "$ref" in root:
        return
    known = list(root.get("properties", {}))
    for name, column in fields.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"column {column + 1}: the schema has no field {name!r}{hint}")


def _make(options: Options, schema: Document | None, compare: Mapping[str, Json]) -> CheckVerifier:
    return CheckVerifier(options.expression, schema)


SPEC = Spec("check", Options, _make, repairable=True, positional="expression")
