"""Interventions without a workflow."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from microtome.api.arguments import how_to_compute, stimulus_set
from microtome.api.language_model import Model
from microtome.errors import MicrotomeError
from microtome.interventions.declared import declared
from microtome.interventions.fit import fit_sites
from microtome.texts.rows import token_columns
from microtome.texts.tokens import set_table


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
    computing = how_to_compute(batch_tokens, dtype, device)
    table = set_table(stimulus_set(texts), model.checkpoint)
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
