"""The study on the residual stream against hooked forwards of the Hugging Face model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from conftest import build, describe
from hooked import hooked, load
from scipy import stats
from statsmodels.stats.multitest import multipletests
from studied import ROOT, layer_files, product, statistics, study
from transformers import AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.figures.style import style
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.store.datasets import write_dataset
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table
from studies.residual_stream import captions, figures, tables

STUDY = "residual_stream"
SITES = ["resid_pre", "attn_out", "mlp_out", "resid_post"]
#: By model: how tests/hooked.py names its family, and the layer that is looked at.
MODELS = {"gemma2": ("gemma2", 3), "gpt_neox": ("gpt_neox", 3), "smollm2": ("llama", 26)}
DIMENSION = 7


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory, gpt2_tokenizer):
    """What the study makes of a model's text, and every site of one hooked forward."""
    family, layer = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        origin = build(folder / "origin", request.param, vocab_size=50257)
        AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(origin)
        checkpoint = folder / "checkpoint"
        fetch(Folder(origin), checkpoint)
    file = ROOT / "stimuli" / f"{study(STUDY)['stimuli']}.yaml"
    (text,) = yaml.safe_load(file.read_text(encoding="utf-8"))["texts"]
    table = token_table([Stimulus(text)], checkpoint)
    write_dataset(table, folder / "tokens.h5")
    model = load(checkpoint)
    n_layers = model.config.num_hidden_layers
    *paths, last = layer_files(folder, checkpoint, table, SITES, range(n_layers), ["ln_final"])
    given = {"layers": paths, "final": [last], "tokens": folder / "tokens.h5"}
    given |= {"checkpoint": checkpoint, "manifest": describe(checkpoint)}
    inputs = {study(STUDY)["stimuli"]: given}
    made = statistics(STUDY, folder, inputs, dimension=DIMENSION, n_permutations=300)
    ids = AutoTokenizer.from_pretrained(checkpoint)(text)["input_ids"]
    seen = {key: values[0] for key, values in hooked(model, family, [ids]).items()}
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_hidden_states=True)
    hidden = [state[0].numpy() for state in output.hidden_states]
    return SimpleNamespace(
        **{"made": made, "seen": seen, "hidden": hidden, "model": model},
        **{"layer": layer, "n_layers": n_layers},
    )


def at(run, site, layer):
    """A site's values in a layer of the hooked forward, (token, d_model), float64."""
    return run.seen[layer, site].astype(np.float64)


def test_one_dimension_of_hidden_state_and_block_output(run):
    found = run.made["blocks"]
    assert found.attrs == {"dimension": DIMENSION}
    expected = np.stack(run.hidden[1:])[..., DIMENSION]
    np.testing.assert_array_equal(found["hidden_value"], expected)
    for layer, output in enumerate(found["output_value"].values):
        np.testing.assert_array_equal(output, at(run, "resid_post", layer)[:, DIMENSION])


def test_the_last_hidden_state_is_the_final_norm_of_the_last_output(run):
    found = run.made["blocks"]
    assert (found["difference"].values[:-1] == 0).all()
    for layer in range(run.n_layers):
        hidden, output = run.hidden[layer + 1], run.seen[layer, "resid_post"]
        ours = found.isel(layer=layer)
        norm = torch.norm(torch.tensor(hidden - output).double()).item()
        assert ours["difference"].item() == pytest.approx(norm, rel=1e-5)
        assert ours["hidden"].item() == pytest.approx(np.linalg.norm(hidden), rel=1e-5)
        assert ours["output"].item() == pytest.approx(np.linalg.norm(output), rel=1e-5)
        cosine = torch.cosine_similarity(torch.tensor(hidden), torch.tensor(output), dim=-1)
        assert ours["cosine"].item() == pytest.approx(cosine.double().mean().item(), rel=1e-5)
    base = run.model.base_model
    names = ("ln_f", "norm", "final_layer_norm")
    norm = next(getattr(base, name) for name in names if hasattr(base, name))
    with torch.no_grad():
        normed = norm(torch.tensor(run.seen[run.n_layers - 1, "resid_post"])).numpy()
    np.testing.assert_array_equal(normed, run.hidden[-1])
    assert found["difference"].values[-1] > 0


def test_parts_of_a_block_add_up(run):
    found, layer = run.made["block"], run.layer
    assert found.attrs["layer"] == layer
    for site in SITES:
        np.testing.assert_array_equal(found[site].values, run.seen[layer, site])
    # GPT-NeoX adds the same three in another order: float32 rounds each of two sums otherwise.
    added = sum(abs(at(run, site, layer)) for site in SITES[:3])
    assert (abs(found["sum"] - found["resid_post"]) <= np.finfo(np.float32).eps * added).all()


