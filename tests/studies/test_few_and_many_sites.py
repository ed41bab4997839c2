"""Figures and tables of one, two, four or five sites, where the notebooks have three or four."""

import numpy as np
import pytest
import xarray as xr
from studied import product

from microtome.figures.style import save, style
from microtome.store.tables import Table

WORDS = [("pear", "fruit"), ("grape", "fruit"), ("plum", "fruit"), ("moon", "space")]
WORDS += [("star", "space"), ("comet", "space")]
SITES = ["q", "k", "v", "z", "attn_out"]
MLP_SITES = ["ln2_out", "pre", "post", "mlp_out", "resid_post"]


def section(layer):
    """Six words after one token that all texts begin with, at every site."""
    random = np.random.default_rng(layer)
    n = 2 * len(WORDS)
    values = {
        site: (("token", "n_heads", "d_head"), random.normal(size=(n, 2, 3))) for site in "qkvz"
    }
    for site in ("attn_out", *MLP_SITES):
        values[site] = (("token", "d_model"), random.normal(size=(n, 6)))
    columns = {
        "sequence": np.repeat(np.arange(len(WORDS)), 2),
        "position": [0, 1] * len(WORDS),
        "token_id": np.arange(n),
        "text": [text for word, _ in WORDS for text in ("the", f" {word}")],
        "word": np.repeat([word for word, _ in WORDS], 2),
        "category": np.repeat([category for _, category in WORDS], 2),
        "in_word": [0, 1] * len(WORDS),
    }
    coordinates = {name: ("token", np.asarray(column)) for name, column in columns.items()}
    return xr.Dataset(values, coordinates, {"layer": layer})


def of_all(function, **options):
    """A statistic of two layers."""
    rows = [function(section(n), **options).expand_dims(layer=[n]) for n in (0, 1)]
    return xr.concat(rows, "layer", coords="minimal", compat="override", join="exact")


def statistic(name, study="category_selectivity"):
    return product(study, "statistics", name)


def figure(name, *statistics, study="category_selectivity", **options):
    return product(study, "figures", name)(*statistics, **options)


def panels(figure):
    """The axes that a figure draws on, without colour bars."""
    return [axes for axes in figure.axes if not hasattr(axes, "_colorbar")]


@pytest.fixture(params=[1, 2, 4, 5], ids=lambda n: f"{n} sites")
def sites(request):
    return tuple(SITES[: request.param])


def test_similarities_of_words(sites, tmp_path):
    cosines = of_all(statistic("cosine_similarities"), sites=sites, word_token=-1)
    drawn = figure("cosine_matrices", cosines, layer=1, limits=(0.0, 1.0))
    assert len(panels(drawn)) == len(sites)
    for axes, site, letter in zip(panels(drawn), sites, "ABCDE", strict=False):
        assert axes.get_title() == f"{letter}) {site.upper()} cosine similarities"
        shown = axes.images[0].get_array()
        np.testing.assert_array_equal(shown, cosines["cosine"].sel(site=site, layer=1))
    distributions = statistic("similarity_distributions")(cosines, layer=1)
    drawn = figure("similarity_distributions", distributions.assign_attrs(layer=1))
    assert len(panels(drawn)) == len(sites)
    found = statistic("selectivity")(cosines)
    for scale in ("cosine", "fisher_z"):
        drawn = figure("selectivity_profile", found, scale=scale)
        for axes in panels(drawn):
            labels = [text.get_text() for text in axes.get_legend().get_texts()]
            assert labels == [site.upper() for site in sites]
            looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
            assert len(looks) == len(sites)  # every line can be told from the others
        figure("selectivity_scatter", found, scale=scale)
    tests = statistic("selectivity_test")(cosines, n_permutations=20, seed=0)
    table = product("category_selectivity", "tables", "selectivity")(found, tests)
    frame = table.frame if isinstance(table, Table) else table
    assert len(frame) == 2 * 2 * len(sites)
    with style("light"):
        save(drawn, tmp_path / "a.svg", tmp_path / "a.png", dpi=40)


def test_pairs_of_sites(sites):
    """One site has no pair, which the config's check refuses."""
    if len(sites) == 1:
        sites = (*sites, "k")
    n_pairs = len(sites) * (len(sites) - 1) // 2
    heads = [site for site in sites if site != "attn_out"]
    cosines = of_all(statistic("cosine_similarities"), sites=sites, word_token=-1)
    rsa = statistic("rsa")(cosines)
    assert rsa.sizes["pair"] == n_pairs
    (axes,) = figure("rsa_profile", rsa).axes
    assert len(axes.lines) == len(axes.get_legend().get_texts()) == n_pairs
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == n_pairs
    drawn = figure("rsa_scatter", cosines, rsa, layer=1)
    assert [axes.get_title().split(" (")[0] for axes in panels(drawn)] == [
        pair.upper().replace("-", " and ") for pair in rsa["pair"].values
    ]
    points = statistic("qkv_points")(section(0), sites=tuple(heads), layer=0, token=1)
    n_pairs = len(heads) * (len(heads) - 1) // 2
    assert len(panels(figure("qkv_scatter", points))) == n_pairs
    profile = of_all(statistic("qkv_correlations"), sites=tuple(heads), token=1)
    (axes,) = figure("qkv_profile", profile).axes
    assert len(axes.lines) == n_pairs
    tests = statistic("rsa_test")(cosines, n_permutations=20, seed=0)
    table = product("category_selectivity", "tables", "rsa")(rsa, tests)
    frame = table.frame if isinstance(table, Table) else table
    assert len(frame) == 2 * rsa.sizes["pair"]


class Stored:
    """What `stored` says of an MLP that is not gated."""

    def attributes(self, site=None):
        return {"activation_function": "GELU", "gated": 0}


@pytest.mark.parametrize("n_sites", [1, 2, 4, 5])
def test_stages_of_an_mlp(n_sites):
    chosen = tuple(MLP_SITES[:n_sites])
    options = {"sites": chosen, "n_edges": 11, "limit": 3.0}
    study = "mlp_distributions"
    whole = statistic("activation_histograms", study)(section(0), Stored(), layer=0, **options)
    (axes,) = figure("activation_histograms", whole.assign_attrs(layer=0), study=study).axes
    assert len(axes.get_legend().get_texts()) == n_sites
    by_token = statistic("token_histograms", study)(section(0), Stored(), layer=0, **options)
    drawn = figure("token_histograms", by_token, study=study, limits=(0.0, 1.0))
    assert len(panels(drawn)) == n_sites
    titles = [axes.get_title() for axes in panels(drawn)]
    assert titles[0] == "A) Input"
    assert len(set(titles)) == n_sites
    profile = of_all(
        lambda s, **o: statistic("activation_profile", study)(s, Stored(), first_token=1, **o),
        **options,
    )
    assert (
        len(panels(figure("activation_profile", profile, study=study, limits=(0.0, 1.0))))
        == n_sites
    )
