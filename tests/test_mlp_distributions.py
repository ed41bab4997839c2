"""The study mlp_distributions: its scripts, run as the workflow runs them, against full forwards
of Hugging Face's models, hooked by hand, and against torch, scipy and scikit-learn.
"""

import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from conftest import CONFIGS, Files, build
from safetensors.torch import load_file, save_file
from scipy import stats
from sklearn.manifold import TSNE, trustworthiness
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.fetch import fetch, manifest
from microtome.sections import write_layers
from microtome.sources import Folder
from microtome.statistics.distributions import histograms, site_histograms, token_histograms
from microtome.statistics.embedding import tsne
from microtome.statistics.layers import from_position
from microtome.statistics.nonlinearity import gelu_demonstration, linear_separation_demonstration
from microtome.stimuli import read_stimuli
from microtome.store import read_dataset
from microtome.sweep import batched, sweep
from microtome.tokens import token_table
from microtome.weights import StoredMLP

ROOT = Path(__file__).parents[1]
STUDY = "mlp_distributions"
SITES = ["ln2_out", "pre", "post", "mlp_out"]
TEXT = "Would you prefer a strawberry-flavored peanut or a peanut-flavored strawberry?"
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["studies"][STUDY]
#: For each model: the layer looked at, the modules W1 and W2, and the names of the four stages.
MODELS = {
    "gpt2": (2, ["c_fc", "c_proj"], ["Input", "Expansion", "GELU", "Projection"]),
    "gpt_neo": (3, ["c_fc", "c_proj"], ["Input", "Expansion", "GELU", "Projection"]),
    "smollm2": (
        5,
        ["gate_proj", "up_proj", "down_proj"],
        ["Input", "Gate (before SiLU)", "SiLU(gate) × up", "Projection"],
    ),
}


def run_script(path, inputs, outputs, folder, options, sites=()):
    """Run one of the study's scripts with what Snakemake would hand it."""
    stand_in = SimpleNamespace(
        input=Files(inputs),
        output=Files(outputs),
        log=[folder / "log"],
        params=SimpleNamespace(options=options, sites=list(sites)),
        threads=1,
    )
    runpy.run_path(str(ROOT / "scripts" / path), {"snakemake": stand_in}, "__main__")


def figure_script(name):
    """A figure's script as a module."""
    path = ROOT / "scripts" / "figures" / STUDY / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"figure_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def describe(folder, name="mine"):
    """Write a checkpoint folder's manifest beside it."""
    found = manifest(folder, name=name, source="", revision="")
    file = folder.with_name(f"{folder.name}.json")
    file.write_text(json.dumps(found), encoding="utf-8")
    return file


