"""Statistics of the study on the logit lens; see README.md."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.options import ALL_TOKENS, Alpha, HiddenSites, Position, ResidualSite
from microtome.statistics.corrections import holm
from microtome.statistics.layers import hidden_state_label
from microtome.statistics.lens import Lens, entropy, rank
from microtome.statistics.regression import line
from microtome.statistics.streamed import Kept, PerRow, Streamed
from microtome.store.layers import Section
from microtome.texts.rows import token_columns
from microtome.texts.tokens import token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What is kept of each prediction.
KEPT = {
    "log_probability": np.float32,
    "rank": np.int32,
    "entropy": np.float32,
    "top_log_probability": np.float32,
    "top_token_id": np.int32,
}


def seen(
    lens: Lens,
    tokens: Annotated[xr.Dataset, ALL_TOKENS],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    site: ResidualSite,
    token: Position,
) -> Streamed:
    """What is predicted in one layer from a token of the first text, which the model sees.

    Of a masked LM that is the token in its place, of a causal model the one that follows.

    Returns:
        `log_probability` (natural logarithm) of the whole vocabulary, (`d_vocab`,), float32; the
        token's `token_id`, `text` and `position`, and the most likely one's `top_token_id` and
        `top_text`; attribute `hidden`, which of the hidden states Emb, L0, L1, … is read.

    Raises:
        MicrotomeError: a token that the text lacks, or more than one layer.
    """
    return _Seen(lens, tokens, tokenizer, [site], token)


def predictions(
    lens: Lens,
    tokens: Annotated[xr.Dataset, ALL_TOKENS],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    sites: HiddenSites,
    token: Position,
) -> Streamed:
    """What every hidden state predicts in the place of each token that the model does not see.

    Where the set has masked tokens (`masked: each`), the prediction is that of the mask token.
    Otherwise it is a causal model's, from the token before: the first of a text has none.

    Args:
        lens: predicts from the sections of the sweep.
        tokens: the token table.
        tokenizer: the model's own.
        sites: what enters and what leaves each block.
        token: the position of one token, whose predictions are kept whole.

    Returns:
        (`hidden`, `token`), hidden states Emb, L0, L1, …; natural logarithms, float32:
        `log_probability` of the token that is there, its `rank` (1 for the most likely one), the
        `entropy` in nats, and the most likely token's `top_log_probability`, `top_token_id` and
        coordinate `top_text`. Coordinates of `token`: the token's `position`, `token_id`, `text`.
        `vocabulary`, (`d_vocab`,), all log-probabilities in the place of the chosen token, in the
        last hidden state but one. Attributes: `chosen`, its place along `token`, the texts `before`
        and `after` it, and `masked`, 0 or 1.

    Raises:
        MicrotomeError: a token that no prediction is of; a masked LM without masked tokens.
    """
    return _Predictions(lens, tokens, tokenizer, sites, token)


def averages(predictions: xr.Dataset) -> xr.Dataset:
    """What every hidden state predicts, on average over the tokens.

    Returns:
        (`hidden`,): the means of `log_probability`, `top_log_probability` and `entropy`, the median
        `rank`, and `hits`, the share of the tokens that are the most likely ones.
    """
    names = ["log_probability", "top_log_probability", "entropy"]
    means = predictions[names].astype(np.float64).mean("token")
    return means.assign(
        rank=predictions["rank"].median("token"), hits=(predictions["rank"] == 1).mean("token")
    ).drop_attrs()


def slopes(predictions: xr.Dataset, *, alpha: Alpha) -> xr.Dataset:
    """Least squares of log-probabilities on the square root of the number of the hidden state.

    The embeddings are hidden state 0. p-values are corrected over tokens and both `of` after Holm.

    Returns:
        (`of`, `token`), of the `target`, which is there, and of the `top` token, the most likely
        one: `const`, `slope` and `r_squared`; `low` and `high`, the interval of the slope for
        independent errors, `low_hac`, `high_hac` and `p_hac` after Newey and West, which allow for
        autocorrelation, and `p_hac_holm`. The same without the embeddings: `slope_blocks`,
        `low_hac_blocks`, `high_hac_blocks`, `p_hac_blocks` and `p_hac_blocks_holm`. Coordinates of
        `token` as in `predictions`; attributes `alpha`, and `chosen` as there.
    """
    x = np.sqrt(np.arange(predictions.sizes["hidden"]))
    series = {"target": "log_probability", "top": "top_log_probability"}
    values = np.stack([predictions[name].values.T for name in series.values()]).astype(np.float64)
    found = _lines(x, values, alpha)
    blocks = _lines(x[1:], values[..., 1:], alpha)
    kept = ("slope", "low_hac", "high_hac", "p_hac", "p_hac_holm")
    found |= {
        f"{name}_blocks".replace("_holm_blocks", "_blocks_holm"): blocks[name] for name in kept
    }
    own = {name: c for name, c in predictions.coords.items() if c.dims == ("token",)}
    return xr.Dataset(
        {name: (("of", "token"), values) for name, values in found.items()},
        {"of": list(series), **own},
        {"alpha": alpha, "chosen": predictions.attrs["chosen"]},
    )


def _lines(x: np.ndarray, values: np.ndarray, alpha: float) -> dict[str, np.ndarray]:
    """What `line` says of each series, (of, token, hidden) to (of, token), and Holm's p-values."""
    fits = [[line(x, y, alpha) for y in series] for series in values]
    found = {name: np.array([[fit[name] for fit in row] for row in fits]) for name in fits[0][0]}
    return found | {"p_hac_holm": holm(found["p_hac"])}


