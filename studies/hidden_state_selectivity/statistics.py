"""Statistics of the study on the selectivity of hidden states; see README.md."""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Annotated

import numpy as np
import xarray as xr
from scipy.special import log_softmax

from microtome.options import (
    ALL_TOKENS,
    CATEGORIES,
    LAST_TOKEN,
    NEXT_TOKEN,
    Count,
    Edges,
    Layer,
    Limits,
)
from microtome.statistics import similarity
from microtome.statistics.layers import stack_hidden_states
from microtome.statistics.positions import at_position
from microtome.texts.tokens import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_variances(
    resid_pre: Annotated[xr.DataArray, ALL_TOKENS], ln_final: xr.DataArray, *, layer: Layer
) -> xr.Dataset:
    """Variance of each dimension over the texts, at each token, in the hidden state of a block.

    The last position is the last token of each text, also where one is longer than the others.

    Returns:
        `variance`, (`position`, `d_model`), with n - 1 in its denominator, in squared units of the
        activations; the coordinate `text` of tokens that all texts share, else empty; attribute
        `hidden`.
    """
    states = stack_hidden_states(resid_pre, ln_final).isel(hidden=layer + 1)
    shortest = np.unique(states["sequence"].values, return_counts=True)[1].min()
    tokens = [at_position(states, place) for place in (*range(shortest - 1), -1)]
    texts = [set(map(str, token["text"].values)) for token in tokens]
    shared = np.array([text.pop() if len(text) == 1 else "" for text in texts], dtype=object)
    variance = [token.values.astype(np.float64).var(axis=0, ddof=1) for token in tokens]
    return xr.Dataset(
        {"variance": (("position", "d_model"), np.stack(variance))},
        {"position": np.arange(shortest), "text": ("position", shared)},
        {"hidden": states["hidden"].item()},
    )


def category_pairs(tokens: Annotated[xr.Dataset, CATEGORIES]) -> xr.Dataset:
    """A number for each pair of texts, which tells their two categories.

    The categories are numbered 1, 2, 3, 5, 7, …, that is 1 and the primes, in their order. The
    product of two of these numbers belongs to one pair of categories only, whereas of 1, 2, 3, 4
    it would not: 1 × 4 is 2 × 2.

    Returns:
        `product`, (`word`, `other`), 0 on and below the diagonal; of each product, (`kind`,), the
        `first` and the `second` category.
    """
    words = at_position(tokens, -1)
    category = words["category"].values.astype(str)
    names = list(dict.fromkeys(category))
    number = dict(zip(names, _one_and_primes(), strict=False))
    numbers = np.array([number[name] for name in category])
    kinds = {number[a] * number[b]: (a, b) for a, b in combinations_with_replacement(names, 2)}
    pairs = sorted(kinds)
    first, second = np.array([kinds[kind] for kind in pairs], dtype=object).T
    word = words["word"].values.astype(object)
    return xr.Dataset(
        {
            "product": (("word", "other"), np.triu(np.outer(numbers, numbers), 1)),
            "first": ("kind", first),
            "second": ("kind", second),
        },
        {"kind": pairs, "word": word, "other": word},
    )


def cosine_similarities(
    resid_pre: Annotated[xr.DataArray, CATEGORIES, LAST_TOKEN], ln_final: xr.DataArray
) -> xr.Dataset:
    """Cosine similarity of each two texts at their last token, in every hidden state.

    Returns:
        `cosine`, (`hidden`, `word`, `other`), float64, with `category` of each word.
    """
    states = at_position(stack_hidden_states(resid_pre, ln_final), -1).to_dataset("hidden")
    found = similarity.cosine_similarities(states, list(map(str, states)))
    # Rounding may leave 1 + 2e-16, which would lie beyond the last bin of a histogram.
    return found.clip(-1, 1).rename(site="hidden")


def similarity_distributions(
    cosine_similarities: Annotated[xr.Dataset, CATEGORIES],
    *,
    layer: Layer,
    n_bins: Count,
    first_apart: bool = False,
) -> xr.Dataset:
    """Histograms of the similarities within and across categories, in one hidden state.

    Each spans its own values in bins of one width. With `first_apart`, pairs across categories are
    those with the first category, and those without.

    Returns:
        `density` over the bins' `centre`, (`pairs`, `bin`); attribute `hidden`.
    """
    chosen = cosine_similarities.isel(hidden=layer + 1)
    groups = _groups(cosine_similarities, first_apart=first_apart)
    found = [
        np.histogram(chosen["cosine"].values[m], n_bins, density=True) for m in groups.values()
    ]
    edges = np.array([edges for _, edges in found])
    return xr.Dataset(
        {
            "density": (("pairs", "bin"), np.array([density for density, _ in found])),
            "centre": (("pairs", "bin"), (edges[:, :-1] + edges[:, 1:]) / 2),
        },
        {"pairs": list(groups)},
        {"hidden": chosen["hidden"].item()},
    )


