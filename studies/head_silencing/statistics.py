"""Statistics of the study on silenced heads; see README.md."""

from typing import Annotated

import numpy as np
import xarray as xr
from scipy import stats

from microtome.errors import MicrotomeError
from microtome.options import NEXT_TOKEN, ONE_TEXT, Alpha, Edges, FirstPosition, Head, Limits
from microtome.statistics.distributions import freedman_diaconis
from microtome.statistics.jackknife import standard_error
from microtome.statistics.positions import require_one_text
from microtome.statistics.similarity import similarity_profile


def similarities(
    one_head_silenced: Annotated[xr.Dataset, ONE_TEXT], *, first_token: FirstPosition
) -> xr.Dataset:
    """Cosine similarity of each two tokens in every layer, clean and with a head silenced.

    Returns:
        `clean` and `silenced`, (`layer`, `pair`), float64, with the positions `first` and `second`
        of a pair's tokens; attributes `silenced_layer` and `silenced_head`.
    """
    outcome = _one_case(one_head_silenced)
    profiles = {
        run: similarity_profile(_states(outcome[variable]), first_token)["cosine"]
        for run, variable in (("clean", "clean_resid_post"), ("silenced", "resid_post"))
    }
    return xr.Dataset(profiles, attrs=_silenced(outcome)).rename(hidden="layer")


def clean_similarity(similarities: xr.Dataset, *, n_edges: Edges, limits: Limits) -> xr.Dataset:
    """Mean and histogram of the clean similarities, for every layer.

    Returns:
        `mean`, (`layer`,); `count`, (`layer`, `value`), with the centres of the bins along
        `value`; `beyond`, (`layer`,), the share outside the limits.
    """
    edges = np.linspace(*limits, n_edges)
    cosine = similarities["clean"]
    count = np.array([np.histogram(row, edges)[0] for row in cosine.values])
    return xr.Dataset(
        {
            "mean": cosine.mean("pair"),
            "count": (("layer", "value"), count),
            "beyond": ("layer", 1 - count.sum(axis=1) / cosine.sizes["pair"]),
        },
        {"value": (edges[:-1] + edges[1:]) / 2},
    )


def similarity_change(similarities: xr.Dataset) -> xr.Dataset:
    """Clean minus silenced similarities, for every layer.

    Pairs that share a token are not independent: the standard error leaves out each token in turn
    (jackknife), with all its pairs.

    Returns:
        `mean`, `mean_absolute`, `sd` (n - 1 in its denominator) and `std_error` of the mean,
        (`layer`,); histograms `count` over `left_edge`, (`layer`, `bin`), with Freedman-Diaconis
        bins, padded with NaN; the attributes of `similarities`.
    """
    difference = similarities["clean"] - similarities["silenced"]
    count, left_edge = freedman_diaconis(difference.values)
    tokens = np.union1d(similarities["first"], similarities["second"])
    without = np.stack(
        [
            difference.values[:, ((difference["first"] != i) & (difference["second"] != i)).values]
            for i in tokens
        ]
    ).mean(axis=-1)
    return xr.Dataset(
        {
            "mean": difference.mean("pair"),
            "mean_absolute": abs(difference).mean("pair"),
            "sd": difference.std("pair", ddof=1),
            "std_error": ("layer", standard_error(without)),
            "count": (("layer", "bin"), count),
            "left_edge": (("layer", "bin"), left_edge),
        },
        attrs=similarities.attrs,
    )


def next_tokens(one_head_silenced: Annotated[xr.Dataset, ONE_TEXT, NEXT_TOKEN]) -> xr.Dataset:
    """The most likely tokens after the text, clean and with a head silenced.

    Returns:
        (`run`, `rank`), runs `clean` and `silenced`, ranks 1, 2, …: `token_id`, `text` and
        `log_probability` (natural logarithm); attributes `silenced_layer` and `silenced_head`.
    """
    outcome = _at_the_end(_one_case(one_head_silenced))
    found = {
        "token_id": "top_token_id",
        "text": "top_text",
        "log_probability": "top_log_probabilities",
    }
    both = {
        name: (("run", "rank"), np.stack([outcome[f"clean_{top}"].values, outcome[top].values]))
        for name, top in found.items()
    }
    ranks = np.arange(1, outcome.sizes["rank"] + 1)
    return xr.Dataset(both, {"run": ["clean", "silenced"], "rank": ranks}, _silenced(outcome))


