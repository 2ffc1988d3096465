"""Each tier of a recorded ladder alone: how many of its answers are right by gold, whatever its gates say of them. No model is asked.

    cascade record policies/score_local.yaml policies/score.inputs.jsonl -o trails.jsonl --concurrency 3
    python benchmarks/tiers.py policies/score_local.yaml trails.jsonl
"""

from __future__ import annotations

import sys
from pathlib import Path

from cascade.calibrate.evidence import Evidence, gather
from cascade.policy import load
from cascade.recording import from_line


def lines(evidence: Evidence) -> list[str]:
    """A line a tier; a repaired answer counts as repaired."""
    told = []
    for k, tier in enumerate(evidence.policy.tiers):
        right, passed = evidence.right[k] == 1, evidence.declared[k].astype(bool)
        line = f"{tier.name} ({tier.model}): {right.sum()} of {len(right)} right"
        told.append(line + (f"; all gates pass {passed.sum()}, {(right & passed).sum()} of them right" if tier.gates else ""))
    return told


def main() -> None:
    policy, trails = sys.argv[1:]
    rows = Path(trails).read_bytes().splitlines()
    print("\n".join(lines(gather(load(policy), ((f"{trails}:{i}", from_line(row)) for i, row in enumerate(rows, 1))))))


if __name__ == "__main__":
    main()
