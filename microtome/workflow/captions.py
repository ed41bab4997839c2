"""Captions of figures, from a study's README.md: the section under a heading `### name`."""

import re
from pathlib import Path


def captions(readme: Path) -> dict[str, str]:
    """The sections of a README.md, by their headings, as reStructuredText for the report.

    Args:
        readme: the file; where there is none, no figure has a caption.
    """
    if not readme.is_file():
        return {}
    parts = re.split(r"^#{1,6} +(.*)$", readme.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        heading.strip().strip("`"): _restructured(text)
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _restructured(text: str) -> str:
    """Markdown of plain paragraphs as reStructuredText."""
    text = re.sub(r"^!\[.*?\]\(.*?\)$", "", text, flags=re.MULTILINE)  # the figure itself
    text = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text)
    text = re.sub(r"`+([^`]+)`+", r"``\1``", text)
    return re.sub(r"\$([^$\n]+)\$", r":math:`\1`", text).strip()
