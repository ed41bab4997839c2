"""A model's tokenizer, which reads texts as a stream, in batches that keep all cores busy."""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from microtome.errors import MicrotomeError, in_short
from microtome.texts.encoded import Added, Encoded
from microtome.texts.forms import Lengths
from microtome.texts.stimuli import MASK, Stimulus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REMEDY = "put the model's own tokenizer.json and tokenizer_config.json beside its weights"
#: Characters of texts that are tokenised at once, in threads of the tokenizer's own.
BATCH = 1 << 20
#: Characters of a text's pieces: several of them make a batch, so that all cores have some.
PIECE = 1 << 16
#: Where a text may come apart: behind an end of line, before a space.
_SEAM = re.compile(r"(?<=\S\n)(?=\S)|(?<=\w)(?= \w)")
#: Characters on either side of a seam that are tokenised together and apart; seams that are tried.
_NEAR, _TRIED = 256, 16


@dataclass(frozen=True)
class Reader:
    """A model's tokenizer.

    Attributes:
        tokenizer: it.
        checkpoint: the checkpoint folder that it is from, for messages.
        d_vocab: how many tokens the model knows.
    """

    tokenizer: "PreTrainedTokenizerBase"
    checkpoint: Path
    d_vocab: int

    def __post_init__(self) -> None:
        """Have texts read whole and unpadded, as a call of the tokenizer does."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens

    def encoded(
        self, texts: Iterable[Stimulus], *, special: bool, verbatim: bool, in_pieces: bool
    ) -> Iterator[Encoded]:
        """Tokenise texts; while a batch is used, the next one is tokenised.

        Args:
            texts: the texts.
            special: whether the tokenizer adds its special tokens.
            verbatim: whether `{mask}` stays as it is, and a text may be without tokens.
            in_pieces: whether long texts may come in pieces, each of which but the last one
                `continues`. Tokens are those of the whole text.

        Raises:
            MicrotomeError: a tokenizer of another model; a text with a mask for a tokenizer that
                has no mask token.
        """
        ahead: Future[list[Encoded]] | None = None
        with ThreadPoolExecutor(1) as pool:
            for batch in _batches(self._pieces(texts) if in_pieces else texts):
                now, ahead = ahead, pool.submit(self._encode, batch, special, verbatim)
                if now is not None:
                    yield from now.result()
            if ahead is not None:
                yield from ahead.result()

    def mask_token(self, wish: str) -> str:
        """The mask token.

        Raises:
            MicrotomeError: there is none; the message begins with what it is wanted for.
        """
        token = self.tokenizer.mask_token
        if token is None:
            raise MicrotomeError(
                f"{wish}, and the tokenizer of {self.checkpoint} has no mask token; take a masked "
                "language model, or other texts"
            )
        assert isinstance(token, str)
        return token

    def added(self, cut: Lengths, place: str) -> Added:
        """What a cut adds to the tokens of texts.

        Args:
            cut: the cut.
            place: the stimulus file, for messages.

        Raises:
            MicrotomeError: a token that the tokenizer does not have.
        """
        found = {}
        for name in ("bos", "eos"):
            token = getattr(self.tokenizer, f"{name}_token_id")
            if getattr(cut, name) and token is None:
                raise MicrotomeError(
                    f"{place}: cut: {name}: the tokenizer of {self.checkpoint} has no "
                    f"{name.upper()} token; take it out"
                )
            found[name] = np.array([token] if getattr(cut, name) else [], np.int32)
        before, after = found["bos"], np.empty(0, np.int32)
        if cut.special:
            # Of a text that is a single token, what is added stands before it and behind it.
            text = self.tokenizer("a", return_special_tokens_mask=True)
            marks = np.array(text["special_tokens_mask"])
            ids, inside = np.array(text["input_ids"], np.int32), np.flatnonzero(marks == 0)
            before, after = ids[: inside[0]], ids[inside[-1] + 1 :]
        return Added(before, after, found["eos"])

    def _encode(self, batch: list[Stimulus], special: bool, verbatim: bool) -> list[Encoded]:
        """The tokens of some texts."""
        asked = [(text.text, text.span) if verbatim else self._with_mask(text) for text in batch]
        backend = self.tokenizer.backend_tokenizer
        # Without offsets, in three quarters of the time.
        worded = any(span is not None for _, span in asked)
        encode = backend.encode_batch if worded else backend.encode_batch_fast
        found = encode([text for text, _ in asked], add_special_tokens=special)
        encoded = []
        for text, (_, span), encoding in zip(batch, asked, found, strict=True):
            ids = np.array(encoding.ids, np.int32)
            if ids.max(initial=-1) >= self.d_vocab or not (len(ids) or verbatim):
                # Without any file, transformers makes a tokenizer up.
                made = f"token {ids.max()} of {self.d_vocab}" if len(ids) else "no token"
                raise MicrotomeError(
                    f"{self.checkpoint}: the tokenizer is not the model's, it makes {made} of "
                    f"{text.text[:40]!r}; {REMEDY}"
                )
            marks, inside = np.zeros(len(ids), bool), None
            if special:
                marks = np.array(encoding.special_tokens_mask) == 1
            if span is not None:
                first, last = span
                offsets = np.array(encoding.offsets)
                inside = (offsets[:, 0] < last) & (first < offsets[:, 1])
            encoded.append(
                Encoded(
                    *(ids, marks, text.origin, text.text[:40], text.word, text.category, inside),
                    continues=text.continues,
                )
            )
        return encoded

    def _with_mask(self, stimulus: Stimulus) -> tuple[str, tuple[int, int] | None]:
        """A text with the mask token for each `{mask}`, and where its word is then."""
        text, span = stimulus.text, stimulus.span
        if MASK not in text:
            return text, span
        token = self.mask_token(f"{stimulus.origin}: {in_short(repr(text), 60)} has {MASK}")
        first, last = span or (len(text), len(text))
        before, word, after = (
            part.replace(MASK, token) for part in (text[:first], text[first:last], text[last:])
        )
        return before + word + after, span and (len(before), len(before + word))

    def _pieces(self, texts: Iterable[Stimulus]) -> Iterator[Stimulus]:
        """Long texts in pieces whose tokens are those of the whole text."""
        before: list[str] = []  # of the same text
        for text in texts:
            start = 0
            while (seam := self._seam(text.text, start + PIECE)) is not None:
                piece = "".join([*before, text.text[start:seam]])
                yield replace(text, text=piece, continues=True)
                before, start = [], seam
            before.append(text.text[start:])
            if not text.continues:
                yield replace(text, text="".join(before))
                before = []

    def _seam(self, text: str, start: int) -> int | None:
        """Where a text may come apart from a place on; None where it may not.

        Tokenizers that read a text as one word, or begin each with a token of its own, have no
        such place.
        """
        for match in islice(_SEAM.finditer(text, start, len(text) - _NEAR), _TRIED):
            seam = match.start()
            near = [text[seam - _NEAR : seam], text[seam : seam + _NEAR]]
            left, right, both = self.tokenizer(
                [*near, "".join(near)], add_special_tokens=False, verbose=False
            )["input_ids"]
            if left + right == both:
                return seam
        return None


def _batches(texts: Iterable[Stimulus]) -> Iterator[list[Stimulus]]:
    """Texts in batches of about as many characters."""
    batch: list[Stimulus] = []
    n = 0
    for text in texts:
        batch.append(text)
        n += len(text.text)
        if n >= BATCH:
            yield batch
            batch, n = [], 0
    if batch:
        yield batch
