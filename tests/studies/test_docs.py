"""The gallery's lines and the notebooks, run on what the workflow makes of tiny models."""

import ast
import contextlib
import io
import json
import re
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
import yaml
from conftest import build
from forked import shared
from matplotlib.figure import Figure
from transformers import AutoTokenizer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS))
from pictures import gallery  # noqa: E402

GALLERY = DOCS / "gallery.md"
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
MODEL = "smollm2-135m"


def code_of(notebook):
    """A notebook's cells with code, and what they have printed, by its text."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            printed = (out for out in cell["outputs"] if out["output_type"] == "stream")
            lines = [line for out in printed for line in out["text"]]
            yield "".join(cell["source"]), "".join(lines)


@pytest.fixture(scope="module")
def work(tmp_path_factory, gpt2_tokenizer):
    """A working directory with all that the pages read, of a Llama in SmolLM2's shape but width.

    It takes the place of the other models, too.
    """
    folder = tmp_path_factory.mktemp("work")
    sizes = {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72}
    sizes |= {"vocab_size": 50257, "num_hidden_layers": 30, "max_position_embeddings": 512}
    model = build(folder / "tiny", "llama", **sizes)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(model)
    config = {
        "models": {MODEL: {"source": str(model)}},
        "sweep": {"device": "cpu", "threads": 1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    text = "".join(page.read_text(encoding="utf-8") for page in [GALLERY, *NOTEBOOKS])
    read = re.findall(r"statistics/(\w+)/[\w{}-]+/(\w+\.h5)", text)
    wanted = {f"results/statistics/{study}/{MODEL}/{name}" for study, name in read}
    wanted |= {f"results/activations/{MODEL}/categories/layer-04.h5"}
    done = shared().run(
        folder,
        [
            *("--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)),
            *("--workflow-profile", str(ROOT / "profiles" / "default")),
            *("--configfile", "tiny.yaml", "--cores", "1", *sorted(wanted)),
        ],
    )
    assert done.returncode == 0, done.stderr
    for made in folder.glob(f"results/activations/{MODEL}"), folder.glob(f"results/*/*/{MODEL}"):
        for place in made:
            for other in "smollm2-untrained", "minilm":
                place.with_name(other).symlink_to(place)
    return folder


def test_the_gallery_draws_figures(work, monkeypatch):
    monkeypatch.chdir(work)
    for picture, figure in gallery():
        assert isinstance(figure, Figure)
        image = io.BytesIO()
        figure.savefig(image, dpi=20)
        assert image.tell() > 1000, picture


def test_the_gallery_draws_with_the_studies_own_options():
    """Those of study.yaml, with shares of the depth as layers of SmolLM2."""
    drawn = re.findall(
        r"^studies\.(\w+)\.figures\.(\w+)\((\w+.*)\)$", GALLERY.read_text(), flags=re.M
    )
    assert len(drawn) == GALLERY.read_text().count("![") - 2
    for study, figure, arguments in drawn:
        file = ROOT / "studies" / study / "study.yaml"
        options = yaml.safe_load(file.read_text(encoding="utf-8"))["figures"][figure]
        call = ast.parse(f"f({arguments})", mode="eval").body
        given = {option.arg: ast.literal_eval(option.value) for option in call.keywords}
        if "layer" in options:
            options["layer"] = round(float(options["layer"].rstrip("%")) / 100 * 29)
        assert {key: list(v) if key == "limits" else v for key, v in given.items()} == options


def test_every_picture_is_shown():
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "README.md", *DOCS.glob("*.md"))]
    shown = {name for text in texts for name in re.findall(r"\((?:docs/)?images/(\S+?)\)", text)}
    assert shown == {file.name for file in (DOCS / "images").iterdir()}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_prints_what_it_shows(work, smollm2, tmp_path, monkeypatch, notebook):
    """Cell by cell; what it prints of activations is of the tiny model, and is not compared."""
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    if notebook.stem == "intervene":
        models = tmp_path / "results" / "models" / "smollm2-135m"
        models.mkdir(parents=True)
        (models / "checkpoint").symlink_to(smollm2)
        (models / "manifest.json").write_text("{}")
    else:
        (tmp_path / "results").symlink_to(work / "results")
    monkeypatch.chdir(folder)
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")
    names: dict = {}
    for code, shown in code_of(notebook):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(re.sub(r"^%.*$", "", code, flags=re.M), names)
        assert not shown or notebook.stem != "intervene" or printed.getvalue() == shown
