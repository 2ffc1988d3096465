"""Examples in the docs run, links lead somewhere, and what is generated is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
RUN = ["docs/python.md", "docs/testing.md", "docs/report.md", "docs/replay.md", "docs/monitor.md", "docs/judging.md"]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize(("page", "code"), [(page, code) for page in RUN for code in blocks(page)])
def test_a_python_example_runs(page: str, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if "cascade_cassette" in code:
        compile(code, page, "exec")  # a test of its own; test_cassettes runs one
        return
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    exec(compile(code, page, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_first_screen_of_the_readme_has_the_demos_own_table() -> None:
    from cascade.cli.demo import table
    from cascade.demo import play

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert timeless(table(play())) in timeless(text), "python scripts/update_readme.py"


def timeless(text: str) -> str:
    """Without the last column, which is the time that this very run took."""
    return re.sub(r" +\d+\.\d$", "", text, flags=re.M)
