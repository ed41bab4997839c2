"""The workflow itself, run as a user runs it, on a tiny GPT-2 with the real tokenizer."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import build
from forked import shared
from PIL import Image
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
STUDY = "category_selectivity"


def snakemake(folder, *arguments, sharing=True):
    options = ["--snakefile", str(ROOT / "Snakefile"), "--replace-workflow-config"]
    options += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    options += ["--directory", str(folder)]
    return shared().run(folder, [*options, *arguments], sharing=sharing)


@pytest.fixture(scope="module")
def model(tmp_path_factory, gpt2_tokenizer):
    folder = build(tmp_path_factory.mktemp("origin") / "tiny", "gpt2", vocab_size=50257)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(folder)
    return folder


def write_config(folder, model, **changes):
    """Write mine.yaml: one study on the tiny model, at layer 2 (67% of 3), and coarse figures."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config["style"]["dpi"] = 50
    config["studies"] = {
        STUDY: {
            "models": ["tiny"],
            "statistics": {
                "qkv_points": {"layer": 2},
                "similarity_distributions": {"layer": "67%"},
            },
            "figures": {"cosine_matrices": {"layer": 2}, "rsa_scatter": {"layer": "67%"}},
        }
    }
    config["models"] = {"tiny": {"source": str(model), "n_layers": 4} | changes}
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def run(tmp_path_factory, model):
    """A folder where the workflow has run."""
    folder = tmp_path_factory.mktemp("run")
    done = snakemake(folder, "--configfile", write_config(folder, model))
    assert done.returncode == 0, done.stderr
    return folder


def test_every_figure_is_made(run):
    study = yaml.safe_load((ROOT / "studies" / STUDY / "study.yaml").read_text(encoding="utf-8"))
    for name in study["figures"]:
        place = "." if name == "fisher_z" else "tiny"
        figure = run / "results" / "figures" / STUDY / place / name
        assert figure.with_suffix(".svg").read_text(encoding="utf-8").startswith("<?xml")
        with Image.open(figure.with_suffix(".png")) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 2
    assert len(list((run / "results" / "figures").rglob("*.png"))) == 12


