"""The study of patching against hooked forwards of the Hugging Face model, and scipy."""

from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from conftest import build
from hooked import load, taps_at
from intervened import Hooked
from scipy import special, stats
from scipy.optimize import curve_fit
from studied import ROOT, product, study

from microtome.errors import MicrotomeError
from microtome.interventions.declared import declared
from microtome.interventions.run import intervene
from microtome.models.fetch import fetch
from microtome.models.sources import Folder
from microtome.store.tables import write_table
from microtome.texts.stimuli import read_set
from microtome.texts.tokens import load_tokenizer, token_table
from microtome.workflow.load import load as load_function

STUDY = "ioi_patching"
MIKE = "When Mike and Emma went to the cafe, Mike gave a coffee to"
EMMA = "When Mike and Emma went to the cafe, Emma gave a coffee to"
NAMES = [("Sarah", "David"), ("John", "Mary"), ("Alice", "Jack"), ("Paul", "Laura")]
#: By model, the layers that are patched one by one, and the one of which all logits are read.
LAYERS = {"gpt2": ([0, 1, 2, 3], 2), "llama": ([0, 1, 2, 3], 2), "smollm2": ([2, 20, 29], 28)}


@pytest.fixture(scope="module", params=LAYERS)
def model(request, tmp_path_factory, gpt2_tokenizer):
    """GPT-2 and Llama of random weights with GPT-2's real tokenizer, and SmolLM2."""
    if request.param == "smollm2":
        checkpoint = request.getfixturevalue("smollm2")
    else:
        folder = tmp_path_factory.mktemp(request.param)
        origin = build(folder / "origin", request.param, vocab_size=50257)
        copytree(gpt2_tokenizer, origin, dirs_exist_ok=True)
        fetch(Folder(origin), folder / "checkpoint")
        checkpoint = folder / "checkpoint"
    found = SimpleNamespace(name=request.param, checkpoint=checkpoint, net=load(checkpoint))
    found.layers, found.layer = LAYERS[request.param]
    found.tokenizer = load_tokenizer(checkpoint)
    found.runs = Runs(found)
    return found


def statistic(name, *data, **options):
    return product(STUDY, "statistics", name)(*data, **options)


def figure(name, *data):
    return product(STUDY, "figures", name)(*data, **study(STUDY)["figures"][name])


def table(name, *data):
    return product(STUDY, "tables", name)(*data)


def tokens_of(stimuli, model):
    return token_table(read_set(ROOT / "stimuli" / f"{stimuli}.yaml").stimuli, model.checkpoint)


def outcome(model, name, tokens, **keys):
    """What becomes of an intervention of the study."""
    entry = study(STUDY)["interventions"][name] | keys
    entry.pop("stimuli", None)
    columns = {column: values.values for column, values in tokens.coords.items()}
    by = {"taps": taps_at(model.checkpoint), "tokenizer": model.tokenizer}
    return intervene(model.checkpoint, columns, declared(entry), **by)


@pytest.fixture(scope="module")
def made(model):
    made = SimpleNamespace(tokens=tokens_of("ioi", model))
    made.each = outcome(model, "each_layer_patched", made.tokens, layers=model.layers)
    made.one = outcome(model, "patched_layer", made.tokens, layers=[model.layer])
    made.scores = statistic("ioi_scores", made.each, made.tokens)
    made.confirmation = statistic("confirmation", made.each)
    made.logits = statistic("vocabulary_logits", made.one, made.scores, model.tokenizer)
    made.changed = statistic("changed_tokens", made.logits, model.tokenizer, n=20)
    return made


class Runs:
    """Forwards of some texts, the last token of one block's output replaced."""

    def __init__(self, model):
        self.hooked, self.tokenizer = Hooked(model.net, model.name), model.tokenizer

    def __call__(self, text, layer=None, last=None):
        """Logits of the next token, (d_vocab,); blocks' outputs, (layer, token, d_model)."""

        def put(values):
            values[-1, 0] = last
            return values

        changes = {} if layer is None else {(layer, "resid_post"): put}
        ids = self.tokenizer(text)["input_ids"]
        logits, seen = self.hooked.forward(ids, ["resid_post"], changes)
        states = [seen[n, "resid_post"][:, 0] for n in range(self.hooked.n_layers)]
        return logits[-1].astype(float), np.stack(states)

    def id(self, name):
        (token,) = self.tokenizer.encode(f" {name}", add_special_tokens=False)
        return token

    def score(self, logits, first="Mike", second="Emma"):
        return logits[self.id(first)] - logits[self.id(second)]