def test_the_sum_is_exact_in_every_layer(run):
    """Also where norms follow attention and MLP (Gemma), and where the two run in parallel."""
    found = run.made["blocks"]
    assert (found["relative_error"].values < 1e-6).all()
    for layer in range(run.n_layers):
        parts = [at(run, site, layer) for site in SITES]
        total = np.float32(parts[0]) + np.float32(parts[1]) + np.float32(parts[2])
        norms = [np.linalg.norm(part[1:], axis=1) for part in parts]
        added = np.linalg.norm((parts[1] + parts[2])[1:], axis=1) / norms[3]
        r = [stats.pearsonr(*both).statistic for both in zip(*parts[1:3], strict=True)]
        expected = {
            **dict(zip(SITES, map(np.mean, norms), strict=True)),
            "error": np.linalg.norm((total - run.seen[layer, "resid_post"]).astype(float)),
            "error_to_hidden": np.linalg.norm((total - run.hidden[layer + 1]).astype(float)),
            "added": added.mean(),
            "pearson": np.mean(r[1:]),
        }
        expected["relative_error"] = expected["error"] / np.linalg.norm(parts[3])
        ours = found.isel(layer=layer, drop=True)
        for name, value in expected.items():
            assert ours[name].item() == pytest.approx(value, rel=1e-5), name
    assert found["error_to_hidden"].values[-1] > 1e3 * found["error"].values.max()


def test_correlations_of_the_adjustments(run):
    found, layer = run.made["adjustments"], run.layer
    attn, mlp = at(run, "attn_out", layer), at(run, "mlp_out", layer)
    n_outliers = study(STUDY)["statistics"]["adjustments"]["n_outliers"]
    for token, (a, m) in enumerate(zip(attn, mlp, strict=True)):
        weight = np.abs((a - a.mean()) * (m - m.mean()))
        kept = np.argsort(weight)[:-n_outliers]
        others = np.corrcoef(a, np.delete(mlp, token, axis=0))[0, 1:]
        expected = {
            "pearson": stats.pearsonr(a, m).statistic,
            "spearman": stats.spearmanr(a, m).statistic,
            "trimmed": stats.pearsonr(a[kept], m[kept]).statistic,
            "others": np.mean(others),
        }
        for name, value in expected.items():
            assert found[name].values[token] == pytest.approx(value, rel=1e-5), name
    options = study(STUDY)["statistics"]["adjustments"] | {"n_permutations": 300}
    random = np.random.default_rng(options["seed"])
    orders = [random.permutation(attn.shape[1]) for _ in range(300)]
    ranks = [stats.rankdata(values, axis=1) for values in (attn, mlp)]
    for name, (first, second) in {"pearson": (attn, mlp), "spearman": ranks}.items():
        null = [stats.pearsonr(first, second[:, order], axis=1).statistic for order in orders]
        p, r = found[f"p_{name}"].values, found[name].values
        # Correlations of ranks are often equal, but for float64's rounding.
        reached = (np.abs(null) >= np.abs(r) - 1e-9).sum(axis=0)
        np.testing.assert_allclose(p, (1 + reached) / 301, rtol=1e-5)
        # Of few draws, it is near what is known of normal values.
        np.testing.assert_allclose(p, _tested(r, attn.shape[1]), atol=0.1)
        holm = multipletests(p, method="holm")[1]
        np.testing.assert_array_equal(found[f"p_{name}_holm"], holm)
        if name == "pearson":
            ends = np.quantile(null, [options["alpha"] / 2, 1 - options["alpha"] / 2], axis=0)
            np.testing.assert_allclose([found["null_low"], found["null_high"]], ends, rtol=1e-5)
    again = product(STUDY, "statistics", "adjustments")(run.made["block"], **options)
    xr.testing.assert_identical(again, found)


def _tested(r, n):
    """The p-values of a correlation of n normal values."""
    t = r * np.sqrt((n - 2) / (1 - r**2))
    return 2 * stats.t.sf(np.abs(t), n - 2)


def crafted(attn, mlp):
    """The statistic `block` of tokens with the given adjustments."""
    values = np.array([attn, attn, mlp, attn], np.float32)
    sites = dict(zip(SITES, ((("token", "d_model"), each) for each in values), strict=True))
    n = len(attn)
    columns = {"sequence": np.zeros(n, int), "position": np.arange(n), "text": ["t"] * n}
    columns = {name: ("token", column) for name, column in columns.items()}
    return xr.Dataset(sites, columns, {"layer": 2}).assign(sum=lambda x: x["resid_post"])