def test_nothing_is_stale_afterwards(run):
    again = snakemake(run, "--configfile", "mine.yaml", "--dry-run")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_number_of_a_layer_is_the_same_as_its_share_of_the_depth(run, model):
    config = Path(write_config(run, model)).read_text(encoding="utf-8")
    assert config.count("67%") == 2
    (run / "numbers.yaml").write_text(config.replace("67%", "2"), encoding="utf-8")
    again = snakemake(run, "--configfile", "numbers.yaml", "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_only_what_a_changed_option_touches_is_stale(run, model):
    config = yaml.safe_load(Path(write_config(run, model)).read_text(encoding="utf-8"))
    config["studies"][STUDY]["figures"]["cosine_matrices"]["layer"] = 3
    (run / "changed.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    summary = snakemake(run, "--configfile", "changed.yaml", "--dry-run", "--summary")
    rows = [line.split("\t") for line in summary.stdout.splitlines()]
    products = {row[0]: row[-1] for row in rows if row[0].startswith("results/")}
    assert len(products) > 30
    stale = {product for product, plan in products.items() if plan != "no update"}
    expected = {
        *(f"results/figures/{STUDY}/tiny/cosine_matrices.{suffix}" for suffix in ("svg", "png")),
        f"results/page/{STUDY}.html",
    }
    assert stale == expected


def hooked(model):
    """The original model with its tokenizer, and where q, k and v of its blocks appear."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    original = AutoModelForCausalLM.from_pretrained(model)
    seen = {}
    for i, block in enumerate(original.transformer.h):
        block.attn.c_attn.register_forward_hook(
            lambda module, args, output, i=i: seen.__setitem__(i, output[0].detach().numpy())
        )
    return tokenizer, original, seen


def test_the_layer_files_are_the_models_activations(run, model):
    """Against one full forward per text of the original folder, hooked by hand."""
    tokenizer, original, seen = hooked(model)
    stimuli = yaml.safe_load((ROOT / "stimuli" / "categories.yaml").read_text(encoding="utf-8"))
    words = [word for members in stimuli["words"].values() for word in members]
    for layer in range(4):
        path = run / "results" / "activations" / "tiny" / "categories" / f"layer-{layer:02d}.h5"
        with xr.open_dataset(path, engine="h5netcdf") as section:
            assert section["q"].dims == ("token", "n_heads", "d_head")
            assert section.attrs["source"] == str(model)
            for number, word in enumerate(words):
                ids = tokenizer.encode(f"The next word is {word}")
                rows = section.isel(token=section["sequence"].values == number)
                assert list(rows["token_id"].values) == ids
                with torch.no_grad():
                    original(torch.tensor([ids]))
                mine = np.concatenate(
                    [rows[site].values.reshape(len(ids), -1) for site in "qkv"], axis=1
                )
                np.testing.assert_allclose(mine, seen[layer], rtol=1e-4, atol=1e-5)


def test_the_statistics_are_those_of_the_activations(run, model):
    """The notebook's numbers, computed plainly from full forwards of the model."""
    tokenizer, original, seen = hooked(model)
    stimuli = yaml.safe_load((ROOT / "stimuli" / "categories.yaml").read_text(encoding="utf-8"))
    labels, last, second = [], [], []
    for category, members in stimuli["words"].items():
        for word in members:
            with torch.no_grad():
                original(torch.tensor([tokenizer.encode(f"The next word is {word}")]))
            labels.append(category)
            last.append([seen[layer][-1] for layer in range(4)])
            second.append([seen[layer][1] for layer in range(4)])
    last = np.array(last, np.float64).reshape(34, 4, 3, -1)
    second = np.array(second, np.float64).reshape(34, 4, 3, -1)
    upper = np.triu(np.ones((34, 34), bool), 1)
    same = np.equal.outer(labels, labels)

    def statistic(name):
        return xr.open_dataset(
            run / "results" / "statistics" / STUDY / "tiny" / f"{name}.h5", engine="h5netcdf"
        )

    correlations, rsa, selectivity = map(statistic, ("qkv_correlations", "rsa", "selectivity"))
    for layer in range(4):
        cosines = []
        for site in range(3):
            x = last[:, layer, site]
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
            cosines.append(x @ x.T)
            for scale, transform in (("cosine", np.array), ("fisher_z", np.arctanh)):
                w, a = transform(cosines[-1][upper & same]), transform(cosines[-1][upper & ~same])
                cell = selectivity.sel(scale=scale, layer=layer).isel(site=site)
                assert cell["t"].item() == pytest.approx(
                    stats.ttest_ind(w, a).statistic, rel=1e-5, abs=1e-6
                )
                difference = np.mean(w) - np.mean(a)
                assert cell["difference"].item() == pytest.approx(difference, rel=1e-5, abs=1e-6)
        for pair, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
            r = stats.pearsonr(cosines[a][upper], cosines[b][upper])[0]
            assert rsa["r"].values[layer, pair] == pytest.approx(r, rel=1e-5, abs=1e-6)
            r = np.corrcoef(second[:, layer, a].ravel(), second[:, layer, b].ravel())[0, 1]
            assert correlations["r"].values[layer, pair] == pytest.approx(r, rel=1e-5, abs=1e-6)


def test_the_report_holds_every_figure_and_caption(run):
    done = snakemake(run, "--configfile", "mine.yaml", "--report", "results/report.html")
    assert done.returncode == 0, done.stderr
    html = (run / "results" / "report.html").read_text(encoding="utf-8")
    for text in ("Look for the three blocks", "tiny", "cosine_matrices.png"):
        assert text in html


def test_same_inputs_same_bytes_in_another_folder(run, model, tmp_path):
    config = write_config(tmp_path, model)
    # Servers of its own hash texts in another way, and so have another order in each set.
    done = snakemake(tmp_path, "--configfile", config, "--cores", "4", sharing=False)
    assert done.returncode == 0, done.stderr
    first = sorted((run / "results").rglob("*"))
    products = [
        p.relative_to(run)
        for p in first
        if p.is_file() and p.suffix in {".h5", ".svg", ".png", ".json", ".safetensors"}
    ]
    assert len(products) > 30
    for product in products:
        assert (tmp_path / product).read_bytes() == (run / product).read_bytes(), product


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 5}, "models.tiny.n_layers: the config says 5, the checkpoint has 4"),
        ({"source": "hf://a/b"}, "the revision is missing; pin it"),
        ({"source": "/none/such"}, "/none/such: no such folder"),
        ({"n_layers": 2}, "no layer 2 in tiny, it has 0 to 1"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(tmp_path, model, changes, message):
    done = snakemake(tmp_path, "--configfile", write_config(tmp_path, model, **changes))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("microtome:")]
    assert len(lines) == 1
    assert message in lines[0]
    made = [p for p in (tmp_path / "results").rglob("*") if p.is_file() and p.suffix != ".log"]
    assert [p for p in made if "tiny" in p.parts] == []


def test_a_broken_checkpoint_is_noticed_before_anything_is_derived(tmp_path, model):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = snakemake(tmp_path, "--configfile", write_config(tmp_path, broken))
    assert done.returncode != 0
    assert f"{weights}:" in done.stderr
    assert "cut short" in done.stderr
    assert not (tmp_path / "results" / "activations").exists()