def context_histograms(
    context_similarities: Annotated[xr.Dataset, CATEGORIES], *, n_edges: Edges, limits: Limits
) -> xr.Dataset:
    """Histograms of the similarities within and across words, in every hidden state.

    Returns:
        (`pairs`, `hidden`), with pairs across words split as in `similarity_distributions`: `mean`;
        `beyond`, the share outside the limits; `probability`, (…, `value`), of each bin among
        the similarities inside, NaN where none is, with the centres of the bins along `value`.
        Attributes `low` and `high`, the limits.
    """
    edges = np.linspace(*limits, n_edges)
    cosine = context_similarities["cosine"].values
    groups = _groups(context_similarities, first_apart=True)
    values = [cosine[:, mask] for mask in groups.values()]
    count = np.array([[np.histogram(row, edges)[0] for row in rows] for rows in values])
    inside, n = count.sum(axis=-1), np.array([[rows.shape[1]] for rows in values])
    with np.errstate(invalid="ignore"):
        probability = count / inside[..., None]
    return xr.Dataset(
        {
            "mean": (("pairs", "hidden"), np.array([rows.mean(axis=1) for rows in values])),
            "beyond": (("pairs", "hidden"), 1 - inside / n),
            "probability": (("pairs", "hidden", "value"), probability),
        },
        {
            "pairs": list(groups),
            "hidden": context_similarities["hidden"].values,
            "value": (edges[:-1] + edges[1:]) / 2,
        },
        {"low": limits[0], "high": limits[1]},
    )


def next_tokens(
    logits: Annotated[xr.DataArray, CATEGORIES, LAST_TOKEN, NEXT_TOKEN],
    tokens: xr.Dataset,
    tokenizer: "PreTrainedTokenizerBase",
) -> xr.Dataset:
    """The most likely token after each text.

    Returns:
        (`sequence`,): `sentence`, the text, and of the token `token_id`, `text` and
        `log_probability` (natural logarithm, float64); coordinates `word` and `category`.
    """
    last = at_position(logits, -1)
    log_probability = log_softmax(last.values.astype(np.float64), axis=1)
    ids = log_probability.argmax(axis=1)
    read = tokens["token_id"].groupby(tokens["sequence"])
    sentences = [tokenizer.decode(of_text.values) for _, of_text in read]
    return xr.Dataset(
        {
            "sentence": ("sequence", np.array(sentences, dtype=object)),
            "token_id": ("sequence", ids.astype(np.int32)),
            "text": (
                "sequence",
                np.array([token_text(tokenizer, i) for i in ids.tolist()], object),
            ),
            "log_probability": ("sequence", log_probability.max(axis=1)),
        },
        {name: ("sequence", last[name].values.astype(object)) for name in ("word", "category")},
    )


def contexts(
    tokens: Annotated[xr.Dataset, CATEGORIES],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    n_tokens: Count,
) -> xr.Dataset:
    """The ends of the texts.

    Returns:
        (`sequence`,): `ending`, the last tokens of each text; coordinates `word` and `category`.
    """
    last = at_position(tokens, -1)
    return xr.Dataset(
        {"ending": ("sequence", _decoded(tokens, tokenizer, last=n_tokens))},
        {name: ("sequence", last[name].values.astype(object)) for name in ("word", "category")},
    )


def _decoded(
    tokens: xr.Dataset, tokenizer: "PreTrainedTokenizerBase", *, last: int = 0
) -> np.ndarray:
    """Each text, or its last tokens, as one string, (text,); NUL becomes ␀, as in `token_text`."""
    starts = np.flatnonzero(np.diff(tokens["sequence"].values, prepend=-1))
    texts = np.split(tokens["token_id"].values, starts[1:])
    decoded = [str(tokenizer.decode(ids[-last:])).replace("\0", "␀") for ids in texts]
    return np.array(decoded, dtype=object)


def _groups(cosines: xr.Dataset, *, first_apart: bool) -> dict[str, np.ndarray]:
    """Masks of the pairs of a kind, (word, other), each pair once; none is empty."""
    category = cosines["category"].values.astype(str)
    upper = np.triu(np.ones((len(category),) * 2, dtype=bool), 1)
    same = category[:, None] == category
    if not first_apart:
        return {"within": upper & same, "across": upper & ~same}
    first, *others = dict.fromkeys(category)
    one = (category[:, None] == first) | (category == first)
    groups = {
        "within": upper & same,
        f"<{first}, {'/'.join(others)}>": upper & ~same & one,
        f"<{', '.join(others)}>": upper & ~same & ~one,
    }
    return {name: mask for name, mask in groups.items() if mask.any()}


def _one_and_primes() -> Iterator[int]:
    """1, 2, 3, 5, 7, 11, …"""
    found: list[int] = []
    number = 1
    while True:
        if all(number % prime for prime in found):
            yield number
            if number > 1:
                found.append(number)
        number += 1
