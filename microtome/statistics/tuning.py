"""Tuning to word categories: neurons that respond to one category more than to another.

Source: Mike X Cohen, "A deep understanding of AI language model mechanisms", the challenge
"Grammar tuning in MLP neurons?", exercises 3, 4 and 5.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats

from microtome.errors import MicrotomeError, nearest


def word_activations(section: xr.Dataset, site: str, definition: str) -> xr.Dataset:
    """Activations of words on their own: the mean over a word's tokens.

    Args:
        section: the activations of one layer, with the coordinates of words in a template.
        site: the site; the elements of all its dimensions but `token` are the neurons.
        definition: what the site is in this model (see `microtome.model.stored.StoredMLP`).

    Returns:
        `activation`, (`word`, `neuron`), float64, with the coordinates `category` and
        `n_tokens`, in the order of the stimuli: a word that stands in two categories has a row
        in each; attributes `layer`, `site` and `definition`.

    Raises:
        MicrotomeError: stimuli without labelled words.
    """
    if "in_word" not in section.coords:
        raise MicrotomeError(
            "the stimuli have no words; name a stimulus set that has `template:` and `words:`"
        )
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
        {"layer": section.attrs["layer"], "site": site, "definition": definition},
    )


def t_tests(words: xr.Dataset, difference: Sequence[str], alpha: float) -> xr.Dataset:
    """Compare two categories at every neuron.

    The test `paired` is the notebook's: a one-sample test of the differences between the first
    words of both categories, the second ones, and so on. That pairing is by rank of frequency and
    thus arbitrary. `welch` is the test for two independent samples of unequal variance.

    Args:
        words: what `word_activations` returned.
        difference: two categories, the second of which is taken from the first.
        alpha: the level of significance, over all neurons together: as the rate of any false
            positive (`bonferroni`) or as the rate of false ones among the positive
            (`benjamini_hochberg`).

    Returns:
        `mean`, (`category`, `neuron`), with the coordinates `n_words` and `n_split`, of which
        those of several tokens; `t` and `p`, (`test`, `neuron`); `significant`, (`test`,
        `correction`, `neuron`), 0 or 1. A neuron that is the same for all words has t and p NaN.
        Attributes as of `words`, and `alpha`.

    Raises:
        MicrotomeError: an unknown category, not two of them, or categories of unequal size,
            whose words cannot be paired.
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
    tests = {
        "paired": stats.ttest_1samp(first - second, 0),
        "welch": stats.ttest_ind(first, second, equal_var=False),
    }
    p = np.stack([test.pvalue for test in tests.values()])
    comparable = np.nan_to_num(p, nan=1.0)
    corrected = {
        "bonferroni": comparable * p.shape[1],
        "benjamini_hochberg": stats.false_discovery_control(comparable, axis=1),
    }
    significant = np.stack([values < alpha for values in corrected.values()], axis=1)
    return xr.Dataset(
        {
            "mean": (("category", "neuron"), np.stack([sample.mean(axis=0) for sample in samples])),
            "t": (("test", "neuron"), np.stack([test.statistic for test in tests.values()])),
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
    """The two most tuned neurons on another text: does the tuning generalise?

    Args:
        section: activations at the layer of the tests.
        tests: what `t_tests` returned; the paired test's largest and smallest t decide.
        site: the site of the tests.

    Returns:
        `activation`, (`category`, `token`), of the neuron most tuned to each category; `scaled`,
        the same from 0 (least) to 1 (most), and all 0 where a neuron never changes; `neuron` and
        `t`, (`category`,); the coordinates `text` and `sequence` along `token`; attributes
        `layer`, `site` and `definition`.

    Raises:
        MicrotomeError: another layer or site than that of the tests.
    """
    here, there = ((d["layer"], d["site"]) for d in (section.attrs | {"site": site}, tests.attrs))
    if here != there:
        raise MicrotomeError(
            f"text_tuning reads {here[1]} of layer {here[0]}, but the t-tests were made on "
            f"{there[1]} of layer {there[0]}; give both the same `sites` and `layers`"
        )
    t = tests["t"].sel(test="paired").values
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
        {name: tests.attrs[name] for name in ("layer", "site", "definition")},
    )


def _neurons(section: xr.Dataset, site: str) -> np.ndarray:
    """A site's values as (token, neuron), float64."""
    return section[site].values.astype(np.float64).reshape(section.sizes["token"], -1)