def blocks(model):
    base = model.base_model
    return next(getattr(base, name) for name in ("h", "layers") if hasattr(base, name))


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory, gpt2_tokenizer):
    """A model, its statistics from the scripts, and the activations of a hooked full forward."""
    name = request.param
    layer, modules, stages = MODELS[name]
    folder = tmp_path_factory.mktemp(name)
    if name == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        origin = build(folder / "origin", name, vocab_size=50257)
        AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(origin)
        checkpoint = folder / "checkpoint"
        fetch(Folder(origin), checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    seen = [{} for _ in blocks(model)]
    for acts, block in zip(seen, blocks(model), strict=True):
        first, last = getattr(block.mlp, modules[0]), getattr(block.mlp, modules[-1])

        def note(module, args, output, acts=acts, before=None, after=None):
            for site, value in ((before, args[0]), (after, output)):
                if site:
                    acts[site] = value[0].detach().double()

        for module, sites in (
            (block.mlp, {"before": "ln2_out", "after": "mlp_out"}),
            (first, {"after": "pre"}),
            (last, {"before": "post"}),
        ):
            module.register_forward_hook(lambda *call, s=sites, n=note: n(*call, **s))
    ids = AutoTokenizer.from_pretrained(checkpoint)(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        model(ids)

    table = token_table(read_stimuli(ROOT / "stimuli" / "strawberry.yaml"), checkpoint)
    layers = range(len(seen))
    paths = {i: folder / f"layer-{i:02d}.h5" for i in layers}
    sections = sweep(checkpoint, batched(table, 1), SITES, layers)
    write_layers(sections, table.coords, paths, {})

    made = {}
    for statistic, entry in CONFIG["statistics"].items():
        options = {k: v for k, v in entry.items() if k not in ("sites", "layers", "checkpoint")}
        if "layer" in options:
            options["layer"] = layer
        wanted = [layer] if isinstance(entry.get("layers"), list) else layers
        inputs = {
            "checkpoint": str(checkpoint),
            "manifest": str(describe(checkpoint)),
            "layers": [str(paths[i]) for i in wanted],
        }
        output = folder / f"{statistic}.h5"
        script = f"statistics/{STUDY}/{statistic}.py"
        run_script(script, inputs, {"h5": output}, folder, options, entry.get("sites", ()))
        made[statistic] = read_dataset(output)
    return SimpleNamespace(
        name=name,
        layer=layer,
        modules=modules,
        stages=stages,
        folder=folder,
        mlps=[block.mlp for block in blocks(model)],
        seen=seen,
        ids=ids[0],
        tokenizer=AutoTokenizer.from_pretrained(checkpoint),
        made=made,
    )


def densities(values, entry):
    """torch's own density histogram of the statistic's bins."""
    edges = torch.from_numpy(np.linspace(-entry["limit"], entry["limit"], entry["n_edges"]))
    return torch.histogram(values.flatten().double(), edges, density=True).hist.numpy()


def weight(mlp, module):
    """A projection's weights, (in, out): the rows it makes of the unit vectors."""
    found = getattr(mlp, module)
    stored = found.weight.detach().double()
    return stored if type(found).__name__ == "Conv1D" else stored.T


def test_weight_counts(case):
    counts = case.made["weight_counts"]
    expected = {}
    for name, module in zip(projections(case), case.modules, strict=True):
        found = getattr(case.mlps[case.layer], module)
        expected[name] = " x ".join(map(str, weight(case.mlps[0], module).shape)), found.weight
        if found.bias is not None:
            expected[name.replace("W", "b")] = str(found.bias.numel()), found.bias
    total = sum(tensor.numel() for _, tensor in expected.values())
    assert list(counts["tensor"].values) == list(expected)
    assert len(expected) == (3 if case.name == "smollm2" else 4)
    for tensor, (size, values) in expected.items():
        row = counts.sel(tensor=tensor)
        assert row["size"].item() == size
        assert row["count"].item() == values.numel()
        assert row["percent"].item() == pytest.approx(100 * values.numel() / total)
    assert counts.attrs["layer"] == case.layer


def projections(case):
    return ["W1 (gate)", "W1 (up)", "W2"] if case.name == "smollm2" else ["W1", "W2"]


def test_the_table_of_weight_counts(case):
    csv, txt = case.folder / "counts.csv", case.folder / "counts.txt"
    run_script(
        f"tables/{STUDY}/weight_counts.py",
        {"weight_counts": case.folder / "weight_counts.h5"},
        {"csv": csv, "txt": txt},
        case.folder,
        {},
    )
    table = pd.read_csv(csv)
    assert list(table.columns) == ["tensor", "size", "count", "percent"]
    assert list(table["count"]) == case.made["weight_counts"]["count"].values.tolist()
    lines = txt.read_text(encoding="utf-8").splitlines()
    if case.name == "smollm2":
        assert lines[0].split() == ["Type", "|", "Size", "|", "Count", "|", "%", "total"]
        assert lines[2].split("|")[1:] == [" 576 x 1536 ", " 884,736 ", "  33.333"]
    else:
        assert lines == [
            " Type |  Size   | Count | % total",
            "------+---------+-------+--------",
            "  W1  | 24 x 96 | 2,304 |  48.731",
            "  b1  |   96    |    96 |   2.030",
            "  W2  | 96 x 24 | 2,304 |  48.731",
            "  b2  |   24    |    24 |   0.508",
        ]


def test_weight_product(case):
    mlp = case.mlps[case.layer]
    expected = (weight(mlp, case.modules[0]) @ weight(mlp, case.modules[-1])) ** 2
    product = case.made["weight_product"]
    np.testing.assert_allclose(product["squared"], expected, rtol=1e-5)
    assert product.attrs == {"layer": case.layer, "first": projections(case)[0]}


def test_weight_histograms(case):
    entry = CONFIG["statistics"]["weight_histograms"]
    found = case.made["weight_histograms"]
    assert list(found["matrix"].values) == projections(case)
    for layer, mlp in enumerate(case.mlps):
        for name, module in zip(projections(case), case.modules, strict=True):
            values = weight(mlp, module)
            row = found.sel(layer=layer, matrix=name)
            np.testing.assert_allclose(row["density"], densities(values, entry), rtol=1e-5)
            beyond = (values.abs() > entry["limit"]).double().mean()
            assert row["beyond"].item() == pytest.approx(beyond.item(), abs=1e-12)
    edges = np.linspace(-entry["limit"], entry["limit"], entry["n_edges"])
    np.testing.assert_allclose(found["value"], (edges[1:] + edges[:-1]) / 2, atol=1e-12)


def test_activation_histograms(case):
    entry = CONFIG["statistics"]["activation_histograms"]
    found = case.made["activation_histograms"]
    assert list(found["stage"].values) == case.stages
    assert found.attrs["layer"] == case.layer
    for site in SITES:
        values = case.seen[case.layer][site]
        row = found.sel(site=site)
        np.testing.assert_allclose(row["density"], densities(values, entry), rtol=1e-5)
        assert row["n"].item() == values.numel()


def test_token_histograms(case):
    entry = CONFIG["statistics"]["token_histograms"]
    found = case.made["token_histograms"]
    assert list(found["position"].values) == list(range(len(case.ids)))
    for site in SITES:
        for position, values in enumerate(case.seen[case.layer][site]):
            row = found.sel(site=site, position=position)
            np.testing.assert_allclose(row["density"], densities(values, entry), rtol=1e-5)


def test_activation_profile_leaves_the_first_token_out(case):
    entry = CONFIG["statistics"]["activation_profile"]
    found = case.made["activation_profile"]
    assert found.attrs["limit"] == entry["limit"]
    assert list(found["stage"].values) == case.stages
    for layer, activations in enumerate(case.seen):
        for site in SITES:
            values = activations[site][1:]
            row = found.sel(layer=layer, site=site)
            np.testing.assert_allclose(row["density"], densities(values, entry), rtol=1e-5)
            beyond = (values.abs() > entry["limit"]).double().mean()
            assert row["beyond"].item() == pytest.approx(beyond.item(), abs=1e-12)


def test_tsne(case):
    found = case.made["tsne"]
    before, after = (case.seen[case.layer][site].numpy() for site in ("ln2_out", "mlp_out"))
    pair = found["ln2_out-mlp_out"].values
    np.testing.assert_allclose(pair, [before[1:].ravel(), after[1:].ravel()], rtol=1e-5)
    r = stats.pearsonr(before[1:].ravel(), after[1:].ravel())[0]
    assert found["r"].item() == pytest.approx(r, rel=1e-5)
    assert list(found["text"].values) == [case.tokenizer.decode([token]) for token in case.ids]
    for site, values in (("ln2_out", before), ("mlp_out", after)):
        embedding = found["embedding"].sel(site=site).values
        reduced = TSNE(
            2, perplexity=4, init="pca", learning_rate=10, method="exact", random_state=0
        ).fit_transform(values.astype(np.float32).astype(float))
        np.testing.assert_allclose(embedding, reduced, rtol=1e-5)
        assert trustworthiness(values, embedding, n_neighbors=4) > 0.7
    assert found.attrs["layer"] == case.layer


def test_the_figures_show_the_statistics(case):
    made, figures = case.made, CONFIG["figures"]
    names = projections(case)

    figure = figure_script("weight_histograms").draw(made["weight_histograms"], layer=case.layer)
    (axes,) = figure.axes
    assert len(axes.lines) == len(names)
    density = made["weight_histograms"]["density"].sel(layer=case.layer, matrix="W2")
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), density)
    assert axes.get_xlim() == (-0.8, 0.8)
    labels = [text.get_text().replace("$", "") for text in axes.get_legend().get_texts()]
    gated = [r"\mathbf{W_1} (gate)", r"\mathbf{W_1} (up)", r"\mathbf{W_2}"]
    assert labels == (gated if len(names) == 3 else [r"\mathbf{W_1}", r"\mathbf{W_2}"])

    limits = figures["weight_profile"]["limits"]
    figure = figure_script("weight_profile").draw(made["weight_histograms"], limits=limits)
    plain = ["W1 (expansion)", "W2 (contraction)"]
    expected = ["W1 (gate)", "W1 (up)", "W2 (contraction)"] if len(names) == 3 else plain
    assert [axes.get_title() for axes in figure.axes[:-1]] == expected
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(
        image.get_array(), made["weight_histograms"]["density"].sel(matrix=names[0])
    )
    assert image.get_clim() == (0, 3)
    assert tuple(image.get_extent()) == (-0.8, 0.8, -0.5, len(case.mlps) - 0.5)

    limits = figures["weight_product"]["limits"]
    figure = figure_script("weight_product").draw(made["weight_product"], limits=limits)
    assert figure.axes[0].get_title() == f"|{names[0]} · W2|², layer {case.layer}"
    assert figure.axes[0].images[0].get_clim() == tuple(limits)
    np.testing.assert_array_equal(
        figure.axes[0].images[0].get_array(), made["weight_product"]["squared"]
    )

    figure = figure_script("activation_histograms").draw(made["activation_histograms"])
    (axes,) = figure.axes
    for text, site, stage in zip(axes.get_legend().get_texts(), SITES, case.stages, strict=True):
        values = case.seen[case.layer][site]
        beyond = (values.abs() > 3).double().mean().item()
        left_out = f", {beyond:.0%} beyond" if beyond >= 0.01 else ""
        assert text.get_text() == f"{stage} (N = {values.numel():,}{left_out})"
    assert axes.get_xlim() == (-3, 3)
    assert axes.get_ylim()[0] == 0

    for name, ylabel in (("token_histograms", "Token position"), ("activation_profile", "Layer")):
        limits = figures[name]["limits"]
        figure = figure_script(name).draw(made[name], limits=limits)
        *panels, _ = figure.axes
        assert [axes.get_title() for axes in panels] == [
            f"{letter}) {stage}" for letter, stage in zip("ABCD", case.stages, strict=True)
        ]
        assert panels[0].get_ylabel() == ylabel
        for site, axes in zip(SITES, panels, strict=True):
            shown = axes.images[0]
            np.testing.assert_array_equal(shown.get_array(), made[name]["density"].sel(site=site))
            assert shown.get_clim() == tuple(limits)
            beyond = made[name]["beyond"].sel(site=site).max().item()
            label = "Activation value"
            label += f"\n(up to {beyond:.0%} beyond)" if beyond >= 0.01 else ""
            assert axes.get_xlabel() == label


