"""The hidden states of one text: how each changes with depth, and what they predict.

Source: Mike X Cohen, "LLM breakdown 4/6: Transformer outputs (hidden states)".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.special import log_softmax

from microtome.errors import MicrotomeError
from microtome.statistics.layers import at_position
from microtome.store.datasets import open_layer
from microtome.texts.tokens import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def hidden_states(layers: Sequence[str | Path], final: Sequence[str | Path]) -> xr.DataArray:
    """Stack the hidden states as transformers' `output_hidden_states` gives them.

    They are what enters the first block, what each block but the last returns, and the final
    norm's output: the last block's own output is not among them.

    Args:
        layers: the files of all layers, ascending, with the site `resid_pre`.
        final: one file, with the site `ln_final`.

    Returns:
        (`hidden`, `token`, `d_model`), float32, with `hidden` Emb, L0, L1, … and the token
        coordinates.

    Raises:
        MicrotomeError: a layer left out, or more than one text.
    """
    states, entered = [], []
    for path in layers:
        with open_layer(path) as section:
            states.append(section["resid_pre"].load())
            entered.append(int(section.attrs["layer"]))
    if entered != list(range(len(entered))):
        raise MicrotomeError(f"layers {entered}: hidden states want `layers: all`")
    with open_layer(final[0]) as section:
        states.append(section["ln_final"].load())
    _check_one_text(states[-1])
    labels = ["Emb", *(f"L{layer}" for layer in entered)]
    return xr.concat(states, dim="hidden", coords="minimal", compat="override").assign_coords(
        hidden=labels
    )


def token_ids(tokens: xr.Dataset) -> np.ndarray:
    """The token ids of the one text of a token table, (position,).

    Raises:
        MicrotomeError: more than one text.
    """
    _check_one_text(tokens)
    return tokens["token_id"].values


def token_profile(states: xr.DataArray, token: int) -> xr.Dataset:
    """One token's activations in every hidden state, and their variance. Source: demo 1.

    Args:
        states: what `hidden_states` returned.
        token: the token's position, from the start or, if negative, from the end.

    Returns:
        `activation`, (`hidden`, `d_model`), float32, and `variance`, (`hidden`,), with n - 1 in
        its denominator, squared units of the activations; the token's coordinates.

    Raises:
        MicrotomeError: a text that is too short.
    """
    n_tokens = states.sizes["token"]
    if not -n_tokens <= token < n_tokens:
        raise MicrotomeError(
            f"token {token}: the text has {n_tokens} tokens; correct the `token` option"
        )
    activation = states.isel(token=token)
    variance = activation.astype(np.float64).var("d_model", ddof=1)
    return xr.Dataset({"activation": activation, "variance": variance})


def layer_similarity(states: xr.DataArray, n_tokens: int) -> xr.Dataset:
    """Cosine similarity of each two hidden states of a token, for some tokens. Source: demo 2.

    Args:
        states: what `hidden_states` returned.
        n_tokens: how many tokens, evenly spaced from the first to the last; fewer in a text
            that has fewer.

    Returns:
        `cosine`, (`token`, `hidden`, `other`), float64, with the tokens' coordinates.
    """
    chosen = states.isel(token=_evenly_spaced(states.sizes["token"], n_tokens))
    cosine = _cosines(chosen.transpose("token", "hidden", "d_model"))
    return cosine.assign_coords(other=("other", states["hidden"].values)).to_dataset(name="cosine")


def token_similarity(states: xr.DataArray, n_layers: int) -> xr.Dataset:
    """Cosine similarity of each two tokens in a hidden state, for some of them. Source: demo 2.

    Args:
        states: what `hidden_states` returned.
        n_layers: how many hidden states, evenly spaced from the first to the last; fewer in a
            model that has fewer.

    Returns:
        `cosine`, (`hidden`, `token`, `other`), float64, with the tokens' coordinates.
    """
    chosen = states.isel(hidden=_evenly_spaced(states.sizes["hidden"], n_layers))
    return _cosines(chosen).to_dataset(name="cosine")


def similarity_profile(states: xr.DataArray, first_token: int) -> xr.Dataset:
    """Cosine similarity of each two tokens, each pair once, in every hidden state. Source: demo 2.

    Args:
        states: what `hidden_states` returned.
        first_token: the first token that takes part; 1 leaves out the text's first.

    Returns:
        `cosine`, (`hidden`, `pair`), float64, with the positions `first` and `second` of a
        pair's tokens.

    Raises:
        MicrotomeError: a text that leaves no pair.
    """
    chosen = states.isel(token=slice(first_token, None))
    n_tokens = chosen.sizes["token"]
    if n_tokens < 2:
        raise MicrotomeError(
            f"first_token {first_token}: the text has {states.sizes['token']} tokens, which "
            "leaves no pair; correct the `first_token` option"
        )
    first, second = np.triu_indices(n_tokens, 1)
    position = chosen["position"].values
    return xr.Dataset(
        {"cosine": (("hidden", "pair"), _cosines(chosen).values[:, first, second])},
        {
            "hidden": states["hidden"].values,
            "first": ("pair", position[first]),
            "second": ("pair", position[second]),
        },
    )


def next_tokens(section: xr.Dataset, tokenizer: "PreTrainedTokenizerBase", n: int) -> xr.Dataset:
    """The most likely tokens after a text. Source: demo 3.

    Args:
        section: `logits`, (`token`, `d_vocab`), with token coordinates, of one text.
        tokenizer: the model's own.
        n: how many.

    Returns:
        Along `rank` (1, 2, …): `token_id`, `text` (the token decoded on its own) and
        `log_probability` (natural, float64).

    Raises:
        MicrotomeError: more than one text.
    """
    _check_one_text(section)
    logits = at_position(section, -1)["logits"].values[0].astype(np.float64)
    log_probability = log_softmax(logits)
    ids = np.argsort(-log_probability, kind="stable")[:n]
    texts = np.array([token_text(tokenizer, token) for token in ids.tolist()], dtype=object)
    return xr.Dataset(
        {
            "token_id": ("rank", ids.astype(np.int32)),
            "text": ("rank", texts),
            "log_probability": ("rank", log_probability[ids]),
        },
        {"rank": np.arange(1, len(ids) + 1)},
    )


def scaling(log_probabilities: np.ndarray, target: int) -> xr.Dataset:
    """What scaling each block's output does to the prediction of a target token. Source: demo 3.

    Args:
        log_probabilities: what `microtome.sweep.interventions.scaled_blocks` returned.
        target: the target's token id.

    Returns:
        `log_probability`, (`layer`,), of the target with that block scaled, and `clean`, with
        none scaled; natural logarithms.
    """
    clean, *scaled = log_probabilities[:, target].astype(np.float64)
    return xr.Dataset(
        {"log_probability": ("layer", scaled), "clean": clean},
        {"layer": np.arange(len(scaled))},
    )


def _check_one_text(tokens: xr.Dataset | xr.DataArray) -> None:
    n_texts = len(np.unique(tokens["sequence"].values))
    if n_texts != 1:
        raise MicrotomeError(
            f"{n_texts} texts: this statistic is of one; name a stimulus set with a single text "
            "under `stimuli`"
        )


def _evenly_spaced(size: int, n: int) -> np.ndarray:
    """Up to n distinct indices from the first to the last."""
    return np.unique(np.linspace(0, size - 1, n, dtype=int))


def _cosines(vectors: xr.DataArray) -> xr.DataArray:
    """Cosine similarity of each two vectors, (…, a, `d_model`) to (…, a, `other`), float64."""
    values = vectors.values.astype(np.float64)
    values = values / np.linalg.norm(values, axis=-1, keepdims=True)
    dims = vectors.dims[:-1]
    coordinates = {n: c for n, c in vectors.coords.items() if "d_model" not in c.dims}
    return xr.DataArray(values @ values.swapaxes(-1, -2), coordinates, (*dims, "other"))
