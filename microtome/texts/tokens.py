"""Token tables: the rows of every activation array.

Row i of the table is row i of every activation array of the same model and stimulus set: the texts,
or the sequences that are cut of them, one after another, in the order of the stimulus file, without
padding. Where a set keeps only some of its tokens, the column `row` says which row of the arrays a
token goes into.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError, in_short
from microtome.texts.corpora import check_fields, documents
from microtome.texts.encoded import (
    Encoded,
    cut_out,
    drawn,
    in_lengths,
    length_of,
    mask_each,
    shuffle,
)
from microtome.texts.forms import CONTEXT, Cut, Lengths
from microtome.texts.reader import REMEDY, Reader
from microtome.texts.stimuli import MASK, Stimulus, StimulusSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Token coordinates of every table; others are added where there is something to say.
COLUMNS = ("sequence", "position", "token_id", "text")


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
            f"{checkpoint}: transformers cannot load the tokenizer ({in_short(error)}); {REMEDY}"
        ) from error
    if not tokenizer.is_fast:
        raise MicrotomeError(
            f"{checkpoint}: the tokenizer has no tokenizer.json (a fast one); {REMEDY}"
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
        MicrotomeError: as `set_tables`.
    """
    named = tuple(
        stimulus if stimulus.origin else replace(stimulus, origin=f"stimulus {number}")
        for number, stimulus in enumerate(stimuli)
    )
    found = StimulusSet(Path(), named, cut=cut, shuffled=tuple(shuffled), masked=masked)
    return set_table(found, checkpoint, tokens)


def set_table(
    found: StimulusSet, checkpoint: Path, tokens: str | Sequence[int] = "all"
) -> xr.Dataset:
    """The token table of a stimulus set: `token_table` of what its file says.

    Args:
        found: the set; if its texts are fetched from elsewhere, with where they lie.
        checkpoint: the checkpoint folder that holds the tokenizer.
        tokens: the tokens of each sequence that activations are kept of, as in `token_table`.

    Raises:
        MicrotomeError: as `set_tables`.
    """
    [table] = set_tables(found, checkpoint, tokens)
    return table


def set_tables(
    found: StimulusSet,
    checkpoint: Path,
    tokens: str | Sequence[int] = "all",
    n_sequences: int | None = None,
) -> Iterator[xr.Dataset]:
    """The token table of a stimulus set in parts, one after another.

    Texts are read and tokenised as a stream: what is in memory does not grow with their number,
    but where `sample:` draws a number of sequences, which are.

    Args:
        found: the set; if its texts are fetched from elsewhere, with where they lie.
        checkpoint: the checkpoint folder that holds the tokenizer.
        tokens: the tokens of each sequence that activations are kept of, as in `token_table`.
        n_sequences: how many sequences each part has; the last one may have fewer. None makes one
            part of all.

    Yields:
        Tables with the same columns: `sequence` counts on from one to the next, `row` begins at 0
        in each.

    Raises:
        MicrotomeError: a checkpoint without a tokenizer, or with that of another model; a text
            with a mask for a tokenizer without mask token; a sequence longer than the model's
            context, or too short for a position; a cut or a sample that the texts cannot serve;
            files of a corpus that cannot be read.
    """
    from microtome.models.checkpoint import read_config, sizes

    if found.corpus is not None:
        check_fields(found.corpus)
    tokenizer = load_tokenizer(checkpoint)
    model = sizes(read_config(checkpoint))
    reader = Reader(tokenizer, checkpoint, model["d_vocab"])
    sequences = _sequences(found, reader, model)
    masked, special = _has_masked(found, tokenizer), _has_special(found, reader)
    texts = np.full(model["d_vocab"], None, dtype=object)  # of the tokens that have occurred
    first = 0
    while part := list(islice(sequences, n_sequences)):
        columns = _columns(part, first, texts, tokenizer)
        if tokens != "all":
            columns["row"] = _rows(part, tokens)
        if masked:
            columns["masked"] = columns["token_id"] == tokenizer.mask_token_id
        if special:
            columns["special"] = np.concatenate([one.special for one in part])
        yield xr.Dataset(coords={name: ("token", column(c)) for name, c in columns.items()})
        first += len(part)
    if not first:
        what = "nothing is drawn" if found.sample else "its texts have no token of this model"
        raise MicrotomeError(f"{found.file}: {what}; take more")


