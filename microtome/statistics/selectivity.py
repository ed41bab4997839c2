"""Selectivity for categories of words: of representations, and of single neurons.

Sources: Mike X Cohen, "50 ML projects to understand LLMs", project 38, parts 5, 6 and 7; "A deep
understanding of AI language model mechanisms", the challenge "Grammar tuning in MLP neurons?",
exercises 3, 4 and 5.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import xarray as xr
from scipy import stats

from microtome.errors import MicrotomeError, nearest
from microtome.statistics.distributions import freedman_diaconis, is_constant
from microtome.statistics.positions import require_all_tokens, require_words
from microtome.statistics.similarity import fisher_z, word_pairs

#: The scales selectivity is measured on: the cosines as they are, or their Fisher-z.
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda cosine: cosine,
    "fisher_z": fisher_z,
}


def selectivity(cosines: xr.Dataset) -> xr.Dataset:
    """Compare the similarities within categories with those across them.

    Args:
        cosines: `cosine`, (…, `site`, `word`, `other`), with `category` along `word`.

    Returns:
        (`scale`, …, `site`): `difference` of the means, within minus across; `t` and `p` of
        Student's two-sample test with pooled variance, which takes pairs as independent, as the
        notebook does (see `microtome.statistics.permutation`); `average` of the two means. NaN
        where a kind of pair is missing; t and p also where neither kind varies.
    """
    masks = word_pairs(cosines)
    matrices, dims = cosines["cosine"].values, cosines["cosine"].dims[:-2]
    shape = (len(SCALES), *matrices.shape[:-2])
    found = {name: np.empty(shape) for name in ("difference", "t", "p", "average")}
    for scale, transform in enumerate(SCALES.values()):
        # Layer by layer, for the memory that copies of the similarities take.
        for layer in np.ndindex(matrices.shape[:-3]):
            within, across = _within_and_across(matrices[layer], masks, transform)
            with _undefined_is_nan():
                means = within.mean(axis=-1), across.mean(axis=-1)
            place = (scale, *layer)
            found["difference"][place] = means[0] - means[1]
            found["t"][place], found["p"][place] = _pooled_test(within, across)
            found["average"][place] = (means[0] + means[1]) / 2
    return xr.Dataset(
        {name: (("scale", *dims), values) for name, values in found.items()},
        {"scale": list(SCALES), **{dim: cosines[dim] for dim in dims}},
    )


def similarity_distributions(cosines: xr.Dataset) -> xr.Dataset:
    """Histograms of the similarities within and across categories, at one layer.

    Args:
        cosines: `cosine`, (`site`, `word`, `other`), with `category` along `word`.

    Returns:
        `density` over `left_edge`, (`site`, `pairs`, `bin`), with Freedman-Diaconis bins, padded
        with NaN; `t`, (`site`,), as in `selectivity`.
    """
    masks = word_pairs(cosines)
    within, across = _within_and_across(cosines["cosine"].values, masks, SCALES["cosine"])
    histograms = freedman_diaconis(
        [values for site in zip(within, across, strict=True) for values in site], density=True
    )
    density, left_edge = (values.reshape(len(within), 2, -1) for values in histograms)
    dims = ("site", "pairs", "bin")
    return xr.Dataset(
        {
            "density": (dims, density),
            "left_edge": (dims, left_edge),
            "t": ("site", _pooled_test(within, across)[0]),
        },
        {"site": cosines["site"], "pairs": ["within", "across"]},
    )


def word_activations(section: xr.Dataset, site: str) -> xr.Dataset:
    """Activations of words without their template: the mean over a word's tokens.

    Args:
        section: the activations of one layer, with the coordinates of words in a template.
        site: the site; the elements of all its dimensions but `token` are the neurons.

    Returns:
        `activation`, (`word`, `neuron`), float64, with the coordinates `category` and
        `n_tokens`, in the order of the stimuli: a word that stands in two categories has a row
        in each; attributes `layer` and `site`.

    Raises:
        MicrotomeError: stimuli without labelled words, or tokens are missing.
    """
    require_words(section)
    require_all_tokens(section, "word_activations")
    rows = section.isel(token=section["in_word"].values == 1)
    # A word is known by its sequence, since its text may occur in several.
    starts = np.flatnonzero(np.diff(rows["sequence"].values, prepend=-1))
    lengths = np.diff(starts, append=rows.sizes["token"])
    means = np.add.reduceat(_neurons(rows, site), starts) / lengths[:, None]
    labels = {
        name: ("word", rows[name].values[starts].astype(object)) for name in ("word", "category")
    }
    return xr.Dataset(
        {"activation": (("word", "neuron"), means)},
        labels | {"n_tokens": ("word", lengths)},
        {"layer": section.attrs["layer"], "site": site},
    )


def t_tests(words: xr.Dataset, difference: Sequence[str], alpha: float) -> xr.Dataset:
    """Compare two categories of words at every neuron.

    The test `paired` is the one of the notebook: a one-sample test of the differences between the
    first words of both categories, the second ones, and so on. This pairing, by rank of frequency,
    is arbitrary. The test `welch` is for two independent samples of unequal variance.

    Args:
        words: what `word_activations` returned.
        difference: two categories; the second is subtracted from the first.
        alpha: the level of significance over all neurons: the probability of any false positive
            (`bonferroni`), or the expected share of false ones among the positives
            (`benjamini_hochberg`).

    Returns:
        `mean`, (`category`, `neuron`), with the coordinates `n_words` and `n_split`, of which
        those of several tokens; `t` and `p`, (`test`, `neuron`); `significant`, (`test`,
        `correction`, `neuron`), 0 or 1. Where nothing varies, t and p are NaN: the difference of
        the paired words, or the words of both categories.
        Attributes as of `words`, and `alpha`.

    Raises:
        MicrotomeError: a category is unknown, there are not two of them, or they are of unequal
            size, so that their words cannot be paired.
    """
    category, split = words["category"].values, words["n_tokens"].values > 1
    if len(difference) != 2:
        raise MicrotomeError("difference: wants two categories, as in [noun, verb]")
    for name in difference:
        if name not in category:
            known = list(dict.fromkeys(map(str, category)))
            raise MicrotomeError(f"difference: no category {name!r}; {nearest(name, known)}")
    first, second = samples = [words["activation"].values[category == name] for name in difference]
    if len(first) != len(second):
        raise MicrotomeError(
            f"difference: {difference[0]} has {len(first)} words and {difference[1]} has "
            f"{len(second)}; the paired test wants as many of each, even out the word lists"
        )
    scale = np.abs(np.concatenate(samples)).max(axis=0, initial=0)
    with _undefined_is_nan():
        tests = {
            "paired": stats.ttest_1samp(first - second, 0),
            "welch": stats.ttest_ind(first, second, equal_var=False),
        }
    undefined = np.stack(
        [
            is_constant(first - second, 0, scale),
            is_constant(first, 0) & is_constant(second, 0),
        ]
    )
    t, p = (
        np.where(undefined, np.nan, np.stack([test[i] for test in tests.values()])) for i in (0, 1)
    )
    comparable = np.nan_to_num(p, nan=1.0)
    corrected = {
        "bonferroni": comparable * p.shape[1],
        "benjamini_hochberg": stats.false_discovery_control(comparable, axis=1),
    }
    significant = np.stack([values < alpha for values in corrected.values()], axis=1)
    return xr.Dataset(
        {
            "mean": (("category", "neuron"), np.stack([sample.mean(axis=0) for sample in samples])),
            "t": (("test", "neuron"), t),
            "p": (("test", "neuron"), p),
            "significant": (("test", "correction", "neuron"), significant.astype(np.int8)),
        },
        {
            "category": list(difference),
            "n_words": ("category", [len(sample) for sample in samples]),
            "n_split": ("category", [np.sum(split[category == name]) for name in difference]),
            "test": list(tests),
            "correction": list(corrected),
        },
        words.attrs | {"alpha": alpha},
    )


def text_tuning(section: xr.Dataset, tests: xr.Dataset, site: str) -> xr.Dataset:
    """Activations of the two most tuned neurons on another text: does the tuning generalise?

    Args:
        section: activations at the layer of the tests.
        tests: what `t_tests` returned; the largest and the smallest t of the paired test decide.
        site: the site of the tests.

    Returns:
        `activation`, (`category`, `token`), of the neuron most tuned to each category; `scaled`,
        the same from 0 (lowest) to 1 (highest), or 0 where a neuron never changes; `neuron` and
        `t`, (`category`,); the coordinates `text` and `sequence` along `token`; the attributes
        of the tests but `alpha`.

    Raises:
        MicrotomeError: another layer or site than that of the tests, or tokens are missing.
    """
    require_all_tokens(section, "text_tuning")
    here, there = ((d["layer"], d["site"]) for d in (section.attrs | {"site": site}, tests.attrs))
    if here != there:
        raise MicrotomeError(
            f"text_tuning reads {here[1]} of layer {here[0]}, but the t-tests were made on "
            f"{there[1]} of layer {there[0]}; give both the same `sites` and `layers`"
        )
    t = tests["t"].sel(test="paired").values
    if np.isnan(t).all():
        raise MicrotomeError(
            f"no neuron of {here[1]} in layer {here[0]} has a t-value; give the t-tests categories "
            "of two or more words each"
        )
    neurons = np.array([np.nanargmax(t), np.nanargmin(t)])
    activation = _neurons(section, site)[:, neurons].T
    lowest = activation.min(axis=1, keepdims=True)
    span = activation.max(axis=1, keepdims=True) - lowest
    return xr.Dataset(
        {
            "activation": (("category", "token"), activation),
            "scaled": (("category", "token"), (activation - lowest) / np.where(span == 0, 1, span)),
            "neuron": ("category", neurons),
            "t": ("category", t[neurons]),
        },
        {
            "category": tests["category"].values.astype(object),
            "text": ("token", section["text"].values.astype(object)),
            "sequence": ("token", section["sequence"].values),
        },
        {name: value for name, value in tests.attrs.items() if name != "alpha"},
    )


def _within_and_across(
    matrices: np.ndarray, masks: xr.Dataset, transform: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """Similarities of pairs of one category, and of pairs of two, along the last axis."""
    return [transform(matrices[..., masks[kind].values == 1]) for kind in ("within", "across")]


def _pooled_test(within: np.ndarray, across: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t and its p along the last axis; NaN where neither sample varies."""
    undefined = is_constant(within) & is_constant(across)
    with _undefined_is_nan():
        test = stats.ttest_ind(within, across, axis=-1)
    t, p = (np.where(undefined, np.nan, found) for found in (test.statistic, test.pvalue))
    return t, p


@contextmanager
def _undefined_is_nan() -> Iterator[None]:
    """Silence warnings about means and tests of too few or equal values, which are NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def _neurons(section: xr.Dataset, site: str) -> np.ndarray:
    """A site's values as (token, neuron), float64."""
    return section[site].values.astype(np.float64).reshape(section.sizes["token"], -1)
