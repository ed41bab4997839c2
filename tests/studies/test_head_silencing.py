"""The study of silenced heads against a loop of hooked forwards of the Hugging Face model."""

import json
from itertools import combinations
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
from torch.nn.functional import cosine_similarity
from transformers import AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.figures.style import save, style
from microtome.interventions.declared import declared
from microtome.interventions.run import intervene
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.store.datasets import read_dataset, write_dataset
from microtome.store.tables import write_table
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import load_tokenizer, token_table

STUDY = "head_silencing"
#: The head that is silenced alone, and the layers of which each is, by model.
CASES = {"gpt2": ((2, 1), (0, 1, 2, 3)), "llama": ((1, 3), (0, 1, 2, 3))}
CASES["smollm2"] = ((4, 1), (0, 4, 23))


def text():
    file = ROOT / "stimuli" / f"{study(STUDY)['stimuli']}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))["texts"][0]


@pytest.fixture(scope="module", params=CASES)
def model(request, tmp_path_factory, gpt2_tokenizer):
    """GPT-2 and Llama of random weights with GPT-2's real tokenizer, and SmolLM2."""
    if request.param == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        folder = tmp_path_factory.mktemp(request.param)
        checkpoint = random_model(folder, request.param, gpt2_tokenizer)
    one, layers = CASES[request.param]
    return SimpleNamespace(checkpoint=checkpoint, one=one, layers=layers)


def random_model(folder, name, tokenizer):
    origin = build(folder / "origin", name, vocab_size=50257)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(origin)
    fetch(Folder(origin), folder / "checkpoint")
    return folder / "checkpoint"


def outcome(checkpoint, name, texts=None, **keys):
    """What becomes of an intervention of the study."""
    table = token_table([Stimulus(each) for each in texts or [text()]], checkpoint)
    return intervene(
        checkpoint,
        {column: values.values for column, values in table.coords.items()},
        declared(study(STUDY)["interventions"][name] | keys),
        taps=taps_at(checkpoint),
        tokenizer=load_tokenizer(checkpoint),
    )


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """The interventions' outcomes and all statistics of the study, read back from their files."""
    (layer, head), folder = model.one, tmp_path_factory.mktemp("statistics")
    found = {
        "one_head_silenced": outcome(
            model.checkpoint, "one_head_silenced", layers=[layer], heads=[head]
        ),
        "each_head_silenced": outcome(
            model.checkpoint, "each_head_silenced", layers=list(model.layers)
        ),
    }
    reads = {"similarities": "one_head_silenced", "next_tokens": "one_head_silenced"}
    reads |= {"each_head": "each_head_silenced"}
    for name, options in study(STUDY)["statistics"].items():
        default = "each_head" if "head" in name or "layer" in name else "similarities"
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        found[name] = statistic(name)(found[reads.get(name, default)], **options)
        write_dataset(found[name], folder / f"{name}.h5")
        found[name] = read_dataset(folder / f"{name}.h5")
    return found


def statistic(name):
    return product(STUDY, "statistics", name)


def figure(name, *statistics):
    return product(STUDY, "figures", name)(*statistics, **study(STUDY)["figures"][name])


def table(name, data):
    return product(STUDY, "tables", name)(data)


