"""The study on noise and scaling against a loop of hooked forwards of the Hugging Face model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from conftest import blocks, build
from hooked import load, taps_at
from scipy import stats
from studied import ROOT, product, study
from transformers import AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.interventions.declared import declared
from microtome.interventions.run import intervene
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.store.datasets import read_dataset, write_dataset
from microtome.store.tables import write_table
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import token_table
from studies.noise_and_scaling import captions

STUDY = "noise_and_scaling"
#: The layer that is changed alone, the layers of which each is, and those whose first token has no
#: noise, by model.
CASES = {"gpt2": (2, [0, 1, 2, 3], [0, 2, 3]), "llama": (1, [0, 1, 2, 3], [1])}
CASES["smollm2"] = (12, [0, 12, 29], [12])
SEEDS = [0, 1, 7]


def text():
    return yaml.safe_load((ROOT / "stimuli" / "curtain.yaml").read_text())["texts"][0]


@pytest.fixture(scope="module", params=CASES)
def model(request, tmp_path_factory, gpt2_tokenizer):
    """GPT-2 and Llama of random weights with GPT-2's real tokenizer, and SmolLM2."""
    if request.param == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        folder = tmp_path_factory.mktemp(request.param)
        checkpoint = random_model(folder, request.param, gpt2_tokenizer)
    one, layers, later = CASES[request.param]
    return SimpleNamespace(checkpoint=checkpoint, one=one, layers=layers, later=later)


def random_model(folder, name, tokenizer):
    origin = build(folder / "origin", name, vocab_size=50257)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(origin)
    fetch(Folder(origin), folder / "checkpoint")
    return folder / "checkpoint"


def statistic(name, *inputs, **options):
    return product(STUDY, "statistics", name)(*inputs, **options)


def figure(name, *inputs):
    return product(STUDY, "figures", name)(*inputs)


def table(name, *inputs):
    return product(STUDY, "tables", name)(*inputs)


@pytest.fixture(scope="module")
def made(model, runs, tmp_path_factory):
    """The interventions' outcomes and all statistics of the study, read back from their files."""
    table = token_table([Stimulus(text())], model.checkpoint)
    columns = {column: values.values for column, values in table.coords.items()}
    layers = dict.fromkeys(("each_layer_noised", "each_layer_scaled"), model.layers)
    layers |= {name: [model.one] for name in ("one_layer_noised", "one_layer_scaled")}
    layers["later_tokens_noised"] = model.later
    found, folder = {}, tmp_path_factory.mktemp("statistics")
    for name, entry in study(STUDY)["interventions"].items():
        if "seed" in entry["each"]:
            entry["change"]["seed"] = SEEDS
        declaration = declared(entry | {"layers": layers[name]})
        more = {"taps": taps_at(model.checkpoint), "tokenizer": runs.tokenizer}
        found[name] = intervene(model.checkpoint, columns, declaration, **more)
    inputs = {
        "predictions": ("one_layer_noised",),
        "noise_norms": ("one_layer_noised",),
        "noised_predictions": ("each_layer_noised",),
        "noise_averages": ("noised_predictions", "later_tokens_noised"),
        "scaling_norms": ("one_layer_scaled",),
        "scaled_predictions": ("each_layer_scaled",),
    }
    for name, options in study(STUDY)["statistics"].items():
        given = [found[read] for read in inputs[name]]
        given += [runs.tokenizer] if name == "predictions" else []
        write_dataset(statistic(name, *given, **options), folder / f"{name}.h5")
        found[name] = read_dataset(folder / f"{name}.h5")
    return found


