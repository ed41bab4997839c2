"""Sequences of a text's tokens: cut out of it, drawn, in another order, masked one by one."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from microtome.errors import MicrotomeError
from microtome.texts.forms import CONTEXT, MIDDLE, Lengths, Occurrences, Sample, Starts


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sequence of tokens.

    Attributes:
        token_id: the tokens' ids, (token,), int32.
        special: whether the token was added to the text, (token,), bool.
        place: the file and the place in it that the text is from, for messages.
        start: how the text begins, for messages.
        word: the word in it, or None.
        category: the label of the word or of the text, or None.
        in_word: whether a token is part of the word, (token,), bool; None where there is no word.
        target_id: the ids before one of them was masked, (token,); None where none was.
        continues: whether the text goes on in the next one.
    """

    token_id: np.ndarray
    special: np.ndarray
    place: str
    start: str
    word: str | None = None
    category: str | None = None
    in_word: np.ndarray | None = None
    target_id: np.ndarray | None = None
    continues: bool = False


@dataclass(frozen=True)
class Added:
    """The ids of what a cut adds to the tokens of texts.

    Attributes:
        before: at the beginning of each sequence, (token,).
        after: at its end, (token,).
        end: at the end of each text, (token,).
    """

    before: np.ndarray
    after: np.ndarray
    end: np.ndarray

    @property
    def n(self) -> int:
        """How many tokens are added to each sequence."""
        return len(self.before) + len(self.after)


def in_lengths(
    texts: Iterable[Encoded], cut: Lengths, length: int, added: Added
) -> Iterator[Encoded]:
    """Cut texts into sequences of one length; what is left at the end is a shorter one.

    Args:
        texts: the texts' tokens, without special ones.
        cut: how much the sequences overlap, and whether they may have tokens of several texts.
        length: tokens of each sequence, with those that are added to it.
        added: what is added.
    """
    room = length - added.n
    held = np.empty(0, np.int32)  # not yet in a sequence, but for an overlap
    marks = np.empty(0, bool)
    overlap = 0  # of what is held, so much was in the last sequence, too
    text: Encoded | None = None
    filled = False
    for text in texts:
        filled = filled or len(text.token_id) > 0
        end = added.end if filled and not text.continues else added.end[:0]
        filled = filled and text.continues
        held = np.concatenate([held, text.token_id, end])
        marks = np.concatenate([marks, text.special, np.ones(len(end), bool)])
        start = 0
        while start + room <= len(held):
            yield _around(text, held[start : start + room], marks[start : start + room], added)
            start, overlap = start + room - cut.overlap, cut.overlap
        held, marks = held[start:], marks[start:]
        if not (cut.joined or text.continues):
            if len(held) > overlap:
                yield _around(text, held, marks, added)
            held, marks, overlap = held[:0], marks[:0], 0
    if text is not None and len(held) > overlap:
        yield _around(text, held, marks, added)


def _around(text: Encoded, ids: np.ndarray, marks: np.ndarray, added: Added) -> Encoded:
    """A sequence of a text, with what is added to it."""
    if added.n:
        ids = np.concatenate([added.before, ids, added.after])
        before, after = np.ones(len(added.before), bool), np.ones(len(added.after), bool)
        marks = np.concatenate([before, marks, after])
    return Encoded(ids, marks, text.place, text.start, category=text.category)


def cut_out(
    whole: Encoded,
    cut: Starts | Occurrences,
    model: Mapping[str, int],
    token_of: Callable[[str], int],
) -> Iterator[Encoded]:
    """Cut single sequences out of a text's tokens.

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


def length_of(cut: Starts | Lengths, model: Mapping[str, int], place: str) -> int:
    """How many tokens the sequences of a cut have.

    Raises:
        MicrotomeError: the context of a model that has none.
    """
    length = model.get("n_context") if cut.length == CONTEXT else int(cut.length)
    if length is None:
        raise MicrotomeError(
            f"{place}: the cut's length is the model's context, and the model has none; name "
            "a number"
        )
    return length


def _from_starts(whole: Encoded, cut: Starts, model: Mapping[str, int]) -> Iterator[Encoded]:
    n, length = len(whole.token_id), length_of(cut, model, whole.place)
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
    ids = whole.token_id
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
            inside = np.arange(cut.before + 1) == cut.before
            yield replace(part, word=word, category=word.strip(), in_word=inside)


def _part(whole: Encoded, first: int, end: int) -> Encoded:
    return replace(whole, token_id=whole.token_id[first:end], special=whole.special[first:end])


def drawn(sequences: Iterable[Encoded], sample: Sample, place: str) -> Iterator[Encoded]:
    """Draw some of many sequences, which keep their order.

    A share is drawn sequence by sequence, so that one more at the end changes no earlier choice. Of
    a number, as many sequences are in memory as are drawn.

    Args:
        sequences: the sequences.
        sample: how many are drawn, or which share, and the seed.
        place: the set's file, for messages.

    Raises:
        MicrotomeError: there are fewer than are to be drawn.
    """
    rng = np.random.default_rng(sample.seed)
    if sample.n is None:
        yield from (_copy(one) for one in sequences if rng.random() < sample.share)
        return
    # Those with the smallest of all random numbers.
    kept: list[tuple[float, int, Encoded]] = []
    for number, one in enumerate(sequences):
        entry = (-rng.random(), number, one)
        if len(kept) < sample.n:
            heapq.heappush(kept, (*entry[:2], _copy(one)))
        elif entry[0] > kept[0][0]:
            heapq.heapreplace(kept, (*entry[:2], _copy(one)))
    if len(kept) < sample.n:
        raise MicrotomeError(
            f"{place}: sample: sequences: {sample.n} are to be drawn, and there are {len(kept)} of "
            "this model's tokens; take fewer, or a share"
        )
    yield from (one for _, _, one in sorted(kept, key=lambda entry: entry[1]))


def _copy(sequence: Encoded) -> Encoded:
    """A sequence that does not keep the whole text in memory."""
    return replace(sequence, token_id=sequence.token_id.copy(), special=sequence.special.copy())


def shuffle(sequence: Encoded, seed: int, number: int) -> Encoded:
    """Put a sequence's tokens in another order, in which special ones keep their places.

    Args:
        sequence: the sequence.
        seed: the seed of all sequences of a set.
        number: the number of this one among them.
    """
    places = np.flatnonzero(~sequence.special)
    order = np.arange(len(sequence.special))
    order[places] = np.random.default_rng([seed, number]).permutation(places)
    inside = sequence.in_word
    return replace(
        sequence,
        token_id=sequence.token_id[order],
        in_word=None if inside is None else inside[order],
    )


def mask_each(sequence: Encoded, mask: int) -> Iterator[Encoded]:
    """Mask each token of a sequence in turn, special ones too, with the mask token's id."""
    ids = sequence.token_id
    for place in range(len(ids)):
        masked = np.where(np.arange(len(ids)) == place, np.int32(mask), ids)
        yield replace(sequence, token_id=masked, target_id=ids)