@pytest.fixture(scope="module")
def expected(model):
    """The same by hand: what each head gives is set to zero on its way into the projection.

    Of each run, log-probabilities of the next token (d_vocab,), and what all blocks return,
    (layer, token, d_model); float64.
    """
    network = load(model.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(model.checkpoint)
    ids = tokenizer(text(), return_tensors="pt")["input_ids"]
    n_heads = network.config.num_attention_heads

    def run(silenced=None):
        states, handles = {}, []

        def zero(module, inputs):
            heads = inputs[0].unflatten(-1, (n_heads, -1)).clone()
            heads[:, :, silenced[1]] = 0
            return (heads.flatten(-2),)

        def keep(layer):
            def hook(module, inputs, out):
                states[layer] = (out[0] if isinstance(out, tuple) else out)[0].double()

            return hook

        for layer, block in enumerate(blocks(network)):
            if silenced and silenced[0] == layer:
                out = block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj
                handles.append(out.register_forward_pre_hook(zero))
            handles.append(block.register_forward_hook(keep(layer)))
        with torch.no_grad():
            logits = network(ids).logits[0, -1].double()
        for handle in handles:
            handle.remove()
        return SimpleNamespace(
            log_p=logits.log_softmax(-1),
            states=torch.stack([states[i] for i in range(len(states))]),
        )

    heads = {(layer, h): run((layer, h)) for layer in model.layers for h in range(n_heads)}
    one = heads[model.one] if model.one in heads else run(model.one)
    return SimpleNamespace(clean=run(), one=one, heads=heads, n_heads=n_heads, tokenizer=tokenizer)


def cosines(states):
    """Of each pair of tokens but the first, (layer, pair)."""
    pairs = combinations(range(1, states.shape[1]), 2)
    return torch.stack(
        [cosine_similarity(states[:, a], states[:, b], dim=-1) for a, b in pairs], dim=1
    ).numpy()


@pytest.fixture(scope="module")
def difference(expected):
    """Clean minus silenced cosine similarities, (layer, pair)."""
    return cosines(expected.clean.states) - cosines(expected.one.states)


def per_head(expected, values):
    """Something of each run with a head silenced, (layer, head)."""
    rows = [values(run) for run in expected.heads.values()]
    return np.reshape(rows, (-1, expected.n_heads))


def test_similarities(made, expected, model):
    found = made["similarities"]
    for name, run in (("clean", expected.clean), ("silenced", expected.one)):
        assert found[name].dims == ("layer", "pair")
        np.testing.assert_allclose(found[name].values, cosines(run.states), atol=1e-5)
    assert (found.attrs["silenced_layer"], found.attrs["silenced_head"]) == model.one
    pairs = list(combinations(range(1, expected.clean.states.shape[1]), 2))
    assert list(zip(found["first"].values, found["second"].values, strict=True)) == pairs


def test_clean_similarity(made, expected):
    clean = cosines(expected.clean.states)
    found = made["clean_similarity"]
    np.testing.assert_allclose(found["mean"].values, clean.mean(axis=1), atol=1e-5)
    assert found.sizes["value"] == 31
    assert found["value"].values[[0, -1]] == pytest.approx([-0.1 + 1.1 / 62, 1 - 1.1 / 62])
    inside = ((clean >= -0.1) & (clean <= 1)).sum(axis=1)
    np.testing.assert_array_equal(found["count"].sum("value"), inside)
    found = statistic("clean_similarity")(made["similarities"], n_edges=3, limits=(0.2, 0.6))
    stored = made["similarities"]["clean"].values
    for row, counts, beyond in zip(stored, found["count"].values, found["beyond"], strict=True):
        low, high = ((row >= 0.2) & (row < 0.4)).sum(), ((row >= 0.4) & (row <= 0.6)).sum()
        assert counts.tolist() == [low, high]
        assert beyond.item() == pytest.approx(1 - (low + high) / row.size)


def test_similarity_change(made, difference, model):
    found, first = made["similarity_change"], model.one[0]
    np.testing.assert_allclose(found["mean"].values, difference.mean(axis=1), atol=1e-5)
    size = np.abs(difference).mean(axis=1)
    np.testing.assert_allclose(found["mean_absolute"].values, size, atol=1e-5)
    np.testing.assert_allclose(found["sd"].values, difference.std(axis=1, ddof=1), atol=1e-5)
    assert (
        not found[["mean", "mean_absolute", "sd", "std_error"]]
        .sel(layer=slice(first - 1))
        .to_dataarray()
        .any()
    )
    assert (found["mean_absolute"].sel(layer=slice(first, None)) > 0).all()
    stored = (made["similarities"]["clean"] - made["similarities"]["silenced"]).values
    for place in range(first, len(stored)):
        counts, edges = np.histogram(stored[place], "fd")
        np.testing.assert_array_equal(found["count"].values[place][: len(counts)], counts)
        np.testing.assert_array_equal(found["left_edge"].values[place][: len(counts)], edges[:-1])
        assert np.isnan(found["count"].values[place][len(counts) :]).all()


def test_standard_error_leaves_out_one_token_after_another(made, difference):
    n_tokens = round((1 + np.sqrt(1 + 8 * difference.shape[1])) / 2)
    for row, found in zip(difference, made["similarity_change"]["std_error"].values, strict=True):
        matrix = np.zeros((n_tokens, n_tokens))
        matrix[np.triu_indices(n_tokens, 1)] = row
        means = []
        for token in range(n_tokens):
            left = np.delete(np.delete(matrix, token, axis=0), token, axis=1)
            means.append(left[np.triu_indices(n_tokens - 1, 1)].mean())
        variance = np.var(means) * (n_tokens - 1)
        assert found == pytest.approx(np.sqrt(variance), abs=1e-5)


def test_standard_error_of_independent_tokens_is_the_ordinary_one():
    """Of pairs that are sums of their tokens' own values, the mean is twice the values' mean."""
    own = np.random.default_rng(0).normal(size=12)
    first, second = np.triu_indices(12, 1)
    pairs = {"first": ("pair", first), "second": ("pair", second)}
    data = {"clean": (("layer", "pair"), (own[first] + own[second])[None])}
    data["silenced"] = (("layer", "pair"), np.zeros((1, len(first))))
    found = statistic("similarity_change")(xr.Dataset(data, {"layer": [0], **pairs}))
    assert found["std_error"].item() == pytest.approx(2 * stats.sem(own))


def test_next_tokens(made, expected, model):
    found = made["next_tokens"]
    assert found["rank"].values.tolist() == list(range(1, 11))
    for name, run in (("clean", expected.clean), ("silenced", expected.one)):
        log_p, ids = torch.topk(run.log_p, 10)
        chosen = found.sel(run=name)
        assert chosen["token_id"].values.tolist() == ids.tolist()
        assert chosen["text"].values.tolist() == [expected.tokenizer.decode([i]) for i in ids]
        np.testing.assert_allclose(chosen["log_probability"].values, log_p, atol=1e-5)
    assert (found.attrs["silenced_layer"], found.attrs["silenced_head"]) == model.one


def test_each_head(made, expected, model):
    found, clean = made["each_head"], expected.clean.log_p
    target = clean.argmax()
    assert found["layer"].values.tolist() == list(model.layers)
    assert found["token_id"].item() == target.item()
    assert found["text"].item() == expected.tokenizer.decode([target])
    assert found["clean"].item() == pytest.approx(clean[target].item(), abs=1e-5)
    for name, value in (
        ("target", lambda run: run.log_p[target] - clean[target]),
        ("maximum", lambda run: run.log_p.max() - clean.max()),
        ("kl", lambda run: stats.entropy(clean.exp(), run.log_p.exp())),
    ):
        assert found[name].dims == ("layer", "head")
        np.testing.assert_allclose(found[name].values, per_head(expected, value), atol=1e-5)
    highest = per_head(expected, lambda run: run.log_p.argmax())
    np.testing.assert_array_equal(found["top_token_id"].values, highest)
    texts = [expected.tokenizer.decode([i]) for i in highest.ravel()]
    assert found["top_text"].values.ravel().tolist() == texts
    assert (found["maximum"] >= found["target"]).all()


def test_one_head(made, expected, model):
    found = made["one_head"]
    assert found.attrs["head"] == 1
    runs = [expected.heads[layer, 1].log_p for layer in model.layers]
    np.testing.assert_allclose(found["log_probability"], [run.max() for run in runs], atol=1e-5)
    assert found["token_id"].values.tolist() == [run.argmax().item() for run in runs]
    assert found["text"].values.tolist() == [
        expected.tokenizer.decode([run.argmax()]) for run in runs
    ]
    target = expected.clean.log_p.argmax()
    assert found["changed"].values.tolist() == [int(run.argmax() != target) for run in runs]
    assert found["clean"].item() == pytest.approx(expected.clean.log_p.max().item(), abs=1e-5)


def test_a_head_that_the_model_lacks_is_an_error(made, expected):
    n = expected.n_heads
    with pytest.raises(MicrotomeError, match=f"head {n}: the model has {n} heads.*0 to {n - 1}"):
        statistic("one_head")(made["each_head"], head=n)


def test_layer_averages(made, expected, model):
    found, clean = made["layer_averages"], expected.clean.log_p
    target = clean.argmax()
    for token, value in (
        ("target", lambda run: run.log_p[target] - clean[target]),
        ("maximum", lambda run: run.log_p.max() - clean.max()),
    ):
        change, chosen = per_head(expected, value), found.sel(token=token)
        np.testing.assert_allclose(chosen["mean"], change.mean(axis=1), atol=1e-5)
        np.testing.assert_allclose(chosen["sd"], change.std(axis=1), atol=1e-5)
        interval = stats.ttest_1samp(change, 0, axis=1).confidence_interval(0.95)
        np.testing.assert_allclose(chosen["low"], interval.low, atol=1e-5)
        np.testing.assert_allclose(chosen["high"], interval.high, atol=1e-5)
    kl = per_head(expected, lambda run: stats.entropy(clean.exp(), run.log_p.exp()))
    np.testing.assert_allclose(found["kl"], kl.mean(axis=1), atol=1e-5)
    changed = per_head(expected, lambda run: run.log_p.argmax() != target)
    assert found["changed"].values.tolist() == changed.sum(axis=1).tolist()


def test_several_heads_where_one_is_drawn_are_an_error(tmp_path, gpt2_tokenizer):
    checkpoint = random_model(tmp_path, "gpt2", gpt2_tokenizer)
    several = outcome(checkpoint, "one_head_silenced", layers=[1, 2], heads=[0, 1, 3])
    for name, options in (("similarities", {"first_token": 1}), ("next_tokens", {})):
        with pytest.raises(MicrotomeError, match=r"2 layers and 3 heads.*`layers` and `heads`"):
            statistic(name)(several, **options)


def test_several_texts_are_an_error(tmp_path, gpt2_tokenizer):
    checkpoint = random_model(tmp_path, "gpt2", gpt2_tokenizer)
    keys = {"texts": ["A man and a child", "A wise"], "layers": [1]}
    one = outcome(checkpoint, "one_head_silenced", heads=[0], **keys)
    each = outcome(checkpoint, "each_head_silenced", **keys)
    for name, data, options in (
        ("similarities", one, {"first_token": 1}),
        ("next_tokens", one, {}),
        ("each_head", each, {}),
    ):
        with pytest.raises(MicrotomeError, match="2 texts: this statistic is of one"):
            statistic(name)(data, **options)


def panels(figure):
    """The axes that a figure draws on, without colour bars."""
    return [axes for axes in figure.axes if not hasattr(axes, "_colorbar")]


def heights(collection):
    return collection.get_offsets()[:, 1]


def test_similarity_figures(made, model):
    found, (layer, head) = made["clean_similarity"], model.one
    (axes,) = panels(figure("clean_similarity", found))
    np.testing.assert_array_equal(axes.images[0].get_array(), found["count"].T)
    np.testing.assert_allclose(axes.images[0].get_extent()[2:], [-0.1, 1])
    np.testing.assert_array_equal(heights(axes.collections[0]), found["mean"])
    found = made["similarity_change"]
    drawn = figure("similarity_change", found)
    left, right = panels(drawn)
    assert drawn.get_suptitle() == f"Head {head} of layer {layer} silenced"
    *lines, zero = left.lines
    assert len(lines) == found.sizes["layer"] - layer
    assert set(zero.get_xdata()) == {0}
    assert lines[0].get_ydata().sum() == made["similarities"].sizes["pair"]
    np.testing.assert_array_equal(heights(right.collections[0]), found["mean"])
    assert set(right.lines[1].get_xdata()) == {layer}


def test_what_lies_beyond_the_histograms_is_told(made):
    found = statistic("clean_similarity")(made["similarities"], n_edges=4, limits=(0.99, 1.0))
    (axes,) = panels(figure("clean_similarity", found))
    assert axes.get_ylabel() == f"Cosine similarity\n(up to {found['beyond'].max():.0%} beyond)"


def test_prediction_figures(made):
    found = made["one_head"]
    (axes,) = panels(figure("one_head", found))
    np.testing.assert_array_equal(heights(axes.collections[0]), found["log_probability"])
    labels = [note.get_text() for note in axes.texts]
    assert labels.pop() == f"Clean: {found['clean'].item():.2f}"
    changed = found["text"].values[found["changed"].values == 1]
    assert [label.replace("␣", " ") for label in labels] == list(changed)
    found = made["each_head"]
    first, second = panels(figure("each_head", found))
    assert first.get_title().replace("␣", " ") == f'A) Target token "{found["text"].item()}"'
    for axes, name in ((first, "target"), (second, "maximum")):
        np.testing.assert_array_equal(axes.images[0].get_array(), found[name].T)
        limit = 2 * np.abs(found[name].values).mean()
        assert axes.images[0].get_clim() == pytest.approx((-limit, limit))
    found = made["layer_averages"]
    (axes,) = panels(figure("layer_averages", found))
    for container, token in zip(axes.containers, ("target", "maximum"), strict=True):
        chosen = found.sel(token=token)
        np.testing.assert_array_equal(container.lines[0].get_ydata(), chosen["mean"])
        (bars,) = container.lines[2]
        ends = np.array(bars.get_segments())[:, :, 1]
        np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * chosen["sd"])