@pytest.fixture(scope="module")
def expected(model):
    """By the text that is changed: its clean run, and the run with each layer patched."""
    runs, found = model.runs, {}
    for receiver, giver in ((EMMA, MIKE), (MIKE, EMMA)):
        clean, given = runs(receiver), runs(giver)
        layers = {*model.layers, model.layer}
        patched = {layer: runs(receiver, layer, given[1][layer, -1]) for layer in layers}
        found[receiver] = SimpleNamespace(clean=clean, given=given, patched=patched)
    return found


def near(logits):
    """How close numbers made of logits have to be."""
    # Differences of logits are known to some of float32's roundings of these.
    return {"rtol": 1e-5, "atol": 1e-6 * np.abs(logits).max()}


def test_scores(made, expected, model):
    found, runs = made.scores, model.runs
    assert found["layer"].values.tolist() == model.layers
    for pair, receiver in enumerate((EMMA, MIKE)):
        of_pair, run = found.isel(pair=pair), expected[receiver]
        patched = [runs.score(run.patched[n][0]) for n in model.layers]
        clean, given = (runs.score(each[0]) for each in (run.clean, run.given))
        # Where Mike gives, it is Emma who is given to.
        effect = (1 if receiver == MIKE else -1) * (patched - clean)
        wanted = {"score": patched, "clean": clean, "clean_giver": given, "effect": effect}
        for name, values in wanted.items():
            np.testing.assert_allclose(of_pair[name], values, **near(run.clean[0]), err_msg=name)
        texts = [of_pair[f"{text}_text"].item() for text in ("receiver", "giver")]
        ends = ["Emma gave a coffee to", "Mike gave a coffee to"]
        assert texts == (ends if receiver == EMMA else ends[::-1])
        assert (of_pair["first"].item(), of_pair["second"].item()) == (" Mike", " Emma")


def test_patched_in_the_last_layer_the_score_is_the_givers(made, model):
    last = made.scores.sel(layer=model.net.config.num_hidden_layers - 1)
    np.testing.assert_allclose(last["score"], last["clean_giver"], rtol=1e-6)


def test_confirmation(made, expected, model):
    distance = made.confirmation["distance"]
    for pair, receiver in enumerate((EMMA, MIKE)):
        run = expected[receiver]
        found = distance.isel(pair=pair)
        apart = [run.patched[n][1][n, -2] - run.given[1][n, -2] for n in model.layers]
        np.testing.assert_allclose(found.sel(place="before"), np.linalg.norm(apart, axis=-1), 1e-5)
        assert not found.sel(place="last").any()


def test_logits_of_the_vocabulary(made, expected, model):
    run = expected[EMMA]
    wanted = {"receiver": run.clean, "giver": run.given, "patched": run.patched[model.layer]}
    for name, (logits, _) in wanted.items():
        np.testing.assert_allclose(made.logits[name], logits, **near(run.clean[0]), err_msg=name)
    assert made.logits["name_id"].values.tolist() == [model.runs.id(n) for n in ("Mike", "Emma")]
    assert made.logits.attrs["layer"] == model.layer


