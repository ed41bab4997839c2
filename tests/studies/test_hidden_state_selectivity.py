"""The study hidden_state_selectivity against full forwards of Hugging Face models."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import build, describe, in_batches
from scipy import stats
from studied import layer_files, product, statistics
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.store.datasets import write_dataset
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import set_table
from microtome.workflow.inputs import stacked
from studies.hidden_state_selectivity import captions

STIMULI = Path(__file__).parents[2] / "stimuli"
STUDY = "hidden_state_selectivity"


def forward(checkpoint, sequences):
    """Hidden states at each text's tokens, (hidden, token, d_model), and logits after the last."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    states, logits = {}, {}
    for batch in in_batches(sequences):
        with torch.no_grad():
            output = model(torch.tensor([sequences[n] for n in batch]), output_hidden_states=True)
        stacked = torch.stack(output.hidden_states).double()
        for row, number in enumerate(batch):
            states[number], logits[number] = stacked[:, row], output.logits[row, -1]
    return [states[n] for n in range(len(states))], [logits[n] for n in range(len(logits))]


def inputs(checkpoint, stimuli, folder, texts=slice(None), final=("ln_final",)):
    """What the jobs of the workflow read of a stimulus set, its sequences of tokens, its labels."""
    found = read_set(STIMULI / f"{stimuli}.yaml")
    table = set_table(replace(found, stimuli=found.stimuli[texts]), checkpoint)
    folder.mkdir()
    write_dataset(table, folder / "tokens.h5")
    n_layers = AutoModelForCausalLM.from_pretrained(checkpoint).config.num_hidden_layers
    *layers, last = layer_files(folder, checkpoint, table, ["resid_pre"], range(n_layers), final)
    given = {"layers": layers, "final": [last], "tokens": folder / "tokens.h5"}
    ids = table["token_id"].groupby("sequence")
    return (
        given | {"checkpoint": checkpoint, "manifest": describe(checkpoint)},
        [of_text.values.tolist() for _, of_text in ids],
        {name: [of_text[name].values[-1] for _, of_text in ids] for name in ("word", "category")},
    )


@pytest.fixture(scope="module", params=["gpt2", "gpt_neo"])
def made(request, tmp_path_factory, gpt2_tokenizer):
    """The statistics as the workflow makes them, and by set labels and hidden states."""
    root = tmp_path_factory.mktemp(request.param)
    origin = build(root / "origin", request.param, vocab_size=50257)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(origin)
    fetch(Folder(origin), root / "checkpoint")
    sets = {
        "categories": inputs(
            root / "checkpoint", "categories", root / "words", final=("ln_final", "logits")
        ),
        "three_bears": inputs(root / "checkpoint", "three_bears", root / "contexts"),
    }
    given = {name: files for name, (files, _, _) in sets.items()}
    found = statistics(STUDY, root, given, n_permutations=20)
    seen = {
        name: (labels["category"], *forward(root / "checkpoint", sequences))
        for name, (_, sequences, labels) in sets.items()
    }
    return found, seen, sets, AutoTokenizer.from_pretrained(root / "checkpoint")


def made_of(given, statistic, **options):
    """A statistic of hidden states, of a set's files."""
    job = SimpleNamespace(input=SimpleNamespace(**given))
    function = product(STUDY, "statistics", statistic)
    return function(stacked(job, "resid_pre"), stacked(job, "ln_final"), **options)


def cosines(states):
    """Cosines of the last tokens, (hidden, text, text)."""
    last = torch.stack([of_text[:, -1] for of_text in states], dim=1)
    unit = last / torch.linalg.norm(last, dim=-1, keepdim=True)
    return unit @ unit.mT


def groups(labels):
    """The notebook's masks: pairs of one number, of the first with another, of both others."""
    names = list(dict.fromkeys(labels))
    number = torch.tensor([[names.index(label) + 1 for label in labels]])
    mask = torch.triu(number.T @ number, 1)
    within, first = (mask == 1) | (mask == 4) | (mask == 9), (mask == 2) | (mask == 3)
    return mask, within, first, mask == 6


def test_variances_of_the_words_at_each_token(made):
    found, seen, _, _ = made
    _, states, _ = seen["categories"]
    assert {len(of_text[0]) for of_text in states} == {5}  # all words are one token of GPT-2
    variance = found["token_variances"]
    assert variance.attrs["hidden"] == "L1"  # 20% of layers 0 to 3
    expected = torch.stack(states)[:, 2].var(dim=0)
    np.testing.assert_allclose(variance["variance"], expected, rtol=1e-5, atol=1e-10)
    assert variance["variance"].values[:4].max() < 1e-10 < variance["variance"].values[4].min()
    assert list(variance["text"].values) == ["The", " next", " word", " is", ""]


