"""The study mlp_distributions, computed as the workflow does, against full forwards
of Hugging Face's models, hooked by hand, and against torch, scipy and scikit-learn.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import blocks, build, describe
from scipy import stats
from sklearn.manifold import TSNE, trustworthiness
from studied import layer_files, product, statistics, study
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome.figures.labels import stage_labels
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics.dimensionality import linear_separation_demonstration
from microtome.statistics.distributions import gelu_demonstration
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import token_table

ROOT = Path(__file__).parents[2]
SITES = ["ln2_out", "pre", "post", "mlp_out"]
TEXT = "Would you prefer a strawberry-flavored peanut or a peanut-flavored strawberry?"
CONFIG = study("mlp_distributions")
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

    table = token_table(read_set(ROOT / "stimuli" / "strawberry.yaml").stimuli, checkpoint)
    inputs = {
        "layers": layer_files(folder, checkpoint, table, SITES, range(len(seen))),
        "checkpoint": checkpoint,
        "manifest": describe(checkpoint),
    }
    made = statistics("mlp_distributions", folder, {"strawberry": inputs}, layer=layer)
    return SimpleNamespace(
        name=name,
        layer=layer,
        modules=modules,
        stages=stages,
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
    table = product("mlp_distributions", "tables", "weight_counts")(case.made["weight_counts"])
    assert list(table.frame.columns) == ["tensor", "size", "count", "percent"]
    assert list(table.frame["count"]) == case.made["weight_counts"]["count"].values.tolist()
    lines = table.text.splitlines()
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
    assert stage_labels(found) == case.stages
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
    assert stage_labels(found) == case.stages
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

    figure = product("mlp_distributions", "figures", "weight_histograms")(
        made["weight_histograms"], layer=case.layer
    )
    (axes,) = figure.axes
    assert len(axes.lines) == len(names)
    density = made["weight_histograms"]["density"].sel(layer=case.layer, matrix="W2")
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), density)
    assert axes.get_xlim() == (-0.8, 0.8)
    labels = [text.get_text().replace("$", "") for text in axes.get_legend().get_texts()]
    gated = [r"\mathbf{W_1} (gate)", r"\mathbf{W_1} (up)", r"\mathbf{W_2}"]
    assert labels == (gated if len(names) == 3 else [r"\mathbf{W_1}", r"\mathbf{W_2}"])

    limits = figures["weight_profile"]["limits"]
    figure = product("mlp_distributions", "figures", "weight_profile")(
        made["weight_histograms"], limits=limits
    )
    plain = ["W1 (expansion)", "W2 (contraction)"]
    expected = ["W1 (gate)", "W1 (up)", "W2 (contraction)"] if len(names) == 3 else plain
    assert [axes.get_title() for axes in figure.axes[:-1]] == expected
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(
        image.get_array(), made["weight_histograms"]["density"].sel(matrix=names[0])
    )
    assert image.get_clim() == (0, 3)
    assert tuple(image.get_extent()) == (-0.8, 0.8, -0.5, len(case.mlps) - 0.5)

    figure = product("mlp_distributions", "figures", "weight_product")(
        made["weight_product"], limits=(0.0, 1.5)
    )
    assert figure.axes[0].get_title() == f"|{names[0]} · W2|², layer {case.layer}"
    assert figure.axes[0].images[0].get_clim() == (0, 1.5)
    figure = product("mlp_distributions", "figures", "weight_product")(
        made["weight_product"], **figures["weight_product"]
    )
    largest = 2.5 * np.mean(made["weight_product"]["squared"].values)
    np.testing.assert_allclose(figure.axes[0].images[0].get_clim(), (0, largest))
    np.testing.assert_array_equal(
        figure.axes[0].images[0].get_array(), made["weight_product"]["squared"]
    )

    figure = product("mlp_distributions", "figures", "activation_histograms")(
        made["activation_histograms"]
    )
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
        figure = product("mlp_distributions", "figures", name)(made[name], limits=limits)
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
    figure = product("mlp_distributions", "figures", "tsne")(points)
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
    figure = product("mlp_distributions", "figures", "gelu")(sample)
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
    flat, lifted = product("mlp_distributions", "figures", "linear_separation")(rings).axes
    assert flat.get_title() == "A) Non-linearly separable in 2D"
    assert lifted.get_title() == "B) Linearly separable in 3D"
    assert lifted.get_zlabel() == "Radius"
    np.testing.assert_array_equal(lifted.lines[1].get_data_3d()[2], rings["radius"][1])