def test_changed_tokens(made, expected, model):
    clean, patched = expected[EMMA].clean[0], expected[EMMA].patched[model.layer][0]
    found, ids = made.changed, made.changed["token_id"].values
    np.testing.assert_allclose(found["difference"], (clean - patched)[ids], rtol=1e-5)
    largest = np.sort(np.abs(clean - patched))[::-1][:20]
    np.testing.assert_allclose(np.abs(found["difference"]), largest, rtol=1e-5)
    log_p = special.log_softmax(clean) - special.log_softmax(patched)
    np.testing.assert_allclose(found["log_probability_difference"], log_p[ids], rtol=1e-5)
    assert found["text"].values.tolist() == [model.tokenizer.decode([token]) for token in ids]


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_other_names(model):
    runs, tokens = model.runs, tokens_of("ioi_names", model)
    found = statistic("name_scores", outcome(model, "names_patched", tokens), tokens)
    template = "When {} and {} went to the cafe, {} gave a coffee to"
    for place, (first, second) in enumerate(NAMES):
        texts = [template.format(first, second, name) for name in (first, second)]
        for pair, receiver in ((2 * place, 1), (2 * place + 1, 0)):
            clean, given = runs(texts[receiver]), runs(texts[1 - receiver])
            patched = [runs(texts[receiver], n, given[1][n, -1])[0] for n in model.layers]
            wanted = [runs.score(logits, first, second) for logits in (clean[0], *patched)]
            of_pair = [found[name].isel(pair=pair).values for name in ("clean", "score")]
            np.testing.assert_allclose(np.hstack(of_pair), wanted, **near(clean[0]))


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_a_declaration_that_does_not_fit_the_texts_is_an_error(made, model):
    each, tokens = made.each, made.tokens
    itself, swapped = {"giver": each["receiver"]}, {"target": [" Emma", " Mike"]}
    for declared_otherwise, message in (
        (each.assign_coords(swapped), r"text 0 does not have ' Emma' twice and ' Mike' o"),
        (each.isel(pair=[0]), r"text 0 is patched from, but is not changed"),
        (each.assign_coords(itself), r"text 1 is patched from text 1, which has other"),
    ):
        with pytest.raises(MicrotomeError, match=message):
            statistic("ioi_scores", declared_otherwise, tokens)
    several = made.one.isel(layer=[0, 0])
    with pytest.raises(MicrotomeError, match=r"patched_layer: 2 layers; correct its `layers`"):
        statistic("vocabulary_logits", several, made.scores, model.tokenizer)


# Fits


def curve(x, a, x0, k, b):
    return a / (1 + np.exp(-k * (x - x0))) + b


def scores_of(profiles, clean=(4.0, -7.0)):
    """What `ioi_scores` returns of made-up profiles, (pair, layer); pairs turn 1 to 0 and back."""
    n, n_layers = np.shape(profiles)
    receiver = np.arange(n) ^ 1
    of_pair = {
        "receiver": receiver,
        "giver": receiver ^ 1,
        "clean": np.resize(clean, n),
        "clean_giver": np.roll(np.resize(clean, n), 1),
    }
    texts = {"receiver_text": ["Emma gave", "Mike gave"], "giver_text": ["Mike gave", "Emma gave"]}
    for name, each in (texts | {"first": [" Mike"], "second": [" Emma"]}).items():
        of_pair[name] = np.resize(np.array(each, object), n)
    found = xr.Dataset({name: ("pair", values) for name, values in of_pair.items()})
    found["score"] = ("pair", "layer"), profiles
    found["effect"] = (found["score"] - found["clean"]) * (1 - 2 * (found["receiver"] % 2))
    found = found.assign_coords(pair=np.arange(n), layer=np.arange(n_layers))
    return found.set_coords(set(of_pair) - {"clean", "clean_giver"})


@pytest.fixture(scope="module")
def fitted():
    """Four pairs of profiles that fall and rise, but for the last layer, and fits of them."""
    x, n = np.arange(30), np.arange(8)[:, None]
    profiles = curve(x, np.where(n % 2, 10, -10), 20 + 0.2 * n, 1, np.where(n % 2, -6, 4))
    profiles += np.random.default_rng(0).normal(0, 0.2, (8, 30))
    profiles[:, -1] = 90 + n[:, 0]
    scores = scores_of(profiles)
    fitted = SimpleNamespace(scores=scores)
    fitted.fits = statistic("score_fits", scores.isel(pair=[0, 1]), alpha=0.05)
    fitted.names = statistic("name_fits", scores, alpha=0.05)
    fitted.effect = statistic("name_effect", scores, alpha=0.05)
    return fitted


