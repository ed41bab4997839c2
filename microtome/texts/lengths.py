"""How many tokens texts have: of a token table, of those that are kept, in batches.

Nothing here needs numpy, and HDF5 only where a file is read: a run that finds nothing to do does
without them.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def read_lengths(tokens: str | Path) -> list[int]:
    """Tokens of each text of a token table or of a layer file."""
    return read_lengths_and_rows(tokens)[0]


def count_words(tokens: str | Path) -> int:
    """How many words a token table or a layer file has; 0 if its stimuli are texts."""
    sequence, in_word = _columns(tokens, "sequence", "in_word")
    return len(set(sequence)) if in_word else 0


def n_kept(lengths: Sequence[int], tokens: str | Sequence[int]) -> int:
    """How many rows activation arrays have.

    Args:
        lengths: tokens of each text.
        tokens: what the stimulus set keeps: `all`, `last`, `mean`, or positions, negative from the
            end.
    """
    if tokens == "all":
        return sum(lengths)
    if tokens in ("last", "mean"):
        return len(lengths)
    return sum(len({position % length for position in tokens}) for length in lengths)


def read_lengths_and_rows(tokens: str | Path) -> tuple[list[int], int]:
    """Tokens of each text of a token table, and rows of its activation arrays."""
    sequence, row = _columns(tokens, "sequence", "row")
    return list(Counter(sequence).values()), max(row) + 1 if row else len(sequence)


def _columns(tokens: str | Path, *names: str) -> list[list[int]]:
    from microtome.store.virtual import opened

    Path(tokens).stat()  # whose error names the file that Snakemake is to wait for
    with opened(tokens) as table:
        return [table[name][...].tolist() if name in table else [] for name in names]


def batch_texts(length: int, batch_tokens: int) -> int:
    """How many texts of so many tokens make a batch, at most: one at least."""
    return max(1, batch_tokens // length)


def largest_batch(lengths: Sequence[int], batch_tokens: int) -> tuple[int, int]:
    """Tokens of the largest batch, and of the longest text; texts of a batch are equally long."""
    texts = Counter(lengths)
    largest = max(n * min(k, batch_texts(n, batch_tokens)) for n, k in texts.items())
    return largest, max(texts)