class Runs:
    """Forwards of the model whose blocks' outputs are changed by hooks, as the notebook means it.

    A run has the log-probabilities of the next token, (d_vocab,), once as float32 gives them, as
    in the study, and once `exact`; and what all blocks return, (layer, token, d_model); float64.
    """

    def __init__(self, checkpoint):
        self.network = load(checkpoint)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.ids = self.tokenizer(text(), return_tensors="pt")["input_ids"]
        self.target = self.tokenizer.encode(" curtain")[0]
        self.clean = self.run()

    def run(self, changed=None, change=None):
        states, handles = [], []

        def hook(layer):
            def after(module, inputs, out):
                hidden = out[0] if isinstance(out, tuple) else out
                if layer == changed:
                    hidden = change(hidden)
                states.append(hidden[0].double())
                return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

            return after

        for layer, block in enumerate(blocks(self.network)):
            handles.append(block.register_forward_hook(hook(layer)))
        with torch.no_grad():
            logits = self.network(self.ids).logits[0, -1]
        for handle in handles:
            handle.remove()
        # Float32 rounds at each of 49,152 additions, to 1e-5 in all.
        log_p, exact = logits.log_softmax(-1).double(), logits.double().log_softmax(-1)
        np.testing.assert_allclose(log_p, exact, rtol=1e-6, atol=2e-5)
        return SimpleNamespace(log_p=log_p, exact=exact, states=torch.stack(states))

    def noised(self, layer, seed, first=0):
        """Noise in the tokens from the first on, half as large as their standard deviation."""

        def change(hidden):
            hidden, chosen = hidden.clone(), hidden[:, first:]
            drawn = np.random.default_rng([seed, layer, 0])
            noise = drawn.standard_normal(chosen.shape[1:], dtype=np.float32)
            hidden[:, first:] = chosen + chosen.std() / 2 * torch.from_numpy(noise)
            return hidden

        return self.run(layer, change)

    def scaled(self, layer):
        return self.run(layer, lambda hidden: hidden * 0.5)


@pytest.fixture(scope="module")
def runs(model):
    return Runs(model.checkpoint)


@pytest.fixture(scope="module")
def noised(runs, model):
    """A run for each layer and seed."""
    return [[runs.noised(layer, seed) for seed in SEEDS] for layer in model.layers]


def each(runs, value):
    """Something of each run, in nested lists."""
    return [each(run, value) if isinstance(run, list) else value(run) for run in runs]


def divergence(clean, run):
    """D(clean ‖ run) of the next token, in nats."""
    return stats.entropy(clean.exact.exp(), run.exact.exp())


def assert_predictions(found, expected, runs):
    """What the study says of some runs is what they give."""
    clean, target = runs.clean.log_p, runs.target
    for token, value in (
        ("target", lambda run: run.log_p[target].item()),
        ("maximum", lambda run: run.log_p.max().item()),
    ):
        chosen = found["log_probability"].sel(token=token).values
        np.testing.assert_allclose(chosen, each(expected, value), rtol=1e-5)
        assert found["clean"].sel(token=token).item() == pytest.approx(value(runs.clean), rel=1e-5)
    kl = each(expected, lambda run: divergence(runs.clean, run))
    # Two runs that are equal but for rounding, as with the last block scaled, diverge by little
    # more than float32 rounds.
    np.testing.assert_allclose(found["kl"], kl, rtol=1e-5, atol=1e-7 * np.max(kl))
    top = np.array(each(expected, lambda run: run.log_p.argmax().item()))
    np.testing.assert_array_equal(found["top_token_id"], top)
    np.testing.assert_array_equal(found["changed"], top != clean.argmax().item())
    texts = [runs.tokenizer.decode([i]) for i in top.ravel()]
    assert found["top_text"].values.ravel().tolist() == texts
    assert found["clean_top_text"].item() == runs.tokenizer.decode([clean.argmax()])
    assert found["text"].item() == " curtain"


def test_noised_predictions(made, noised, runs, model):
    found = made["noised_predictions"]
    assert found["layer"].values.tolist() == model.layers
    assert found["seed"].values.tolist() == SEEDS
    assert found["kl"].dims == ("layer", "seed")
    assert_predictions(found, noised, runs)


def test_scaled_predictions(made, runs, model):
    found = made["scaled_predictions"]
    assert found["layer"].values.tolist() == model.layers
    assert_predictions(found, [runs.scaled(layer) for layer in model.layers], runs)
    # The final norm takes the last block's scale out again.
    last = found.sel(layer=len(blocks(runs.network)) - 1)
    np.testing.assert_allclose(last["log_probability"], found["clean"], rtol=1e-5)


