"""How far recorded judges can be trusted: against people, with the places swapped, and where both orders say the same. No model is asked.

    python benchmarks/judges.py --data FOLDER

FOLDER holds judge_llmbar.jsonl.gz: verdicts of six judge models on pairs of answers, each in both orders, with people's verdict.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality import rows


@dataclass(frozen=True)
class Judge:
    """One judge over all pairs, as shares. `sure` are the pairs on which both orders name the same answer."""

    right: float
    adversarial: float
    sure: float
    right_when_sure: float


def look(data: Sequence[dict[str, Any]], name: str) -> Judge:
    """Verdicts are of the prompt without a chain of thought; a verdict that could not be read is not right, and never the same."""
    verdicts = [(row["subset"], row["gold"], *(said["winner"] for said in row["judges"][name]["Vanilla"])) for row in data]
    hard = [gold == given for subset, gold, given, _ in verdicts if "Adversarial" in subset]
    sure = [gold == given for _, gold, given, swapped in verdicts if given is not None and given == swapped]
    right = [gold == given for _, gold, given, _ in verdicts]
    return Judge(_share(right), _share(hard), len(sure) / len(verdicts), _share(sure))


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found)


def table(data: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table of docs/judging.md, the best judge first."""
    yield "| judge | agrees with people | on adversarial pairs | both orders say the same | agrees with people there |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    judges = {name: look(data, name) for name in data[0]["judges"]}
    for name, judge in sorted(judges.items(), key=lambda pair: -pair[1].right):
        cells = (judge.right, judge.adversarial, judge.sure, judge.right_when_sure)
        yield f"| {name} | {' | '.join(f'{100 * cell:.0f} %' for cell in cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = rows(parser.parse_args().data, "judge_llmbar")
    print("\n".join(table(data)))
    print(f"\n{len(data)} pairs, {sum('Adversarial' in row['subset'] for row in data)} of them adversarial.")


if __name__ == "__main__":
    main()
