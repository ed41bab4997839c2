"""The hidden-states study against full forwards of the Hugging Face model."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from conftest import build
from studied import by_layer, intervened, layer_files, product, statistics, study
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.figures.style import save, style
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics.distributions import token_profile
from microtome.statistics.layers import stack_hidden_states
from microtome.statistics.prediction import next_tokens, target_log_probability
from microtome.statistics.similarity import layer_similarity, similarity_profile, token_similarity
from microtome.store.datasets import open_layer, read_dataset, write_dataset
from microtome.store.tables import write_table
from microtome.texts.stimuli import Stimulus
from microtome.texts.tokens import load_tokenizer, target_id, token_table

ROOT = Path(__file__).parents[2]
STUDY = "hidden_states"
MODELS = ["gpt2", "gpt_neo", "smollm2"]


def text_of(stimuli):
    file = ROOT / "stimuli" / f"{stimuli}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))["texts"][0]


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request, tmp_path_factory, gpt2_tokenizer):
    """GPT-2 and GPT-Neo of random weights with GPT-2's real tokenizer, and SmolLM2."""
    if request.param == "smollm2":
        return request.getfixturevalue("smollm2")
    return random_model(tmp_path_factory.mktemp(request.param), request.param, gpt2_tokenizer)


def random_model(root, name, tokenizer):
    origin = build(root / "origin", name, vocab_size=50257)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(origin)
    fetch(Folder(origin), root / "checkpoint")
    return root / "checkpoint"


def extract(checkpoint, stimuli, folder, texts=None):
    """Sweep a stimulus set; returns the layer files, the final file and the token table's."""
    texts = texts or [text_of(stimuli)]
    table = token_table([Stimulus(text) for text in texts], checkpoint)
    write_dataset(table, folder / "tokens.h5")
    layers = range(AutoModelForCausalLM.from_pretrained(checkpoint).config.num_hidden_layers)
    final = ["ln_final", "logits"]
    *paths, last = layer_files(folder, checkpoint, table, ["resid_pre"], layers, final)
    return paths, last, folder / "tokens.h5"


def hidden_states(layers, final):
    entered = by_layer(layers, lambda section: section[["resid_pre"]])
    with open_layer(final) as section:
        return stack_hidden_states(entered["resid_pre"], section["ln_final"])


@pytest.fixture(scope="module")
def states(checkpoint, tmp_path_factory):
    layers, final, _ = extract(checkpoint, "penguins", tmp_path_factory.mktemp("penguins"))
    return hidden_states(layers, final)


