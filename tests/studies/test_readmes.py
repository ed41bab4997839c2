"""Each study's README.md: a section for every figure and table, and captions for the report."""

import re
from pathlib import Path

import pytest
import yaml
from docutils.core import publish_parts

from microtome.workflow.captions import captions

ROOT = Path(__file__).parents[2]
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


def documents():
    """README.md, all of docs/ and each study's README.md."""
    return [
        ROOT / "README.md",
        *sorted(ROOT.glob("docs/*.md")),
        *(s / "README.md" for s in STUDIES),
    ]


def anchors(document):
    """The anchors that GitHub gives a document's headings."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*?) *$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", text)
    for path, anchor in links:
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("document", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_files_of_the_repository_are_called_what_they_are_called(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:microtome|rules|scripts|tests|stimuli)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists() or "my_corpus" in name, name


def test_the_way_from_a_figure_to_the_sweep_is_there():
    """Each step in the text, and what is drawn of it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\d\. \[([\w/.]+)\]\(\S+?\), at\s+(`[^:]*?`): ", text, flags=re.M)
    assert len(steps) == 4
    drawn = (ROOT / "docs" / "images" / "way.svg").read_text(encoding="utf-8")
    for file, names in steps:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert all(name in code for name in re.findall("`(.*?)`", names))
        assert file in drawn or "block.py" in file
    for function in re.findall(r'class="code".*?>(\w+)\(', drawn):
        assert any(f"{function}(" in (ROOT / file).read_text(encoding="utf-8") for file, _ in steps)
