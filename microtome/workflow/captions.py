"""Captions of figures, from a study's README.md: the sections under its heading "Figures"."""

import re
from pathlib import Path


def captions(readme: Path) -> dict[str, str]:
    """The captions of a study's figures, by their names, as reStructuredText for the report.

    Args:
        readme: a file with a heading `## Figures` and below it a heading `` ### `name` `` for each
            figure. Tables may have sections of the same names, below a heading of their own. Where
            there is no file, no figure has a caption.
    """
    if not readme.is_file():
        return {}
    chapters = _sections(readme.read_text(encoding="utf-8", errors="replace"), "##")
    figures = _sections(chapters.get("Figures", ""), "###")
    return {name.strip("`"): _restructured(text) for name, text in figures.items()}


def _sections(text: str, level: str) -> dict[str, str]:
    """What stands below each heading of one level."""
    parts = re.split(rf"^{level} +(.*?) *$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _restructured(text: str) -> str:
    """Markdown of plain paragraphs as reStructuredText."""
    text = re.sub(r"^!\[.*?\]\(.*?\)$", "", text, flags=re.MULTILINE)  # the figure itself
    text = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text)
    text = re.sub(r"`+([^`]+)`+", r"``\1``", text)
    return re.sub(r"\$([^$\n]+)\$", r":math:`\1`", text).strip()