def _sequences(found: StimulusSet, reader: Reader, model: Mapping[str, int]) -> Iterator[Encoded]:
    """The sequences of a set: cut, drawn, shuffled, masked."""
    n_context = model.get("n_context")
    for seed in found.shuffled or [None]:
        sequences = _cut(found, reader, model)
        if found.sample is not None:
            sequences = drawn(sequences, found.sample, str(found.file))
        for number, one in enumerate(sequences):
            if n_context is not None and len(one.token_id) > n_context:
                raise MicrotomeError(
                    f"{one.place}: {one.start!r}… is {len(one.token_id)} tokens long, the model "
                    f"takes {n_context}; shorten the text, cut a document (`cut:`), or name "
                    "another model"
                )
            ordered = one if seed is None else shuffle(one, seed, number)
            if found.masked:
                reader.mask_token(f"{one.place}: each token is to be masked")
                yield from mask_each(ordered, reader.tokenizer.mask_token_id)
            else:
                yield ordered


def _cut(found: StimulusSet, reader: Reader, model: Mapping[str, int]) -> Iterator[Encoded]:
    """All sequences of a set, as they stand in its texts."""
    cut = found.cut
    texts = reader.encoded(
        documents(found),
        special=cut is None,
        verbatim=found.verbatim,
        in_pieces=isinstance(cut, Lengths),
    )
    if cut is None:
        yield from (text for text in texts if len(text.token_id))
    elif isinstance(cut, Lengths):
        length, added = length_of(cut, model, str(found.file)), reader.added(cut, str(found.file))
        if length > model.get("n_context", length):
            raise MicrotomeError(
                f"{found.file}: cut: length: {length} tokens, the model takes "
                f"{model['n_context']}; take fewer, or `{CONTEXT}`"
            )
        if length <= added.n + cut.overlap:
            raise MicrotomeError(
                f"{found.file}: cut: length: {length} tokens, of which {added.n} are added and "
                f"{cut.overlap} overlap; take more"
            )
        yield from in_lengths(texts, cut, length, added)
    else:
        word = partial(target_id, reader.tokenizer)
        for text in texts:
            yield from cut_out(text, cut, model, word)


def _has_masked(found: StimulusSet, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a set's table has the column `masked`, as all its parts have then."""
    mask = tokenizer.mask_token
    if found.masked or found.verbatim or mask is None:
        return found.masked
    return any(MASK in text.text or mask in text.text for text in documents(found))


def _has_special(found: StimulusSet, reader: Reader) -> bool:
    """Whether a set's table has the column `special`."""
    if isinstance(found.cut, Lengths):
        added = reader.added(found.cut, str(found.file))
        return added.n + len(added.end) > 0
    return found.cut is None and reader.tokenizer.num_special_tokens_to_add() > 0


def _columns(
    part: Sequence[Encoded],
    first: int,
    texts: np.ndarray,
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[str, np.ndarray]:
    """The columns of a table that any set may have.

    Args:
        part: the sequences.
        first: the number of the first one.
        texts: of the tokens that have occurred so far, (d_vocab,); new ones are added.
        tokenizer: decodes them.
    """
    lengths = [len(one.token_id) for one in part]
    ids = np.concatenate([one.token_id for one in part])
    for token in np.unique(ids[texts[ids] == None]).tolist():  # noqa: E711  # in an array
        texts[token] = token_text(tokenizer, token)
    columns = {
        "sequence": np.repeat(np.arange(first, first + len(part)), lengths),
        "position": np.concatenate([np.arange(length) for length in lengths]),
        "token_id": ids,
        "text": texts[ids],
    }
    for name in ("word", "category"):
        if getattr(part[0], name) is not None:
            labels = np.array([getattr(one, name) for one in part], dtype=object)
            columns[name] = np.repeat(labels, lengths)
    for name in ("in_word", "target_id"):
        if getattr(part[0], name) is not None:
            columns[name] = np.concatenate([getattr(one, name) for one in part])
    return columns


def _rows(part: Sequence[Encoded], tokens: str | Sequence[int]) -> np.ndarray:
    """The row that each token of some sequences goes into, or -1."""
    lengths = np.array([len(one.token_id) for one in part])
    if tokens == "mean":
        return np.repeat(np.arange(len(part)), lengths)
    ends = np.cumsum(lengths)
    kept = np.zeros(ends[-1], bool)
    for position in [-1] if isinstance(tokens, str) else tokens:  # "last"
        lacking = np.flatnonzero((position < -lengths) | (position >= lengths))
        if len(lacking):
            one = part[lacking[0]]
            raise MicrotomeError(
                f"{one.place}: {one.start!r} has {len(one.token_id)} tokens, and `tokens` of the "
                f"stimulus set asks for position {position}; correct the config"
            )
        kept[(ends if position < 0 else ends - lengths) + position] = True
    return np.where(kept, np.cumsum(kept) - 1, -1)


def column(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Convert a token column to its stored dtype: int32, int8 for flags, or text."""
    array = np.asarray(values)
    match array.dtype.kind:
        case "b":
            return array.astype(np.int8)
        case "i":
            return array.astype(np.int32)
        case _:
            return np.asarray(values, dtype=object)