@pytest.mark.filterwarnings("ignore:Precision loss")  # of contexts that embeddings know not of
@pytest.mark.parametrize("stimuli", ["categories", "three_bears"])
def test_similarities_and_selectivity_in_every_hidden_state(made, stimuli):
    found, seen, _, _ = made
    names = {"categories": ("category_pairs", "cosine_similarities", "selectivity")}
    pairs, similarities, selectivity = names.get(
        stimuli, ("context_pairs", "context_similarities", "context_selectivity")
    )
    labels, states, _ = seen[stimuli]
    mask, within, first, others = groups(labels)
    np.testing.assert_array_equal(found[pairs]["product"], mask)
    matrices = cosines(states)
    np.testing.assert_allclose(found[similarities]["cosine"], matrices, rtol=1e-5)
    chosen = found[selectivity].sel(scale="cosine")
    assert list(chosen["hidden"].values) == ["Emb", "L0", "L1", "L2", "L3"]
    for hidden, matrix in enumerate(matrices):
        w, a = matrix[within].numpy(), matrix[first | others].numpy()
        here = chosen.isel(hidden=hidden)
        assert here["difference"].item() == pytest.approx(w.mean() - a.mean(), rel=1e-5)
        assert here["average"].item() == pytest.approx((w.mean() + a.mean()) / 2, rel=1e-5)
        assert here["t"].item() == pytest.approx(stats.ttest_ind(w, a).statistic, rel=1e-5)


def test_distributions_in_one_hidden_state(made):
    found, seen, _, _ = made
    for stimuli, statistic, n_bins in (
        ("categories", "similarity_distributions", 20),
        ("three_bears", "context_distributions", 12),
    ):
        labels, states, _ = seen[stimuli]
        _, within, first, others = groups(labels)
        masks = [within, first | others] if stimuli == "categories" else [within, first, others]
        mine = found[statistic]
        assert mine.attrs["hidden"] == "L1"
        for row, mask in enumerate(masks):
            values = cosines(states)[2][mask]
            density, edges = torch.histogram(values, bins=n_bins, density=True)
            np.testing.assert_allclose(mine["density"][row], density, rtol=1e-5)
            np.testing.assert_allclose(
                mine["centre"][row], edges[:-1] + edges.diff() / 2, rtol=1e-5
            )
    assert list(mine["pairs"].values) == ["within", "<Woman, chair/bed>", "<chair, bed>"]


def test_histograms_of_every_hidden_state(made):
    _, seen, _, _ = made
    labels, states, _ = seen["three_bears"]
    similarities = made[0]["context_similarities"]
    function = product(STUDY, "statistics", "context_histograms")
    found = function(similarities, n_edges=35, limits=(0.4, 1.0))
    edges = torch.linspace(0.4, 1, 35, dtype=torch.float64)
    for row, mask in enumerate(groups(labels)[1:]):
        for hidden, matrix in enumerate(cosines(states).clamp(max=1)):
            values = matrix[mask]
            inside = (values >= 0.4).double().mean().item()
            here = found.isel(pairs=row, hidden=hidden)
            assert here["mean"].item() == pytest.approx(values.mean().item(), rel=1e-5)
            assert here["beyond"].item() == pytest.approx(1 - inside, abs=1e-12)
            density = torch.histogram(values, bins=edges, density=True)[0]
            expected = density * (edges[1] - edges[0])
            np.testing.assert_allclose(here["probability"], expected, rtol=1e-5)
    nowhere = function(similarities, n_edges=3, limits=(-3.0, -2.0))
    assert (nowhere["beyond"] == 1).all()
    assert nowhere["probability"].isnull().all()
    # The same word after as many tokens: equal but for rounding, which may not lose it.
    assert found["probability"].sel(pairs="within", hidden="Emb").values[-1] == 1


def test_next_tokens_and_contexts(made, tmp_path):
    found, seen, sets, tokenizer = made
    _, _, logits = seen["categories"]
    _, sequences, labels = sets["categories"]
    expected = torch.stack(logits).log_softmax(-1).max(-1)
    mine = found["next_tokens"]
    assert mine["token_id"].values.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(mine["log_probability"], expected.values, rtol=1e-5)
    table = product(STUDY, "tables", "next_tokens")(mine)
    lines = [
        tokenizer.decode([*ids, token]).replace("\n", "↵")
        for ids, token in zip(sequences, expected.indices.tolist(), strict=True)
    ]
    assert table.text == "\n".join(lines)
    assert list(table.frame["word"]) == labels["word"]
    _, sequences, _ = sets["three_bears"]
    table = product(STUDY, "tables", "contexts")(found["contexts"])
    endings = [tokenizer.decode(ids[-5:]) for ids in sequences]
    assert table.frame["ending"].tolist() == endings
    assert table.text.splitlines()[:4] == ["Woman: 10 times", "chair: 9 times", "bed: 6 times", ""]