def correlated(block, n_outliers=1):
    options = {"n_outliers": n_outliers, "n_permutations": 99, "seed": 0, "alpha": 0.05}
    return product(STUDY, "statistics", "adjustments")(block, **options)


def test_an_outlying_dimension_makes_a_pearson_correlation_alone():
    random = np.random.default_rng(0)
    attn, mlp = random.normal(size=(2, 3, 200))
    attn[0, 7] = mlp[0, 7] = 60  # one dimension far from all others
    mlp[1] = np.exp(attn[1])  # the same order
    mlp[2] = 4  # no spread
    found = correlated(crafted(attn, mlp))
    assert found["pearson"].values[0] > 0.9
    assert abs(found["spearman"].values[0]) < 0.2
    assert abs(found["trimmed"].values[0]) < 0.2
    assert found["spearman"].values[1] == pytest.approx(1)
    assert found["p_spearman"].values[1] == 1 / 100
    assert found["p_spearman_holm"].values[1] == 2 / 100  # of the two that are known
    for name in ("pearson", "spearman", "trimmed", "p_pearson", "p_pearson_holm"):
        assert np.isnan(found[name].values[2]), name


def test_what_the_residual_stream_lacks_is_refused():
    parts = [xr.DataArray(np.zeros((2, 3, 8)), {"layer": [0, 1]}, ("layer", "token", "d_model"))]
    with pytest.raises(MicrotomeError, match=r"dimension 8: the residual stream has 8; .* 0 to 7"):
        function = product(STUDY, "statistics", "blocks")
        function(*4 * parts, parts[0][0], dimension=8, first_token=1)
    with pytest.raises(MicrotomeError, match=r"n_outliers 6: .* 8 dimensions; .* to 5 or less"):
        correlated(crafted(*np.random.default_rng(0).normal(size=(2, 3, 8))), n_outliers=6)


def test_figures(run):
    made, d_model = run.made, run.hidden[0].shape[1]
    with style("light"):
        drawn = [
            figures.block_output(made["blocks"], layer=1),
            figures.output_differences(made["blocks"]),
            figures.adjustments(made["block"], made["adjustments"], token=-1),
            figures.reconstruction(made["block"], first_token=1),
        ]
    states, differences, (left, right), panels = (figure.axes for figure in drawn)
    for line, name in zip(states[0].lines, ("hidden", "output"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), made["blocks"][f"{name}_value"][1])
    expected = made["blocks"]["difference"]
    np.testing.assert_array_equal(differences[0].lines[0].get_ydata(), expected)
    for line in left.lines[1:]:
        np.testing.assert_array_equal(
            line.get_ydata(), made["adjustments"][line.get_label().lower()]
        )
    block, last = made["block"], made["block"].isel(token=-1)
    np.testing.assert_array_equal(
        right.lines[0].get_xydata().T, [last["attn_out"], last["mlp_out"]]
    )
    limit = 1.1 * max(abs(block[site].values[1:]).max() for site in ("resid_pre", "resid_post"))
    for axes, pair in zip(
        panels, (("resid_pre", "resid_post"), SITES[1:3], ("resid_post", "sum")), strict=True
    ):
        shown = np.concatenate([block[site].values[1:].reshape(1, -1) for site in pair])
        assert shown.shape[1] == (block.sizes["token"] - 1) * d_model
        np.testing.assert_array_equal(axes.lines[0].get_xydata().T, shown)
        assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-limit, limit))


def test_captions_and_tables_say_what_is_there():
    random = np.random.default_rng(0)
    block = crafted(*random.normal(size=(2, 4, 400)))
    found = correlated(block)
    assert "significant" in captions.adjustments(block, found, token=-1)
    assert "0 and 0 of 4" in captions.adjustments(block, found, token=-1)
    assert captions.reconstruction(block, first_token=1).endswith("The sum is exact.")
    assert list(tables.adjustments(found))[:3] == ["position", "text", "pearson"]
    differences = xr.Dataset(
        {
            "difference": ("layer", [0.0, 3.0]),
            "hidden": ("layer", [1.0, 2.0]),
            "output": ("layer", [1.0, 4.5]),
            "cosine": ("layer", [1.0, 0.25]),
        },
        {"layer": [0, 1]},
    )
    assert captions.output_differences(differences) == (
        "Up to the last block the two are equal. There the norm of the difference is 3.00: the "
        "last hidden state has a norm of 2.00, the last block's output 4.50, and their mean cosine "
        "similarity is 0.25."
    )
    with_tokens = differences.assign(hidden_value=(("layer", "token"), np.zeros((2, 3))))
    assert tables.blocks(with_tokens)["difference"].tolist() == [0, 3]
