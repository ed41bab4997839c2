"""Statistics of the study on dimension reduction; see README.md."""

from typing import Annotated

import numpy as np
import xarray as xr
from scipy import stats

from microtome.errors import MicrotomeError
from microtome.options import (
    ALL_TOKENS,
    NEXT_TOKEN,
    ONE_TEXT,
    Alpha,
    Count,
    Layer,
    Percent,
    Seed,
    Site,
)
from microtome.statistics.dimensionality import (
    component_variances,
    components_needed,
    double_centred,
    low_rank,
)
from microtome.statistics.positions import require_all_tokens, require_one_text

#: All tokens of the text, and all but the first: the first row of each.
TOKENS = {"all": 0, "rest": 1}


def picture(*, height: Count, width: Count, seed: Seed) -> xr.Dataset:
    """A museum in the evening: an old building with windows, a smooth new wing, a square.

    It has what makes pictures hard or easy to reduce: upright and slanting edges, regular and
    irregular texture, and smooth shades.

    Returns:
        `grey`, (`row`, `column`), whole numbers from 0, black, to 255, white.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / height
    wide = width / height
    left, right, eaves, ground = 0.06, 0.62 * wide, 0.42, 0.84
    # Clouds: noise whose power falls with the frequency.
    up, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    frequency = np.maximum(np.hypot(2 * up, across), 1 / width)
    clouds = np.fft.ifft2(np.fft.fft2(random.normal(size=y.shape)) / frequency**1.3).real
    grey = 25 + 60 * y + 26 * clouds / clouds.std()

    def paint(where: np.ndarray, shade: np.ndarray | float) -> None:
        grey[where] = np.broadcast_to(shade, grey.shape)[where]

    # The old building.
    mortar = ((50 * y) % 1 < 0.2) | ((22 * x + np.floor(50 * y) / 2) % 1 < 0.1)
    bricks = (90 + 90 * (y - 0.2)) * np.where(mortar, 0.6, 1) * random.normal(1, 0.1, y.shape)
    paint((x > left) & (x < right) & (y > eaves) & (y < ground), bricks)
    for middle in (left + 0.14, right - 0.14):
        paint((np.abs(x - middle) < 0.8 * (y - 0.26)) & (y < eaves), bricks)
    tower = np.abs(x - (left + right) / 2)
    paint((tower < 0.055) & (y > 0.2) & (y < eaves), bricks)
    paint((tower < 0.45 * (y - 0.05)) & (y <= 0.2), 70 + 500 * tower)
    for row, (top, tall) in enumerate(((0.5, 0.1), (0.68, 0.12))):
        for middle in np.linspace(left + 0.07, right - 0.07, 8 - row):
            aside = np.abs(x - middle)
            window = (aside < 0.028) & (y > top) & (y < top + tall)
            window |= np.hypot(aside, y - top) < 0.028
            paint(window, random.choice([20, 230, 245]))
            paint(window & ((aside < 0.003) | ((y - top) % 0.04 < 0.005)), 60)
    # The square in perspective, and shadows on both.
    depth = 1 / np.maximum(y - 0.62, 0.05)
    tiles = (np.floor(2.2 * depth) + np.floor(1.5 * (x - wide / 2) * depth)) % 2
    paint(y >= ground, 60 + 70 * tiles * random.normal(1, 0.15, y.shape))
    shadow = np.abs(x - 0.7 * wide + 1.2 * (y - ground)) < 0.27 * wide
    grey[shadow & (y > ground) & (y < 0.93)] *= 0.35
    grey[(x > right - 0.5 * (y - 0.35)) & (x < right) & (y > eaves) & (y < ground)] *= 0.5
    # The new wing: a front of glass, and above it a tub.
    glass = np.where((16 * x - 3 * y) % 1 < 0.12, 40, 150 + 80 * np.sin(9 * x + 11 * y))
    paint((x > 0.6 * wide) & (x < 0.95 * wide) & (y > 0.6) & (y < ground), glass)
    tub = np.abs((x / wide - 0.77) / 0.22) ** 5 + np.abs((y - 0.45) / 0.16) ** 5
    paint(tub < 1, 235 - 60 * np.clip(tub, 0, 1) - 90 * (y - 0.3))
    for place in random.uniform(0.1, wide - 0.1, 9):  # visitors
        foot = random.uniform(0.88, 0.98)
        half = 0.2 * (foot - 0.62)
        paint(((x - place) / (0.32 * half)) ** 2 + ((y - foot + half) / half) ** 2 < 1, 8.0)
    grey = np.clip(np.round(grey + random.normal(0, 2, y.shape)), 0, 255)
    return xr.Dataset({"grey": (("row", "column"), grey)})


def picture_svd(picture: xr.Dataset) -> xr.Dataset:
    """The singular value decomposition of the picture as it is.

    Returns:
        As of `hidden_state_svd`; rows and columns are the picture's.
    """
    return _svd(picture["grey"].values)


def picture_reductions(
    picture_svd: xr.Dataset, *, components: Count, percent: Percent
) -> xr.Dataset:
    """The picture of some components: of so many, and of as few as hold so much of it.

    Returns:
        (`kept`,), kept `components` and `percent`: `grey`, (…, `row`, `column`); `n_components`;
        `held`, their part of the sum of squares, in percent; `rank` of the result. `full_rank`, of
        the picture.

    Raises:
        MicrotomeError: more components than there are.
    """
    u, sigma, vt = (picture_svd[name].values for name in ("u", "sigma", "vt"))
    if components > len(sigma):
        raise MicrotomeError(
            f"components {components}: the picture has {len(sigma)}; correct `components`"
        )
    counts = [components, int(components_needed(sigma**2, percent))]
    grey = np.stack([(u[:, :n] * sigma[:n]) @ vt[:n] for n in counts])
    held = 100 * np.cumsum(sigma**2) / np.sum(sigma**2)
    return xr.Dataset(
        {
            "grey": (("kept", "row", "column"), grey),
            "n_components": ("kept", counts),
            "held": ("kept", [held[n - 1] for n in counts]),
            "rank": ("kept", np.linalg.matrix_rank(grey)),
            "full_rank": np.linalg.matrix_rank((u * sigma) @ vt),
        },
        {"kept": ["components", "percent"]},
    )


def hidden_state_svd(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS], *, site: Site, layer: Layer
) -> xr.Dataset:
    """The singular value decomposition of one hidden state, without means over rows and columns.

    Returns:
        `u`, (`row`, `component`), `sigma`, (`component`,), and `vt`, (`component`, `column`),
        float64: rows are tokens, columns the model's dimensions.
    """
    return _svd(double_centred(_matrix(section, site))[0])


def hidden_state(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS],
    *,
    site: Site,
    layer: Layer,
    percent: Percent,
) -> xr.Dataset:
    """One hidden state, and what the components that hold so much of its variance make of it.

    Returns:
        `original` and `reduced`, (`token`, `d_model`); `correlation`, Pearson's of the two; the
        number `n_components`; `rank` and `reduced_rank`, as float32 tells them; attributes `layer`
        and `percent`.
    """
    original = _matrix(section, site)
    reduced = low_rank(original, percent)
    variances = component_variances(double_centred(original)[0])
    ranks = [np.linalg.matrix_rank(matrix.astype(np.float32)) for matrix in (original, reduced)]
    return xr.Dataset(
        {
            "original": (("token", "d_model"), original),
            "reduced": (("token", "d_model"), reduced),
            "correlation": np.corrcoef(original.ravel(), reduced.ravel())[0, 1],
            "n_components": components_needed(variances, percent),
            "rank": ranks[0],
            "reduced_rank": ranks[1],
        },
        attrs={"layer": layer, "percent": percent},
    )


def components(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS], *, site: Site, percent: Percent
) -> xr.Dataset:
    """How many components hold so much of a hidden state's variance, in every layer.

    Returns:
        (`tokens`,), `all` of them and the `rest` without the first one: `n_components`;
        `part_of_components`, their part of all that there are, in percent; `first`, the percentage
        of variance in the first one; `norm` of the hidden state. Attribute `percent`.
    """
    found = []
    for first in TOKENS.values():
        matrix = _matrix(section, site)[first:]
        variances = component_variances(double_centred(matrix)[0])
        n = components_needed(variances, percent)
        found.append(
            {
                "n_components": int(n),
                "part_of_components": 100 * n / len(variances),
                "first": 100 * variances[0] / variances.sum(),
                "norm": np.linalg.norm(matrix),
            }
        )
    return xr.Dataset(
        {name: ("tokens", [of[name] for of in found]) for name in found[0]},
        {"tokens": list(TOKENS)},
        {"percent": percent},
    )


def one_layer_components(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS],
    *,
    site: Site,
    layer: Layer,
    percent: Percent,
) -> xr.Dataset:
    """How many components hold so much of one hidden state's variance.

    Returns:
        `n_components`; attributes `layer` and `percent`.
    """
    variances = component_variances(double_centred(_matrix(section, site))[0])
    found = {"n_components": components_needed(variances, percent)}
    return xr.Dataset(found, attrs={"layer": layer, "percent": percent})


def one_layer(
    one_layer_reduced: Annotated[xr.Dataset, ONE_TEXT],
    one_layer_components: xr.Dataset,
    components: xr.Dataset,
) -> xr.Dataset:
    """How far the outputs of all blocks are from those of the clean run, with one of them reduced.

    Returns:
        (`tokens`, `layer`), of all tokens and of those without the first: `difference`, the norm of
        the matrix of differences, and `relative`, its part of the clean matrix's norm;
        `n_components` of the reduced layer; attributes `layer`, that one, and `percent`.

    Raises:
        MicrotomeError: another layer is reduced than components are counted in, or several.
    """
    outcome, counted = one_layer_reduced, one_layer_components.attrs["layer"]
    reduced = outcome["layer"].values.tolist()
    if reduced != [counted]:
        raise MicrotomeError(
            f"one_layer_reduced: layers {reduced}, and one_layer_components is of layer {counted}; "
            "give `layers` of the one and `layer` of the other the same single layer"
        )
    difference = _norms(outcome["resid_post_difference"].values[0])
    norm = components["norm"].transpose("tokens", "layer").values
    dims = ("tokens", "layer")
    return xr.Dataset(
        {
            "difference": (dims, difference),
            "relative": (dims, difference / norm),
            "n_components": one_layer_components["n_components"],
        },
        {"tokens": list(TOKENS), "layer": outcome["read_layer"].values},
        one_layer_components.attrs,
    )


def each_layer(
    each_layer_reduced: Annotated[xr.Dataset, ONE_TEXT, NEXT_TOKEN],
    rest_reduced: xr.Dataset,
    rest_displaced: xr.Dataset,
    components: xr.Dataset,
    *,
    alpha: Alpha,
) -> xr.Dataset:
    """What reducing one block's output does to it, to the logits and to the loss.

    Returns:
        (`run`, `layer`), runs `all`, all tokens reduced, `rest`, all but the first, and
        `displaced`, these moved as far in random directions, NaN in layers where they are not:
        norms of the differences from the clean run, `hidden_state` of the block's own output and
        `logits`; `relative`, the former's part of the clean output's norm; `loss`; `increase` of
        the loss, the mean over the tokens, and its interval `low` to `high` by Student's t.
        `clean_loss`; `n_components` and `part_of_components` in the layers, (`tokens`, `layer`);
        attributes `alpha` and `percent`.
    """
    runs = {"all": each_layer_reduced, "rest": rest_reduced, "displaced": rest_displaced}
    norms = {run: components["norm"].sel(tokens="all" if run == "all" else "rest") for run in runs}
    found = xr.concat(
        [_effects(outcome, norms[run], alpha) for run, outcome in runs.items()],
        xr.Variable("run", list(runs)),
        join="outer",
    )
    clean = -np.nanmean(each_layer_reduced["clean_log_probabilities"].values.astype(np.float64))
    counts = components[["n_components", "part_of_components"]].sel(layer=found["layer"])
    counts = counts.transpose("tokens", "layer")
    attributes = {"alpha": alpha, "percent": components.attrs["percent"]}
    return found.assign(counts).assign(clean_loss=clean).assign_attrs(attributes)


def each_token(each_layer_reduced: Annotated[xr.Dataset, ONE_TEXT]) -> xr.Dataset:
    """How far each token is moved in the layer that is reduced.

    Returns:
        `difference`, the norm, (`layer`, `token`), with the coordinate `text` of the tokens.
    """
    return xr.Dataset(
        {"difference": (("layer", "token"), _in_own_layer(each_layer_reduced))},
        {
            "layer": each_layer_reduced["layer"].values,
            "text": ("token", each_layer_reduced["read_text"].values),
        },
    )


def _matrix(section: xr.Dataset, site: str) -> np.ndarray:
    """The activations of one text, (token, dimension), float64."""
    require_one_text(section)
    require_all_tokens(section, "components of a text")
    return section[site].values.reshape(section.sizes["token"], -1).astype(np.float64)


def _svd(matrix: np.ndarray) -> xr.Dataset:
    u, sigma, vt = np.linalg.svd(matrix, full_matrices=False)
    return xr.Dataset(
        {
            "u": (("row", "component"), u),
            "sigma": ("component", sigma),
            "vt": (("component", "column"), vt),
        }
    )


def _norms(by_token: np.ndarray) -> np.ndarray:
    """Norms of matrices by those of their rows, (…, token): with and without the first token."""
    return np.stack(
        [np.linalg.norm(by_token[..., i:].astype(np.float64), axis=-1) for i in TOKENS.values()]
    )


def _in_own_layer(outcome: xr.Dataset) -> np.ndarray:
    """The differences of the hidden state that each case changes, (layer, token)."""
    own = outcome["resid_post_difference"].sel(read_layer=outcome["layer"])
    return own.transpose("layer", ...).values


def _effects(outcome: xr.Dataset, norm: xr.DataArray, alpha: float) -> xr.Dataset:
    """What the cases of an intervention do, (`layer`,), as `each_layer` names it."""
    require_one_text(outcome)
    hidden_state = _norms(_in_own_layer(outcome))[0]
    changed, clean = (
        outcome[name].values[..., :-1].astype(np.float64)
        for name in ("log_probabilities", "clean_log_probabilities")
    )
    increase = clean - changed
    interval = stats.ttest_1samp(increase, 0, axis=1).confidence_interval(1 - alpha)
    layers = outcome["layer"]
    found = {
        "hidden_state": hidden_state,
        "logits": _norms(outcome["logits_difference"].values)[0],
        "relative": hidden_state / norm.sel(layer=layers).values,
        "loss": -changed.mean(axis=1),
        "increase": increase.mean(axis=1),
        "low": interval.low,
        "high": interval.high,
    }
    variables = {name: ("layer", values) for name, values in found.items()}
    return xr.Dataset(variables, {"layer": layers.values})
