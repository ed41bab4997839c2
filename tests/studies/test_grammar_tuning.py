"""The study grammar_tuning against full forwards of Hugging Face models, word by word."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import build, in_batches
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.multitest import multipletests
from studied import layer_files, product
from transformers import AutoModelForCausalLM, AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.figures.style import fonts_for, style
from microtome.figures.text import shown, text_heatmap, text_height, typeset
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics.selectivity import t_tests, text_tuning, word_activations
from microtome.store.datasets import open_layer, read_dataset, write_dataset
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import token_table

ROOT = Path(__file__).resolve().parents[2]
#: What the site `pre` is in a model, and how figures say it.
FACTS = {"activation_function": "SiLU", "gated": 1, "module": "mlp.gate_proj", "side": "output"}
DEFINITION = "pre = output of gate_proj, before SiLU"
WIDE = {"vocab_size": 50257, "max_position_embeddings": 256}


def layer_file(folder, checkpoint, stimuli, layer):
    """A layer's `pre` for a stimulus set, made as the workflow makes it."""
    table = token_table(read_set(ROOT / "stimuli" / f"{stimuli}.yaml").stimuli, checkpoint)
    (path,) = layer_files(folder / stimuli, checkpoint, table, ["pre"], [layer])
    return path


class Hooked:
    """A full model, hooked by hand, and the output of its MLP's first projection."""

    def __init__(self, checkpoint, layer):
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        name = "mlp.gate_proj" if hasattr(self.model, "model") else "mlp.c_fc"
        blocks = self.model.model.layers if hasattr(self.model, "model") else None
        block = blocks[layer] if blocks is not None else self.model.transformer.h[layer]
        block.get_submodule(name).register_forward_hook(self._keep)

    def _keep(self, module, args, output):
        self.seen = output.detach().numpy().astype(np.float64)

    def __call__(self, texts):
        """An array (position, neuron) for each text."""
        sequences = [self.tokenizer(text)["input_ids"] for text in texts]
        found = {}
        for batch in in_batches(sequences):
            with torch.no_grad():
                self.model(torch.tensor([sequences[number] for number in batch]))
            shape = (len(batch), len(sequences[batch[0]]), -1)  # GPT-2's is flat
            found |= zip(batch, self.seen.reshape(shape), strict=True)
        return [found[number] for number in range(len(texts))]


