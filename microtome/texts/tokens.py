"""Token tables: the rows of every activation array.

Row i of the table is row i of every activation array of the same model and stimulus set: the texts
one after another, in the order of the stimulus file, without padding. Where a set keeps only some
of its tokens, the column `row` says which row of the arrays a token goes into.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError, in_short
from microtome.texts.stimuli import MASK, Stimulus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Token coordinates of every table; words in a template add `word`, `category` and `in_word`, mask
#: tokens `masked`, and tokens that the tokenizer adds `special`.
COLUMNS = ("sequence", "position", "token_id", "text")

_REMEDY = "put the model's own tokenizer.json and tokenizer_config.json beside its weights"


def load_tokenizer(checkpoint: Path) -> "PreTrainedTokenizerBase":
    """Load a model's own tokenizer.

    Args:
        checkpoint: the checkpoint folder.

    Raises:
        MicrotomeError: none, one that is damaged, or one that is not fast (without tokenizer.json).
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # none, damaged, or one that only remote code could serve
        raise MicrotomeError(
            f"{checkpoint}: transformers cannot load the tokenizer ({in_short(error)}); {_REMEDY}"
        ) from error
    if not tokenizer.is_fast:
        raise MicrotomeError(
            f"{checkpoint}: the tokenizer has no tokenizer.json (a fast one); {_REMEDY}"
        )
    return tokenizer


def token_text(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> str:
    """Decode a token on its own; NUL becomes ␀, since texts in HDF5 end at a NUL."""
    text = tokenizer.decode([token_id])
    assert isinstance(text, str)  # it would be a list for several texts
    return text.replace("\0", "␀")


def target_id(tokenizer: "PreTrainedTokenizerBase", target: str) -> int:
    """The id of a target token.

    Raises:
        MicrotomeError: a text that is not one token of this model.
    """
    ids = tokenizer.encode(target, add_special_tokens=False)
    if len(ids) != 1:
        pieces = " + ".join(repr(token_text(tokenizer, token)) for token in ids)
        raise MicrotomeError(
            f"target {target!r} is {len(ids)} tokens of this model ({pieces or 'none'}); name a "
            "text that is one token"
        )
    return ids[0]


def token_table(
    stimuli: Sequence[Stimulus], checkpoint: Path, tokens: str | Sequence[int] = "all"
) -> xr.Dataset:
    """Tokenise stimuli as the model's own tokenizer does, special tokens included.

    Args:
        stimuli: the texts, in order.
        checkpoint: the checkpoint folder that holds the tokenizer.
        tokens: the tokens of each text that activations are kept of: `all`, `last`, the `mean`
            over all, or positions, negative from the end.

    Returns:
        A dataset of coordinates along `token`: `sequence` (number of the text), `position`
        (of the token in its text), `token_id`, `text` (the token decoded on its own), and for
        words in a template `word`, `category` and `in_word` (1 if the token overlaps the word,
        which may be several tokens long). Where a text has the tokenizer's mask token, also
        `masked` (1 at that token), and where the tokenizer adds tokens to the texts, `special` (1
        at these). Unless all tokens are kept, also `row`: the row of the activation arrays that
        the token goes into, or -1; tokens of one row are averaged.

    Raises:
        MicrotomeError: a checkpoint without a tokenizer, or with that of another model; a text
            with `{mask}` for a tokenizer without mask token; one longer than the model's context,
            or too short for a position.
    """
    from microtome.models.checkpoint import read_config, sizes

    tokenizer = load_tokenizer(checkpoint)
    model = sizes(read_config(checkpoint))
    labelled = stimuli[0].word is not None
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    if tokens != "all":
        columns["row"] = []
    if labelled:
        columns |= {"word": [], "category": [], "in_word": []}
    n_rows = 0
    special: list[int] = []
    for number, stimulus in enumerate(stimuli):
        text, span = _with_mask(stimulus, tokenizer, checkpoint)
        encoded = tokenizer(
            text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
        ids = encoded["input_ids"]
        if not ids or max(ids) >= model["d_vocab"]:  # without any file, transformers makes one up
            found = f"token {max(ids)} of {model['d_vocab']}" if ids else "no token"
            raise MicrotomeError(
                f"{checkpoint}: the tokenizer is not the model's, it makes {found} of "
                f"{stimulus.text[:40]!r}; {_REMEDY}"
            )
        if len(ids) > model.get("n_context", len(ids)):
            raise MicrotomeError(
                f"{stimulus.origin or f'stimulus {number}'}: {stimulus.text[:40]!r}… is "
                f"{len(ids)} tokens long, the model takes {model['n_context']}; shorten the text "
                "or name another model"
            )
        if tokens != "all":
            rows = _rows(tokens, len(ids), f"{stimulus.origin}: {stimulus.text[:40]!r}")
            columns["row"] += [n_rows + row if row >= 0 else -1 for row in rows]
            n_rows += max(rows) + 1
        columns["sequence"] += [number] * len(ids)
        columns["position"] += range(len(ids))
        columns["token_id"] += ids
        special += encoded["special_tokens_mask"]
        columns["text"] += [token_text(tokenizer, token) for token in ids]
        if span is not None:
            first, last = span
            columns["word"] += [stimulus.word] * len(ids)
            columns["category"] += [stimulus.category] * len(ids)
            columns["in_word"] += [
                start < last and first < end for start, end in encoded["offset_mapping"]
            ]
    if tokenizer.mask_token_id in columns["token_id"]:
        columns["masked"] = [token == tokenizer.mask_token_id for token in columns["token_id"]]
    if any(special):
        columns["special"] = [added == 1 for added in special]
    return xr.Dataset(coords={name: ("token", column(values)) for name, values in columns.items()})


def _with_mask(
    stimulus: Stimulus, tokenizer: "PreTrainedTokenizerBase", checkpoint: Path
) -> tuple[str, tuple[int, int] | None]:
    """A text with the tokenizer's mask token for each `{mask}`, and where its word is then."""
    text, span, token = stimulus.text, stimulus.span, tokenizer.mask_token
    if MASK not in text:
        return text, span
    if token is None:
        raise MicrotomeError(
            f"{stimulus.origin}: {in_short(repr(text), 60)} has {MASK}, and the tokenizer of "
            f"{checkpoint} has no mask token; take a masked language model, or other texts"
        )
    first, last = span or (len(text), len(text))
    before, word, after = (
        part.replace(MASK, token) for part in (text[:first], text[first:last], text[last:])
    )
    return before + word + after, span and (len(before), len(before + word))


def _rows(tokens: str | Sequence[int], length: int, text: str) -> list[int]:
    """The row that each token of a text goes into, counted within the text, or -1."""
    if tokens == "mean":
        return [0] * length
    wanted = [-1] if isinstance(tokens, str) else tokens  # "last"
    for position in wanted:
        if not -length <= position < length:
            raise MicrotomeError(
                f"{text} has {length} tokens, and `tokens` of the stimulus set asks for position "
                f"{position}; correct the config"
            )
    kept = sorted({position % length for position in wanted})
    return [kept.index(position) if position in kept else -1 for position in range(length)]


def column(values: Sequence[Any]) -> np.ndarray:
    """Convert a token column to its stored dtype: int32, int8 for flags, or text."""
    array = np.asarray(values)
    match array.dtype.kind:
        case "b":
            return array.astype(np.int8)
        case "i":
            return array.astype(np.int32)
        case _:
            return np.asarray(values, dtype=object)
