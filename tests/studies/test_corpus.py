"""Statistics made in the sweep against those of all values at once."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import build
from hooked import hooked, load, taps_at
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer
from workflows import WORDS, Clone

from microtome.show.products import product_lines
from microtome.statistics.dimensionality import component_variances, participation_ratio
from microtome.statistics.distributions import Histograms
from microtome.statistics.moments import Moments
from microtome.statistics.streamed import streamed
from microtome.store.datasets import read_dataset
from microtome.store.layers import Section
from microtome.sweeps.batches import batched
from microtome.sweeps.lens import Lens
from microtome.sweeps.sweep import sweep
from studies.corpus import statistics
from studies.corpus_losses import statistics as of_losses

SITES = ("pre", "mlp_out")


def sections():
    """Two layers in three batches of unequal size and scale."""
    random = np.random.default_rng(0)
    for layer in (2, 5):
        row = 0
        for n in (1, 7, 3):
            values = {
                "pre": random.standard_normal((n, 6)).astype(np.float32) ** 3 + layer,
                "mlp_out": random.gamma(n, size=(n, 4)).astype(np.float32),
            }
            yield Section(layer, np.arange(row, row + n), values)
            row += n


def whole(layer, site):
    return np.concatenate([s.values[site].ravel() for s in sections() if s.layer == layer])


def test_moments_are_those_of_all_values():
    found = streamed(Moments(SITES), sections())
    assert dict(found.sizes) == {"layer": 2, "site": 2}
    for layer in (2, 5):
        for site in SITES:
            values, own = whole(layer, site).astype(float), found.sel(layer=layer, site=site)
            assert own["n"] == values.size
            assert own["mean"].item() == pytest.approx(values.mean(), rel=1e-12)
            assert own["sd"].item() == pytest.approx(values.std(), rel=1e-12)
            assert own["skewness"].item() == pytest.approx(stats.skew(values), rel=1e-10)
            expected = stats.kurtosis(values, fisher=False)
            assert own["kurtosis"].item() == pytest.approx(expected, rel=1e-10)
            assert (own["smallest"], own["largest"]) == (values.min(), values.max())


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_histograms_are_those_of_all_values(n_threads):
    found = streamed(Histograms(SITES, 11, 3.0, n_threads), sections())
    for layer in (2, 5):
        for site in SITES:
            values, own = whole(layer, site).astype(float), found.sel(layer=layer, site=site)
            density, edges = np.histogram(values, 10, (-3, 3), density=True)
            np.testing.assert_allclose(own["density"], density, rtol=1e-12)
            np.testing.assert_allclose(own["value"], (edges[1:] + edges[:-1]) / 2, atol=1e-15)
            assert own["beyond"].item() == pytest.approx((abs(values) > 3).mean())


@pytest.mark.parametrize("statistic", [Moments(SITES), Histograms(SITES, 11, 3.0)])
def test_no_section_is_held_while_the_next_is_computed(statistic):
    made: list[weakref.ref] = []

    def counted(section):
        assert not any(earlier() for earlier in made)
        made.append(weakref.ref(section))
        return section

    streamed(statistic, map(counted, sections()))
    assert len(made) == 6


def test_the_workflow_stores_no_activations(tmp_path, gpt2_tokenizer):
    """The example of docs/scaling.md, beside plain forwards of the model."""
    model = build(tmp_path / "tiny", "gpt2", vocab_size=50257, num_hidden_layers=3)
    AutoTokenizer.from_pretrained(gpt2_tokenizer).save_pretrained(model)
    clone = Clone(tmp_path / "clone", model)
    sites = {"sites": ["resid_post", "pre"]}
    statistics = {"moments": sites, "histograms": sites | {"n_edges": 21, "limit": 2.0}}
    statistics |= {"patterns": {"n_positions": 3}}
    study = {"models": ["tiny"], "stimuli": "words", "statistics": statistics}
    clone.change("studies", to={"corpus": study})
    clone.run()
    clone.run("statistics")  # no figure reads the histograms
    assert not clone.product("activations").exists()
    for figure in ("moments", "entropies"):
        assert clone.product(f"figures/corpus/tiny/{figure}.png").exists()
    assert clone.planned() == set()
    for key, values in full_forwards(model, clone.product("tokens/tiny/words.h5")).items():
        own, own_histogram = (
            read_dataset(clone.product(f"statistics/corpus/tiny/{name}.h5")).sel(
                dict(zip(("layer", "site"), key, strict=True))
            )
            for name in ("moments", "histograms")
        )
        assert own["n"] == values.size
        assert own["mean"].item() == pytest.approx(values.mean(), rel=1e-5, abs=1e-6)
        assert own["sd"].item() == pytest.approx(values.std(), rel=1e-5)
        density = np.histogram(values.astype(float), 20, (-2, 2), density=True)[0]
        np.testing.assert_allclose(own_histogram["density"], density, rtol=1e-5)
    # An edit of one runs their sweep again; what comes out as before makes nothing stale.
    clone.replace("microtome/statistics/moments.py", "values.mean()", "np.mean(values)")
    assert clone.run("statistics") == {
        "statistics/corpus/tiny/covariances",
        "statistics/corpus/tiny/spaces",
    }
    assert clone.planned() == set()
    entropies, patterns = (
        read_dataset(clone.product(f"statistics/corpus/tiny/{name}.h5"))
        for name in ("entropies", "patterns")
    )
    assert patterns["pattern"].shape == (3, 4, 3, 3)
    eager = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager")
    tokens = read_dataset(clone.product("tokens/tiny/words.h5"))
    attentions = [
        np.stack([layer[0].numpy() for layer in attention])  # (layer, head, position, key)
        for attention in attended(eager, tokens)
    ]
    mean = np.mean([attention[:, :, :3, :3] for attention in attentions], axis=0)
    np.testing.assert_allclose(np.nan_to_num(patterns["pattern"]), mean, rtol=0, atol=1e-5)
    second = np.mean([stats.entropy(a[:, :, 1], axis=-1) for a in attentions], axis=0)
    np.testing.assert_allclose(entropies["entropy"].sel(position=1), second, atol=1e-5)


def test_shards_are_merged_to_the_same(tmp_path, model):
    """All statistics of the study, in shards of four of six texts."""
    clone = Clone(tmp_path, model)
    statistics = {"moments": {"sites": ["resid_post", "pre"]}, "quantiles": {"sites": ["pre"]}}
    study = {"models": ["tiny"], "stimuli": "words"}
    with_losses = {"corpus": study | {"statistics": statistics}, "corpus_losses": study}
    clone.change("studies", to=with_losses)
    clone.change("sweep", "sequences_per_job", to=4)
    planned = clone.planned("statistics")  # before it is known how many shards there are
    assert {"tokens/tiny/words", "statistics/corpus/tiny/moments"} <= planned
    del clone.config["sweep"]["sequences_per_job"]
    clone.save(clone.config)
    ran = clone.run("statistics")
    of_study = "statistics/corpus/tiny"
    sweep = f"{of_study}/covariances"  # the first output of the one sweep
    assert {job for job in ran if job.startswith("statistics")} == {sweep, f"{of_study}/spaces"}
    folder = clone.product(of_study)
    whole = {file: read_dataset(file) for file in folder.parents[1].glob("*/tiny/*.h5")}
    assert len(whole) == 10
    clone.change("sweep", "sequences_per_job", to=4)
    assert f"{of_study}/moments" in clone.planned("statistics")  # the shards are not known yet
    clone.run("statistics")
    assert clone.planned("statistics") == set()
    for file, expected in whole.items():
        found = read_dataset(file)
        assert found.attrs == expected.attrs
        assert found.variables.keys() == expected.variables.keys()
        for variable, values in expected.variables.items():
            if values.dtype.kind == "f":
                scale = np.abs(np.nan_to_num(values)).max()
                np.testing.assert_allclose(
                    *(found[variable], values), rtol=1e-12, atol=1e-12 * scale, err_msg=variable
                )
            else:
                np.testing.assert_array_equal(found[variable], values, err_msg=variable)
    for name, told in (
        ("moments.h5", "statistic moments of the study corpus, of tiny"),
        ("moments/00001.h5", "what the statistic moments of the study corpus, of tiny, keeps of "),
    ):
        lines = product_lines(folder / name)
        assert told in lines[0]
        made = [line.split() for line in lines if line.startswith("  by ")]
        assert made == [["by", "moments", "in", "studies/corpus/statistics.py"]]
    merged = {f"statistics/{file.parents[1].name}/tiny/{file.stem}" for file in whole}
    for lost in ("moments/00001.h5", "moments.h5"):  # which costs that shard
        (folder / lost).unlink()
    assert clone.planned("statistics") == {f"{sweep}/00001"} | merged
    # What is added at the end makes the last shard anew, which was not full, and no other.
    space = [*WORDS["words"]["space"], "comet"]
    clone.save(WORDS | {"words": WORDS["words"] | {"space": space}}, "stimuli/words.yaml")
    assert clone.run("statistics") == {"tokens/tiny/words", f"{sweep}/00001"} | merged
    grown = read_dataset(folder / "moments.h5")["n"] / whole[folder / "moments.h5"]["n"]
    assert (grown == 7 / 6).all()  # of as many tokens each
    # Of larger shards, none of before is left.
    clone.change("sweep", "sequences_per_job", to=8)
    clone.run("statistics")
    assert [file.name for file in (folder / "moments").iterdir()] == ["00000.h5"]
    assert clone.verify() == []


SEQUENCES = [np.random.default_rng(n).integers(0, 60, n) for n in (7, 3, 1, 7, 12, 3)]


def streamed_in(n_shards, checkpoint, empty, sites, layers=(0, 2)):
    """A statistic of the study as jobs make it: swept in shards, merged from their states."""
    whole = empty(None, None)
    for numbers in np.array_split(np.arange(len(SEQUENCES)), n_shards):
        texts = [SEQUENCES[number] for number in numbers]
        table = {
            "sequence": np.repeat(numbers, list(map(len, texts))),
            "position": np.concatenate([np.arange(len(ids)) for ids in texts]),
            "token_id": np.concatenate(texts),
        }
        tokens = xr.Dataset(coords={name: ("token", column) for name, column in table.items()})
        how = {"batch_tokens": 14, "dtype": "float32", "device": "cpu"}
        own = empty(tokens, Lens(checkpoint, table, **how))
        taps = taps_at(checkpoint)
        for section in sweep(checkpoint, batched(table, 14), sites, list(layers), taps=taps):
            own.add(section)
        whole.merge(whole.from_state(own.state()))
    return whole.finish()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def run(request, checkpoints):
    """A model, and what its plain forward has of each text: sites by hooks, and the logits."""
    checkpoint = checkpoints[request.param]
    model = load(checkpoint)
    sites, logits = {}, []
    for ids in SEQUENCES:
        batch = torch.from_numpy(ids)[None]
        for key, values in hooked(model, request.param, batch).items():
            sites.setdefault(key, []).append(values[0])
        with torch.no_grad():
            logits.append(model(batch).logits[0].double().log_softmax(-1).numpy())
    return SimpleNamespace(
        checkpoint=checkpoint,
        sites={key: np.concatenate(texts) for key, texts in sites.items()},
        logits=logits,
        n_layers=model.config.num_hidden_layers,
    )


@pytest.mark.parametrize("n_shards", [1, 3])
def test_spaces_are_those_of_a_plain_forward(run, n_shards):
    sites = ["q", "mlp_out"]
    found = streamed_in(
        n_shards,
        run.checkpoint,
        lambda tokens, lens: statistics.covariances(tokens, sites=sites),
        sites,
    )
    spaces = statistics.spaces(found)
    for layer in (0, 2):
        values = [run.sites[layer, site].astype(float) for site in sites]
        covariance = np.cov(np.concatenate(values, axis=1).T, ddof=0)
        largest = abs(covariance).max()
        own = found["covariance"].sel(layer=layer)
        np.testing.assert_allclose(own, covariance, rtol=0, atol=1e-5 * largest)
        kernels = []
        for of_site in values:
            centred = of_site - of_site.mean(0)
            kernels.append((centred @ centred.T).ravel())
        expected = np.corrcoef(*kernels)[0, 1]
        assert spaces["cka"].sel(layer=layer).item() == pytest.approx(expected, rel=1e-5)
        for site, of_site in zip(sites, values, strict=True):
            expected = participation_ratio(component_variances(of_site))
            ratio = spaces["participation_ratio"].sel(layer=layer, site=site)
            assert ratio.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_means_per_token_are_those_of_a_plain_forward(run, n_shards):
    found = streamed_in(
        *(n_shards, run.checkpoint),
        lambda tokens, lens: statistics.token_means(tokens, sites=["resid_post"]),
        ["resid_post"],
    )
    ids = np.concatenate(SEQUENCES)
    for layer in (0, 2):
        values = run.sites[layer, "resid_post"].astype(float)
        expected = [values[ids == token_id].mean(0) for token_id in found["token_id"].values]
        own = found["resid_post"].sel(layer=layer)
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)
    assert set(found["token_id"].values.tolist()) == set(ids.tolist())


@pytest.mark.parametrize("n_shards", [1, 3])
def test_the_loss_of_the_last_layer_is_the_models_own(run, n_shards):
    last = run.n_layers - 1
    found = streamed_in(
        *(n_shards, run.checkpoint),
        lambda tokens, lens: of_losses.losses(lens, tokens, site="resid_post"),
        ["resid_post"],
        [0, last],
    )
    losses = np.concatenate(
        [
            -logits[np.arange(len(ids) - 1), ids[1:]]
            for ids, logits in zip(SEQUENCES, run.logits, strict=True)
        ]
    )
    entropies = np.concatenate([-(np.exp(x) * x).sum(-1) for x in run.logits])
    own = found.sel(layer=last)
    assert own["loss"].item() == pytest.approx(losses.mean(), rel=1e-5)
    assert own["entropy"].item() == pytest.approx(entropies.mean(), rel=1e-5)
    assert (own["n"], own["n_followed"]) == (len(entropies), len(losses))


def attended(model, tokens):
    """The patterns of each text in a plain forward."""
    with torch.no_grad():
        for _, text in tokens.groupby("sequence"):
            ids = torch.tensor(text["token_id"].values[None]).long()
            yield model(ids, output_attentions=True).attentions


def full_forwards(model, tokens):
    """The values of `pre` and `resid_post` in a plain forward of each text."""
    seen: dict[tuple[int, str], list[np.ndarray]] = {}
    plain = AutoModelForCausalLM.from_pretrained(model)
    for layer, block in enumerate(plain.transformer.h):
        for site, module in (("pre", block.mlp.c_fc), ("resid_post", block)):
            kept = seen.setdefault((layer, site), [])
            module.register_forward_hook(
                lambda module, args, out, kept=kept: kept.append(
                    (out[0] if isinstance(out, tuple) else out).numpy()
                )
            )
    with torch.no_grad():
        for _, text in read_dataset(tokens).groupby("sequence"):
            plain(torch.from_numpy(text["token_id"].values).long()[None])
    return {key: np.concatenate([v.ravel() for v in kept]) for key, kept in seen.items()}