@pytest.fixture(scope="module", params=["gpt2", "gpt_neo", "smollm2"])
def studied(request, tmp_path_factory):
    """A model with a real tokenizer: both layer files, and the model hooked by hand."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "smollm2":
        checkpoint, layer = request.getfixturevalue("smollm2"), 8
    else:
        origin = build(folder / "origin", request.param, **WIDE)
        for file in request.getfixturevalue("gpt2_tokenizer").iterdir():
            (origin / file.name).write_bytes(file.read_bytes())
        checkpoint, layer = folder / "checkpoint", 2
        fetch(Folder(origin), checkpoint)
    files = [layer_file(folder, checkpoint, s, layer) for s in ("nouns_and_verbs", "randomness")]
    return *files, Hooked(checkpoint, layer)


@pytest.fixture(scope="module")
def expected(studied):
    """Mean activations of the words, (word, neuron), and their categories."""
    stimuli = read_set(ROOT / "stimuli" / "nouns_and_verbs.yaml").stimuli
    found = studied[2]([stimulus.word for stimulus in stimuli])
    means = [values.mean(axis=0) for values in found]
    return np.array(means), np.array([stimulus.category for stimulus in stimuli])


def test_the_study_is_that_of_full_forwards(studied, expected, tmp_path):
    words_file, text_file, hooked = studied
    activations, category = expected
    with open_layer(words_file) as section:
        words = word_activations(section, "pre")
    assert list(words["category"].values) == list(category)
    n_tokens = [len(hooked.tokenizer(word)["input_ids"]) for word in words["word"].values]
    assert list(words["n_tokens"].values) == n_tokens
    assert max(n_tokens) > 1
    np.testing.assert_allclose(words["activation"].values, activations, rtol=1e-5)

    noun, verb = activations[category == "noun"], activations[category == "verb"]
    write_dataset(t_tests(words, ["noun", "verb"], 0.05), tmp_path / "t_tests.h5")
    tests = read_dataset(tmp_path / "t_tests.h5")
    n = activations.shape[1]
    paired = stats.ttest_1samp(noun - verb, 0)
    welch = stats.ttest_ind(noun, verb, equal_var=False)
    for name, test in (("paired", paired), ("welch", welch)):
        found = tests.sel(test=name)
        np.testing.assert_allclose(found["t"], test.statistic, rtol=1e-5)
        np.testing.assert_allclose(found["p"], test.pvalue, rtol=1e-5)
        for correction, method in (("bonferroni", "bonferroni"), ("benjamini_hochberg", "fdr_bh")):
            rejected = multipletests(test.pvalue, 0.05, method=method)[0]
            np.testing.assert_array_equal(found["significant"].sel(correction=correction), rejected)
        bonferroni = found["significant"].sel(correction="bonferroni")
        np.testing.assert_array_equal(bonferroni, test.pvalue < 0.05 / n)
    np.testing.assert_allclose(tests["mean"].sel(category="verb"), verb.mean(axis=0))

    with open_layer(text_file) as section:
        tuning = text_tuning(section, tests, "pre")
    stimulus = read_set(ROOT / "stimuli" / "randomness.yaml").stimuli[0]
    (full,) = hooked([stimulus.text])
    chosen = [np.argmax(paired.statistic), np.argmin(paired.statistic)]
    assert list(tuning["neuron"].values) == chosen
    assert "".join(tuning["text"].values) == stimulus.text
    for row, neuron in enumerate(chosen):
        x = full[:, neuron]
        np.testing.assert_allclose(tuning["activation"].values[row], x, rtol=1e-5)
        scaled = (x - x.min()) / (x.max() - x.min())
        np.testing.assert_allclose(tuning["scaled"].values[row], scaled, rtol=1e-5)
        assert tuning["t"].values[row] == pytest.approx(paired.statistic[neuron])


def test_the_notebooks_own_t_values(studied, expected):
    """The differences, tests and threshold as the notebook takes them, on full forwards."""
    with open_layer(studied[0]) as section:
        tests = t_tests(
            word_activations(section, "pre").assign_attrs(FACTS), ["noun", "verb"], 0.05
        )
    activations, category = expected
    both = np.stack([activations[category == name] for name in ("verb", "noun")])
    t = stats.ttest_1samp(np.diff(both, axis=0)[0], popmean=0, axis=0).statistic
    found = tests["t"].sel(test="paired").values
    np.testing.assert_allclose(found, t, rtol=1e-5)


def test_the_table_says_what_the_tests_say(studied):
    with open_layer(studied[0]) as section:
        tests = t_tests(
            word_activations(section, "pre").assign_attrs(FACTS), ["noun", "verb"], 0.05
        )
    table = product("grammar_tuning", "tables", "t_tests")(tests)
    frame, text = table.frame, table.text
    assert list(frame["neuron"]) == list(range(tests.sizes["neuron"]))
    np.testing.assert_array_equal(frame["t_welch"], tests["t"].sel(test="welch"))
    count = frame["significant_welch_benjamini_hochberg"].sum()
    assert f" {count} " in next(line for line in text.splitlines() if line.startswith("welch"))
    assert "noun minus verb, 100 words each" in text
    assert DEFINITION in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figures_show_every_neuron(studied, theme):
    with open_layer(studied[0]) as section:
        words = word_activations(section, "pre").assign_attrs(FACTS)
    tests = t_tests(words, ["noun", "verb"], 0.05)
    with style(theme):
        figure = product("grammar_tuning", "figures", "word_activations")(words, limits=[-1.0, 1.0])
        left, right = figure.axes[:2]
        assert left.images[0].get_array().shape == (100, words.sizes["neuron"])
        assert figure.get_suptitle().endswith(f", {DEFINITION}")
        nouns = words["category"].values == "noun"
        mean = words["activation"].values[nouns].mean(axis=0)
        np.testing.assert_allclose(right.lines[0].get_ydata(), mean)
        figure = product("grammar_tuning", "figures", "t_tests")(tests)
        assert figure.axes[0].get_title().endswith(f"\n{DEFINITION}")
        drawn = np.concatenate([line.get_ydata() for line in figure.axes[0].lines])
        assert sorted(drawn) == sorted(tests["t"].sel(test="paired").values)


def words_of(sizes, n_neurons=4):
    """Random activations of words in categories of some sizes."""
    category = [name for name, size in sizes.items() for _ in range(size)]
    values = np.random.default_rng(0).normal(size=(len(category), n_neurons))
    return xr.Dataset(
        {"activation": (("word", "neuron"), values)},
        {"category": ("word", category), "n_tokens": ("word", np.ones(len(category), int))},
        {"layer": 8, "site": "pre", **FACTS},
    )


@pytest.mark.parametrize(
    ("sizes", "difference", "message"),
    [
        ({"noun": 5, "verb": 4}, ["noun", "verb"], "noun has 5 words and verb has 4"),
        ({"noun": 5, "verb": 5}, ["nouns", "verb"], "no category 'nouns'; did you mean 'noun'"),
        ({"noun": 5, "verb": 5}, ["noun"], "wants two categories"),
    ],
)
def test_categories_that_cannot_be_compared(sizes, difference, message):
    with pytest.raises(MicrotomeError, match=message):
        t_tests(words_of(sizes), difference, 0.05)


def test_a_third_category_does_not_matter():
    words = words_of({"noun": 5, "adverb": 3, "verb": 5})
    both = words.isel(word=words["category"].values != "adverb")
    xr.testing.assert_identical(
        t_tests(words, ["noun", "verb"], 0.05), t_tests(both, ["noun", "verb"], 0.05)
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_neuron_that_never_changes_is_neither_significant_nor_chosen():
    words = words_of({"noun": 5, "verb": 5})
    words["activation"][:, 2] = 1.5
    tests = t_tests(words, ["noun", "verb"], 0.05)
    assert np.isnan(tests["t"].values[:, 2]).all()
    assert (tests["significant"].values[..., 2] == 0).all()
    section = xr.Dataset(
        {"pre": (("token", "d_mlp"), np.ones((3, 4), np.float32))},
        {
            "text": ("token", ["a", " b", "c"]),
            "sequence": ("token", [0, 0, 0]),
            "position": ("token", [0, 1, 2]),
        },
        {"layer": 8},
    )
    tuning = text_tuning(section, tests, "pre")
    assert 2 not in tuning["neuron"].values
    assert (tuning["scaled"].values == 0).all()
    with pytest.raises(MicrotomeError, match=r"pre of layer 7, but .* pre of layer 8"):
        text_tuning(section.assign_attrs(layer=7), tests, "pre")
    with pytest.raises(MicrotomeError, match="have no words"):
        word_activations(section, "pre")


TEXTS = {
    "prose": ["In", " common", " usage", ",", " random", "ness", " costs", " $", "5", "$x$", "."]
    * 9,
    "lines": ["def", " f", "():\n", "\n\n", "    ", "\treturn", " 1", "\r\n", "", "\u200b"] * 5,
    "world": [
        "漢",
        "字",
        "かな",
        " 한국",
        "😀",
        "\ufffd",
        "\ufffd",
        "é",
        "e\u0301",
        "مرحبا",
        "שלום",
    ]
    * 6,
    "long": ["a", "-" * 400, "b", " " * 300, "c" * 90 + "\n", "漢" * 150],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("size", [(10, 9), (6, 3), (3, 8), (1, 5), (4, 0.5)])
@pytest.mark.parametrize("dpi", [37, 150])
def test_tokens_neither_overlap_nor_leave_the_axes(texts, size, dpi):
    figure = Figure(size, dpi=dpi)
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    with style("light"):
        text_heatmap(axes, texts, np.linspace(0, 1, len(texts)), "Reds")
        figure.draw(renderer)
        inks = [text.get_window_extent(renderer) for text in axes.texts]
    frame = axes.get_window_extent(renderer)
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches]
    assert len(boxes) == len(axes.texts) >= len(texts)
    slack = 0.5  # of a pixel
    for box, ink in zip(boxes, inks, strict=True):
        assert frame.x0 - slack <= box.x0
        assert box.x1 <= frame.x1 + slack
        assert frame.y0 - slack <= box.y0
        assert box.y1 <= frame.y1 + slack
        if ink.width:
            assert box.x0 <= ink.x0 + slack
            assert ink.x1 <= box.x1 + slack
    for one, next_one in pairwise(boxes):
        same_line = abs(one.y0 - next_one.y0) < slack
        assert next_one.x0 > one.x1 if same_line else next_one.y1 < one.y0
    assert "".join(text.get_text() for text in axes.texts) == "".join(map(shown, texts))


def test_what_cannot_be_seen_gets_a_sign():
    assert shown("a\n") == "a↵"
    assert shown("\ufffd é") == "\ufffd é"
    assert shown("\x00\u200b") == "··"
    assert shown("\U000f0000") == "·"  # private use
    assert shown("𐎀") == "□"  # Ugaritic


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "text",
    [
        "漢字かな",
        "简体中文",
        "한국어",
        "नमस्ते",
        "مرحبا",
        "שלום",
        "สวัสดี",
        "বাংলা",
        "አማርኛ",
        "🎉👍🏽",
        "∑𝔸",
    ],
)
def test_every_script_has_its_glyphs_on_every_machine(text):
    assert shown(text) == text
    with style("light", [text]):
        figure = Figure((3, 1))
        figure.text(0, 0, text)
        FigureCanvasAgg(figure).draw()  # would warn of a missing glyph


def test_no_more_fonts_are_asked_than_a_text_needs():
    assert fonts_for("naïve ␣ Ελλάδα") == ["DejaVu Sans"]
    assert fonts_for("naïve हिन्दी") == ["DejaVu Sans", "Noto Sans Devanagari"]


def test_a_line_break_ends_a_line():
    lines = [piece.line for piece in typeset(["a", "\n", "b", "c;\n", "d"], 500, 12)]
    assert lines == [0, 0, 1, 1, 2]
    assert text_height(["a\n", "b"], 500) == 2 * text_height(["a"], 500)
    assert text_height([], 500) == 0


@pytest.mark.parametrize("cmap", ["Reds", "Blues", "viridis"])
def test_every_token_can_be_read(cmap):
    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    axes = Figure((6, 6)).add_axes((0, 0, 1, 1))
    text_heatmap(axes, ["word"] * 101, np.linspace(0, 1, 101), cmap)
    for patch, text in zip(axes.patches, axes.texts, strict=True):
        letters = 0.0 if text.get_color() == "black" else 1.0
        ground = luminance(patch.get_facecolor()[:3])
        high, low = max(letters, ground), min(letters, ground)
        assert (high + 0.05) / (low + 0.05) > 4.5


def test_the_text_heatmap_names_neurons_and_keeps_the_font_size(studied):
    with open_layer(studied[0]) as section:
        tests = t_tests(
            word_activations(section, "pre").assign_attrs(FACTS), ["noun", "verb"], 0.05
        )
    with open_layer(studied[1]) as section:
        tuning = text_tuning(section, tests, "pre")
    figure = product("grammar_tuning", "figures", "text_heatmap")(tuning)
    for axes, category in zip(figure.axes, ("noun", "verb"), strict=True):
        neuron = tuning["neuron"].sel(category=category).item()
        assert f"{category.capitalize()}-tuned neuron {neuron} " in axes.get_title("left")
        assert axes.get_title("left").endswith(f"\n{DEFINITION}")
        assert len(axes.patches) == tuning.sizes["token"]
        assert axes.texts[0].get_fontsize() == pytest.approx(12, rel=0.05)
