"""The study on the logit lens against heads applied to the hidden states of plain forwards."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import statsmodels.api as sm
import torch
import xarray as xr
import yaml
from conftest import build
from encoders import tiny
from hooked import load, taps_at
from matplotlib.figure import Figure
from scipy import special, stats
from sklearn.linear_model import LinearRegression
from statsmodels.stats.multitest import multipletests
from studied import ROOT, study
from transformers import AutoModelForMaskedLM, AutoTokenizer

from microtome.errors import MicrotomeError
from microtome.figures.style import style, token_texts
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.statistics.regression import line
from microtome.statistics.streamed import streamed
from microtome.store.datasets import read_dataset, write_dataset
from microtome.sweeps.lens import Lens
from microtome.sweeps.sweep import sweep_table
from microtome.texts.rows import token_columns
from microtome.texts.stimuli import Stimulus, read_set
from microtome.texts.tokens import token_table
from studies.logit_lens import captions, figures, statistics, tables

OPTIONS = study("logit_lens")["statistics"]
SITES = OPTIONS["predictions"]["sites"]
MASK = 4
#: A masked LM's text of made-up tokens, between two special ones.
IDS = [2, 11, 12, 13, 14, 11, 12, 3]
MODELS = ["gpt2", "smollm2", "roberta"]


class MadeUp:
    """A tokenizer of a masked LM."""

    mask_token_id = MASK

    def decode(self, ids):
        return "".join(f" t{i}" for i in ids)


def table_of(texts, **columns):
    """The token table of texts of one length, given as token ids."""
    n, length = np.shape(texts)
    found = {
        "sequence": np.repeat(np.arange(n), length),
        "position": np.tile(np.arange(length), n),
        "token_id": np.ravel(texts),
        "text": np.array([MadeUp().decode([i]) for i in np.ravel(texts)], dtype=object),
    }
    return xr.Dataset(coords={name: ("token", c) for name, c in (found | columns).items()})


def masked_each(ids, mask=MASK):
    """A text's table with each of its tokens masked in turn."""
    masked = np.eye(len(ids), dtype=np.int8)
    texts = np.where(masked, mask, ids)
    return table_of(texts, masked=masked.ravel(), target_id=np.tile(ids, len(ids)))


def looked(run, table, statistic, layers=None, **options):
    """A statistic of the study as a job makes it, read back from its file."""
    columns, sites = token_columns(table), options.get("sites") or [options["site"]]
    how = {"batch_tokens": 1024, "dtype": "float32", "device": "cpu"}
    about = {"taps": taps_at(run.checkpoint), "log": sys.stderr} | how
    layers = range(run.n_layers) if layers is None else layers
    sections = sweep_table(run.checkpoint, columns, sites, layers, **about)
    lens = Lens(run.checkpoint, columns, **how)
    empty = getattr(statistics, statistic)(lens, table, run.tokenizer, **options)
    found = streamed(empty, sections)
    write_dataset(found, run.folder / f"{statistic}.h5")
    return read_dataset(run.folder / f"{statistic}.h5")


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory, gpt2_tokenizer):
    """What the study makes of a text, and what each hidden state predicts in a plain forward.

    `expected` is of the places that the model does not see, (hidden, token, d_vocab), `at_token`
    of those that it does: logarithms as float32 gives them, in float64.
    """
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    run = SimpleNamespace(folder=folder, masked=name == "roberta", tokenizer=MadeUp())
    if run.masked:
        run.checkpoint = tiny(folder, name, "masked")
        model = AutoModelForMaskedLM.from_pretrained(run.checkpoint).eval()
        head = model.lm_head
        run.ids, plain, table = IDS, table_of([IDS]), masked_each(IDS)
    else:
        if name == "smollm2":
            run.checkpoint = request.getfixturevalue("smollm2")
        else:
            origin = build(folder / "origin", name, vocab_size=50257)
            AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(origin)
            run.checkpoint = folder / "checkpoint"
            fetch(Folder(origin), run.checkpoint)
        model = load(run.checkpoint)
        norm = model.transformer.ln_f if name == "gpt2" else model.model.norm
        head = lambda x: model.lm_head(norm(x))  # noqa: E731
        run.tokenizer = AutoTokenizer.from_pretrained(run.checkpoint)
        (text,) = yaml.safe_load((ROOT / "stimuli" / "way.yaml").read_text())["texts"]
        run.ids = run.tokenizer(text)["input_ids"]
        plain = table = token_table([Stimulus(text)], run.checkpoint)
    run.n_layers = model.config.num_hidden_layers

    def predicted(ids):
        """What each hidden state predicts, (hidden, position, d_vocab)."""
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_hidden_states=True)
            before = [head(state)[0] for state in output.hidden_states[:-1]]
        logits = torch.stack([*before, output.logits[0]])  # the last one is the model's own
        return logits.log_softmax(dim=-1).double().numpy()

    run.at_token = predicted(run.ids)
    if run.masked:
        texts = table["token_id"].values.reshape(len(IDS), -1).tolist()
        each = [predicted(ids)[:, i] for i, ids in enumerate(texts)]
        run.expected, run.target = np.stack(each, axis=1), np.array(run.ids)
    else:
        run.expected, run.target = run.at_token[:, :-1], np.array(run.ids[1:])
    run.token = run.n_layers - 1 if run.masked else OPTIONS["predictions"]["token"]
    run.found = looked(run, table, "predictions", sites=SITES, token=run.token)
    run.seen = looked(run, plain, "seen", [run.n_layers - 1], site="resid_pre", token=-2)
    return run


