"""Token tables: the rows of every activation array.

Row i of the table is row i of every activation array of the same model and stimulus set: the texts,
or the sequences that are cut of them, one after another, in the order of the stimulus file, without
padding. Where a set keeps only some of its tokens, the column `row` says which row of the arrays a
token goes into.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError, in_short
from microtome.texts.encoded import Encoded, cut_out, mask_each, shuffle
from microtome.texts.forms import Cut
from microtome.texts.stimuli import MASK, Stimulus, StimulusSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Token coordinates of every table; others are added where there is something to say.
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
    stimuli: Sequence[Stimulus],
    checkpoint: Path,
    tokens: str | Sequence[int] = "all",
    *,
    cut: Cut | None = None,
    shuffled: Sequence[int] = (),
    masked: bool = False,
) -> xr.Dataset:
    """Tokenise stimuli as the model's own tokenizer does, special tokens included.

    Args:
        stimuli: the texts, in order.
        checkpoint: the checkpoint folder that holds the tokenizer.
        tokens: the tokens of each sequence that activations are kept of: `all`, `last`, the `mean`
            over all, or positions, negative from the end.
        cut: how each text is cut into sequences, of its tokens without special ones; None leaves
            each text as it is, a sequence.
        shuffled: seeds; for each of them, each sequence has its tokens in another order, in which
            special ones keep their places. Without any, all keep theirs.
        masked: whether each sequence becomes as many as it has tokens, special ones too, each with
            another one masked.

    Returns:
        A dataset of coordinates along `token`: `sequence` (number of the sequence), `position`
        (of the token in it), `token_id`, `text` (the token decoded on its own); for texts with
        labels `category`; for words in a template, or at the end of a cut sequence, `word`,
        `category` and `in_word` (1 if the token overlaps the word, which may be several tokens
        long). Where a text has the tokenizer's mask token, also `masked` (1 at that token), where
        each token is masked in turn, `target_id` (what stood there unmasked), and where the
        tokenizer adds tokens to the texts, `special` (1 at these). Unless all tokens are kept, also
        `row`: the row of the activation arrays that the token goes into, or -1; tokens of one row
        are averaged.

    Raises:
        MicrotomeError: a checkpoint without a tokenizer, or with that of another model; a text
            with a mask for a tokenizer without mask token; a sequence longer than the model's
            context, or too short for a position; a cut that a text cannot serve.
    """
    from microtome.models.checkpoint import read_config, sizes

    tokenizer = load_tokenizer(checkpoint)
    model = sizes(read_config(checkpoint))
    word = partial(target_id, tokenizer)
    found: list[Encoded] = []
    for number, stimulus in enumerate(stimuli):
        encoded = _encoded(stimulus, number, tokenizer, checkpoint, model["d_vocab"], cut is None)
        found += [encoded] if cut is None else cut_out(encoded, cut, model, word)
    if shuffled:
        found = [shuffle(one, seed, n) for seed in shuffled for n, one in enumerate(found)]
    if masked:
        _mask_token(tokenizer, checkpoint, f"{found[0].place}: each token is to be masked")
        mask = tokenizer.mask_token_id
        found = [each for one in found for each in mask_each(one, mask)]
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    extra = ("word", "category", "in_word", "target_id")
    columns |= {name: [] for name in extra if getattr(found[0], name) is not None}
    n_rows = 0
    if tokens != "all":
        columns["row"] = []
    special: list[bool] = []
    for number, one in enumerate(found):
        length = len(one.token_id)
        if length > model.get("n_context", length):
            raise MicrotomeError(
                f"{one.place}: {one.start!r}… is {length} tokens long, the model takes "
                f"{model['n_context']}; shorten the text, cut a document (`cut:`), or name "
                "another model"
            )
        if tokens != "all":
            rows = _rows(tokens, length, f"{one.place}: {one.start!r}")
            columns["row"] += [n_rows + row if row >= 0 else -1 for row in rows]
            n_rows += max(rows) + 1
        columns["sequence"] += [number] * length
        columns["position"] += range(length)
        columns["text"] += [token_text(tokenizer, token) for token in one.token_id]
        special += one.special
        for name in ("token_id", *extra):
            if name in columns:
                value = getattr(one, name)
                columns[name] += [value] * length if isinstance(value, str) else value
    if tokenizer.mask_token_id in columns["token_id"]:
        columns["masked"] = [token == tokenizer.mask_token_id for token in columns["token_id"]]
    if any(special):
        columns["special"] = special
    return xr.Dataset(coords={name: ("token", column(values)) for name, values in columns.items()})


def set_table(
    found: StimulusSet, checkpoint: Path, tokens: str | Sequence[int] = "all"
) -> xr.Dataset:
    """The token table of a stimulus set, which has its texts: `token_table` of what its file says.

    Args:
        found: the set.
        checkpoint: the checkpoint folder that holds the tokenizer.
        tokens: the tokens of each sequence that activations are kept of, as in `token_table`.

    Raises:
        MicrotomeError: as `token_table`.
    """
    return token_table(
        *(found.stimuli, checkpoint, tokens),
        cut=found.cut,
        shuffled=found.shuffled,
        masked=found.masked,
    )


def set_tables(
    found: StimulusSet, checkpoint: Path, tokens: str | Sequence[int], n_sequences: int
) -> Iterator[xr.Dataset]:
    """The token table of a stimulus set in parts, one after another.

    Args:
        found: the set, which has its texts.
        checkpoint: the checkpoint folder that holds the tokenizer.
        tokens: the tokens of each sequence that activations are kept of, as in `token_table`.
        n_sequences: how many sequences each part has; the last one may have fewer.

    Yields:
        Tables with the columns of `set_table`: `sequence` counts on from one to the next, `row`
        begins at 0 in each.

    Raises:
        MicrotomeError: as `token_table`.
    """
    table = set_table(found, checkpoint, tokens)
    number = table["sequence"].values
    borders = np.searchsorted(number, np.arange(0, number[-1] + 1, n_sequences))
    for first, end in zip(borders, [*borders[1:], len(number)], strict=True):
        part = table.isel(token=slice(first, end))
        if "row" in part:
            row = part["row"].values
            counted = np.where(row < 0, row, row - row[row >= 0].min())
            part = part.assign_coords(row=("token", counted))
        yield part


def _encoded(
    stimulus: Stimulus,
    number: int,
    tokenizer: "PreTrainedTokenizerBase",
    checkpoint: Path,
    d_vocab: int,
    special: bool,
) -> Encoded:
    """A text's tokens, with or without special ones."""
    text, span = _with_mask(stimulus, tokenizer, checkpoint)
    encoded = tokenizer(
        text,
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    ids = encoded["input_ids"]
    if not ids or max(ids) >= d_vocab:  # without any file, transformers makes one up
        found = f"token {max(ids)} of {d_vocab}" if ids else "no token"
        raise MicrotomeError(
            f"{checkpoint}: the tokenizer is not the model's, it makes {found} of "
            f"{stimulus.text[:40]!r}; {_REMEDY}"
        )
    inside = None
    if span is not None:
        first, last = span
        inside = [start < last and first < end for start, end in encoded["offset_mapping"]]
    return Encoded(
        ids,
        [added == 1 for added in encoded["special_tokens_mask"]],
        stimulus.origin or f"stimulus {number}",
        stimulus.text[:40],
        stimulus.word,
        stimulus.category,
        inside,
    )


def _with_mask(
    stimulus: Stimulus, tokenizer: "PreTrainedTokenizerBase", checkpoint: Path
) -> tuple[str, tuple[int, int] | None]:
    """A text with the tokenizer's mask token for each `{mask}`, and where its word is then."""
    text, span = stimulus.text, stimulus.span
    if MASK not in text:
        return text, span
    wish = f"{stimulus.origin}: {in_short(repr(text), 60)} has {MASK}"
    token = _mask_token(tokenizer, checkpoint, wish)
    first, last = span or (len(text), len(text))
    before, word, after = (
        part.replace(MASK, token) for part in (text[:first], text[first:last], text[last:])
    )
    return before + word + after, span and (len(before), len(before + word))


def _mask_token(tokenizer: "PreTrainedTokenizerBase", checkpoint: Path, wish: str) -> str:
    """The mask token, or an error that begins with what it is wanted for."""
    token = tokenizer.mask_token
    if token is None:
        raise MicrotomeError(
            f"{wish}, and the tokenizer of {checkpoint} has no mask token; take a masked language "
            "model, or other texts"
        )
    assert isinstance(token, str)
    return token


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
