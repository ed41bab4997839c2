"""Predictions: the most likely next tokens, and the probability of a target token.

Source: Mike X Cohen, "LLM breakdown 4/6: Transformer outputs (hidden states)", demo 3.
"""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.special import log_softmax

from microtome.errors import MicrotomeError
from microtome.statistics.positions import at_position, require_one_text
from microtome.texts.tokens import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def next_tokens(section: xr.Dataset, tokenizer: "PreTrainedTokenizerBase", n: int) -> xr.Dataset:
    """The most likely tokens after a text.

    Args:
        section: `logits`, (`token`, `d_vocab`), with token coordinates, of one text.
        tokenizer: the tokenizer of the model.
        n: number of tokens.

    Returns:
        (`rank`,), with ranks 1, 2, …: `token_id`, `text` (the token decoded on its own) and
        `log_probability` (natural logarithm, float64).

    Raises:
        MicrotomeError: more than one text, or one whose last token is not kept.
    """
    require_one_text(section)
    logits = at_position(section, -1)["logits"].values[0].astype(np.float64)
    log_probability = log_softmax(logits)
    ids = np.argsort(-log_probability, kind="stable")[:n]
    texts = np.array([token_text(tokenizer, token) for token in ids.tolist()], dtype=object)
    return xr.Dataset(
        {
            "token_id": ("rank", ids.astype(np.int32)),
            "text": ("rank", np.array(texts, dtype=object)),
            "log_probability": ("rank", log_probability[ids]),
        },
        {"rank": np.arange(1, len(ids) + 1)},
    )


def target_log_probability(log_probabilities: np.ndarray, target: int) -> xr.Dataset:
    """Log-probability of a target token, with each block's output scaled in turn.

    Args:
        log_probabilities: what `microtome.sweeps.interventions.scaled_blocks` returned.
        target: the target's token id.

    Returns:
        `log_probability`, (`layer`,), of the target with that block scaled, and `clean`, with
        none scaled; natural logarithms.

    Raises:
        MicrotomeError: a prediction that is no number.
    """
    clean, *scaled = log_probabilities[:, target].astype(np.float64)
    if not np.isfinite([clean, *scaled]).all():
        layer = np.flatnonzero(~np.isfinite(scaled))[:1]
        where = f"block {layer[0]} scaled" if layer.size else "no block scaled"
        raise MicrotomeError(
            f"with {where}, the log-probability is not a finite number; correct the `factor` "
            "option to one nearer to 1"
        )
    return xr.Dataset(
        {"log_probability": ("layer", scaled), "clean": clean},
        {"layer": np.arange(len(scaled))},
    )
