"""What a study's functions are called with: an input for each of their positional parameters.

A provider is named after the parameter that it serves, and is part of the code that a product
depends on. Each is given the job, as Snakemake hands it to a script. A parameter with any other
name is a site, whose activations are stacked over all layers, or another product.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from microtome.sites import DIMENSIONS, SITES
from microtome.statistics.layers import stack_layers
from microtome.statistics.streamed import Streamed
from microtome.store.datasets import open_file, open_layer, read_dataset
from microtome.store.stacked import read_layers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from microtome.models.stored import StoredMLP
    from microtome.sweeps.lens import Lens


def compute(function: Callable[..., xr.Dataset], job: Any) -> xr.Dataset:
    """Call a statistic's function.

    Args:
        function: the function.
        job: as Snakemake hands it to a script.

    Returns:
        What the function returns. One that takes a `section` and has no option `layer` is called
        for each layer; the results then lie along a new first dimension `layer`.
    """
    providers = {f.__name__: f for f in (tokens, stored, tokenizer)}
    reads = dict(zip(job.params.reads, job.input.datasets, strict=True))
    parameters = inspect.signature(function).parameters
    given: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name in reads:
            given[name] = read_dataset(reads[name])
        elif name in DIMENSIONS:
            given[name] = stacked(job, name)
        elif name != "section" and parameter.kind is not parameter.KEYWORD_ONLY:
            given[name] = providers[name](job)
    call = partial(function, **given, **arguments(job.params.options))
    if "section" not in parameters:
        return call()
    if "layer" not in parameters:
        return by_layer(job, call)
    with section(job, job.input.layers[0]) as chosen:
        return call(section=chosen)


def arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a function's annotations have them: a list of the config is a tuple."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


@contextmanager
def section(job: Any, path: str) -> Iterator[xr.Dataset]:
    """One layer's activations at the sites asked for, in their order, with the token columns."""
    with open_layer(path) as opened:
        yield opened[list(job.params.sites)]


def by_layer(job: Any, statistic: Callable[..., xr.Dataset]) -> xr.Dataset:
    """A statistic of every layer along a new first dimension `layer`, one layer at a time."""

    def results() -> Iterator[tuple[int, xr.Dataset]]:
        for path in job.input.layers:
            with section(job, path) as chosen:
                yield int(chosen.attrs["layer"]), statistic(section=chosen)

    return stack_layers(results(), len(job.input.layers))


def stacked(job: Any, site: str) -> xr.DataArray:
    """A site's activations in all layers, (`layer`, `token`, …); after the blocks, (`token`, …)."""
    if site not in SITES:
        with open_layer(job.input.final[0]) as opened:
            return opened[site].load()

    return read_layers(job.input.layers, site)


def tokens(job: Any) -> xr.Dataset:
    """The token table."""
    return read_dataset(job.input.tokens)


def stored(job: Any) -> "StoredMLP":
    """The model's weights, as they are stored."""
    from microtome.models.stored import StoredMLP
    from microtome.models.taps import from_plain

    manifest = json.loads(Path(job.input.manifest).read_text(encoding="utf-8"))
    return StoredMLP(job.input.checkpoint, manifest, from_plain(job.params.taps))


def tokenizer(job: Any) -> "PreTrainedTokenizerBase":
    """The model's own tokenizer."""
    from microtome.texts.tokens import load_tokenizer

    return load_tokenizer(Path(job.input.checkpoint))


def merged(function: Callable[..., Streamed], job: Any) -> xr.Dataset:
    """Merge what a streamed statistic has kept of each shard, one after the other."""
    product = job.params.product
    whole = empty(function, product["reads"], product["options"], job)
    for state in job.input.states:
        whole.merge(whole.from_state(read_dataset(state)))
    return whole.finish()


def empty(
    function: Callable[..., Streamed],
    reads: Mapping[str, str],
    options: Mapping[str, Any],
    job: Any,
    lens: "Lens | None" = None,
) -> Streamed:
    """Call a streamed statistic's function, which returns an empty one.

    Args:
        function: the function.
        reads: the files of other datasets, by the parameter that each is given to.
        options: its options.
        job: as Snakemake hands it to a script.
        lens: predicts from the sections that are added; one that only merges needs none.
    """
    given: dict[str, Any] = {name: read_dataset(path) for name, path in reads.items()}
    asked = inspect.signature(function).parameters
    if "tokens" in asked:  # of a corpus too large for memory where shards are merged
        given["tokens"] = open_file(job.input.tokens)
    if "tokenizer" in asked:
        given["tokenizer"] = tokenizer(job)
    if "lens" in asked:
        given["lens"] = lens
    return function(**given, **arguments(options))