def test_fits_leave_out_the_last_layer(fitted):
    x = np.arange(29)
    for pair in (0, 1):
        y = fitted.scores["score"].values[pair, :-1]
        estimate, _ = curve_fit(curve, x, y, [y[-1] - y[0], 20, 1, y[0]])
        found = fitted.fits["estimate"].isel(pair=pair)
        np.testing.assert_allclose(found, estimate, rtol=1e-5)
    assert fitted.fits["receiver"].values.tolist() == [1, 0]


def test_means_over_names(fitted):
    assert (fitted.names["n"] == 4).all()
    for place, repeated in enumerate(("first", "second")):
        own = fitted.scores["receiver"].values % 2 == place
        for values, means, ends in (
            (fitted.names["estimate"], fitted.names, ("low_mean", "high_mean")),
            (fitted.scores["effect"], fitted.effect, ("low", "high")),
        ):
            found, values = means.sel(repeated=repeated), values.values[own]
            np.testing.assert_allclose(found["mean"], values.mean(axis=0))
            interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
            np.testing.assert_allclose([found[end] for end in ends], interval)


def test_fits_whose_midpoint_is_beyond_the_layers_do_not_count(fitted):
    scores = fitted.scores.copy(deep=True)
    scores["score"][2] = 0.3
    scores["score"][4] = curve(np.arange(30), -10, -30, 0.1, 4)
    found = statistic("name_fits", scores, alpha=0.05)
    assert found["n"].values.tolist() == [4, 2]
    kept = fitted.names["estimate"].values[[0, 6]]
    np.testing.assert_allclose(found["mean"].sel(repeated="second"), kept.mean(axis=0))


# What is drawn and said


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_figures_of_logits(made):
    names = made.logits["name_id"].values
    left, middle, right = figure("logits", made.logits).axes
    for axes, text in ((left, "receiver"), (middle, "giver")):
        points, *marks = axes.lines
        np.testing.assert_array_equal(points.get_ydata(), made.logits[text])
        assert [mark.get_xdata()[0] for mark in marks] == names.tolist()
        assert [mark.get_ydata()[0] for mark in marks] == made.logits[text].values[names].tolist()
        assert axes.get_xlim() == (-100, 50357)
    assert left.get_title() == "A) … Emma gave a coffee to …"
    assert [mark.get_label() for mark in left.lines[1:]] == ['"Mike"', '"Emma"']
    both = [made.logits["giver"], made.logits["receiver"]]
    np.testing.assert_array_equal(right.lines[0].get_data(), both)
    assert (right.get_xlabel(), right.get_ylabel()) == ("ME logits", "EM logits")
    difference = (made.logits["receiver"] - made.logits["patched"]).values
    function = product(STUDY, "figures", "patched_logits")
    for limit in (1e-3, 1e3):
        *both, change = function(made.logits, limit=limit).axes
        np.testing.assert_array_equal(both[1].lines[0].get_ydata(), made.logits["patched"])
        np.testing.assert_array_equal(change.lines[0].get_ydata(), difference)
        n_beyond = (np.abs(difference) > limit).sum()
        assert (f"({n_beyond:,} beyond)" in change.get_ylabel()) == (n_beyond > 0)
        assert change.get_ylim()[1] == pytest.approx(min(limit, 1.25 * np.abs(difference).max()))


def labelled(figure):
    return {line.get_label(): line for axes in figure.axes for line in axes.lines}