def test_averages_over_draws(made, noised, runs, model):
    found = made["noise_averages"]
    assert found.attrs == {"alpha": 0.05, "n_draws": 3}
    later = [[runs.noised(layer, seed, 1) for seed in SEEDS] for layer in model.later]
    clean, target = runs.clean.log_p, runs.target
    for tokens, layers, expected in (("all", model.layers, noised), ("later", model.later, later)):
        chosen = found.sel(tokens=tokens)
        assert chosen.dropna("layer")["layer"].values.tolist() == layers
        for measure, value in (
            ("target", lambda run: run.log_p[target].item()),
            ("maximum", lambda run: run.log_p.max().item()),
            ("kl", lambda run: divergence(runs.clean, run)),
        ):
            values, of = each(expected, value), chosen.sel(measure=measure, layer=layers)
            np.testing.assert_allclose(of["mean"], np.mean(values, axis=1), rtol=1e-5)
            interval = stats.ttest_1samp(values, 0, axis=1).confidence_interval(0.95)
            np.testing.assert_allclose(of["low"], interval.low, rtol=1e-5)
            np.testing.assert_allclose(of["high"], interval.high, rtol=1e-5)
        changed = np.sum(each(expected, lambda run: run.log_p.argmax() != clean.argmax()), axis=1)
        np.testing.assert_array_equal(chosen["changed"].sel(layer=layers), changed)


def test_norms(made, runs, model):
    clean = runs.clean.states
    for name, run in (
        ("noise_norms", runs.noised(model.one, 0)),
        ("scaling_norms", runs.scaled(model.one)),
    ):
        found, difference = made[name], run.states - clean
        assert found["hidden"].values.tolist() == ["Emb", *(f"L{i}" for i in range(len(clean)))]
        assert found.attrs["layer"] == model.one
        expected = [0, *torch.linalg.matrix_norm(difference)]
        np.testing.assert_allclose(found["difference"], expected, rtol=1e-5)
        relative = difference.norm(dim=-1) / clean.norm(dim=-1)
        np.testing.assert_allclose(found["first"], [0, *relative[:, 0]], rtol=1e-5)
        np.testing.assert_allclose(found["later"], [0, *relative[:, 1:].mean(1)], rtol=1e-5)
        assert found["difference"].values[: model.one + 1].max() == 0
        assert found["difference"].values[model.one + 1 :].min() > 0
    scaled = made["scaling_norms"].sel(hidden=f"L{model.one}")
    np.testing.assert_allclose([scaled["first"], scaled["later"]], 0.5, rtol=1e-6)


def test_hidden_states_are_those_of_transformers(made, runs):
    """The notebook's states are these but the last, which is not the final norm's output."""
    with torch.no_grad():
        states = runs.network(runs.ids, output_hidden_states=True).hidden_states
    clean = made["one_layer_noised"]["clean_resid_post"].values
    np.testing.assert_array_equal(clean[:-1], torch.cat(states[1:-1]))


def test_predictions(made, runs, model):
    found, noised = made["predictions"], runs.noised(model.one, 0)
    assert found.attrs == {"target_id": runs.target, "layer": model.one}
    assert found["run"].values.tolist() == ["clean", "noised"]
    lines = table("predictions", found).text.splitlines()
    for run, line, start in (
        (runs.clean, lines[0], "Clean model"),
        (noised, lines[1], f"Model with L{model.one} noised"),
    ):
        chosen = found.sel(run="clean" if run is runs.clean else "noised")
        np.testing.assert_allclose(chosen["log_probability"], run.log_p, rtol=1e-5)
        order = run.log_p.argsort(descending=True).tolist()
        assert chosen["top_token_id"].item() == order[0]
        assert chosen["top_text"].item() == runs.tokenizer.decode(order[:1])
        assert chosen["target_rank"].item() == order.index(runs.target) + 1
        assert line.startswith(f"{start}: next token is ")
        assert f'{run.log_p.max().exp():.2%} probability; " curtain" has' in line
        assert f"{run.log_p[runs.target].exp():.2%} (rank {order.index(runs.target) + 1})" in line


