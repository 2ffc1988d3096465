"""`cascade check`: policies examined, as lines for people and a mapping for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from cascade.errors import PolicyError
from cascade.policy.bounds import Bounds, bounds
from cascade.policy.lint import Finding, lint
from cascade.policy.load import load_with_places
from cascade.types import Json


@dataclass
class CheckReport:
    """What was found in some policies. `lines` are for people; `exit_code` 0 sound, 1 warnings with `strict`, 2 cannot be used."""

    lines: list[str] = field(default_factory=list)
    policies: list[Json] = field(default_factory=list)
    exit_code: int = 0

    def as_json(self) -> Json:
        """For programs: `policies`, each with its `problems` or its findings and bounds; dollars as numbers."""
        return {"exit_code": self.exit_code, "policies": self.policies}


def check(paths: Iterable[str], env: Mapping[str, str], *, strict: bool = False, keys: bool = True) -> CheckReport:
    """Load, lint and reckon each policy; `env` is the environment it will run in. `keys` False: none is looked for."""
    report = CheckReport()
    for path in paths:
        try:
            loaded = load_with_places(path)
        except PolicyError as err:
            report.lines += err.problems
            report.policies.append({"path": path, "problems": err.problems})
            report.exit_code = 2
            continue
        findings = [finding for finding in lint(loaded, env) if keys or finding.code != "no-key"]
        limits = bounds(loaded.policy)
        label = f"{loaded.policy.name}@{loaded.policy.digest[:6]}"
        report.lines += [_line(path, finding) for finding in findings]
        report.lines.append(f"{path}: {label}: {_worth(limits)}")
        report.policies.append({"path": path, "policy": label, "findings": [_row(f) for f in findings], "bounds": _bounds_row(limits)})
        if strict and any(f.level != "info" for f in findings):
            report.exit_code = max(report.exit_code, 1)
    return report


def _line(path: str, finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    return f"{path}:{finding.line}:{finding.column}: {finding.level}: {where}{finding.message} [{finding.code}]"


def _worth(limits: Bounds) -> str:
    money = f"a request costs about {_usd(limits.best_usd)} at best and at most {_usd(limits.worst_usd)} at worst"
    rounds = f"{limits.best_rounds} calls one after the other" if limits.best_rounds > 1 else "one call"
    return f"{money}; takes at least {rounds} and at most {limits.worst_seconds:g} s (for a prompt of {limits.prompt_bytes} bytes)"


def _usd(amount: Decimal | None) -> str:
    return "an unknown sum" if amount is None else f"${amount:.6f}"


def _row(finding: Finding) -> Json:
    return {name: getattr(finding, name) for name in ("level", "code", "line", "column", "where", "message")}


def _bounds_row(limits: Bounds) -> Json:
    return {
        "best_usd": _number(limits.best_usd),
        "worst_usd": _number(limits.worst_usd),
        "best_rounds": limits.best_rounds,
        "worst_seconds": limits.worst_seconds,
        "prompt_bytes": limits.prompt_bytes,
        "unpriced": list(limits.unpriced),
        "tiers": [
            {"tier": t.tier, "best_usd": _number(t.best_usd), "worst_usd": _number(t.worst_usd), "worst_seconds": t.worst_seconds,
             "best_calls": t.calls[0], "worst_calls": t.calls[1]}
            for t in limits.tiers
        ],
    }  # fmt: skip


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
