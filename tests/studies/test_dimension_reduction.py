"""The study of dimension reduction against hooked forwards of the Hugging Face model and numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import blocks, build
from hooked import load, taps_at
from scipy import stats
from scipy.sparse.linalg import svds
from studied import ROOT, by_layer, layer_files, product, study
from transformers import AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.figures.style import save, style
from microtome.interventions.cases import Case
from microtome.interventions.declared import declared
from microtome.interventions.run import intervene
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.store.datasets import read_dataset, write_dataset
from microtome.texts.stimuli import Stimulus, read_set
from microtome.texts.tokens import load_tokenizer, token_table
from microtome.workflow.load import load as load_function

STUDY = "dimension_reduction"
#: By model: the layer that is reduced alone, and those that are reduced in turn.
LAYERS = {"gpt_neo": (1, [0, 3]), "llama": (2, [1, 3]), "smollm2": (5, [12])}


def statistic(name):
    return product(STUDY, "statistics", name)


def figure(name, *statistics):
    entry = study(STUDY)["figures"][name]
    options = {key: value for key, value in entry.items() if key not in ("use", "reads")}
    return product(STUDY, "figures", name)(*statistics, **options)


def table(name, *statistics):
    return product(STUDY, "tables", name)(*statistics)


# The picture


@pytest.fixture(scope="module")
def drawn():
    picture = statistic("picture")(height=120, width=180, seed=0)
    svd = statistic("picture_svd")(picture)
    reductions = statistic("picture_reductions")(svd, components=5, percent=90)
    return SimpleNamespace(picture=picture, svd=svd, reductions=reductions)


def test_the_picture_is_grey_and_the_same_again(drawn):
    grey = drawn.picture["grey"].values
    assert grey.shape == (120, 180)
    assert (grey == np.round(grey)).all() and grey.min() >= 0 and grey.max() <= 255
    draw = statistic("picture")
    np.testing.assert_array_equal(draw(height=120, width=180, seed=0)["grey"], grey)
    assert (draw(height=120, width=180, seed=1)["grey"] != grey).any()


def test_the_picture_s_components(drawn):
    grey, found = drawn.picture["grey"].values, drawn.reductions
    u, sigma, vt = svds(grey, k=5, random_state=0)
    np.testing.assert_allclose(drawn.svd["sigma"][:5], sigma[::-1], rtol=1e-9)
    np.testing.assert_allclose(found["grey"].sel(kept="components"), (u * sigma) @ vt, atol=1e-6)
    for kept in found["kept"].values:
        of_kind = found.sel(kept=kept)
        lost = np.linalg.norm(grey - of_kind["grey"]) ** 2 / np.linalg.norm(grey) ** 2
        assert of_kind["held"].item() == pytest.approx(100 * (1 - lost), rel=1e-9)
        assert of_kind["rank"].item() == of_kind["n_components"].item()
    n = found["n_components"].sel(kept="percent").item()
    held = 100 * np.cumsum(drawn.svd["sigma"].values ** 2) / np.linalg.norm(grey) ** 2
    assert held[n - 2] <= 90 < held[n - 1]


def test_more_components_than_there_are_are_an_error(drawn):
    with pytest.raises(MicrotomeError, match="components 121: the picture has 120"):
        statistic("picture_reductions")(drawn.svd, components=121, percent=90)


# Hidden states


@pytest.fixture(scope="module", params=LAYERS)
def model(request, tmp_path_factory, gpt2_tokenizer):
    """GPT-Neo and Llama of random weights with GPT-2's real tokenizer, and SmolLM2."""
    if request.param == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        folder = tmp_path_factory.mktemp(request.param)
        origin = build(folder / "origin", request.param, vocab_size=50257)
        AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(origin)
        fetch(Folder(origin), folder / "checkpoint")
        checkpoint = folder / "checkpoint"
    one, each = LAYERS[request.param]
    return SimpleNamespace(
        checkpoint=checkpoint,
        one=one,
        each=each,
        loaded=load(checkpoint),
        tokenizer=load_tokenizer(checkpoint),
    )


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """The interventions' outcomes and all statistics of the study, read back from their files."""
    folder = tmp_path_factory.mktemp("made")
    (whole,) = read_set(ROOT / "stimuli" / f"{study(STUDY)['stimuli']}.yaml").stimuli
    texts = token_table([Stimulus(whole.text.split("), ")[1])], model.checkpoint)
    n_layers = len(blocks(model.loaded))
    files = layer_files(folder, model.checkpoint, texts, ["resid_post"], range(n_layers))
    made = {"ids": texts["token_id"].values}
    for name, entry in study(STUDY)["interventions"].items():
        layers = [model.one] if name == "one_layer_reduced" else model.each
        made[name] = intervene(
            model.checkpoint,
            texts.coords,
            declared(entry | {"layers": layers}),
            taps=taps_at(model.checkpoint),
            tokenizer=model.tokenizer,
        )

    def of_layer(name, layer, **options):
        with xr.open_dataset(files[layer], engine="h5netcdf") as section:
            return statistic(name)(section, site="resid_post", layer=layer, **options)

    made["hidden_state_svd"] = of_layer("hidden_state_svd", model.each[0])
    made["hidden_state"] = of_layer("hidden_state", model.each[0], percent=95)
    made["one_layer_components"] = of_layer("one_layer_components", model.one, percent=99)
    made["components"] = by_layer(
        files, lambda section: statistic("components")(section, site="resid_post", percent=95)
    )
    reads = [made[name] for name in ("one_layer_reduced", "one_layer_components", "components")]
    made["one_layer"] = statistic("one_layer")(*reads)
    runs = [made[name] for name in ("each_layer_reduced", "rest_reduced", "rest_displaced")]
    made["each_layer"] = statistic("each_layer")(*runs, made["components"], alpha=0.05)
    made["each_token"] = statistic("each_token")(made["each_layer_reduced"])
    for name in ("hidden_state", "components", "one_layer", "each_layer", "each_token"):
        write_dataset(made[name], folder / f"{name}.h5")
        made[name] = read_dataset(folder / f"{name}.h5")
    return made


