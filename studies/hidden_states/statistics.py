"""Statistics of the study on hidden states; see README.md."""

from typing import TYPE_CHECKING, Annotated

import xarray as xr

from microtome.options import (
    ALL_TOKENS,
    LAST_TOKEN,
    NEXT_TOKEN,
    ONE_TEXT,
    Count,
    FirstPosition,
    Position,
)
from microtome.statistics import distributions, prediction, similarity
from microtome.statistics.layers import stack_hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_profile(
    resid_pre: Annotated[xr.DataArray, ONE_TEXT, ALL_TOKENS],
    ln_final: xr.DataArray,
    *,
    token: Position,
) -> xr.Dataset:
    """One token's activations in every hidden state, their mean and their variance.

    Returns:
        `activation`, (`hidden`, `d_model`), in the model's units; `mean` and `variance`,
        (`hidden`,).
    """
    return distributions.token_profile(stack_hidden_states(resid_pre, ln_final), token)


def layer_similarity(
    resid_pre: Annotated[xr.DataArray, ONE_TEXT, ALL_TOKENS],
    ln_final: xr.DataArray,
    *,
    n_tokens: Count,
) -> xr.Dataset:
    """Cosine similarity of each two hidden states of a token, for some tokens.

    Returns:
        `cosine`, (`token`, `hidden`, `other`), float64, with the tokens' coordinates.
    """
    return similarity.layer_similarity(stack_hidden_states(resid_pre, ln_final), n_tokens)


def token_similarity(
    resid_pre: Annotated[xr.DataArray, ONE_TEXT, ALL_TOKENS],
    ln_final: xr.DataArray,
    *,
    n_layers: Count,
) -> xr.Dataset:
    """Cosine similarity of each two tokens in a hidden state, for some of them.

    Returns:
        `cosine`, (`hidden`, `token`, `other`), float64, with the tokens' coordinates.
    """
    return similarity.token_similarity(stack_hidden_states(resid_pre, ln_final), n_layers)


def similarity_profile(
    resid_pre: Annotated[xr.DataArray, ONE_TEXT, ALL_TOKENS],
    ln_final: xr.DataArray,
    *,
    first_token: FirstPosition,
) -> xr.Dataset:
    """Cosine similarity of each two tokens, in every hidden state.

    Returns:
        `cosine`, (`hidden`, `pair`), float64, with the positions `first` and `second` of a pair's
        tokens.
    """
    return similarity.similarity_profile(stack_hidden_states(resid_pre, ln_final), first_token)


def next_tokens(
    logits: Annotated[xr.DataArray, ONE_TEXT, LAST_TOKEN, NEXT_TOKEN],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    n: Count,
) -> xr.Dataset:
    """The most likely tokens after the text.

    Returns:
        `token_id`, `text` and `log_probability` (natural logarithm), (`rank`,), ranks 1, 2, ….
    """
    return prediction.next_tokens(logits.to_dataset(name="logits"), tokenizer, n)


def scaling(scaled_blocks: Annotated[xr.Dataset, ONE_TEXT, NEXT_TOKEN]) -> xr.Dataset:
    """What scaling each block's output does to the prediction of a target token.

    Returns:
        `log_probability` (natural logarithm), (`layer`,), of the target with that block's output
        scaled, and `clean`.
    """
    return prediction.target_log_probability(scaled_blocks)