def test_figures_draw_what_was_found(made, model):
    clean = made["predictions"].sel(run="clean")
    (axes,) = figure("clean_prediction", made["predictions"]).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), clean["log_probability"])
    target = clean["log_probability"].values[clean.attrs["target_id"]]
    assert axes.lines[3].get_xydata().tolist() == [[clean.attrs["target_id"], target]]
    assert axes.get_xlim() == (-150, clean.sizes["token_id"] + 150)
    for name in ("noise_norms", "scaling_norms"):
        left, right = figure(name, made[name]).axes
        np.testing.assert_array_equal(left.lines[0].get_ydata(), made[name]["difference"])
        assert set(left.lines[1].get_xdata()) == {model.one + 1}
        for line, variable in zip(right.lines, ("first", "later"), strict=False):
            np.testing.assert_array_equal(line.get_ydata(), made[name][variable])
    noised, averages = made["noised_predictions"], made["noise_averages"]
    for drawn, found in (
        (figure("noised_predictions", noised, averages), noised.isel(seed=0)),
        (figure("scaled_predictions", made["scaled_predictions"]), made["scaled_predictions"]),
    ):
        for axes, token in zip(drawn.axes, ("target", "maximum"), strict=True):
            chosen = found.sel(token=token)
            np.testing.assert_array_equal(axes.lines[0].get_ydata(), chosen["log_probability"])
            assert axes.texts[0].get_text() == f"Clean: {chosen['clean'].item():.2f}"
            low, high = axes.get_ylim()
            assert low < found["log_probability"].min()
            assert high > found["log_probability"].max()
    axes = figure("noised_predictions", noised, averages).axes[0]
    for line, tokens in zip(axes.lines[2:] or axes.lines[1:], ("all", "later"), strict=False):
        mean = averages["mean"].sel(tokens=tokens, measure="target").dropna("layer")
        np.testing.assert_array_equal(line.get_xydata().T, [mean["layer"], mean])


def test_tables_of_completions(made, tmp_path, model):
    for name, found, changed, n_rows in (
        ("noised", made["noised_predictions"], "one_layer_noised", 3 * len(model.layers)),
        ("scaled", made["scaled_predictions"], "one_layer_scaled", len(model.layers)),
    ):
        whole = table(f"{name}_completions", found, made[changed])
        write_table(whole, tmp_path / "t.csv", tmp_path / "t.txt")
        frame = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
        assert len(frame) == n_rows
        row, first = frame.iloc[0], found.isel(layer=0)
        first = first.isel(seed=0) if "seed" in first.dims else first
        assert row["target"] == first["log_probability"].sel(token="target").item()
        assert row["top_text"] == first["top_text"].item()
        assert whole.text.splitlines()[1].startswith(f'L{model.layers[0]:2}: {text()}"')
    frame = table("noise_averages", made["noise_averages"])
    assert len(frame) == len(model.layers) + len(model.later)
    assert frame["kl_high"].notna().all()


def test_what_one_case_is_wanted_of_is_refused_of_several(made):
    def twice(name, dimension):
        return xr.concat([made[name]] * 2, dimension, data_vars="all")

    with pytest.raises(MicrotomeError, match=r"2 layers are changed.*`layers` to one"):
        statistic("scaling_norms", twice("one_layer_scaled", "layer"))
    texts = twice("one_layer_scaled", "read_token")
    numbers = np.repeat([0, 1], made["one_layer_scaled"].sizes["read_token"])
    texts["read_sequence"] = ("read_token", numbers)
    with pytest.raises(MicrotomeError, match="2 texts: this statistic is of one"):
        statistic("scaling_norms", texts)
    with pytest.raises(MicrotomeError, match=r"2 targets.*`targets`"):
        statistic("scaled_predictions", twice("each_layer_scaled", "target"))
    with pytest.raises(MicrotomeError, match=r"drawn once.*a list of seeds"):
        statistic("noised_predictions", made["each_layer_noised"].isel(seed=0))


def test_captions_name_the_layers():
    norms = {"difference": [0.0, 0.0, 2.0, 1.0], "first": [0.0, 0.0, 0.5, 0.25]}
    data = {name: ("hidden", values) for name, values in norms.items()}
    data["later"] = ("hidden", [0.0, 0.0, 27.0, 5.5])
    found = xr.Dataset(data, {"hidden": ["Emb", "L0", "L1", "L2"]}, {"layer": 1})
    assert captions.noise_norms(found) == (
        "Of its clean norm, the difference is 0.50 in the first token and 27.00 in the others in "
        "L1, and 0.25 and 5.50 in the last block."
    )
