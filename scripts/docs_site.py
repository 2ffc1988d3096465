"""The docs as a site that needs no network, and llms.txt: python scripts/docs_site.py [FOLDER]; python scripts/docs_site.py --llms

The README is its first page. Files of the project that the docs link to (policies, prompts, recipes) become pages of their own, so that every link
leads somewhere without a host; one that leads nowhere fails the build. FOLDER (`site` unless it is named) then also holds llms.txt, llms-full.txt and
each page's Markdown. `--llms` writes docs/llms.txt anew, from the order of zensical.toml and what each page begins with.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOVED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site that are not in docs/."""
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.M | re.S)
ANSI = re.compile(r"\x1b\[[0-9;]*m")
LANGUAGES = {".yaml": "yaml", ".json": "json", ".j2": "jinja", ".py": "python", ".toml": "toml"}


def sections() -> dict[str, dict[str, str]]:
    """The navigation: titles by page, by section."""
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    return {section: {page: title for entry in entries for title, page in entry.items()} for one in nav for section, entries in one.items()}


def source(page: str) -> Path:
    """The file that a page of the site is made of."""
    moved = {page: file for file, page in MOVED.items()}
    return ROOT / moved[page] if page in moved else ROOT / "docs" / page


# ---------------------------------------------------------------- llms.txt


def beginning(text: str) -> str:
    """What the first paragraph that is prose begins with: one sentence, and those after it that fit into a line."""
    for paragraph in re.split(r"\n\s*\n", FENCE.sub("", text)):
        line = " ".join(paragraph.split())
        if line and not re.match(r"[#|<>]|[-*] |\*[^*]|`[^`]*`$|Written ", line):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line).replace("**", "")
            told = ""
            for sentence in re.split(r"(?<=[.!?])\s", plain):
                if told and len(told) + len(sentence) >= 180:
                    break
                told += f" {sentence}" if told else sentence
            return re.sub(r"[:;]$", ".", told)
    raise ValueError(f"there is no sentence in {text.partition(chr(10))[0]!r}")


def llms() -> str:
    """docs/llms.txt, in the form of llmstxt.org: links are relative to where it stands."""
    lines = ["# cascade", "", f"> {beginning((ROOT / 'README.md').read_text(encoding='utf-8'))}", ""]
    for section, pages in sections().items():
        lines += [f"## {section}", ""]
        for page, title in pages.items():
            if page not in MOVED.values():
                lines.append(f"- [{title}]({page}): {beginning(source(page).read_text(encoding='utf-8'))}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def llms_full() -> str:
    """All pages in one, in their order."""
    texts = (f"<!-- {page} -->\n{source(page).read_text(encoding='utf-8').strip()}" for pages in sections().values() for page in pages)
    return "\n\n".join(texts) + "\n"


# ---------------------------------------------------------------- the site


class Pages:
    """The pages of a site, as they are written to `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: set[Path] = set()
        self.lost: list[str] = []

    def write(self) -> None:
        for page in sorted({*MOVED.values(), *(str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md"))}):
            self._put(page, self._linked(source(page), page))
        for file in sorted(self.shown):
            self._put(_page_of(file), _as_page(file))

    def _put(self, page: str, text: str) -> None:
        at = self.folder / page
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text, encoding="utf-8")

    def _linked(self, file: Path, page: str) -> str:
        """The file's text; links that leave docs/ lead to the pages that are made of what they name."""
        text = file.read_text(encoding="utf-8")

        def link(match: re.Match[str]) -> str:
            named = (file.parent / match[1]).resolve()
            inside = str(named.relative_to(ROOT)) if named.is_relative_to(ROOT) else ""
            if not named.is_file() or not inside:
                self.lost.append(f"{page}:{text.count(chr(10), 0, text.index(match[0])) + 1}: there is no {match[1]}")
                return match[0]
            if inside in MOVED:
                to = MOVED[inside]
            elif named.is_relative_to(ROOT / "docs"):
                to = str(named.relative_to(ROOT / "docs"))
            else:
                self.shown.add(named)
                to = _page_of(named)
            return f"]({os.path.relpath(to, os.path.dirname(page) or '.')}{match[2] or ''})"

        parts, at = [], 0
        for fence in FENCE.finditer(text):
            parts += [LINK.sub(link, text[at : fence.start()]), fence[0]]
            at = fence.end()
        return "".join([*parts, LINK.sub(link, text[at:])])


def _page_of(file: Path) -> str:
    return f"files/{str(file.relative_to(ROOT)).lstrip('.')}.md"


def _as_page(file: Path) -> str:
    text, name = file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))
    if file.suffix == ".md":
        return text
    return f"# {name}\n\n````{LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n````\n"


def build(site: Path) -> list[str]:
    """Makes the site; what is wrong with it, nothing where all is well."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        pages = Pages(folder / "docs")
        pages.write()
        if pages.lost:
            return pages.lost
        shutil.copytree(ROOT / "docs" / "assets", folder / "docs" / "assets")
        shutil.copy(ROOT / "zensical.toml", folder)
        done = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            said = ANSI.sub("", done.stdout + done.stderr)
            return re.findall(r"[\w./-]+\.md:\d+:\d+", said) or said.strip().splitlines()[-1:]
        for page in sorted((folder / "docs").rglob("*.md")):
            to = folder / "site" / page.relative_to(folder / "docs")
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(page, to)
        (folder / "site" / "llms.txt").write_text(llms(), encoding="utf-8")
        (folder / "site" / "llms-full.txt").write_text(llms_full(), encoding="utf-8")
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(folder / "site", site)
    return []


def main(args: list[str]) -> int:
    if args == ["--llms"]:
        (ROOT / "docs" / "llms.txt").write_text(llms(), encoding="utf-8")
        return 0
    site = Path(args[0] if args else "site")
    wrong = build(site)
    print("\n".join(wrong) if wrong else f"{sum(1 for _ in site.rglob('*.html'))} pages in {site}", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
