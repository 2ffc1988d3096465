"""Whether a budget per request is so roomy for a row that it cannot bind, told without rendering the prompt. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import orjson
from jinja2 import nodes

from cascade import verifiers
from cascade.replay.worst import ZERO, Worst
from cascade.types import Json, Policy, Template, Tier

LONGER = 3
"""So many times longer than its JSON a value may be when a template puts it down as Python or JSON writes it."""
A_CHARACTER = 12
"""Most bytes of a character of a draft or a reason, put down as JSON within a message."""
AROUND = 4_000
"""Bytes around messages, drafts and reasons: roles, and the words of the shipped templates."""
FILTERS = frozenset({"tojson", "trim", "lower", "upper", "string"})
"""Filters of templates that make no value longer than LONGER times."""
KNOWN = frozenset({"agreement", "consistency"})
"""Kinds of gates whose calls have a bound of their own; what others paid is taken as it was recorded."""


class Roomy:
    """Bounds a row's worst case from above: templates that only put inputs down cannot be longer than what they put down."""

    def __init__(self, policy: Policy, worst: Worst) -> None:
        assert policy.budget_per_request is not None
        self.budget = policy.budget_per_request
        self.worst = worst
        forms = [form for tier in policy.tiers for gate in tier.gates if gate.kind in KNOWN
                 for form in (gate.options.get("prompt"), *(gate.options.get("prompts") or ()))]
        own = [form for form in forms if isinstance(form, Template)]
        templates = [t for t in (policy.prompt, policy.system, *own) if t is not None]
        holes = [_holes(template) for template in templates]
        self.plain = policy.prompt is not None and None not in holes
        self.holes = sum(hole or 0 for hole in holes)
        self.static = sum(len(t.source.encode()) for t in templates) + worst.schema + AROUND
        self.told = any(tier.repair or tier.carry != "nothing" for tier in policy.tiers)
        self.others = any(gate.asks and gate.kind not in KNOWN for tier in policy.tiers for gate in tier.gates)
        self.calls = [call for tier in policy.tiers for call in self._calls(tier) * (1 + tier.repair)]
        self.left: dict[int, float] = {}

    def _calls(self, tier: Tier) -> list[tuple[str, int]]:
        """Model and most tokens of all that is asked for one answer."""
        most: int = self.worst.params[tier.name].json["max_tokens"]
        found = [(tier.model, most)]
        for gate in tier.gates:
            if gate.kind == "agreement":
                least = verifiers.max_tokens(gate.kind, gate.options) or (gate.options.get("params") or {}).get("max_tokens", most)
                found += [(model, least) for model in verifiers.models(gate.kind, gate.options)]
            elif gate.kind == "consistency":
                found += [found[0]] * verifiers.calls(gate.kind, gate.options)
        return found

    def __call__(self, inputs: Mapping[str, Json], trail: Sequence[Mapping[str, Any]]) -> bool:
        """Whether every call of the row is sure to be affordable."""
        if not self.plain:
            return False
        size = self.static + LONGER * self.holes * len(orjson.dumps(inputs))
        if self.told:
            size += A_CHARACTER * sum(len(e.get("text") or "") + len(e.get("reason") or "") for e in trail)
        step = size.bit_length()  # what is left is reckoned for powers of two only
        left = self.left.get(step)
        if left is None:
            dearest = sum((self.worst.of_size(model, 1 << step, most) for model, most in self.calls), ZERO)
            left = self.left[step] = float(self.budget - dearest)
        return left > 0 and (not self.others or left > sum(e["cost_usd"] or 0 for e in trail if e.get("gate")))


def _holes(template: Template) -> int | None:
    """How many values the template puts down; None when it may repeat or make something of them."""
    count = 0
    for node in jinja2.Environment(autoescape=False).parse(template.source).find_all(nodes.Node):
        if isinstance(node, nodes.Output):
            for child in node.nodes:
                if not isinstance(child, nodes.TemplateData):
                    count += 1
                    if not _plain(child):
                        return None
        elif isinstance(node, nodes.Stmt) and not isinstance(node, nodes.If):
            return None
    return count


def _plain(node: nodes.Node) -> bool:
    while isinstance(node, nodes.Getattr | nodes.Getitem | nodes.Filter):
        if isinstance(node, nodes.Filter) and (node.name not in FILTERS or node.args or node.kwargs):
            return False
        if node.node is None:
            return False
        node = node.node
    return isinstance(node, nodes.Name)