def test_figures_of_scores(fitted):
    pair = fitted.scores.isel(pair=0)
    lines = labelled(figure("ioi_scores", fitted.scores))
    assert [lines[f'Clean "{text}"'].get_ydata() for text in ("EM", "ME")] == [[4, 4], [-7, -7]]
    np.testing.assert_array_equal(lines["Patched"].get_ydata(), pair["score"][:-1])
    assert (lines["Last layer"].get_xdata()[0], lines["Last layer"].get_ydata()[0]) == (29, 90)
    lines = labelled(figure("score_fit", fitted.scores, fitted.fits, fitted.names))
    estimate = fitted.fits["estimate"].values[0]
    assert fitted.fits["r_squared"].values[0].round(2) == 1
    x, y = lines["Model (R² = 1.00)"].get_data()
    np.testing.assert_allclose(y, curve(x, *estimate))
    assert lines[f"x0 (L{estimate[1]:.1f})"].get_xdata() == [estimate[1]] * 2
    lines = labelled(figure("name_effect", fitted.effect, fitted.scores.isel(pair=[0, 1])))
    for repeated, pair in (("first", 1), ("second", 0)):
        label = f"{repeated.capitalize()} name repeated"
        mean = fitted.effect["mean"].sel(repeated=repeated)
        np.testing.assert_array_equal(lines[f"{label}: mean"].get_ydata(), mean)
        own = lines[f"{label}: Mike and Emma"].get_ydata()
        np.testing.assert_array_equal(own, fitted.scores["effect"][pair])


def test_what_no_sigmoid_fits_or_with_a_midpoint_beyond_the_layers_is_told(fitted):
    flat = scores_of(np.full((2, 30), 0.1), clean=(0.1, 0.1))
    fits, names = (statistic(name, flat, alpha=0.05) for name in ("score_fits", "name_fits"))
    assert "No sigmoid fits" in labelled(figure("score_fit", flat, fits, names))
    caption = load_function("studies/ioi_patching/captions.py:score_fit")
    assert caption(fits, names) == (
        "No sigmoid fits: the search for its parameters does not converge. With other names, no "
        "two fits have their x0 among the layers."
    )
    said = caption(fitted.fits, fitted.names)
    assert said.startswith("A = −10.")
    assert "R² is 1.00. Over 4 pairs of other names, x0 is 20." in said
    noise = scores_of(np.random.default_rng(0).normal(size=(2, 30)))
    said = caption(statistic("score_fits", noise, alpha=0.05), fitted.names)
    assert ": the curve explains little, and there is no midpoint worth reading." in said
    frame = table("score_fits", fits, names)
    assert frame[["estimate", "low", "names_mean"]].isna().all(axis=None)
    early = scores_of(np.stack([curve(np.arange(30), -10, -5, 0.3, 4)] * 2))
    fits = statistic("score_fits", early, alpha=0.05)
    assert "x0 (L-5.0), beyond" in labelled(figure("score_fit", early, fits, fitted.names))


def test_simulated_data_and_fit():
    data = statistic("simulated_data", n=50, noise=1.0, seed=0)
    fit = statistic("simulated_fit", data, alpha=0.05)
    lines = labelled(figure("simulated_fit", data, fit))
    np.testing.assert_array_equal(lines["Data"].get_ydata(), data["y"])
    (points,) = figure("simulated_data", data).axes[0].lines
    np.testing.assert_array_equal(points.get_data(), [data["x"], data["y"]])
    frame = table("simulated_fit", fit)
    assert frame["truth"].tolist() == [10, 0, 1, 2]
    np.testing.assert_array_equal(frame["estimate"], fit["estimate"])


@pytest.mark.parametrize("model", ["gpt2"], indirect=True)
def test_tables(made, model, fitted, tmp_path):
    changed = table("changed_tokens", made.changed)
    write_table(changed, tmp_path / "t.csv", tmp_path / "t.txt")
    first = made.changed.isel(rank=0)
    assert changed.text.splitlines()[0].startswith(f"Δ (C-P) = {first['difference'].item():6.3f}")
    assert len(changed.frame) == 20
    frame = table("ioi_scores", made.scores, made.confirmation)
    assert frame["layer"].tolist() == model.layers * 2
    np.testing.assert_array_equal(frame["score"], made.scores["score"].values.ravel())
    before = made.confirmation["distance"].sel(place="before")
    np.testing.assert_array_equal(frame["distance_before"], before.values.ravel())
    frame = table("score_fits", fitted.fits, fitted.names)
    assert frame["parameter"].tolist() == ["A", "x0", "k", "b"] * 2
    np.testing.assert_array_equal(frame["estimate"], fitted.fits["estimate"].values.ravel())
    names = fitted.names["mean"].sel(repeated=["second", "first"])
    np.testing.assert_array_equal(frame["names_mean"], names.values.ravel())