def _unseen(
    columns: dict[str, np.ndarray], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows that tokens are predicted from, which tokens, and their positions, (n,) each."""
    ids, position = columns["token_id"], columns["position"]
    if "target_id" in columns:
        rows = np.flatnonzero(columns["masked"])
        return rows, columns["target_id"][rows], position[rows]
    if tokenizer.mask_token_id is not None:
        raise MicrotomeError(
            "the tokenizer has a mask token, so its model predicts what is masked; name a stimulus "
            "set with `masked: each` under `stimuli`"
        )
    rows = np.flatnonzero(np.diff(columns["sequence"]) == 0)
    return rows, ids[rows + 1], position[rows] + 1


class _Predictions(PerRow):
    """What is predicted from some rows, and of the first one at a token the whole vocabulary.

    Hidden states are numbered as the blocks that they leave; -1 is what enters the first.
    """

    def __init__(
        self,
        lens: Lens,
        tokens: xr.Dataset,
        tokenizer: "PreTrainedTokenizerBase",
        sites: Sequence[str],
        token: int,
    ) -> None:
        super().__init__(sites)
        self._lens, self._tokens, self._tokenizer, self._token = lens, tokens, tokenizer, token

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        return token_columns(self._tokens)

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows, and the token to predict from each with its position, ascending, (n,) each."""
        return _unseen(self.columns, self._tokenizer)

    @cached_property
    def chosen(self) -> np.ndarray:
        """Which of the rows predict what is at the token of their text."""
        rows, _, position = self.rows
        _, text, length = np.unique(
            self.columns["sequence"], return_inverse=True, return_counts=True
        )
        counted = self._token if self._token >= 0 else length[text[rows]] + self._token
        return np.flatnonzero(position == counted)

    def blank(self) -> dict[str, np.ndarray]:
        kept = {name: np.empty(len(self.rows[0]), dtype) for name, dtype in KEPT.items()}
        vocabulary = np.empty((len(self.chosen[:1]), self._lens.d_vocab), np.float32)
        return {**kept, "vocabulary": vocabulary}

    def take(self, layer: int, section: Section) -> None:
        rows, target, _ = self.rows
        kept_rows = np.isin(section.rows, rows)
        # What enters a block has left the one before, but for the first.
        for site in self.sites if layer == 0 else self.sites[-1:]:
            kept = self.of_layer(layer - (site == "resid_pre"))
            values = {site: section.values[site][kept_rows]}
            only = Section(layer, section.rows[kept_rows], values)
            for row, predicted in self._lens(only, site) if kept_rows.any() else ():
                i, top = int(np.searchsorted(rows, row)), int(predicted.argmax())
                kept["log_probability"][i] = predicted[target[i]]
                kept["rank"][i] = rank(predicted, target[i])
                kept["entropy"][i] = entropy(predicted)
                kept["top_log_probability"][i] = predicted[top]
                kept["top_token_id"][i] = top
                if i in self.chosen[:1]:
                    kept["vocabulary"][0] = predicted

    def joined(self, first: Kept, second: Kept) -> Kept:
        both = super().joined(first, second)
        return {**both, "vocabulary": both["vocabulary"][:1]}

    def place(self) -> int:
        """Which of the rows predicts the token first.

        Raises:
            MicrotomeError: none does.
        """
        if self.chosen.size:
            return int(self.chosen[0])
        position = self.rows[2]
        raise MicrotomeError(
            f"token {self._token}: has no prediction of its own; the text has "
            f"{self.columns['position'].max() + 1} tokens, and predictions are of those from "
            f"{position.min()} to {position.max()}; correct the `token` option"
        )

    def finish(self) -> xr.Dataset:
        rows, target, position = self.rows
        chosen = self.place()
        states = [parts["rows"] for parts in self.kept.values()]
        found = {
            name: (("hidden", "token"), np.stack([state[name] for state in states]))
            for name in KEPT
        }
        around = _around(self.columns, self._tokenizer, rows[chosen], position[chosen])
        masked = int("masked" in self.columns)
        return xr.Dataset(
            {**found, "vocabulary": ("d_vocab", states[-2]["vocabulary"][0])},
            {
                "hidden": list(map(hidden_state_label, self.kept)),
                "position": ("token", position),
                "token_id": ("token", target),
                "text": ("token", _texts(self._tokenizer, target)),
                "top_text": (
                    ("hidden", "token"),
                    _texts(self._tokenizer, found["top_token_id"][1]),
                ),
            },
            {"masked": masked, "chosen": chosen, "before": around[0], "after": around[1]},
        )


class _Seen(_Predictions):
    """The prediction from one row of the first text alone."""

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        text = np.flatnonzero(self.columns["sequence"] == 0)  # none where texts follow
        position = self.columns["position"][text]
        here = position == (self._token if self._token >= 0 else len(text) + self._token)
        ids = self.columns["token_id"][text]
        return (text[here], ids[here], position[here]) if here.any() else (text, ids, position)

    def finish(self) -> xr.Dataset:
        if len(self.kept) != 1:
            raise MicrotomeError("seen: is of one layer; correct its `layers` to one, as in [100%]")
        ((depth, parts),) = self.kept.items()
        place, (_, ids, position) = self.place(), self.rows
        top, token_id = int(parts["rows"]["top_token_id"][place]), int(ids[place])
        described = {"token_id": token_id, "text": token_text(self._tokenizer, token_id)}
        described |= {"top_token_id": top, "top_text": token_text(self._tokenizer, top)}
        described |= {"position": int(position[place])}
        vocabulary = ("d_vocab", parts["rows"]["vocabulary"][0])
        return xr.Dataset(
            {"log_probability": vocabulary}, described, {"hidden": hidden_state_label(depth)}
        )


def _around(
    columns: dict[str, np.ndarray],
    tokenizer: "PreTrainedTokenizerBase",
    row: int,
    position: int,
) -> tuple[str, str]:
    """The text before and after the token that is predicted from a row."""
    ids = columns["token_id"][columns["sequence"] == columns["sequence"][row]].tolist()
    before, after = map(tokenizer.decode, (ids[:position], ids[position + 1 :]))
    return str(before).replace("\0", "␀"), str(after).replace("\0", "␀")


def _texts(tokenizer: "PreTrainedTokenizerBase", ids: np.ndarray) -> np.ndarray:
    """The texts of tokens, in the shape of their ids."""
    known, which = np.unique(ids, return_inverse=True)
    texts = np.array([token_text(tokenizer, int(i)) for i in known], dtype=object)
    return texts[which].reshape(ids.shape)