def reduced(matrix, percent):
    """A matrix by the eigenvectors of its double-centred rows' products, and how many are kept."""
    n_rows, n_columns = matrix.shape
    rows = np.eye(n_rows) - 1 / n_rows
    centred = rows @ matrix @ (np.eye(n_columns) - 1 / n_columns)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    n = next(n for n in range(1, n_rows) if values[:n].sum() > percent / 100 * values.sum())
    kept = vectors[:, :n]
    return kept @ kept.T @ centred + matrix - centred, n


class Forward:
    """A forward of the model with one block's output reduced, from some token on."""

    def __init__(self, model, ids, layer=None, percent=None, first=0):
        self.n, self.states, handles = None, [], []

        def hook(module, args, output, at):
            states = output[0] if isinstance(output, tuple) else output
            if at == layer:
                new, self.n = reduced(states[0, first:].double().numpy(), percent)
                states = states.clone()
                states[0, first:] = torch.from_numpy(new)
            self.states.append(states[0].double().numpy())
            return (states, *output[1:]) if isinstance(output, tuple) else states

        for at, block in enumerate(blocks(model)):
            handles.append(block.register_forward_hook(lambda *told, at=at: hook(*told, at)))
        with torch.no_grad():
            logits = model(torch.as_tensor(ids)[None].long(), use_cache=False).logits[0].double()
        for handle in handles:
            handle.remove()
        self.states, self.logits = np.stack(self.states), logits.numpy()
        following = torch.as_tensor(ids[1:]).long()
        self.losses = torch.nn.functional.cross_entropy(logits[:-1], following, reduction="none")


@pytest.fixture(scope="module")
def expected(model, made):
    """The clean run, and that of each reduction, by (the first token, layer)."""
    loaded, ids = model.loaded, made["ids"]
    runs = {
        (first, layer): Forward(loaded, ids, layer, 95, first)
        for first in (0, 1)
        for layer in model.each
    }
    one = Forward(loaded, ids, model.one, 99)
    return SimpleNamespace(clean=Forward(loaded, ids), one=one, runs=runs)


def test_a_hidden_state(made, model, expected):
    found, svd = made["hidden_state"], made["hidden_state_svd"]
    original = expected.clean.states[model.each[0]]
    kept, n = reduced(original, 95)
    scale = np.abs(original).max()
    np.testing.assert_allclose(found["original"], original, atol=1e-5 * scale)
    np.testing.assert_allclose(found["reduced"], kept, atol=1e-5 * scale)
    assert found["n_components"].item() == n
    assert found["reduced_rank"].item() in (n + 1, n + 2)  # the means add one or two
    r = stats.pearsonr(original.ravel(), kept.ravel()).statistic
    assert found["correlation"].item() == pytest.approx(r, rel=1e-6)
    centred = (svd["u"].values * svd["sigma"].values) @ svd["vt"].values
    means = original.mean(axis=0) + original.mean(axis=1, keepdims=True) - original.mean()
    np.testing.assert_allclose(centred, original - means, atol=1e-5 * scale)


