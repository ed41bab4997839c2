"""What the functions take, checked: texts, layers, tokens, and how to compute."""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from microtome.errors import MicrotomeError, in_short
from microtome.texts.fetched import with_fetched
from microtome.texts.stimuli import Stimulus, StimulusSet, read_set


def stimulus_set(texts: str | Path | Sequence[str]) -> StimulusSet:
    """The texts as a stimulus set, whether they are given or stand in a file.

    Raises:
        MicrotomeError: no text, an empty one, or a file that cannot be read.
    """
    if isinstance(texts, Path):
        return _from_file(texts)
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise MicrotomeError("texts: there are none; give one or more")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise MicrotomeError(
                f"texts: text {number} is empty or no text ({in_short(repr(text), 60)}); write one "
                "or take it out"
            )
    return StimulusSet(
        Path(),
        tuple(Stimulus(text, origin=f"texts: text {n}") for n, text in enumerate(texts)),
    )


def _from_file(file: Path) -> StimulusSet:
    """A stimulus set; a text that is fetched has to be in `results/` already."""
    found = read_set(file)
    fetched = found.fetched_file(file.stem)
    if fetched and not fetched.exists():
        raise MicrotomeError(
            f"{file}: its text is not fetched yet; the workflow brings it: snakemake {fetched}"
        )
    return with_fetched(found, fetched)


def chosen_layers(layers: str | Sequence[int], n_layers: int) -> list[int]:
    """Numbers of layers, each once, ascending.

    Raises:
        MicrotomeError: no layer, or one that the model lacks.
    """
    if isinstance(layers, str) and layers == "all":
        return list(range(n_layers))
    numbers = whole_numbers(layers)
    if not numbers or not all(0 <= number < n_layers for number in numbers):
        raise MicrotomeError(
            f"layers: wants `all` or numbers from 0 to {n_layers - 1}; has {in_short(repr(layers))}"
        )
    return sorted(set(numbers))


def kept_tokens(tokens: str | Sequence[int]) -> str | list[int]:
    """Which tokens are kept: `all`, `last`, `mean`, or positions.

    Raises:
        MicrotomeError: anything else.
    """
    if isinstance(tokens, str) and tokens in ("all", "last", "mean"):
        return tokens
    positions = whole_numbers(tokens)
    if not positions:
        raise MicrotomeError(
            f"tokens: wants `all`, `last`, `mean` or positions; has {in_short(repr(tokens))}"
        )
    return positions


def whole_numbers(numbers: Any) -> list[int]:
    """A list, array or range of whole numbers; an empty list for anything else."""
    if isinstance(numbers, str) or not np.iterable(numbers):
        return []
    return list(map(int, numbers)) if all(isinstance(n, Integral) for n in numbers) else []


def how_to_compute(batch_tokens: int, dtype: str, device: str) -> dict[str, Any]:
    """The three by their names, as a sweep takes them.

    Raises:
        MicrotomeError: a dtype or device that is not known, or no batch size.
    """
    for key, value, known in (
        ("dtype", dtype, ("float32", "bfloat16", "float16")),
        ("device", device, ("cpu", "cuda", "auto")),
    ):
        if value not in known:
            raise MicrotomeError(f"{key}: wants {', '.join(known)}; has {in_short(repr(value))}")
    if not whole_numbers([batch_tokens]) or batch_tokens < 1:
        raise MicrotomeError(f"batch_tokens: wants 1 or more; has {in_short(repr(batch_tokens))}")
    return {"batch_tokens": batch_tokens, "dtype": dtype, "device": device}
