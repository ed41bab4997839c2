"""Captions of figures for Snakemake's report, from a study's README.md."""

import re
from pathlib import Path

from microtome.page.readme import FIGURES, read_readme


def captions(readme: Path) -> dict[str, str]:
    """The captions of a study's figures, by their names, as reStructuredText.

    Args:
        readme: a file with a heading `## Figures` and below it a heading `` ### `name` `` for each
            figure. Tables may have sections of the same names, below a heading of their own. Where
            there is no file, no figure has a caption.
    """
    sections = read_readme(readme).sections(FIGURES)
    return {name: _restructured(text) for name, text in sections.items()}


def _restructured(text: str) -> str:
    """Markdown of plain paragraphs as reStructuredText."""
    text = re.sub(r"^!\[.*?\]\(.*?\)$", "", text, flags=re.MULTILINE)  # the figure itself
    text = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text)
    text = re.sub(r"`+([^`]+)`+", r"``\1``", text)
    return re.sub(r"\$([^$\n]+)\$", r":math:`\1`", text).strip()