def test_the_figure_of_tsne_labels_every_token(case):
    points = case.made["tsne"]
    figure = figure_script("tsne").draw(points)
    first, second, scatter = figure.axes[:3]
    for axes, site in ((first, "ln2_out"), (second, "mlp_out")):
        shown = axes.collections[0].get_offsets()
        np.testing.assert_allclose(shown, points["embedding"].sel(site=site))
        texts = [text.get_text() for text in axes.texts]
        assert texts == [text.replace(" ", "␣") for text in points["text"].values]
        assert "␣peanut" in texts
    assert scatter.get_title() == f"C) Scatter plot (r = {points['r'].item():.3f})"
    np.testing.assert_array_equal(scatter.lines[0].get_xdata(), points["ln2_out-mlp_out"][0])
    assert [axes.get_ylabel() for axes in figure.axes[3:]] == ["Token index"] * 2


def test_gelu():
    sample = gelu_demonstration(n=51, limit=4.0)
    raw = torch.linspace(-4, 4, 51, dtype=torch.float64)
    np.testing.assert_allclose(sample["raw"], raw, atol=1e-12)
    expected = torch.nn.functional.gelu(raw)
    np.testing.assert_allclose(sample["gelu"], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(sample["squared_difference"], (raw - expected) ** 2, atol=1e-12)
    figure = figure_script("gelu").draw(sample)
    axes, bar = figure.axes
    assert axes.collections[0].get_clim() == (0, 10)
    assert axes.get_title() == "Impact of GELU nonlinear activation"
    assert bar.get_ylabel() == "Squared difference"


def test_the_rings_are_closed_at_equal_angles():
    rings = linear_separation_demonstration(n=100, noise=0.0, seed=0)
    for ring, radius in (("inner", 1), ("outer", 2)):
        points = rings.sel(ring=ring)
        np.testing.assert_allclose(points["radius"], radius)
        angle = np.unwrap(np.arctan2(points["y"], points["x"]))
        np.testing.assert_allclose(angle, 2 * np.pi * np.arange(100) / 100, atol=1e-12)
        assert angle[-1] == pytest.approx(2 * np.pi * (1 - 1 / 100))


def test_the_rings_noise_is_seeded_and_of_the_size_asked_for():
    rings = linear_separation_demonstration(n=5000, noise=0.1, seed=1)
    xr.testing.assert_identical(rings, linear_separation_demonstration(5000, 0.1, 1))
    still = linear_separation_demonstration(5000, 0.0, 1)
    for name in ("x", "y"):
        noise = rings[name] - still[name]
        assert noise.values.std() == pytest.approx(0.1, rel=0.05)
    assert not linear_separation_demonstration(5000, 0.1, 2).equals(rings)
    np.testing.assert_allclose(rings["radius"] ** 2, rings["x"] ** 2 + rings["y"] ** 2)
    flat, lifted = figure_script("linear_separation").draw(rings).axes
    assert flat.get_title() == "A) Non-linearly separable in 2D"
    assert lifted.get_title() == "B) Linearly separable in 3D"
    assert lifted.get_zlabel() == "Radius"
    np.testing.assert_array_equal(lifted.lines[1].get_data_3d()[2], rings["radius"][1])


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_do_what_their_modules_do(checkpoints, name):
    """Whichever way a weight is stored: inputs times it, plus the bias, is the module's output."""
    mlp = StoredMLP(checkpoints[name], describe(checkpoints[name]))
    modules = {
        "gpt2": ["c_fc", "c_proj"],
        "gpt_neo": ["c_fc", "c_proj"],
        "gpt_neox": ["dense_h_to_4h", "dense_4h_to_h"],
        "gpt_neox_sequential": ["dense_h_to_4h", "dense_4h_to_h"],
    }.get(name, ["gate_proj", "up_proj", "down_proj"])
    assert mlp.gated == (len(modules) == 3)
    assert mlp.activation == ("SiLU" if mlp.gated and "gemma" not in name else "GELU")
    model = AutoModelForCausalLM.from_pretrained(checkpoints[name])
    assert mlp.n_layers == len(blocks(model))
    for layer, block in enumerate(blocks(model)):
        for projection, name_ in zip(mlp.projections, modules, strict=True):
            module = getattr(block.mlp, name_)
            values = mlp.weight(projection, layer)
            module.double()  # sums of float32 would differ by their order
            x = torch.randn(3, len(values), dtype=torch.float64)
            bias = mlp.bias(projection, layer)
            assert (bias is None) == (module.bias is None)
            found = x.numpy() @ values + (0 if bias is None else bias)
            np.testing.assert_allclose(found, module(x).detach(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "pre", "post"),
    [
        ("gpt2", "output of c_fc, before GELU", "input of c_proj, after GELU"),
        ("gpt_neox", "output of dense_h_to_4h, before GELU", "input of dense_4h_to_h, after GELU"),
        ("llama", "output of gate_proj, before SiLU", "input of down_proj, SiLU(gate) × up"),
        ("gemma2", "output of gate_proj, before GELU", "input of down_proj, GELU(gate) × up"),
    ],
)
def test_what_pre_and_post_are_is_said_of_the_model_at_hand(checkpoints, name, pre, post):
    mlp = StoredMLP(checkpoints[name], describe(checkpoints[name]))
    assert mlp.definition("pre") == f"pre = {pre}"
    assert mlp.definition("post") == f"post = {post}"
    assert mlp.definition("resid_mid") == "resid_mid"
    up = "pre_linear = output of up_proj, which SiLU(gate) is multiplied with"
    assert (mlp.definition("pre_linear") == up) == (name == "llama")


@pytest.mark.parametrize(("name", "width"), [("gpt2", "n_inner"), ("llama", "intermediate_size")])
def test_square_weights_are_read_the_architectures_way(tmp_path, name, width):
    folder = build(tmp_path / "square", name, **{width: 24})
    mlp = StoredMLP(folder, describe(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    first = blocks(model)[1].mlp.c_fc if name == "gpt2" else blocks(model)[1].mlp.gate_proj
    expected = first.weight if name == "gpt2" else first.weight.T
    np.testing.assert_array_equal(mlp.weight(mlp.projections[0], 1), expected.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_short_floats_are_read_exactly(tmp_path, name, dtype):
    folder = build(tmp_path / "short", name, dtype)
    mlp = StoredMLP(folder, describe(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    last = blocks(model)[2].mlp.c_proj if name == "gpt2" else blocks(model)[2].mlp.down_proj
    expected = (last.weight if name == "gpt2" else last.weight.T).detach().float()
    found = mlp.weight("W2", 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_a_checkpoint_without_the_models_prefix(tmp_path):
    """As the hub has GPT-2."""
    folder = build(tmp_path / "plain", "gpt2")
    expected = StoredMLP(folder, describe(folder)).weight("W1", 3).copy()
    rename(folder, lambda key: key.removeprefix("transformer."))
    np.testing.assert_array_equal(StoredMLP(folder, describe(folder)).weight("W1", 3), expected)


def rename(folder, change, values=lambda tensor: tensor):
    """Write a checkpoint's tensors anew, under changed names; None leaves one out."""
    file = folder / "model.safetensors"
    tensors = {change(key): values(tensor) for key, tensor in load_file(file).items()}
    save_file({key: t for key, t in tensors.items() if key}, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (lambda k: None if "2.mlp.c_fc" in k else k, lambda t: t, "no mlp.c_fc.weight"),
        (lambda k: k, lambda t: t.to(torch.int8), "dtype I8"),
        (lambda k: k, lambda t: t[..., :-1].contiguous(), r"shape \(24, 95\) where \(24, 96\)"),
    ],
)
def test_weights_that_cannot_be_read_are_an_error(tmp_path, change, values, message):
    folder = build(tmp_path / "broken", "gpt2")
    file = describe(folder)
    rename(folder, change, values)
    with pytest.raises(MicrotomeError, match=message):
        StoredMLP(folder, file).weight("W1", 2)


def test_an_unknown_architecture_is_an_error(tmp_path):
    folder = build(tmp_path / "odd", "gpt2")
    file = describe(folder)
    found = json.loads(file.read_text(encoding="utf-8")) | {"architecture": "mamba"}
    file.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(MicrotomeError, match="'mamba' is not known"):
        StoredMLP(folder, file)


def test_weights_are_read_without_torch(tmp_path):
    folder = build(tmp_path / "tiny", "gpt2")
    code = (
        "import sys; from microtome.statistics.mlp_weights import weight_product; "
        "from microtome.weights import StoredMLP; "
        f"weight_product(StoredMLP({str(folder)!r}, {str(describe(folder))!r}), 1); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def section(lengths=(3, 5)):
    """Activations of two texts at two sites."""
    position = np.concatenate([np.arange(n) for n in lengths])
    random = np.random.default_rng(0)
    sites = {site: (("token", "d"), random.normal(size=(len(position), 7))) for site in "ab"}
    text = np.array([f"t{i}" for i in range(len(position))], dtype=object)
    sequence = np.repeat(range(len(lengths)), lengths)
    coords = {"sequence": sequence, "position": position, "text": text}
    return xr.Dataset(sites, {name: ("token", values) for name, values in coords.items()})


def test_from_position():
    data = section()
    assert from_position(data, 0).sizes["token"] == 8
    assert list(from_position(data, 2)["text"].values) == ["t2", "t5", "t6", "t7"]
    with pytest.raises(MicrotomeError, match="the longest sequence has 5 tokens"):
        from_position(data, 5)


def test_histograms_of_several_texts_take_a_position_together():
    data = section()
    found = token_histograms(data, {"a": "A", "b": "B"}, 11, 2.0)
    assert list(found["n"].sel(site="a").values) == [14, 14, 14, 7, 7]
    values = data["b"].values[[1, 4]]
    density, _ = np.histogram(values, np.linspace(-2, 2, 11), density=True)
    np.testing.assert_allclose(found["density"].sel(site="b", position=1), density)
    whole = site_histograms(data, {"a": "A"}, 11, 2.0)
    assert whole["beyond"].item() == pytest.approx((abs(data["a"].values) > 2).mean())


def test_values_on_an_edge_and_beyond():
    values = np.array([-1, -0.5, 0, 0.5, 1, 1.01], np.float32)
    density, beyond = histograms([values, values + 9], 5, 1.0)
    np.testing.assert_allclose(density[0], np.array([1, 1, 1, 2]) / 5 / 0.5)
    np.testing.assert_array_equal(density[1], 0)
    np.testing.assert_allclose(beyond, [1 / 6, 1])


@pytest.mark.parametrize("perplexity", [8, 30.0, 0])
def test_a_perplexity_that_the_tokens_do_not_allow_is_an_error(perplexity):
    with pytest.raises(MicrotomeError, match=r"perplexity: .* 8 tokens"):
        tsne(section(), ["a"], perplexity, 0)


def test_tsne_is_the_same_in_every_run():
    first = tsne(section(), ["a", "b"], 3, 0)
    xr.testing.assert_identical(first, tsne(section(), ["a", "b"], 3, 0))
    assert first["embedding"].dims == ("site", "token", "component")
