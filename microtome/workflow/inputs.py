"""What a study's functions are called with: an input for each of their positional parameters.

A provider is named after the parameter that it serves, and is part of the code that a product
depends on. Each is given the job, as Snakemake hands it to a script. A parameter with any other
name is a site, whose activations are stacked over all layers, or a statistic.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from microtome.sites import DIMENSIONS, SITES
from microtome.store.datasets import open_layer, read_dataset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from microtome.model.stored import StoredMLP
    from microtome.store.layers import Section


def compute(function: Callable[..., xr.Dataset], job: Any) -> xr.Dataset:
    """Call a statistic's function.

    Args:
        function: the function.
        job: as Snakemake hands it to a script.

    Returns:
        What the function returns. One that takes a `section` and has no option `layer` is called
        for each layer; the results then lie along a new first dimension `layer`.
    """
    reads = dict(zip(job.params.reads, job.input.get("statistics", []), strict=True))
    parameters = inspect.signature(function).parameters
    given: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name in reads:
            given[name] = read_dataset(reads[name])
        elif name in DIMENSIONS:
            given[name] = stacked(job, name)
        elif name != "section" and parameter.kind is not parameter.KEYWORD_ONLY:
            given[name] = PROVIDERS[name](job)
    call = partial(function, **given, **arguments(job.params.options))
    if "section" not in parameters:
        return call()
    if "layer" not in parameters:
        return by_layer(job, call)
    with section(job, job.input.layers[0]) as chosen:
        return call(section=chosen).assign_attrs(layer=chosen.attrs["layer"])


def arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Options as a function's annotations have them: a list of the config is a tuple."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


@contextmanager
def section(job: Any, path: str) -> Iterator[xr.Dataset]:
    """One layer's activations at the sites asked for, in their order, with the token columns."""
    with open_layer(path) as opened:
        yield opened[list(job.params.sites)]


def by_layer(job: Any, statistic: Callable[..., xr.Dataset]) -> xr.Dataset:
    """A statistic of every layer along a new first dimension `layer`, one layer at a time."""
    rows = []
    for path in job.input.layers:
        with section(job, path) as chosen:
            rows.append(statistic(section=chosen).expand_dims(layer=[int(chosen.attrs["layer"])]))
    return xr.concat(rows, dim="layer", coords="minimal", compat="override", join="exact")


def stacked(job: Any, site: str) -> xr.DataArray:
    """A site's activations in all layers, (`layer`, `token`, …); after the blocks, (`token`, …)."""
    layers = []
    for path in job.input.layers if site in SITES else job.input.final:
        with open_layer(path) as opened:
            layer = opened[site].load()
            layers.append(layer.assign_coords(layer=opened.attrs["layer"]))
    if site not in SITES:
        return layers[0].drop_vars("layer")
    return xr.concat(layers, dim="layer", coords="minimal", compat="override", join="exact")


def tokens(job: Any) -> xr.Dataset:
    """The token table."""
    return read_dataset(job.input.tokens)


def stored(job: Any) -> "StoredMLP":
    """The model's weights, as they are stored."""
    from microtome.model.stored import StoredMLP
    from microtome.model.taps import from_plain

    taps = from_plain(job.params.taps)
    return StoredMLP(job.input.checkpoint, job.input.manifest, taps)


def tokenizer(job: Any) -> "PreTrainedTokenizerBase":
    """The model's own tokenizer."""
    from microtome.texts.tokens import load_tokenizer

    return load_tokenizer(Path(job.input.checkpoint))


def checkpoint(job: Any) -> Path:
    """The checkpoint folder, for a function that runs the model."""
    import torch

    torch.set_num_threads(job.params.threads)
    return Path(job.input.checkpoint)


def stream(job: Any) -> "Iterator[Section]":
    """Sections as a sweep makes them, batch by batch and layer by layer; none is stored."""
    from microtome.model.taps import from_plain
    from microtome.store.layers import read_columns
    from microtome.sweep.sweep import sweep_table

    return sweep_table(
        checkpoint(job),
        read_columns(job.input.tokens),
        job.params.sites,
        job.params.layers,
        taps=from_plain(job.params.taps),
        batch_size=job.params.batch_size,
        dtype=job.params.dtype,
        device=job.params.device,
        log=sys.stderr,
    )


PROVIDERS: dict[str, Callable[[Any], Any]] = {
    "tokens": tokens,
    "stored": stored,
    "tokenizer": tokenizer,
    "checkpoint": checkpoint,
    "stream": stream,
}
