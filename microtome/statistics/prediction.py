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


def target_log_probability(outcome: xr.Dataset) -> xr.Dataset:
    """Log-probability of a target token, with each block changed in turn.

    Args:
        outcome: of an intervention that reads it: `log_probabilities`, (`layer`, `token`,
            `target`), of one token and one target, and `clean_log_probabilities`.

    Returns:
        `log_probability`, (`layer`,), of the target with that block changed, and `clean`, with
        none changed; natural logarithms, float64.

    Raises:
        MicrotomeError: the intervention reads something else, or a prediction is no number.
    """
    read, read_clean = outcome.get("log_probabilities"), outcome.get("clean_log_probabilities")
    if (
        read is None
        or read_clean is None
        or read.dims[1:] != ("token", "target")
        or read[0].size != 1
    ):
        raise MicrotomeError(
            "the intervention does not read `log_probabilities` of one token and one target in "
            "each layer; correct its `each` and `read`"
        )
    changed, clean = read.values[:, 0, 0].astype(np.float64), read_clean.values.item()
    layers = outcome["layer"].values
    if not np.isfinite([clean, *changed]).all():
        layer = layers[~np.isfinite(changed)][:1]
        where = f"block {layer[0]} changed" if layer.size else "no block changed"
        raise MicrotomeError(
            f"with {where}, the log-probability is not a finite number; make the change smaller"
        )
    return xr.Dataset(
        {"log_probability": ("layer", changed), "clean": np.float64(clean)}, {"layer": layers}
    )
