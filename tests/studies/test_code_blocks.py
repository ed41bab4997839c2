"""Code in the documents: Python compiles, configs and studies fit their schema, commands exist.

What a page's Python does is tested beside what it is about: test_api, test_docs, test_extending,
test_store_page.
"""

import doctest
import re
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from forked import shared
from snakemake.cli import get_argument_parser
from snakemake.utils import update_config

from microtome.cli import _parser
from microtome.texts.stimuli import FORMS, read_set
from microtome.workflow.schema import schema_faults

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    file for place in ("*.md", "docs/**/*.md", "studies/*/README.md") for file in ROOT.glob(place)
)
SCHEMA = yaml.safe_load((ROOT / "config.schema.yaml").read_text(encoding="utf-8"))
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
#: What a document may call that is of neither Microtome, Snakemake nor this Makefile.
OTHERS = {"apptainer", "cd", "docker", "export", "git", "pipx", "pre-commit", "source"}


def blocks(document):
    """The language and the code of each block, also in a list."""
    text = document.read_text(encoding="utf-8")
    for language, code in re.findall(r"^ *```(\S*)\n(.*?)^ *```$", text, flags=re.M | re.S):
        yield language, dedent(code)


def of(*languages):
    """Each block in some languages, named by its document."""
    return [
        pytest.param(code, id=f"{document.relative_to(ROOT)}-{number}")
        for document in DOCUMENTS
        for number, (language, code) in enumerate(blocks(document))
        if language in languages
    ]


def test_languages_are_known():
    known = {"", "markdown", "math", "pycon", "python", "sh", "text", "yaml"}
    for document in DOCUMENTS:
        sphinx = {"{eval-rst}", "{toctree}"} if document.parent.name in ("docs", "api") else set()
        assert {language for language, _ in blocks(document)} <= known | sphinx, document


@pytest.mark.parametrize("code", of("python", "pycon"))
def test_python_compiles(code):
    if code.startswith("configfile:"):
        return  # a Snakefile, which a test below runs
    lines = doctest.DocTestParser().get_examples(code)
    for source in [example.source for example in lines] or [code]:
        compile(source, "a document", "exec")


@pytest.mark.parametrize("code", of("yaml"))
def test_yaml_is_a_config_a_study_or_stimuli(code, tmp_path):
    content = yaml.safe_load(code)
    if content.keys() <= SCHEMA["properties"].keys():
        merged = yaml.safe_load(yaml.safe_dump(CONFIG))
        update_config(merged, content)
        assert list(schema_faults(merged, SCHEMA)) == []
    elif content.keys() & set(FORMS):
        file = tmp_path / "stimuli" / "texts.yaml"
        file.parent.mkdir()
        file.write_text(code, encoding="utf-8")
        if "corpus" in content:
            corpus = file.parent / content["corpus"]
            corpus.parent.mkdir()
            corpus.touch()
        found = read_set(file)
        assert found.stimuli or found.remote or found.corpus
    else:
        study = SCHEMA["$defs"]["study"] | {"$defs": SCHEMA["$defs"]}
        faults = schema_faults({"source": "made up"} | content, study)
        assert list(faults) == []


def commands():
    """Each command line in a block or in the text, once."""
    found = set()
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        scripts = [code for language, code in blocks(document) if language == "sh"]
        lines = "\n".join(scripts).splitlines()
        lines += re.findall(r"`((?:make|microtome|snakemake) [^`]+)`", text)
        found |= {part.strip() for line in lines for part in re.split(r" +#.*|&&|;", line)}
    return sorted(found - {""})


@pytest.mark.parametrize("command", commands())
def test_commands_exist(command):
    name, *arguments = shlex.split(command)
    if name == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for word in arguments:
            variable, equals, _ = word.partition("=")
            wanted = rf"\$[({{]*{variable}\b" if equals else rf"^{re.escape(word)}:"
            assert re.search(wanted, makefile, flags=re.M), word
    elif name == "microtome":
        assert arguments[0] in _parser().format_help().split()
    elif name == "snakemake":
        rest = get_argument_parser().parse_known_args(arguments)[1]
        assert not [word for word in rest if word.startswith("-")]
    else:
        assert name in OTHERS


def test_the_snakefile_of_another_workflow_runs(tmp_path):
    """docs/importing.md, with what a reader has to fill in."""
    page = ROOT / "docs" / "importing.md"
    [code] = [code for _, code in blocks(page) if code.startswith("configfile:")]
    code = code.replace("/path/to/microtome", str(ROOT))
    assert code.count("    ...") == 1
    code = code.replace("    ...", '    output: "mine.txt"\n    shell: "touch {output}"')
    (tmp_path / "Snakefile").write_text(code, encoding="utf-8")
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text(encoding="utf-8"))
    done = shared().run(tmp_path, ["mine.txt", "--dry-run", "--cores", "1"])
    assert done.returncode == 0, done.stderr
    assert "microtome_statistic__category_selectivity__rsa" in done.stdout + done.stderr