def test_components(made, expected):
    found = made["components"]
    for place, tokens in enumerate(("all", "rest")):
        of_kind = found.sel(tokens=tokens)
        for layer, states in enumerate(expected.clean.states[:, place:]):
            assert of_kind["n_components"].values[layer] == reduced(states, 95)[1]
        norms = np.linalg.norm(expected.clean.states[:, place:], axis=(1, 2))
        np.testing.assert_allclose(of_kind["norm"], norms, rtol=1e-5)
        n_tokens = expected.clean.states.shape[1] - place
        possible = min(n_tokens, expected.clean.states.shape[2])
        part = 100 * of_kind["n_components"] / possible
        np.testing.assert_allclose(of_kind["part_of_components"], part)


def test_one_layer(made, model, expected):
    found = made["one_layer"]
    assert found["n_components"].item() == expected.one.n
    assert found.attrs == {"layer": model.one, "percent": 99}
    for place, tokens in enumerate(("all", "rest")):
        clean, changed = (run.states[:, place:] for run in (expected.clean, expected.one))
        norms = np.linalg.norm(changed - clean, axis=(1, 2))
        # A difference of states of 22,000 cannot be known better than float32 rounds these.
        of_clean = np.linalg.norm(clean, axis=(1, 2))
        off = np.abs(found["difference"].sel(tokens=tokens).values - norms)
        assert (off <= 1e-5 * norms + np.finfo(np.float32).eps * of_clean).all()
        relative = found["relative"].sel(tokens=tokens)
        np.testing.assert_allclose(
            relative, found["difference"].sel(tokens=tokens) / of_clean, rtol=1e-5
        )
    assert not found["difference"].sel(layer=slice(model.one - 1)).any()


def test_another_layer_than_the_counted_one_is_an_error(made):
    other = made["one_layer_components"].assign_attrs(layer=0)
    with pytest.raises(MicrotomeError, match=r"one_layer_components is of layer 0; give"):
        statistic("one_layer")(made["one_layer_reduced"], other, made["components"])


def test_each_layer(made, model, expected):
    found, clean = made["each_layer"], expected.clean
    assert found["clean_loss"].item() == pytest.approx(clean.losses.mean().item(), rel=1e-5)
    for (first, layer), run in expected.runs.items():
        tokens = ("all", "rest")[first]
        of_run = found.sel(run=tokens, tokens=tokens, layer=layer)
        assert of_run["n_components"].item() == run.n
        moved = np.linalg.norm(run.states[layer] - clean.states[layer])
        wanted = {
            "hidden_state": moved,
            "logits": np.linalg.norm(run.logits - clean.logits),
            "relative": moved / np.linalg.norm(clean.states[layer, first:]),
            "loss": run.losses.mean().item(),
        }
        for name, value in wanted.items():
            assert of_run[name].item() == pytest.approx(value, rel=1e-5), name
        increase = (run.losses - clean.losses).numpy()
        mean, error = increase.mean(), stats.sem(increase)
        low, high = stats.t.interval(0.95, len(increase) - 1, mean, error)
        for name, value in (("increase", mean), ("low", low), ("high", high)):
            assert of_run[name].item() == pytest.approx(value, rel=1e-5, abs=1e-5), name


def test_each_token(made, model, expected):
    found = made["each_token"]
    texts = [model.tokenizer.decode([i]) for i in made["ids"]]
    assert found["text"].values.tolist() == texts
    for layer in model.each:
        states = expected.runs[0, layer].states[layer] - expected.clean.states[layer]
        norms = np.linalg.norm(states, axis=1)
        scale = norms.max()
        np.testing.assert_allclose(
            found["difference"].sel(layer=layer), norms, rtol=1e-5, atol=1e-5 * scale
        )


def test_at_random_each_token_is_moved_as_far(made, model):
    reduced_ones, displaced = (
        made[name]["resid_post_difference"] for name in ("rest_reduced", "rest_displaced")
    )
    for layer in model.each:
        far, as_far = (of.sel(layer=layer, read_layer=layer) for of in (reduced_ones, displaced))
        assert far[0] == as_far[0] == 0
        np.testing.assert_allclose(as_far, far, rtol=1e-5, atol=1e-5 * far.max().item())


