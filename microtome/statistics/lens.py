"""What a model would predict if it ended in each layer: the lens.

Final norm and head are applied to hidden states of every layer, known as the logit lens
(nostalgebraist, "interpreting GPT: the logit lens", LessWrong, 2020).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.store.layers import Section
from microtome.texts.rows import row_columns, token_columns
from microtome.texts.tokens import target_id, token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Lens(Protocol):
    """Predicts from hidden states, as `microtome.sweeps.lens.Lens` does.

    Attributes:
        d_vocab: how many tokens there are to predict.
    """

    d_vocab: int

    def __call__(self, section: Section, site: str) -> Iterator[tuple[int, np.ndarray]]:
        """Each row of a section, and the log-probabilities of all tokens there, (d_vocab,)."""
        ...


def lens_predictions(
    sections: Iterable[Section],
    lens: Lens,
    tokens: xr.Dataset,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    site: str,
    targets: Sequence[str] = (),
    top: int = 0,
) -> xr.Dataset:
    """What is predicted from each token's hidden state in every layer.

    Args:
        sections: layer by layer, as the sweep yields them.
        lens: predicts from them.
        tokens: the token table that is swept.
        tokenizer: the model's own.
        site: where hidden states are read; one of `microtome.sites.RESIDUAL`.
        targets: texts that are one token each.
        top: how many of the most likely tokens are kept.

    Returns:
        `entropy` of the prediction, (`layer`, `token`), in nats. Of targets, `log_probabilities` in
        nats and `target_rank`, 1 for the most likely token, (`layer`, `token`, `target`). Of the
        most likely tokens `top_log_probabilities`, `top_token_id` and `top_text`, (`layer`,
        `token`, `rank`), of equally likely ones those of the smallest ids first. float32 and
        int32, with the token table's columns as coordinates of `token`.

    Raises:
        MicrotomeError: a target that is not one token, more top tokens than there are.
    """
    ids = [target_id(tokenizer, target) for target in targets]
    if top > lens.d_vocab:
        raise MicrotomeError(f"top: wants the {top} most likely of {lens.d_vocab} tokens")
    columns = row_columns(token_columns(tokens))
    n_rows = len(columns["sequence"])
    layers: dict[int | None, dict[str, np.ndarray]] = {}

    def of_layer(layer: int | None) -> dict[str, np.ndarray]:
        return layers.setdefault(
            layer,
            {
                "entropy": np.empty(n_rows, np.float32),
                "log_probabilities": np.empty((n_rows, len(ids)), np.float32),
                "target_rank": np.empty((n_rows, len(ids)), np.int32),
                "top_log_probabilities": np.empty((n_rows, top), np.float32),
                "top_token_id": np.empty((n_rows, top), np.int32),
            },
        )

    for section in sections:
        kept = of_layer(section.layer)
        for row, predicted in lens(section, site):
            kept["entropy"][row] = entropy(predicted)
            kept["log_probabilities"][row] = predicted[ids]
            kept["target_rank"][row] = [rank(predicted, i) for i in ids]
            kept["top_token_id"][row] = highest = _highest(predicted, top)
            kept["top_log_probabilities"][row] = predicted[highest]
        del section  # before the next one is computed
    dimensions: dict[str, tuple[str, ...]] = {"entropy": ()}
    coordinates = {name: ("token", values) for name, values in columns.items()}
    if targets:
        dimensions |= dict.fromkeys(["log_probabilities", "target_rank"], ("target",))
        coordinates["target"] = ("target", np.array(targets, dtype=object))
    if top:
        dimensions |= dict.fromkeys(["top_log_probabilities", "top_token_id"], ("rank",))
        coordinates["rank"] = ("rank", np.arange(1, top + 1))
    found = xr.Dataset(
        {
            name: (("layer", "token", *dims), np.stack([kept[name] for kept in layers.values()]))
            for name, dims in dimensions.items()
        },
        {"layer": list(layers), **coordinates},
    )
    if top:
        known, which = np.unique(found["top_token_id"], return_inverse=True)
        texts = np.array([token_text(tokenizer, int(i)) for i in known], dtype=object)
        shape = found["top_token_id"].shape
        found["top_text"] = found["top_token_id"].dims, texts[which].reshape(shape)
    return found


def rank(predicted: np.ndarray, token_id: int) -> int:
    """The rank of a token among log-probabilities, (d_vocab,); 1 for the most likely one."""
    return 1 + int((predicted > predicted[token_id]).sum())


def entropy(predicted: np.ndarray) -> float:
    """The entropy of a distribution, in nats, from its log-probabilities, (d_vocab,)."""
    # A token that is ruled out, with minus infinity, adds nothing.
    products = np.exp(predicted) * np.maximum(predicted, np.finfo(predicted.dtype).min)
    return -products.sum(dtype=np.float64)


def _highest(values: np.ndarray, n: int) -> np.ndarray:
    """The places of the n highest values, in descending order."""
    if not n:
        return np.empty(0, int)
    least = np.partition(values, -n)[-n]
    among = np.flatnonzero(values >= least)
    return among[np.argsort(-values[among], kind="stable")[:n]]