def test_the_masked_set_is_what_the_study_reads(minilm):
    found = read_set(ROOT / "stimuli" / "way_masked.yaml")
    table = token_table(found.stimuli, minilm, masked=found.masked)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    ids = tokenizer(found.stimuli[0].text)["input_ids"]
    for name, column in masked_each(ids, tokenizer.mask_token_id).drop_vars("text").coords.items():
        np.testing.assert_array_equal(table[name], column, err_msg=name)


def test_predictions_are_those_of_the_head(run):
    found, expected = run.found, run.expected
    labels = ["Emb", *(f"L{layer}" for layer in range(run.n_layers))]
    assert found["hidden"].values.tolist() == labels
    assert found["token_id"].values.tolist() == run.target.tolist()
    assert found["position"].values.tolist() == list(range(0 if run.masked else 1, len(run.ids)))
    assert found["text"].values.tolist() == [run.tokenizer.decode([i]) for i in run.target]
    assert found.attrs["masked"] == run.masked
    of_target = np.take_along_axis(expected, run.target[None, :, None], axis=-1)
    np.testing.assert_allclose(found["log_probability"], of_target[..., 0], rtol=1e-5)
    np.testing.assert_allclose(found["top_log_probability"], expected.max(axis=-1), rtol=1e-5)
    # Float32 rounds at each of 49,152 additions: probabilities add up to 1 but for that.
    np.testing.assert_allclose(special.logsumexp(expected, axis=-1), 0, atol=2e-5)
    top = found["top_token_id"].values
    np.testing.assert_array_equal(top, expected.argmax(axis=-1))
    assert found["top_text"].values[-1, 3] == run.tokenizer.decode([top[-1, 3]])
    entropy = special.entr(np.exp(expected)).sum(axis=-1)
    np.testing.assert_allclose(found["entropy"], entropy, rtol=1e-5)
    np.testing.assert_array_equal(found["rank"], 1 + (expected > of_target).sum(axis=-1))


def test_the_whole_vocabulary_of_one_place(run):
    found, seen = run.found, run.seen
    chosen = found.attrs["chosen"]
    assert found["position"].values[chosen] == run.token
    np.testing.assert_allclose(found["vocabulary"], run.expected[-2, chosen], rtol=1e-5)
    place = len(run.ids) - 2
    np.testing.assert_allclose(seen["log_probability"], run.at_token[-2, place], rtol=1e-5)
    assert seen["token_id"].item() == run.ids[place]
    assert seen["top_token_id"].item() == run.at_token[-2, place].argmax()
    assert seen.attrs["hidden"] == found["hidden"].values[-2]
    around = [run.tokenizer.decode(ids) for ids in (run.ids[: run.token], run.ids[run.token + 1 :])]
    assert [found.attrs["before"], found.attrs["after"]] == around
    shown = tables.readings(found).text.splitlines()
    assert len(shown) == run.n_layers + 1
    assert found.attrs["before"] in shown[0]


def test_slopes_and_averages(run):
    found = statistics.slopes(run.found, alpha=0.05)
    x = np.sqrt(np.arange(run.n_layers + 1))
    for of, name in (("target", "log_probability"), ("top", "top_log_probability")):
        y = run.found[name].values.astype(float)
        fit, ours = LinearRegression().fit(x[:, None], y), found.sel(of=of)
        np.testing.assert_allclose(ours["slope"], fit.coef_[:, 0], rtol=1e-5)
        np.testing.assert_allclose(ours["const"], fit.intercept_, rtol=1e-5)
        blocks = LinearRegression().fit(x[1:, None], y[1:]).coef_[:, 0]
        np.testing.assert_allclose(ours["slope_blocks"], blocks, rtol=1e-5, atol=1e-9)
    for p in ("p_hac", "p_hac_blocks"):
        expected = multipletests(found[p].values.ravel(), method="holm")[1]
        np.testing.assert_allclose(found[f"{p}_holm"].values.ravel(), expected)
    means = statistics.averages(run.found)
    np.testing.assert_allclose(
        means["log_probability"], run.found["log_probability"].mean("token"), rtol=1e-5
    )
    hits = (run.expected.argmax(axis=-1) == run.target).mean(axis=1)
    np.testing.assert_allclose(means["hits"], hits)