def forward(checkpoint, stimuli):
    """The token ids of a stimulus set's text, and the output of a full forward."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = tokenizer(text_of(stimuli), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return ids[0], model(ids, output_hidden_states=True)


@pytest.fixture(scope="module")
def expected(checkpoint):
    """(hidden, token, d_model) in float64."""
    _, output = forward(checkpoint, "penguins")
    return torch.stack([state[0] for state in output.hidden_states]).double()


def test_hidden_states_are_those_of_transformers(states, expected, checkpoint):
    assert states.dims == ("hidden", "token", "d_model")
    np.testing.assert_array_equal(states.values, expected)
    labels = ["Emb", *(f"L{i}" for i in range(len(expected) - 1))]
    assert list(states["hidden"].values) == labels
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer(text_of("penguins"))["input_ids"]
    assert list(states["text"].values) == [tokenizer.decode([i]) for i in ids]


@pytest.mark.parametrize("token", [8, 0, -1])
def test_token_profile(states, expected, token):
    profile = token_profile(states, token)
    np.testing.assert_array_equal(profile["activation"].values, expected[:, token])
    np.testing.assert_allclose(profile["mean"].values, expected[:, token].mean(-1), rtol=1e-5)
    np.testing.assert_allclose(profile["variance"].values, expected[:, token].var(-1), rtol=1e-5)
    assert profile["text"].item() == states["text"].values[token]


def test_layer_similarity_is_of_the_tokens_it_names(states, expected):
    similarity = layer_similarity(states, 4)
    chosen = np.linspace(0, len(states["token_id"]) - 1, 4, dtype=int)
    assert list(similarity["position"].values) == list(chosen)
    assert list(chosen) != [0, 1, 2, 3]
    assert similarity["cosine"].dims == ("token", "hidden", "other")
    for row, token in enumerate(chosen):
        vectors = expected[:, token]
        matrix = cosine_similarity(vectors[None], vectors[:, None], dim=-1)
        np.testing.assert_allclose(similarity["cosine"].values[row], matrix, rtol=1e-5)


def test_token_similarity_is_of_the_hidden_states_it_names(states, expected):
    similarity = token_similarity(states, 4)
    chosen = np.linspace(0, len(expected) - 1, 4, dtype=int)
    assert list(similarity["hidden"].values) == [states["hidden"].values[i] for i in chosen]
    assert list(chosen) != [0, 1, 2, 3]
    for row, hidden in enumerate(chosen):
        vectors = expected[hidden]
        matrix = cosine_similarity(vectors[None], vectors[:, None], dim=-1)
        np.testing.assert_allclose(similarity["cosine"].values[row], matrix, rtol=1e-5)


@pytest.mark.parametrize("first_token", [1, 0, 3])
def test_similarity_profile_has_every_pair_once(states, expected, first_token):
    profile = similarity_profile(states, first_token)
    n_tokens = states.sizes["token"]
    pairs = [(a, b) for a in range(first_token, n_tokens) for b in range(a + 1, n_tokens)]
    assert list(zip(profile["first"].values, profile["second"].values, strict=True)) == pairs
    for column, (a, b) in enumerate(pairs):
        cosine = cosine_similarity(expected[:, a], expected[:, b], dim=-1)
        found = profile["cosine"].values[:, column]
        np.testing.assert_allclose(found, cosine, rtol=1e-5)


def crafted(vectors):
    """One hidden state of tokens with the given vectors."""
    n_tokens = len(vectors)
    columns = {"sequence": np.zeros(n_tokens, int), "position": np.arange(n_tokens)}
    columns |= {"token_id": np.arange(n_tokens), "text": np.array(["t"] * n_tokens)}
    return xr.DataArray(
        np.array([vectors], np.float32),
        {"hidden": ["Emb"]} | {name: ("token", column) for name, column in columns.items()},
        ("hidden", "token", "d_model"),
    )


def test_similarity_profile_keeps_negative_zero_and_repeated_values():
    profile = similarity_profile(crafted([[9, 9], [1, 0], [0, 1], [-2, 0], [0, 3]]), 1)
    np.testing.assert_allclose(profile["cosine"].values, [[0, -1, 0, 0, 1, 0]], atol=1e-12)


def test_fewer_tokens_than_asked_for_are_shown_once():
    assert layer_similarity(crafted([[1, 0], [0, 1]]), 4).sizes["token"] == 2


def test_next_tokens(checkpoint, tmp_path):
    _, final, _ = extract(checkpoint, "metamorphosis", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with open_layer(final) as section:
        found = next_tokens(section, tokenizer, 21)
    _, output = forward(checkpoint, "metamorphosis")
    log_probability, ids = torch.topk(output.logits[0, -1].log_softmax(-1), 21)
    assert found["token_id"].values.tolist() == ids.tolist()
    assert found["text"].values.tolist() == [tokenizer.decode([i]) for i in ids.tolist()]
    assert found["rank"].values.tolist() == list(range(1, 22))
    np.testing.assert_allclose(found["log_probability"].values, log_probability, rtol=1e-5)


def test_as_many_next_tokens_as_there_are_can_be_stored(gpt2_tokenizer, tmp_path):
    tokenizer = load_tokenizer(gpt2_tokenizer)
    logits = np.random.default_rng(0).normal(size=(1, len(tokenizer))).astype(np.float32)
    columns = {"sequence": [0], "position": [0]}
    section = xr.Dataset(
        {"logits": (("token", "d_vocab"), logits)},
        {name: ("token", np.int32(values)) for name, values in columns.items()},
    )
    write_dataset(next_tokens(section, tokenizer, len(tokenizer)), tmp_path / "next.h5")
    found = read_dataset(tmp_path / "next.h5")
    decoded = [tokenizer.decode([token]) for token in found["token_id"].values.tolist()]
    assert "\0" in decoded  # one of the 256 bytes that its alphabet is made of
    assert found["text"].values.tolist() == [text.replace("\0", "␀") for text in decoded]


def test_scaling_takes_the_target_out(checkpoint, tmp_path):
    _, _, tokens = extract(checkpoint, "metamorphosis", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids, output = forward(checkpoint, "metamorphosis")
    target = AutoTokenizer.from_pretrained(checkpoint).encode(" insect")[0]
    assert target_id(AutoTokenizer.from_pretrained(checkpoint), " insect") == target
    outcome = intervened("hidden_states", "scaled_blocks", checkpoint, tokens)
    found = target_log_probability(outcome)
    clean = output.logits[0, -1].log_softmax(-1)[target].item()
    assert found["clean"].item() == pytest.approx(clean, rel=1e-5)
    assert found["layer"].values.tolist() == list(range(len(output.hidden_states) - 1))

    def scale(module, args, output):
        return (0.8 * output[0], *output[1:]) if isinstance(output, tuple) else 0.8 * output

    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    for layer in (0, len(blocks) - 1):
        handle = blocks[layer].register_forward_hook(scale)
        with torch.no_grad():
            logits = model(torch.as_tensor(ids)[None]).logits[0, -1]
        handle.remove()
        expected = logits.log_softmax(-1)[target].item()
        assert found["log_probability"].values[layer] == pytest.approx(expected, rel=1e-5)


def test_scaling_wants_one_token_and_one_target_of_each_layer(checkpoint, tmp_path):
    _, _, tokens = extract(checkpoint, "metamorphosis", tmp_path)
    for read in ({"logits": "last"}, {"log_probabilities": [0, 1], "targets": [" a"]}):
        outcome = intervened("hidden_states", "scaled_blocks", checkpoint, tokens, read=read)
        with pytest.raises(MicrotomeError, match="`log_probabilities` of one token and one target"):
            target_log_probability(outcome)


def test_a_target_of_several_tokens_shows_its_pieces(gpt2_tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(gpt2_tokenizer)
    with pytest.raises(MicrotomeError, match=r"2 tokens .*' ver' \+ 'min'.*one token"):
        target_id(tokenizer, " vermin")
    with pytest.raises(MicrotomeError, match=r"0 tokens .*none.*one token"):
        target_id(tokenizer, "")


@pytest.mark.parametrize("token", [3, -4])
def test_a_token_that_the_text_lacks_is_an_error(token):
    with pytest.raises(MicrotomeError, match=f"token {token}: sequence 0 has 3 tokens.*`token`"):
        token_profile(crafted([[1, 0], [0, 1], [1, 1]]), token)


@pytest.mark.parametrize("first_token", [2, 7])
def test_a_text_that_leaves_no_pair_is_an_error(first_token):
    with pytest.raises(MicrotomeError, match=f"first_token {first_token}: the text has 3 tokens"):
        similarity_profile(crafted([[1, 0], [0, 1], [1, 1]]), first_token)


def test_wants_all_layers_of_one_text(tmp_path, gpt2_tokenizer):
    model = random_model(tmp_path, "gpt2", gpt2_tokenizer)
    layers, final, _ = extract(model, "penguins", tmp_path / "one")
    with pytest.raises(MicrotomeError, match="`layers: all`"):
        hidden_states(layers[1:], final)
    layers, final, _ = extract(model, "", tmp_path / "two", texts=["A man", "A wise man"])
    states = hidden_states(layers, final)
    for statistic in (token_profile, layer_similarity, token_similarity, similarity_profile):
        with pytest.raises(MicrotomeError, match="2 texts"):
            statistic(states, 1)
    with (
        open_layer(final) as section,
        pytest.raises(MicrotomeError, match="2 texts"),
    ):
        next_tokens(section, None, 21)


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_token_profile_figure(states):
    profile = token_profile(states, 8)
    figure = product("hidden_states", "figures", "token_profile")(profile)
    left, right = figure.axes
    token = states["text"].values[8].replace(" ", "␣")
    assert left.get_title() == f'Hidden state activations for token "{token}"'
    assert right.get_title() == f'Activation variances for token "{token}"'
    n_hidden = states.sizes["hidden"]
    assert len(left.lines) == n_hidden
    drawn = right.collections[0].get_offsets()
    np.testing.assert_array_equal(drawn[:, 0], np.arange(n_hidden))
    np.testing.assert_array_equal(drawn[:, 1], profile["variance"].values)
    for x, line in enumerate(left.lines):
        np.testing.assert_array_equal(line.get_ydata(), states.values[x, 8])
        assert abs(np.mean(line.get_xdata()) - x) < 0.1
    labels = list(states["hidden"].values)
    assert ticks(left.xaxis) == (labels if n_hidden == 5 else labels[::3])
    assert ticks(left.xaxis)[-1] == labels[-1]


def test_similarity_figures(states):
    similarity = layer_similarity(states, 4)
    figure = product("hidden_states", "figures", "layer_similarity")(similarity, limits=(0.2, 1))
    *panels, _ = figure.axes
    texts = [text.replace(" ", "␣") for text in similarity["text"].values]
    assert [axes.get_title() for axes in panels] == [f'CS matrix for "{text}"' for text in texts]
    assert ticks(panels[0].yaxis)[0] == "Emb"
    assert panels[3].images[0].get_clim() == (0.2, 1)
    np.testing.assert_array_equal(panels[3].images[0].get_array(), similarity["cosine"].values[3])
    similarity = token_similarity(states, 4)
    figure = product("hidden_states", "figures", "token_similarity")(similarity, limits=(0, 1))
    *panels, _ = figure.axes
    assert panels[3].get_title() == f"CS matrix for {states['hidden'].values[-1]}"
    labels = [text.replace(" ", "␣") for text in states["text"].values]
    assert ticks(panels[2].xaxis) == ticks(panels[0].yaxis) == labels


def test_similarity_profile_figure(states):
    profile = similarity_profile(states, 1)
    (axes,) = product("hidden_states", "figures", "similarity_profile")(profile).axes
    assert axes.get_title() == "Laminar profile of inter-token cosine similarities"
    for line, cosines in zip(axes.lines, profile["cosine"].values, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), cosines)
    again = product("hidden_states", "figures", "similarity_profile")(profile).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), again.lines[0].get_xdata())


@pytest.mark.parametrize(("n_layers", "step"), [(12, 1), (30, 2), (48, 3)])
def test_scaling_figure(n_layers, step):
    clean, *changed = -np.random.default_rng(0).uniform(1, 5, n_layers + 1)
    scaling = xr.Dataset(
        {"log_probability": ("layer", changed), "clean": clean}, {"layer": np.arange(n_layers)}
    )
    (axes,) = product("hidden_states", "figures", "scaling")(scaling).axes
    assert axes.get_title() == "Impact of global hidden-state scaling on log-softmax"
    assert ticks(axes.xaxis) == [f"L{i}" for i in range(0, n_layers, step)]
    hexagons, line = axes.lines
    np.testing.assert_array_equal(hexagons.get_ydata(), changed)
    assert set(line.get_ydata()) == {clean}
    assert axes.texts[0].get_text() == f"Clean: {clean:.2f}"


def test_the_study_is_the_same_in_every_run(tmp_path, gpt2_tokenizer):
    model = random_model(tmp_path, "gpt2", gpt2_tokenizer)
    inputs = {}
    for stimuli in ("penguins", "metamorphosis"):
        layers, final, tokens = extract(model, stimuli, tmp_path / stimuli)
        files = {"layers": layers, "final": [final], "tokens": tokens, "checkpoint": model}
        inputs[stimuli] = files
    for run in ("first", "second"):
        folder = tmp_path / run
        folder.mkdir()
        made = statistics("hidden_states", folder, inputs)
        for name, entry in study("hidden_states")["figures"].items():
            with style("light"):
                figure = product("hidden_states", "figures", name)(made[name], **entry)
                save(figure, folder / f"{name}.svg", folder / f"{name}.png", dpi=40)
        table = product("hidden_states", "tables", "next_tokens")(made["next_tokens"])
        write_table(table, folder / "next_tokens.csv", folder / "next_tokens.txt")
    names = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert len(names) == 1 + 6 + 2 * 5 + 2
    for name in names:
        first, second = (tmp_path / run / name for run in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), name


def test_next_tokens_table(gpt2_tokenizer, tmp_path):
    texts = [" spider", ",", "\n", ' "', "é", " a", " b", " c"]
    tokens = xr.Dataset(
        {
            "token_id": ("rank", np.arange(8)),
            "text": ("rank", np.array(texts, dtype=object)),
            "log_probability": ("rank", -np.arange(8) / 3),
        },
        {"rank": np.arange(1, 9)},
    )
    table = product("hidden_states", "tables", "next_tokens")(tokens)
    write_table(table, tmp_path / "next_tokens.csv", tmp_path / "next_tokens.txt")
    head, first, second = (tmp_path / "next_tokens.txt").read_text(encoding="utf-8").splitlines()
    assert head == "Top 8 possible next words:"
    assert first == ",   ".join(json.dumps(text, ensure_ascii=False) for text in texts[:7])
    assert second == '" c"'
    frame = pd.read_csv(tmp_path / "next_tokens.csv")
    assert list(frame.columns) == ["rank", "token_id", "text", "log_probability"]
    assert frame["text"].tolist() == texts
    np.testing.assert_array_equal(frame["log_probability"], -np.arange(8) / 3)
