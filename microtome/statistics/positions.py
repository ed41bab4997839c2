"""Positions: rows of activations chosen by where their token stands in its text or word.

Rows are found by the coordinate `position`, never by counting them: a stimulus set that keeps only
some tokens has fewer rows than tokens. Such a set has the coordinate `length`, the number of tokens
of the row's text, and, for words in a template, `word_start` and `word_end`, the positions of the
word's first token and of the first token after it.
"""

from typing import TypeVar

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError

#: The largest difference that texts run in different batches can make, as a share of the largest
#: activation. It is 1e-6 in float32, and near this in bfloat16.
ROUNDING = 0.01

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


def at_position(section: Labelled, position: int) -> Labelled:
    """Keep one token of each text.

    Args:
        section: activations with token coordinates.
        position: the token's position in its text, from the start or, if negative, from the end.

    Returns:
        The same variables with the dimension `sequence` in the place of `token`.

    Raises:
        MicrotomeError: a text is too short, or does not keep that token.
    """
    rows = rows_at(section, position)
    return section.isel(token=rows).swap_dims(token="sequence")


def rows_at(section: xr.Dataset | xr.DataArray, position: int) -> np.ndarray:
    """Find the row of one token of each text.

    Args:
        section: activations with token coordinates.
        position: as in `at_position`.

    Returns:
        Indices along `token`, (text,).

    Raises:
        MicrotomeError: as in `at_position`.
    """
    require_positions(section)
    lengths = _lengths(section)
    for text, length in zip(_first_rows(section), lengths, strict=True):
        if not -length <= position < length:
            raise MicrotomeError(
                f"token {position}: sequence {section['sequence'].values[text]} has {length} "
                "tokens; correct the `token` option"
            )
    return _find(section, lengths + position if position < 0 else np.full_like(lengths, position))


def at_word(section: xr.Dataset, word_token: int = -1) -> xr.Dataset:
    """Keep one token of each word that a template holds, wherever the word stands in it.

    Args:
        section: activations with the coordinates of words in a template.
        word_token: which of the word's own tokens, from its start or, if negative, from its end.

    Returns:
        The same variables with the dimension `sequence` in the place of `token`.

    Raises:
        MicrotomeError: stimuli without labelled words; a word that has too few tokens, or whose
            token is not kept.
    """
    require_positions(section)
    starts, ends = _word_bounds(section)
    words = section["word"].values[_first_rows(section)]
    for word, length in zip(words, ends - starts, strict=True):
        if not -length <= word_token < length:
            raise MicrotomeError(
                f"word_token {word_token}: the word {word!r} has {length} "
                f"token{'' if length == 1 else 's'}; correct the `word_token` option"
            )
    rows = _find(section, (ends if word_token < 0 else starts) + word_token)
    return section.isel(token=rows).swap_dims(token="sequence")


def from_position(section: Labelled, position: int) -> Labelled:
    """Leave out the first tokens of each text, such as those that attention sinks into.

    Args:
        section: activations with token coordinates.
        position: the position of the first token to keep, from the start of its text.

    Raises:
        MicrotomeError: no text has a token there or after.
    """
    require_positions(section)
    kept = section["position"].values >= position
    if not kept.any():
        raise MicrotomeError(
            f"token {position}: the longest sequence has {_lengths(section).max()} tokens, and "
            f"none is kept from {position} on; correct the `first_token` option"
        )
    return section.isel(token=kept)


def distinct(section: xr.Dataset, position: int) -> xr.Dataset:
    """Keep one token of each text, once per distinct context.

    A causal model computes the same activation wherever a token and all before it are the same,
    so texts that begin alike give one row, not many equal ones. In an encoder, a token's context is
    its whole text: texts that begin alike all stay where their activations differ.

    Args:
        section: activations with token coordinates.
        position: as in `at_position`.

    Raises:
        MicrotomeError: as in `at_position`, or the section lacks tokens.
    """
    require_all_tokens(section, "distinct contexts")
    ids, rows = section["token_id"].values, rows_at(section, position)
    alike: dict[bytes, list[int]] = {}
    for text, (start, row) in enumerate(zip(_first_rows(section), rows, strict=True)):
        alike.setdefault(ids[start : row + 1].tobytes(), []).append(text)
    chosen = section.isel(token=rows).swap_dims(token="sequence").load()
    kept = []
    for texts in alike.values():
        kept += texts[:1] if _equal(chosen.isel(sequence=texts)) else texts
    return chosen.isel(sequence=sorted(kept))


