"""A model's activations and what each layer would predict, and what a workflow has stored."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from microtome.api.arguments import (
    chosen_layers,
    how_to_compute,
    kept_tokens,
    stimulus_set,
    whole_numbers,
)
from microtome.api.language_model import Model
from microtome.errors import MicrotomeError, in_short, nearest
from microtome.models.skeleton import require_head
from microtome.models.taps import check_sites
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
from microtome.texts.rows import row_columns, token_columns
from microtome.texts.tokens import set_table


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
    numbers = chosen_layers(layers, model.sizes["n_layers"]) if inside else []
    check_sites(inside, model.taps, model.architecture, numbers, model.found.absent)
    table = token_columns(set_table(stimulus_set(texts), model.checkpoint, kept_tokens(tokens)))
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
        **how_to_compute(batch_tokens, dtype, device),
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
    if not whole_numbers([top]) or not 0 <= top <= model.sizes["d_vocab"]:
        raise MicrotomeError(
            f"top: wants 0 to {model.sizes['d_vocab']} tokens; has {in_short(repr(top))}"
        )
    require_head(model.name, model.head)
    numbers = chosen_layers(layers, model.sizes["n_layers"])
    check_sites([site], model.taps, model.architecture, numbers, model.found.absent)
    table = set_table(stimulus_set(texts), model.checkpoint, kept_tokens(tokens))
    columns = token_columns(table)
    computing = how_to_compute(batch_tokens, dtype, device)
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


def _dimensions(site: str, sizes: Mapping[str, int]) -> tuple[str, ...]:
    return ("layer",) * (site in SITES) + ("token", *dimensions(site, sizes))


def _attributes(site: str) -> dict[str, str]:
    return {"comment": ABSENT} if site in KEYED_SITES else {}