def test_p_values_are_corrected_over_the_hidden_states():
    hidden, p = ["Emb", "L0", "L1", "L2"], np.array([[0.03, 0.01, np.nan, 0.02]])
    dims = ("scale", "hidden")
    values = {name: (dims, [[0.5, 0.25, 0.5, 1]]) for name in ("difference", "t", "p", "average")}
    labels = {"scale": ["cosine"], "hidden": hidden}
    test = xr.Dataset({"p": (dims, p)}, labels)
    frame = product(STUDY, "tables", "selectivity")(xr.Dataset(values, labels), test)
    assert frame["p_holm"].tolist() == pytest.approx([0.04, 0.03, np.nan, 0.04], nan_ok=True)
    assert frame["within"].tolist() == [0.75, 0.375, 0.75, 1.5]
    assert frame["across"].tolist() == [0.25, 0.125, 0.25, 0.5]


def test_hidden_states_of_smollm2(smollm2, tmp_path):
    """One of its words is two tokens, of which the last counts."""
    given, sequences, labels = inputs(smollm2, "categories", tmp_path / "words", slice(2, None, 3))
    states, _ = forward(smollm2, sequences)
    assert sorted({len(ids) for ids in sequences}) == [5, 6]
    similarities = made_of(given, "cosine_similarities")
    np.testing.assert_allclose(similarities["cosine"], cosines(states), rtol=1e-5)
    selectivity = product(STUDY, "statistics", "selectivity")(similarities).sel(scale="cosine")
    _, within, first, others = groups(labels["category"])
    for hidden, matrix in enumerate(cosines(states)):
        t = stats.ttest_ind(matrix[within], matrix[first | others]).statistic
        assert selectivity["t"].values[hidden] == pytest.approx(t, rel=1e-5)
    variance = made_of(given, "token_variances", layer=6)
    expected = torch.stack([of_text[7, -1] for of_text in states]).var(dim=0)
    np.testing.assert_allclose(variance["variance"][-1], expected, rtol=1e-5)
    assert variance.sizes["position"] == 5


def test_numbers_of_categories_tell_every_pair_apart():
    labels = [f"c{n}" for n in range(7) for _ in range(2)]
    tokens = xr.Dataset(
        coords={
            "sequence": ("token", np.arange(14)),
            "position": ("token", np.zeros(14, int)),
            "category": ("token", np.array(labels, dtype=object)),
            "word": ("token", np.array([f"w{n}" for n in range(14)], dtype=object)),
        }
    )
    pairs = product(STUDY, "statistics", "category_pairs")(tokens)
    assert pairs["kind"].size == len(set(pairs["kind"].values)) == 7 * 8 // 2
    columns = (pairs[name].values for name in ("kind", "first", "second"))
    kinds = {(a, b): kind for kind, a, b in zip(*columns, strict=True)}
    for i in range(14):
        for j in range(14):
            wanted = kinds[labels[i], labels[j]] if i < j else 0
            assert pairs["product"].values[i, j] == wanted


def test_captions_say_what_is_plain():
    variance = xr.Dataset({"variance": (("position", "d_model"), [[0.0, 0.5], [1.0, 3.0]])})
    assert captions.token_variances(variance) == (
        "The mean variance is 2.00 at the last token, and at most 0.500 before it."
    )
    product = [[0, 1, 2], [0, 0, 2], [0, 0, 0]]
    kinds = {"first": ("kind", ["a", "a", "b"]), "second": ("kind", ["a", "b", "b"])}
    pairs = xr.Dataset({"product": (("word", "other"), product)} | kinds, {"kind": [1, 2, 4]})
    assert captions.category_pairs(pairs) == "Pairs: 1 (a, a), 2 (a, b) and 0 (b, b)."
    mean = (("pairs", "hidden"), [[1.0, 0.5, 0.75], [0.0, 0.5, 0.25]])
    histograms = xr.Dataset({"mean": mean}, {"pairs": ["within", "<a, b>"]})
    assert captions.context_histograms(histograms) == (
        "From the embeddings to the last hidden state, means go from 1.00 to 0.75 (within) and "
        "0.00 to 0.25 (a, b)."
    )
