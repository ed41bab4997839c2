"""What stands about the repository beside its code: licences, citation, checks, container."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def yaml_of(name):
    return yaml.safe_load(text_of(name))


def rows(section):
    """The rows of a section's tables on the page of licences, by their first column."""
    chapters = re.split(r"^## (.*)$", text_of("docs/licences.md"), flags=re.M)
    tables = dict(zip(chapters[1::2], chapters[2::2], strict=True))[section]
    found = [re.split(r" *\| *", row)[1:-1] for row in tables.splitlines() if row[:1] == "|"]
    return {re.sub(r"[`\[\]]|\(.*\)", "", row[0]): row[1:] for row in found}


@pytest.mark.parametrize("config", ["config.yaml", "config.book.yaml"])
def test_every_model_s_licence_is_named(config):
    named = rows("Models")
    for model in yaml_of(config)["models"]:
        what, licence, stated = named[model]
        assert what and licence
        assert stated or model.endswith("-untrained")


def test_every_stimulus_file_s_licence_is_named():
    named = rows("Texts and word lists")
    files = {file.name for file in (ROOT / "stimuli").iterdir()}
    assert files == {name for name in named if name.endswith(".yaml")}
    assert all(whose and licence for whose, licence in map(named.get, files))


def test_the_citation_has_the_package_s_name_version_and_licence():
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    citation = yaml_of("CITATION.cff")
    assert citation["title"].lower().startswith(f"{project['name']}:")
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert project["version"] in text_of("CHANGELOG.md")
    assert citation["authors"][0]["name"] in text_of("LICENSE")


def test_the_citation_names_the_sources_of_the_studies():
    titles = [reference["title"] for reference in yaml_of("CITATION.cff")["references"]]
    files = ROOT.glob("studies/*/study.yaml")
    sources = [yaml.safe_load(file.read_text(encoding="utf-8"))["source"] for file in files]
    theirs = [source for source in sources if source.startswith("Mike X Cohen")]
    for title in titles:
        assert any(title in source for source in theirs)
    for source in theirs:
        assert any(title in source for title in titles)


def prerequisites(target):
    """What a target of the Makefile is made from."""
    return re.search(rf"^{re.escape(target)}:([^#\n]*)", text_of("Makefile"), flags=re.M)[1].split()


def test_the_hooks_run_before_a_commit_are_the_lints_of_ci():
    hooks = [hook for repo in yaml_of(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == [f"make {each}" for each in prerequisites("lint")]
    assert all(hook["language"] == "system" for hook in hooks)  # nothing is fetched
    assert "make lint\n" in text_of(".ci/run")


def test_the_container_is_made_by_targets_of_the_makefile():
    recipe = text_of("Dockerfile")
    [target] = re.findall(r"^RUN make --directory \S+ (\S+)$", recipe, flags=re.M)
    assert prerequisites(target)
    assert re.findall(r"^USER (.*)$", recipe, flags=re.M)[-1] != "root"
    [command] = re.findall(r'^ENTRYPOINT \["/opt/microtome/\.venv/bin/(.*)"\]$', recipe, flags=re.M)
    assert command in tomllib.loads(text_of("pyproject.toml"))["project"]["scripts"]
    assert {"/.git", "/.venv", "/results"} <= set(text_of(".dockerignore").splitlines())


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_targets_that_a_document_names_are_in_the_makefile(name):
    known = set(re.findall(r"^([.\w/-]+):", text_of("Makefile"), flags=re.M))
    named = re.findall(r"(?:^|`)make ([.\w/-]+)", text_of(name), flags=re.M)
    assert set(named) <= known