def each_head(each_head_silenced: Annotated[xr.Dataset, ONE_TEXT, NEXT_TOKEN]) -> xr.Dataset:
    """What silencing each head does to the prediction of the next token.

    Returns:
        (`layer`, `head`), natural logarithms, float64: `target`, by how much the log-probability of
        the clean run's most likely token changes; `maximum`, by how much that of the now most
        likely token lies above it; `kl`, the divergence D(clean ‖ silenced) in nats; the now most
        likely token's `top_token_id` and `top_text`. `clean`, the target's log-probability in the
        clean run, with the target's `token_id` and `text` as coordinates.
    """
    outcome = _at_the_end(each_head_silenced).isel(rank=0)
    clean = outcome["clean_log_probabilities"].astype(np.float64)
    found = {
        "target": outcome["log_probabilities"] - clean,
        "maximum": outcome["top_log_probabilities"] - clean,
        "kl": outcome["kl"].astype(np.float64),
        "top_token_id": outcome["top_token_id"],
        "top_text": outcome["top_text"],
        "clean": clean,
    }
    labels = {"token_id": outcome["target_id"].item(), "text": outcome["target_text"].item()}
    return xr.Dataset({name: values.variable for name, values in found.items()}).assign_coords(
        layer=outcome["layer"].values, head=outcome["head"].values, **labels
    )


def one_head(each_head: xr.Dataset, *, head: Head) -> xr.Dataset:
    """The most likely token with one head of each layer silenced.

    Returns:
        `log_probability` (natural logarithm), `token_id` and the coordinate `text` of that token,
        (`layer`,); `changed`, 1 where it is not the clean run's, else 0; `clean`, the
        log-probability of the clean run's; attribute `head`.

    Raises:
        MicrotomeError: a head that the model lacks.
    """
    n_heads = each_head.sizes["head"]
    if head not in each_head["head"]:
        raise MicrotomeError(
            f"head {head}: the model has {n_heads} heads per layer; correct the `head` option to "
            f"one from 0 to {n_heads - 1}"
        )
    chosen = each_head.sel(head=head)
    found = {
        "log_probability": chosen["maximum"] + chosen["clean"],
        "token_id": chosen["top_token_id"],
        "changed": (chosen["top_token_id"] != chosen["token_id"]).astype(np.int8),
        "clean": chosen["clean"],
    }
    return xr.Dataset(
        {name: values.variable for name, values in found.items()},
        {"layer": chosen["layer"].values, "text": chosen["top_text"].variable},
        {"head": head},
    )


def layer_averages(each_head: xr.Dataset, *, alpha: Alpha) -> xr.Dataset:
    """Means over the heads of each layer.

    Returns:
        (`token`, `layer`), of the target and the maximum: `mean`; `sd`, which describes the heads
        (n in its denominator); `low` and `high`, the interval of the mean by Student's t.
        (`layer`,): `kl`, the mean divergence; `changed`, the number of heads without which another
        token is most likely. Attribute `alpha`.
    """
    change = each_head[["target", "maximum"]].reset_coords(drop=True).to_dataarray("token")
    mean, n = change.mean("head"), change.sizes["head"]
    half = stats.t.ppf(1 - alpha / 2, n - 1) * change.std("head", ddof=1) / np.sqrt(n)
    return xr.Dataset(
        {
            "mean": mean,
            "sd": change.std("head"),
            "low": mean - half,
            "high": mean + half,
            "kl": each_head["kl"].mean("head"),
            "changed": (each_head["top_token_id"] != each_head["token_id"]).sum("head"),
        },
        attrs={"alpha": alpha},
    ).reset_coords(drop=True)


def _one_case(outcome: xr.Dataset) -> xr.Dataset:
    """The only case of an outcome.

    Raises:
        MicrotomeError: more than one layer or head.
    """
    n_layers, n_heads = outcome.sizes["layer"], outcome.sizes["head"]
    if n_layers * n_heads != 1:
        raise MicrotomeError(
            f"one_head_silenced: {n_layers} layers and {n_heads} heads; correct its `layers` and "
            "`heads` to one each, as in layers: [4]"
        )
    return outcome.isel(layer=0, head=0)


def _silenced(outcome: xr.Dataset) -> dict[str, int]:
    """Which head of which layer was silenced."""
    return {f"silenced_{name}": outcome[name].item() for name in ("layer", "head")}


def _states(values: xr.DataArray) -> xr.DataArray:
    """Values of a site at all tokens and layers, named as hidden states are."""
    names = {name: str(name).removeprefix("read_") for name in (*values.dims, *values.coords)}
    plain = values.drop_vars(["layer", "head"], errors="ignore")
    return plain.rename({k: v for k, v in names.items() if k != v} | {"read_layer": "hidden"})


def _at_the_end(outcome: xr.Dataset) -> xr.Dataset:
    """The predictions at the last token of the one text.

    Raises:
        MicrotomeError: more than one text.
    """
    require_one_text(outcome)
    return outcome.isel(token=-1)