def test_tables_of_predictions(made, tmp_path, model, expected):
    layer, head = model.one
    both = table("next_tokens", made["next_tokens"])
    lines = both.text.splitlines()
    for line, name, run in (
        (0, "Clean", expected.clean),
        (3, f"Head {head} of layer {layer} silenced", expected.one),
    ):
        log_p, ids = torch.topk(run.log_p, 10)
        texts = [json.dumps(expected.tokenizer.decode([i]), ensure_ascii=False) for i in ids]
        percent = f"{log_p[0].exp():.3%}"
        assert lines[line] == f"{name}: the next token is {texts[0]} with {percent}"
        assert lines[line + 1] == f"Top 10: {', '.join(texts)}"
    lines = table("one_head", made["one_head"]).text.splitlines()
    log_p, first = expected.heads[model.layers[0], 1].log_p.max(-1)
    word = json.dumps(expected.tokenizer.decode([first]), ensure_ascii=False)
    assert lines[0] == (
        f"The next token is {word} with {log_p.exp():.3%} (silenced L{model.layers[0]}:H1)"
    )
    for name, n_rows in (("next_tokens", 20), ("one_head", len(model.layers))):
        write_table(table(name, made[name]), tmp_path / "t.csv", tmp_path / "t.txt")
        assert len(pd.read_csv(tmp_path / "t.csv")) == n_rows


