"""Statistics of the study on noise and scaling; see README.md."""

from typing import TYPE_CHECKING, Annotated

import numpy as np
import xarray as xr
from scipy import stats

from microtome.errors import MicrotomeError
from microtome.options import ALL_TOKENS, NEXT_TOKEN, ONE_TEXT, Alpha, Target
from microtome.statistics.layers import hidden_state_label
from microtome.statistics.positions import require_one_text
from microtome.texts.tokens import target_id, token_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def predictions(
    one_layer_noised: Annotated[xr.Dataset, ONE_TEXT, NEXT_TOKEN],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    target: Target,
) -> xr.Dataset:
    """The prediction after the text, clean and with one block noised.

    Returns:
        `log_probability` (natural logarithm, float32), (`run`, `token_id`), of the whole
        vocabulary, runs `clean` and `noised`; `top_token_id` and `top_text` of the most likely
        token, and the target's `target_rank` from 1, (`run`,). Coordinate `text` is the target;
        attributes `target_id` and `layer`.

    Raises:
        MicrotomeError: several texts or layers; a target that is not one token.
    """
    outcome = _one_layer(one_layer_noised)
    require_one_text(outcome)
    chosen = target_id(tokenizer, target)
    outcome = outcome.isel(token=-1)
    runs = outcome["clean_log_probabilities"].values, outcome["log_probabilities"].values
    log_probability = np.stack(runs)
    top = log_probability.argmax(axis=1)
    above = (log_probability > log_probability[:, [chosen]]).sum(axis=1)
    texts = [token_text(tokenizer, token) for token in top.tolist()]
    return xr.Dataset(
        {
            "log_probability": (("run", "token_id"), log_probability),
            "top_token_id": ("run", top),
            "top_text": ("run", np.array(texts, dtype=object)),
            "target_rank": ("run", above + 1),
        },
        {"run": ["clean", "noised"], "text": target},
        {"target_id": chosen, "layer": outcome["layer"].item()},
    )


def noise_norms(one_layer_noised: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS]) -> xr.Dataset:
    """How far noise in one block's output moves the hidden states.

    Returns:
        (`hidden`,), of Emb, L0, L1, …, the last block's own output among them: `difference`, the
        Frobenius norm of noised minus clean values of all tokens; norms of the difference relative
        to the clean one, `first` of the first token and `later`, the mean over the others.
        Attribute `layer`.

    Raises:
        MicrotomeError: several texts or layers.
    """
    return _difference_norms(one_layer_noised)


def scaling_norms(one_layer_scaled: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS]) -> xr.Dataset:
    """How far scaling of one block's output moves the hidden states, as in `noise_norms`."""
    return _difference_norms(one_layer_scaled)


def noised_predictions(
    each_layer_noised: Annotated[xr.Dataset, ONE_TEXT, NEXT_TOKEN],
) -> xr.Dataset:
    """What noise in each block's output does to the prediction of the next token, in every draw.

    Returns:
        (…, `layer`, `seed`), natural logarithms, float64: `log_probability` along `token`, of
        `target` and of `maximum`, the most likely token in that run; `kl`, the divergence
        D(clean ‖ changed) in nats; `top_token_id` and `top_text`; `changed`, 1 where the maximum is
        another token than in the clean run, else 0. `clean`, (`token`,), of the clean run, with
        its own most likely token as maximum, and `clean_top_text`. Coordinate `text` is the
        target.

    Raises:
        MicrotomeError: several texts or targets; noise without a list of seeds.
    """
    return _draws(each_layer_noised)


def scaled_predictions(
    each_layer_scaled: Annotated[xr.Dataset, ONE_TEXT, NEXT_TOKEN],
) -> xr.Dataset:
    """What scaling of each block's output does to the prediction of the next token.

    Returns:
        As of `noised_predictions`, without the dimension `seed`.

    Raises:
        MicrotomeError: as in `noised_predictions`.
    """
    return _predictions(each_layer_scaled)


def noise_averages(
    noised_predictions: xr.Dataset,
    later_tokens_noised: Annotated[xr.Dataset, ONE_TEXT, NEXT_TOKEN],
    *,
    alpha: Alpha,
) -> xr.Dataset:
    """Means over the draws of noise, in all tokens and in all but the first.

    Returns:
        (`tokens`, `measure`, `layer`), tokens `all` and `later`, measures `target`, `maximum` (as
        in `noised_predictions`) and `kl`: `mean`, and `low` and `high`, the interval of the mean
        by Student's t. `changed`, (`tokens`, `layer`), the number of draws in which another token
        than the clean run's is most likely. NaN in layers that are not noised. Attributes
        `alpha` and `n_draws`.

    Raises:
        MicrotomeError: as in `noised_predictions`.
    """
    both = {"all": noised_predictions, "later": _draws(later_tokens_noised)}
    found = [_average(drawn, alpha) for drawn in both.values()]
    joined = xr.concat(found, xr.Variable("tokens", list(both)), join="outer")
    return joined.assign_attrs(alpha=alpha, n_draws=noised_predictions.sizes["seed"])


