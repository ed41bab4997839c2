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
    """README.md and the like, all of docs/ and each study's README.md."""
    places = ("*.md", "docs/**/*.md", "docs/notebooks/*.ipynb", "studies/*/README.md")
    return sorted(file for place in places for file in ROOT.glob(place))


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
def test_links_elsewhere_have_the_form_of_a_link(document):
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((\w+:[^)\s]*)\)", text):
        assert re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w.~/#?=&%-]*)?", link), link


@pytest.mark.parametrize("document", documents(), ids=lambda file: str(file.relative_to(ROOT)))
def test_files_of_the_repository_are_called_what_they_are_called(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:microtome|rules|scripts|tests|stimuli)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists() or "my_corpus" in name, name


def test_the_api_has_every_module():
    text = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/api/*.md"))
    listed = re.findall(r"automodule:: microtome\.(\S+)", text)
    library = ROOT / "microtome"
    packages = ("figures", "statistics", "store", "sweeps", "texts")
    modules = [file for name in packages for file in library.glob(f"{name}/[!_]*.py")]
    wanted = [".".join(file.relative_to(library).with_suffix("").parts) for file in modules]
    for file in ROOT.glob("studies/*/*.py"):
        if file.stem in ("figures", "statistics", "tables", "changes"):
            wanted.append(f"studies.{file.parent.name}.{file.stem}")
    assert set(listed) == {*wanted, "errors", "options", "sites"}  # each module of docs/api/


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