def test_table_of_heads_says_how_many_matter():
    kl = np.array([[0.1, 0.4], [0.2, 0.3]])
    data = {
        name: (("layer", "head"), values)
        for name, values in (
            ("target", np.array([[-0.5, 0.25], [-0.25, -0.5]])),
            ("maximum", np.array([[0.5, 0.25], [-0.25, -0.5]])),
            ("kl", kl),
            ("top_token_id", np.array([[7, 5], [5, 5]])),
            ("top_text", np.array([["\n", " a"], [" a", " a"]], dtype=object)),
        )
    }
    labels = {"layer": [0, 1], "head": [0, 1], "token_id": 5, "text": " a"}
    found = table("each_head", xr.Dataset(data | {"clean": -2.0}, labels))
    assert found.frame["kl"].tolist() == [0.4, 0.3, 0.2, 0.1]
    assert found.frame["share"].tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert found.frame["head"].tolist() == [1, 1, 0, 0]
    assert found.text.splitlines()[:5] == [
        "Of 4 heads, each silenced alone:",
        '1 make another token than " a" the most likely one',
        "3 lower the target's log-probability (mean -0.250, mean size 0.375)",
        "2 raise that of the most likely token (mean +0.000)",
        "2 hold half of the sum of all divergences, 1.000 nats",
    ]
    assert r'"\n"' in found.text


def test_tables_of_layers(made):
    averages = table("layer_averages", made["layer_averages"])
    assert averages["layer"].tolist() == made["layer_averages"]["layer"].values.tolist()
    chosen = made["layer_averages"].sel(token="maximum")
    for name in ("mean", "sd", "low", "high"):
        np.testing.assert_array_equal(averages[f"maximum_{name}"], chosen[name])
    change = table("similarity_change", made["similarity_change"])
    assert list(change.columns) == ["layer", "mean", "mean_absolute", "sd", "std_error"]
    np.testing.assert_array_equal(change["std_error"], made["similarity_change"]["std_error"])


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_figures_are_the_same_in_every_run(made, tmp_path):
    for name in study(STUDY)["figures"]:
        for run in ("first", "second"):
            with style("light"):
                drawn = figure(name, made[name])
                save(drawn, tmp_path / f"{run}.svg", tmp_path / f"{run}.png", dpi=40)
        for kind in ("svg", "png"):
            first, second = (tmp_path / f"{run}.{kind}" for run in ("first", "second"))
            assert first.read_bytes() == second.read_bytes(), name