def _average(drawn: xr.Dataset, alpha: float) -> xr.Dataset:
    """Mean and interval over `seed` of predictions."""
    measures = drawn["log_probability"].to_dataset("token").assign(kl=drawn["kl"])
    values = measures.reset_coords(drop=True).to_dataarray("measure")
    mean, n = values.mean("seed"), values.sizes["seed"]
    half = stats.t.ppf(1 - alpha / 2, n - 1) * values.std("seed", ddof=1) / np.sqrt(n)
    found = {"mean": mean, "low": mean - half, "high": mean + half}
    # As numbers with NaN: some layers may not be noised.
    found["changed"] = drawn["changed"].sum("seed").astype(np.float64)
    return xr.Dataset(found).reset_coords(drop=True)


def _one_layer(outcome: xr.Dataset) -> xr.Dataset:
    """The only case of an outcome.

    Raises:
        MicrotomeError: more than one layer.
    """
    n_layers = outcome.sizes["layer"]
    if n_layers != 1:
        raise MicrotomeError(
            f"{n_layers} layers are changed, one in turn; correct the intervention's `layers` to "
            "one, as in layers: [43%]"
        )
    return outcome.isel(layer=0)


def _difference_norms(changed: xr.Dataset) -> xr.Dataset:
    """Norms of changed minus clean hidden states; see `noise_norms`."""
    outcome = _one_layer(changed)
    require_one_text(outcome["resid_post"].rename(read_sequence="sequence"))
    clean = outcome["clean_resid_post"].values.astype(np.float64)
    difference = np.linalg.norm(outcome["resid_post"].values - clean, axis=-1)  # (layer, token)
    relative = difference / np.linalg.norm(clean, axis=-1)
    norms = {
        "difference": np.linalg.norm(difference, axis=1),
        "first": relative[:, 0],
        "later": relative[:, 1:].mean(axis=1),
    }
    # What enters the first block is before any change.
    return xr.Dataset(
        {name: ("hidden", np.append(0.0, values)) for name, values in norms.items()},
        {"hidden": [hidden_state_label(layer) for layer in (-1, *outcome["read_layer"].values)]},
        {"layer": outcome["layer"].item()},
    )


def _draws(outcome: xr.Dataset) -> xr.Dataset:
    """Predictions of every draw of noise; see `noised_predictions`.

    Raises:
        MicrotomeError: no dimension of seeds.
    """
    if "seed" not in outcome.dims:
        raise MicrotomeError(
            "the noise is drawn once; correct the intervention to each: [layer, seed] and a list "
            "of seeds, as in seed: [0, 1, 2]"
        )
    return _predictions(outcome)


def _predictions(outcome: xr.Dataset) -> xr.Dataset:
    """Of the target and the most likely token in every case; see `noised_predictions`."""
    require_one_text(outcome)
    if outcome.sizes["target"] != 1:
        raise MicrotomeError(
            f"{outcome.sizes['target']} targets: this statistic is of one; correct the "
            "intervention's `targets`"
        )
    one = outcome.isel(token=-1, target=0, rank=0)

    def both(prefix: str) -> xr.DataArray:
        names = (f"{prefix}log_probabilities", f"{prefix}top_log_probabilities")
        found = [one[name].reset_coords(drop=True).astype(np.float64) for name in names]
        return xr.concat(found, xr.Variable("token", ["target", "maximum"]))

    found = {
        "log_probability": both(""),
        "kl": one["kl"].astype(np.float64),
        "top_token_id": one["top_token_id"],
        "top_text": one["top_text"],
        "changed": (one["top_token_id"] != one["clean_top_token_id"]).astype(np.int8),
        "clean": both("clean_"),
        "clean_top_text": one["clean_top_text"],
    }
    labels = {name: outcome[name].values for name in ("layer", "seed") if name in outcome.dims}
    labels |= {"token": np.array(["target", "maximum"]), "text": one["target"].values}
    return xr.Dataset({name: values.variable for name, values in found.items()}, labels)