def test_a_line_has_both_intervals():
    x = np.sqrt(np.arange(31))
    noise = np.random.default_rng(0).normal(size=31).cumsum()
    found = line(x, 2 * x + noise, 0.1)
    fit = sm.OLS(2 * x + noise, sm.add_constant(x)).fit()
    robust = fit.get_robustcov_results("HAC", maxlags=3, use_correction=True, use_t=True)
    np.testing.assert_allclose([found["const"], found["slope"]], fit.params, rtol=1e-9)
    np.testing.assert_allclose([found["low"], found["high"]], fit.conf_int(0.1)[1])
    intervals = [found["low_hac"], found["high_hac"]]
    np.testing.assert_allclose(intervals, robust.conf_int(0.1)[1])
    assert found["p_hac"] == pytest.approx(robust.pvalues[1])
    assert found["r_squared"] == pytest.approx(stats.pearsonr(x, 2 * x + noise).statistic ** 2)
    flat = line(x, np.full(31, -3.0), 0.1)
    assert (flat["const"], flat["slope"]) == (-3, 0)
    assert np.isnan(flat["p_hac"])


def test_figures(run):
    found, slopes = run.found, statistics.slopes(run.found, alpha=0.05)
    limits = {"target_limits": (-20, 0), "top_limits": (-5, 0)}
    with style("light", token_texts([found])):
        seen, unseen, profile, words = Figure(figsize=(9, 9)).subplots(4)
        figures.vocabulary_seen(run.seen, ax=seen)
        figures.vocabulary_unseen(found, ax=unseen)
        figures.target_profile(found, slopes, ax=profile)
        figures.predicted_tokens(found, ax=words)
        images = figures.lens_images(found, slopes, **limits)
    np.testing.assert_array_equal(seen.lines[0].get_ydata(), run.seen["log_probability"])
    chosen = found.attrs["chosen"]
    fit, points = profile.lines
    np.testing.assert_array_equal(points.get_ydata(), found["log_probability"][:, chosen])
    own = slopes.sel(of="target").isel(token=chosen)
    k = np.arange(run.n_layers + 1)
    np.testing.assert_allclose(fit.get_ydata(), own["const"].item() + own["slope"].item() * k**0.5)
    why = "masked" if run.masked else "from the token before"
    assert why in profile.get_title()
    assert why in unseen.get_title()
    np.testing.assert_array_equal(unseen.lines[0].get_ydata(), found["vocabulary"])
    target, top, fits = images.axes[:3]
    np.testing.assert_array_equal(target.images[0].get_array(), found["log_probability"])
    np.testing.assert_array_equal(top.images[0].get_array(), found["top_log_probability"])
    assert (target.images[0].get_clim(), top.images[0].get_clim()) == ((-20, 0), (-5, 0))
    for drawn, of in zip(fits.lines, ("target", "top"), strict=False):
        np.testing.assert_array_equal(drawn.get_ydata(), slopes["slope"].sel(of=of))
    n_boxes = sum(text.get_bbox_patch() is not None for text in words.texts)
    assert n_boxes == found["rank"].size
    said = [
        captions.vocabulary_seen(run.seen),
        captions.vocabulary_unseen(found),
        captions.target_profile(found, slopes),
        captions.lens_images(found, slopes, **limits),
    ]
    assert all(text.endswith(".") for text in said)
    hits = int((found["rank"].values[-1] == 1).sum())
    assert f"in {hits} of {len(run.target)} places" in captions.predicted_tokens(found)


@pytest.mark.parametrize("run", ["roberta"], indirect=True)
def test_what_cannot_be_predicted_is_refused(run):
    plain, masked = table_of([IDS]), masked_each(IDS)
    with pytest.raises(MicrotomeError, match=r"has a mask token.*`masked: each` under `stimuli`"):
        looked(run, plain, "predictions", sites=SITES, token=1)
    with pytest.raises(MicrotomeError, match=r"token 8: .* from 0 to 7; correct the `token`"):
        looked(run, masked, "predictions", sites=SITES, token=8)
    with pytest.raises(MicrotomeError, match=r"seen: is of one layer; .* \[100%\]"):
        looked(run, plain, "seen", site="resid_post", token=1)