def test_a_random_direction_is_the_seed_s(made):
    displaced = load_function(f"studies/{STUDY}/changes.py:displaced")
    values = torch.randn(9, 12, generator=torch.Generator().manual_seed(0))

    def moved(seed):
        case = Case(layer=0, head=None, position=None, neurons=None, amount=0.5, seed=seed, text=0)
        return displaced(values, case) - values

    np.testing.assert_array_equal(moved(0), moved(0))
    kept, _ = reduced(values.double().numpy(), 50)
    far = np.linalg.norm(values.numpy() - kept, axis=1)
    np.testing.assert_allclose(moved(0).norm(dim=1), far, rtol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(moved(0), moved(1))
    assert (cosine.abs() < 0.99).all()


# Figures and tables


def panels(drawn):
    return [axes for axes in drawn.axes if not hasattr(axes, "_colorbar")]


def test_figures_of_the_picture(drawn):
    n = drawn.reductions["n_components"].sel(kept="percent").item()
    for kept, count in (("components", 5), ("percent", n)):
        left, right = panels(figure(f"picture_{kept}", drawn.picture, drawn.reductions))
        np.testing.assert_array_equal(left.images[0].get_array(), drawn.picture["grey"])
        shown = drawn.reductions["grey"].sel(kept=kept)
        np.testing.assert_array_equal(right.images[0].get_array(), shown)
        held = drawn.reductions["held"].sel(kept=kept).item()
        assert right.get_title() == f"{count} of 120 components ({held:.2f}%)"
    u, sigma, v, spectrum = panels(figure("picture_svd", drawn.svd))
    np.testing.assert_array_equal(u.images[0].get_array(), drawn.svd["u"])
    np.testing.assert_array_equal(np.diag(sigma.images[0].get_array()), drawn.svd["sigma"])
    assert sigma.images[0].get_clim() == (0, pytest.approx(2 * drawn.svd["sigma"].median().item()))
    assert v.images[0].get_clim()[1] == pytest.approx(2 * drawn.svd["vt"].values.std(), rel=0.05)
    np.testing.assert_array_equal(spectrum.lines[0].get_ydata(), drawn.svd["sigma"])


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_figures_of_a_model(made, model):
    original, reduction, difference, scatter = panels(figure("hidden_state", made["hidden_state"]))
    values = {name: made["hidden_state"][name].values for name in ("original", "reduced")}
    np.testing.assert_array_equal(original.images[0].get_array(), values["original"])
    np.testing.assert_array_equal(reduction.images[0].get_array(), values["reduced"])
    rest = values["original"] - values["reduced"]
    np.testing.assert_array_equal(difference.images[0].get_array(), rest)
    np.testing.assert_array_equal(scatter.lines[0].get_ydata(), values["reduced"].ravel()[::10])
    (axes,) = panels(figure("one_layer", made["one_layer"]))
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), made["one_layer"]["difference"][0])
    assert set(axes.lines[2].get_xdata()) == {model.one}
    found = made["each_layer"]
    counts, norms, losses, both = panels(figure("each_layer", found))
    np.testing.assert_array_equal(counts.lines[0].get_ydata(), found["n_components"][0])
    logits = found["logits"].sel(run="all")
    np.testing.assert_array_equal(norms.lines[1].get_ydata(), logits / logits.max())
    np.testing.assert_array_equal(losses.lines[1].get_ydata(), found["loss"].sel(run="rest"))
    x, y = both.collections[0].get_offsets().T
    np.testing.assert_array_equal(x, found["part_of_components"].sel(tokens="all"))
    np.testing.assert_array_equal(y, found["loss"].sel(run="all"))
    relative, increases = panels(figure("without_first_token", found))
    np.testing.assert_array_equal(
        relative.lines[0].get_ydata(), 100 * found["relative"].sel(run="all")
    )
    ends = np.array(increases.collections[1].get_segments())[:, :, 1]
    np.testing.assert_array_equal(ends[:, 0], found["low"].sel(run="displaced"))
    (axes,) = panels(figure("each_token", made["each_token"]))
    np.testing.assert_array_equal(axes.images[0].get_array(), made["each_token"]["difference"])


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_figures_are_the_same_in_every_run(made, tmp_path):
    with style("light"):
        for run in ("first", "second"):
            drawn = figure("without_first_token", made["each_layer"])
            save(drawn, tmp_path / f"{run}.svg", tmp_path / f"{run}.png", dpi=40)
    for kind in ("svg", "png"):
        first, second = (tmp_path / f"{run}.{kind}" for run in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_tables(made, drawn, model):
    ranks = table("ranks", drawn.reductions, made["hidden_state"])
    assert ranks.frame["rank"].tolist()[:2] == [120, 5]
    assert ranks.frame["rank"].tolist()[3:] == [
        made["hidden_state"][name].item() for name in ("rank", "reduced_rank")
    ]
    assert ranks.text.splitlines()[1] == "Rank of the picture, components: 5"
    one = table("one_layer", made["one_layer"])
    np.testing.assert_array_equal(one["rest_relative"], made["one_layer"]["relative"][1])
    each = table("each_layer", made["each_layer"])
    assert each["run"].tolist() == [run for run in ("all", "rest", "displaced") for _ in model.each]
    first = made["each_layer"].isel(run=0, layer=0, tokens=0)
    for name in ("loss", "low", "n_components", "clean_loss"):
        assert each[name][0] == first[name].item()
