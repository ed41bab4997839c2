"""Each study's README.md: a section for every figure and table, and captions for the report."""

import re
from pathlib import Path

import pytest
import yaml
from docutils.core import publish_parts

from microtome.workflow.captions import captions

ROOT = Path(__file__).parents[1]
STUDIES = sorted(file.parent for file in ROOT.glob("studies/*/study.yaml"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda folder: folder.name)
def test_every_figure_and_table_has_a_section(study):
    entries = yaml.safe_load((study / "study.yaml").read_text(encoding="utf-8"))
    chapters = re.split(r"^## (.*)$", (study / "README.md").read_text(encoding="utf-8"), flags=re.M)
    sections = dict(zip(chapters[1::2], chapters[2::2], strict=True))
    for kind in ("figures", "tables"):
        headings = re.findall(r"^### `(.*)`$", sections.get(kind.title(), ""), flags=re.M)
        assert headings == list(entries.get(kind, {}))


@pytest.mark.parametrize("study", STUDIES, ids=lambda folder: folder.name)
def test_captions_are_what_docutils_reads_as_plain_paragraphs(study):
    for caption in captions(study / "README.md").values():
        strict = {"halt_level": 2, "report_level": 5}
        body = publish_parts(caption, writer="html", settings_overrides=strict)["body"]
        assert set(re.findall(r"<(\w+)", body)) <= {"p", "strong", "tt", "span", "code"}


def test_a_table_of_the_same_name_has_a_section_of_its_own(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "# Study\n## Figures\n### `norms`\nDrawn, in $x_1$ and `code`.\n\n"
        "### `other`\nElse.\n## Tables\n### `norms`\nListed.\n"
    )
    assert captions(readme) == {
        "norms": "Drawn, in :math:`x_1` and ``code``.",
        "other": "Else.",
    }


def test_a_study_without_a_readme_has_no_captions(tmp_path):
    assert captions(tmp_path / "README.md") == {}