def require_one_text(section: xr.Dataset | xr.DataArray) -> None:
    """Refuse more than one text.

    Raises:
        MicrotomeError: more than one text.
    """
    n_texts = len(_first_rows(section))
    if n_texts != 1:
        raise MicrotomeError(
            f"{n_texts} texts: this statistic is of one; name a stimulus set with a single text "
            "under `stimuli`"
        )


def require_positions(section: xr.Dataset | xr.DataArray) -> None:
    """Refuse rows that are means over the tokens of a text and so have no position.

    Raises:
        MicrotomeError: such a row.
    """
    if (section["position"].values < 0).any():
        raise MicrotomeError(
            "the stimulus set keeps the mean of each text (`tokens: mean`), which has no "
            "position; set its `tokens` to `all`"
        )


def require_all_tokens(section: xr.Dataset | xr.DataArray, name: str) -> None:
    """Refuse a section that lacks tokens of its texts.

    Args:
        section: activations with token coordinates.
        name: what needs all tokens, for the error.

    Raises:
        MicrotomeError: tokens are missing, or averaged.
    """
    starts, n_rows = _first_rows(section), section.sizes["token"]
    counts = np.diff(starts, append=n_rows)
    expected = np.arange(n_rows) - np.repeat(starts, counts)
    if (section["position"].values != expected).any() or (counts != _lengths(section)).any():
        raise MicrotomeError(
            f"{name}: needs every token of a text, and the stimulus set keeps some only; set its "
            "`tokens` to `all`"
        )


def require_words(section: xr.Dataset) -> None:
    """Refuse stimuli without labelled words.

    Raises:
        MicrotomeError: no words.
    """
    if "word" not in section.coords:
        raise MicrotomeError(
            "the stimuli have no words; name a stimulus set that has `template:` and `words:`"
        )


def _first_rows(section: xr.Dataset | xr.DataArray) -> np.ndarray:
    """The first row of each text, (text,)."""
    return np.flatnonzero(np.diff(section["sequence"].values, prepend=-1))


def _lengths(section: xr.Dataset | xr.DataArray) -> np.ndarray:
    """How many tokens each text has, kept or not, (text,)."""
    starts = _first_rows(section)
    if "length" in section.coords:
        return section["length"].values[starts]
    return np.maximum.reduceat(section["position"].values, starts) + 1


def _word_bounds(section: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The position of each word's first token, and of the first token after it, (text,)."""
    require_words(section)
    starts = _first_rows(section)
    if "word_start" in section.coords:
        return section["word_start"].values[starts], section["word_end"].values[starts]
    position, inside = section["position"].values, section["in_word"].values == 1
    first = np.minimum.reduceat(np.where(inside, position, position.max() + 1), starts)
    end = np.maximum.reduceat(np.where(inside, position + 1, 0), starts)
    return first, np.maximum(first, end)


def _equal(chosen: xr.Dataset) -> bool:
    """Whether all rows have the same activations but for what rounding makes of them."""
    return all(
        np.ptp(values, axis=0).max() <= ROUNDING * np.abs(values).max()
        for values in (variable.values for variable in chosen.values())
    )


def _find(section: xr.Dataset | xr.DataArray, wanted: np.ndarray) -> np.ndarray:
    """The row at the wanted position of each text, (text,)."""
    starts, position = _first_rows(section), section["position"].values
    here = position == np.repeat(wanted, np.diff(starts, append=len(position)))
    missing = np.flatnonzero(~np.logical_or.reduceat(here, starts))
    if missing.size:
        text = missing[0]
        raise MicrotomeError(
            f"position {wanted[text]} of sequence {section['sequence'].values[starts[text]]}: "
            "not among the tokens that the stimulus set keeps; add it to its `tokens`, or ask "
            "for a kept one"
        )
    return np.flatnonzero(here)
