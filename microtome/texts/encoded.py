"""Sequences of a text's tokens: cut out of it, in another order, masked one by one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from microtome.errors import MicrotomeError
from microtome.texts.forms import CONTEXT, MIDDLE, Cut, Occurrences, Starts


@dataclass(frozen=True)
class Encoded:
    """A sequence of tokens.

    Attributes:
        token_id: the tokens' ids, (token,).
        special: whether the tokenizer has added the token, (token,).
        place: the file and the place in it that the text is from, for messages.
        start: how the text begins, for messages.
        word: the word in it, or None.
        category: the label of the word or of the text, or None.
        in_word: whether a token is part of the word, (token,); None where there is no word.
        target_id: the ids before one of them was masked, (token,); None where none was.
    """

    token_id: list[int]
    special: list[bool]
    place: str
    start: str
    word: str | None = None
    category: str | None = None
    in_word: list[bool] | None = None
    target_id: list[int] | None = None


def cut_out(
    whole: Encoded, cut: Cut, model: Mapping[str, int], token_of: Callable[[str], int]
) -> Iterator[Encoded]:
    """Cut sequences out of a text's tokens.

    Args:
        whole: the text's tokens.
        cut: where each sequence begins or ends.
        model: the model's sizes, as `microtome.models.checkpoint.sizes` names them.
        token_of: the id of a word that is one token; raises a MicrotomeError for any other.

    Raises:
        MicrotomeError: a sequence that ends beyond the text; a length that is the context of a
            model that has none; a word that is not one token, or does not occur.
    """
    if isinstance(cut, Occurrences):
        yield from _occurrences(whole, cut, token_of)
    else:
        yield from _from_starts(whole, cut, model)


def _from_starts(whole: Encoded, cut: Starts, model: Mapping[str, int]) -> Iterator[Encoded]:
    n = len(whole.token_id)
    length = model.get("n_context") if cut.length == CONTEXT else int(cut.length)
    if length is None:
        raise MicrotomeError(
            f"{whole.place}: the cut's length is the model's context, and the model has none; name "
            "a number"
        )
    for start in cut.starts:
        first = n // 2 if start == MIDDLE else int(start)
        if first + length > n:
            raise MicrotomeError(
                f"{whole.place}: {length} tokens from {start} on end beyond the text, which has "
                f"{n} tokens of this model; correct `cut:`"
            )
        yield _part(whole, first, first + length)


def _occurrences(
    whole: Encoded, cut: Occurrences, token_of: Callable[[str], int]
) -> Iterator[Encoded]:
    ids = np.array(whole.token_id)
    for word in cut.words:
        try:
            token = token_of(word)
        except MicrotomeError as error:
            raise MicrotomeError(f"{whole.place}: cut: words: {error}") from None
        ends = np.flatnonzero(ids == token) + 1
        ends = ends[ends > cut.before]
        if not len(ends):
            raise MicrotomeError(
                f"{whole.place}: {word!r} does not stand behind {cut.before} tokens anywhere in "
                "the text; correct `cut:` (a word in a text has the space before it)"
            )
        for end in ends.tolist():
            part = _part(whole, end - cut.before - 1, end)
            inside = [False] * cut.before + [True]
            yield replace(part, word=word, category=word.strip(), in_word=inside)


def _part(whole: Encoded, first: int, end: int) -> Encoded:
    return replace(whole, token_id=whole.token_id[first:end], special=whole.special[first:end])


def shuffle(sequence: Encoded, seed: int, number: int) -> Encoded:
    """Put a sequence's tokens in another order, in which special ones keep their places.

    Args:
        sequence: the sequence.
        seed: the seed of all sequences of a set.
        number: the number of this one among them.
    """
    places = np.flatnonzero(~np.array(sequence.special))
    order = np.arange(len(sequence.special))
    order[places] = np.random.default_rng([seed, number]).permutation(places)
    inside = sequence.in_word
    return replace(
        sequence,
        token_id=[sequence.token_id[place] for place in order],
        in_word=inside and [inside[place] for place in order],
    )


def mask_each(sequence: Encoded, mask: int) -> Iterator[Encoded]:
    """Mask each token of a sequence in turn, special ones too, with the mask token's id."""
    ids = sequence.token_id
    for place in range(len(ids)):
        masked = [*ids[:place], mask, *ids[place + 1 :]]
        yield replace(sequence, token_id=masked, target_id=ids)
