"""Statistics of the study on the logit lens; see README.md."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.options import ALL_TOKENS, Alpha, HiddenSites, Position, ResidualSite
from microtome.statistics.corrections import holm
from microtome.statistics.layers import hidden_state_label
from microtome.statistics.lens import Lens, entropy, rank
from microtome.statistics.regression import line
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
    stream: Annotated[Iterator[Section], ALL_TOKENS],
    lens: Lens,
    tokens: xr.Dataset,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    site: ResidualSite,
    token: Position,
) -> xr.Dataset:
    """What is predicted in one layer from a token of the first text, which the model sees.

    Of a masked LM that is the token in its place, of a causal model the one that follows.

    Returns:
        `log_probability` (natural logarithm) of the whole vocabulary, (`d_vocab`,), float32; the
        token's `token_id`, `text` and `position`, and the most likely one's `top_token_id` and
        `top_text`; attribute `hidden`, which of the hidden states Emb, L0, L1, … is read.

    Raises:
        MicrotomeError: a token that the text lacks, or more than one layer.
    """
    columns = token_columns(tokens)
    text = np.flatnonzero(columns["sequence"] == columns["sequence"][0])
    row = text[_place(columns["position"][text], len(text), token)]
    found = {
        (section.layer or 0) - (site == "resid_pre"): predicted
        for section in _only(stream, np.array([row]))
        for _, predicted in lens(section, site)
    }
    if len(found) != 1:
        raise MicrotomeError("seen: is of one layer; correct its `layers` to one, as in [100%]")
    ((depth, predicted),) = found.items()
    top, token_id = int(predicted.argmax()), int(columns["token_id"][row])
    described = {"token_id": token_id, "text": token_text(tokenizer, token_id)}
    described |= {"top_token_id": top, "top_text": token_text(tokenizer, top)}
    described |= {"position": int(columns["position"][row])}
    return xr.Dataset(
        {"log_probability": ("d_vocab", predicted)},
        described,
        {"hidden": hidden_state_label(depth)},
    )


def predictions(
    stream: Annotated[Iterator[Section], ALL_TOKENS],
    lens: Lens,
    tokens: xr.Dataset,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    sites: HiddenSites,
    token: Position,
) -> xr.Dataset:
    """What every hidden state predicts in the place of each token that the model does not see.

    Where the set has masked tokens (`masked: each`), the prediction is that of the mask token.
    Otherwise it is a causal model's, from the token before: the first of a text has none.

    Args:
        stream: the sections of the sweep.
        lens: predicts from them.
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
    columns = token_columns(tokens)
    rows, target, position = _unseen(columns, tokenizer)
    chosen = _place(position, int(columns["position"].max()) + 1, token)
    place = {row: i for i, row in enumerate(rows.tolist())}
    states: dict[int, dict[str, np.ndarray]] = {}
    whole: dict[int, np.ndarray] = {}
    for section in _only(stream, rows):
        layer = section.layer or 0
        # What enters a block has left the one before, but for the first.
        for site in sites if layer == 0 else sites[1:]:
            depth = layer - (site == "resid_pre")
            state = states.setdefault(
                depth, {name: np.empty(len(rows), dtype) for name, dtype in KEPT.items()}
            )
            for row, predicted in lens(section, site):
                i, top = place[row], int(predicted.argmax())
                state["log_probability"][i] = predicted[target[i]]
                state["rank"][i] = rank(predicted, target[i])
                state["entropy"][i] = entropy(predicted)
                state["top_log_probability"][i] = predicted[top]
                state["top_token_id"][i] = top
                if i == chosen:
                    whole[depth] = predicted
    found = {
        name: (("hidden", "token"), np.stack([state[name] for state in states.values()]))
        for name in KEPT
    }
    before, after = _around(columns, tokenizer, rows[chosen], position[chosen])
    return xr.Dataset(
        {**found, "vocabulary": ("d_vocab", list(whole.values())[-2])},
        {
            "hidden": [hidden_state_label(depth) for depth in states],
            "position": ("token", position),
            "token_id": ("token", target),
            "text": ("token", _texts(tokenizer, target)),
            "top_text": (("hidden", "token"), _texts(tokenizer, found["top_token_id"][1])),
        },
        {"masked": int("masked" in columns), "chosen": chosen, "before": before, "after": after},
    )


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


def _place(positions: np.ndarray, length: int, token: int) -> int:
    """Where a token stands among some of a text's tokens.

    Raises:
        MicrotomeError: it is not among them.
    """
    found = np.flatnonzero(positions == (token if token >= 0 else length + token))
    if not found.size:
        raise MicrotomeError(
            f"token {token}: has no prediction of its own; the text has {length} tokens, and "
            f"predictions are of those from {positions.min()} to {positions.max()}; correct the "
            "`token` option"
        )
    return int(found[0])


def _only(stream: Iterator[Section], rows: np.ndarray) -> Iterator[Section]:
    """The sections of a sweep with no other rows than some."""
    for section in stream:
        kept = np.isin(section.rows, rows)
        if kept.any():
            values = {site: array[kept] for site, array in section.values.items()}
            yield replace(section, rows=section.rows[kept], values=values)


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
