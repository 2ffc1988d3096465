"""What `cascade check` found, as GitHub's workflow commands and as SARIF 2.1.0, which code scanning reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

from cascade.policy.check import CheckReport
from cascade.types import Json

PLACE = re.compile(r"(?P<file>.+?):(?:(?P<line>\d+):)?(?:(?P<column>\d+):)? (?P<what>.*)", re.DOTALL)
COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}
LEVELS = {"error": "error", "warning": "warning", "info": "note"}
PROBLEM = "policy"
"""The rule of what makes a policy unusable."""


class Found(NamedTuple):
    """One finding or problem: where, what and how grave; `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    level: str
    rule: str
    message: str


def found(report: CheckReport) -> Iterator[Found]:
    """All that was found, in the order of the report."""
    for policy in report.policies:
        for problem in policy.get("problems", ()):
            place = PLACE.fullmatch(problem)
            if place is None:
                yield Found(policy["path"], 1, 1, "error", PROBLEM, problem)
            else:
                yield Found(place["file"], int(place["line"] or 1), int(place["column"] or 1), "error", PROBLEM, place["what"])
        for one in policy.get("findings", ()):
            message = f"{one['where']}: {one['message']}" if one["where"] else one["message"]
            yield Found(policy["path"], one["line"], one["column"], one["level"], one["code"], message)


def github(report: CheckReport) -> list[str]:
    """A line each that GitHub shows beside the line of the file."""
    return [f"::{COMMANDS[one.level]} file={_property(one.file)},line={one.line},col={one.column},title={_property(one.rule)}::{_data(one.message)}"
            for one in found(report)]  # fmt: skip


def sarif(report: CheckReport) -> Json:
    """The whole log. Paths are as they were given: code scanning wants them relative to the repository."""
    every = list(found(report))
    rules = [{"id": rule} for rule in dict.fromkeys(one.rule for one in every)]
    driver = {"name": "cascade check", "version": version("cascade-judge"), "rules": rules}
    return {"version": "2.1.0", "$schema": "https://json.schemastore.org/sarif-2.1.0.json", "runs": [
        {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": [_result(one) for one in every]}]}  # fmt: skip


def _result(one: Found) -> Json:
    place = {"artifactLocation": {"uri": one.file}, "region": {"startLine": one.line, "startColumn": one.column}}
    return {"ruleId": one.rule, "level": LEVELS[one.level], "message": {"text": one.message}, "locations": [{"physicalLocation": place}]}


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
