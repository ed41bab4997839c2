"""What a model would predict if it ended in each layer: the lens.

Final norm and head are applied to hidden states of every layer, known as the logit lens
(nostalgebraist, "interpreting GPT: the logit lens", LessWrong, 2020).
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.statistics.streamed import Kept, PerRow, Summed
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


class LensPredictions(PerRow):
    """What is predicted from each token's hidden state in every layer.

    It finishes as `entropy` of the prediction, (`layer`, `token`), in nats. Of targets,
    `log_probabilities` in nats and `target_rank`, 1 for the most likely token, (`layer`, `token`,
    `target`). Of the most likely tokens `top_log_probabilities`, `top_token_id` and `top_text`,
    (`layer`, `token`, `rank`), of equally likely ones those of the smallest ids first. float32 and
    int32, with the token table's columns as coordinates of `token`.
    """

    def __init__(
        self,
        lens: Lens | None,
        tokens: xr.Dataset,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        site: str,
        targets: Sequence[str] = (),
        top: int = 0,
    ) -> None:
        """Begin with nothing.

        Args:
            lens: predicts from the sections; one that only merges needs none.
            tokens: the token table that is swept.
            tokenizer: the model's own.
            site: where hidden states are read; one of `microtome.sites.RESIDUAL`.
            targets: texts that are one token each.
            top: how many of the most likely tokens are kept.

        Raises:
            MicrotomeError: a target that is not one token, more top tokens than there are.
        """
        super().__init__([site])
        if lens and top > lens.d_vocab:
            raise MicrotomeError(f"top: wants the {top} most likely of {lens.d_vocab} tokens")
        self._lens, self._tokens, self._tokenizer = lens, tokens, tokenizer
        self._targets, self._top = targets, top
        self._ids = [target_id(tokenizer, target) for target in targets]

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return row_columns(token_columns(self._tokens))

    def blank(self) -> dict[str, np.ndarray]:
        """What is kept of each row."""
        n_rows, n_targets = len(self._columns["sequence"]), len(self._targets)
        return {
            "entropy": np.empty(n_rows, np.float32),
            "log_probabilities": np.empty((n_rows, n_targets), np.float32),
            "target_rank": np.empty((n_rows, n_targets), np.int32),
            "top_log_probabilities": np.empty((n_rows, self._top), np.float32),
            "top_token_id": np.empty((n_rows, self._top), np.int32),
        }

    def take(self, layer: int, section: Section) -> None:
        """Predict from the rows of a section."""
        assert self._lens is not None  # this one adds
        kept = self.of_layer(layer)
        for row, predicted in self._lens(section, self.sites[0]):
            kept["entropy"][row] = entropy(predicted)
            kept["log_probabilities"][row] = predicted[self._ids]
            kept["target_rank"][row] = [rank(predicted, i) for i in self._ids]
            kept["top_token_id"][row] = highest = _highest(predicted, self._top)
            kept["top_log_probabilities"][row] = predicted[highest]

    def finish(self) -> xr.Dataset:
        """The predictions, with the texts of the most likely tokens."""
        dimensions: dict[str, tuple[str, ...]] = {"entropy": ()}
        coordinates = {name: ("token", values) for name, values in self._columns.items()}
        if self._targets:
            dimensions |= dict.fromkeys(["log_probabilities", "target_rank"], ("target",))
            coordinates["target"] = ("target", np.array(self._targets, dtype=object))
        if self._top:
            dimensions |= dict.fromkeys(["top_log_probabilities", "top_token_id"], ("rank",))
            coordinates["rank"] = ("rank", np.arange(1, self._top + 1))
        of_layers = [parts["rows"] for parts in self.kept.values()]
        found = xr.Dataset(
            {
                name: (("layer", "token", *dims), np.stack([kept[name] for kept in of_layers]))
                for name, dims in dimensions.items()
            },
            {"layer": list(self.kept), **coordinates},
        )
        if self._top:
            known, which = np.unique(found["top_token_id"], return_inverse=True)
            texts = np.array([token_text(self._tokenizer, int(i)) for i in known], dtype=object)
            shape = found["top_token_id"].shape
            found["top_text"] = found["top_token_id"].dims, texts[which].reshape(shape)
        return found


class Losses(Summed):
    """How uncertain each layer is of the next token, and how wrong: means over the corpus.

    It finishes as `entropy` of the predictions and `loss` (cross-entropy), the mean negative
    log-probability of the token that follows, both (`layer`,), float64, in nats; `n`, how many
    predictions there are, and `n_followed`, of how many of them a token follows in the text.
    """

    def __init__(self, lens: Lens | None, tokens: xr.Dataset, *, site: str) -> None:
        """Begin with nothing; the arguments are those of `LensPredictions`."""
        super().__init__([site])
        self._lens, self._tokens = lens, tokens

    @cached_property
    def _next(self) -> np.ndarray:
        """For each row the id of the token that follows, or -1."""
        columns = token_columns(self._tokens)
        ids, sequence = np.asarray(columns["token_id"], np.int64), columns["sequence"]
        follows = np.append(np.where(np.diff(sequence) == 0, ids[1:], -1), -1)
        if "row" not in columns:
            return follows
        kept = columns["row"] >= 0
        return follows[kept][np.argsort(columns["row"][kept])]

    def measured(self, section: Section) -> Iterator[tuple[str, Kept]]:
        """Sums over the rows of a section."""
        assert self._lens is not None  # this one adds
        (site,) = self.sites
        found = [
            (entropy(predicted), -float(predicted[self._next[row]]), self._next[row] >= 0)
            for row, predicted in self._lens(section, site)
        ]
        entropies, losses, followed = (np.array(values) for values in zip(*found, strict=True))
        yield (
            site,
            {
                "n": np.int64(len(found)),
                "entropy": entropies.sum(),
                "n_followed": followed.sum(),
                "loss": losses[followed].sum(),
            },
        )

    def finish(self) -> xr.Dataset:
        """The means."""
        of_layers = [kept for parts in self.kept.values() for kept in parts.values()]
        sums = {name: np.array([kept[name] for kept in of_layers]) for name in of_layers[0]}
        with np.errstate(invalid="ignore"):
            means = {
                "entropy": sums["entropy"] / sums["n"],
                "loss": sums["loss"] / sums["n_followed"],
            }
        counts = {name: sums[name] for name in ("n", "n_followed")}
        return xr.Dataset(
            {name: ("layer", values) for name, values in (means | counts).items()},
            {"layer": list(self.kept)},
        )


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
