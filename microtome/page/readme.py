"""A study's README.md: its title, its question, its chapters, and the sections of its figures."""

import re
from dataclasses import dataclass, field
from pathlib import Path

#: Chapters that have a place of their own on a page.
METHOD, FIGURES, TABLES, ERRATA = "Method", "Figures", "Tables", "Errata"


@dataclass(frozen=True)
class Readme:
    """What a README.md says, in Markdown.

    Attributes:
        title: its heading; empty if it has none.
        question: the first paragraph.
        chapters: what stands below each heading of the second level, in order.
    """

    title: str = ""
    question: str = ""
    chapters: dict[str, str] = field(default_factory=dict)

    def sections(self, chapter: str) -> dict[str, str]:
        """What stands below each heading of the third level in a chapter, by its plain text."""
        found = _split(self.chapters.get(chapter, ""), "###")[1]
        return {name.strip("`"): text for name, text in found.items()}

    @property
    def others(self) -> dict[str, str]:
        """The chapters that have no place of their own."""
        own = {METHOD, FIGURES, TABLES, ERRATA}
        return {name: text for name, text in self.chapters.items() if name not in own}


def read_readme(file: Path) -> Readme:
    """Read a README.md; where there is no such file, nothing is said."""
    if not file.is_file():
        return Readme()
    head, chapters = _split(file.read_text(encoding="utf-8", errors="replace"), "##")
    above, titles = _split(head, "#")
    title, text = next(iter(titles.items()), ("", above))
    question = next((p for p in re.split(r"\n\s*\n", text.strip()) if p), "")
    return Readme(title, question, chapters)


def _split(text: str, level: str) -> tuple[str, dict[str, str]]:
    """What stands above all headings of one level, and below each; code has no headings."""
    found: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in text.splitlines():
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        heading = None if fence else re.fullmatch(rf"{level} +(.*?) *#* *", line)
        if heading:
            found.append((heading[1], []))
        else:
            found[-1][1].append(line)
    (_, above), *below = [(name, "\n".join(lines).strip()) for name, lines in found]
    return above, dict(below)
