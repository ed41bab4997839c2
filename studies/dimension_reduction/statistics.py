"""Statistics of the study on dimension reduction; see README.md."""

from typing import Annotated

import numpy as np
import xarray as xr
from scipy import stats

from microtome.errors import MicrotomeError
from microtome.options import ALL_TOKENS, NEXT_TOKEN, ONE_TEXT, Alpha, Count, Layer, Seed, Share, Site
from microtome.statistics.dimensionality import double_centered, n_components, reduced
from microtome.statistics.positions import from_position, require_one_text

#: All tokens of the text, and all but the first.
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
    paint((tower < 0.45 * (y - 0.05)) & (y <= 0.2), 120 * y + 100 * tower)
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
        As `hidden_state_svd`, with the pixels of a `row` in the place of a token's dimensions.
    """
    return _svd(picture["grey"])


def picture_reductions(picture_svd: xr.Dataset, *, components: Count, share: Share) -> xr.Dataset:
    """The picture of so many components, and of as few as hold a share of its sum of squares.

    Returns:
        (`kept`,), kept `components` and `share`: `grey`, (…, `row`, `column`); `n_components`,
        `share`, what they hold, and `rank`, of the result. `full_rank`, of the picture; attribute
        `n_notebook`, one component fewer.

    Raises:
        MicrotomeError: more components than there are.
    """
    u, sigma, vt = (picture_svd[name].values for name in ("u", "sigma", "vt"))
    if components > len(sigma):
        raise MicrotomeError(
            f"components {components}: the picture has {len(sigma)}; correct the `components` option"
        )
    counts = [components, n_components(sigma, share)]
    grey = np.stack([(u[:, :n] * sigma[:n]) @ vt[:n] for n in counts])
    held = np.cumsum(sigma**2) / np.sum(sigma**2)
    return xr.Dataset(
        {
            "grey": (("kept", "row", "column"), grey),
            "n_components": ("kept", counts),
            "share": ("kept", [held[n - 1] for n in counts]),
            "rank": ("kept", np.linalg.matrix_rank(grey)),
            "full_rank": np.linalg.matrix_rank((u * sigma) @ vt),
            "of": len(sigma),
        },
        {"kept": ["components", "share"]},
    )


def hidden_state_svd(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS], *, site: Site, layer: Layer
) -> xr.Dataset:
    """The singular value decomposition of one double-centred hidden state.

    Returns:
        `u`, (`row`, `component`), `sigma`, (`component`,), and `vt`, (`component`, `column`): of a
        matrix whose rows are tokens.
    """
    values = _of_one_text(section)[site]
    return _svd(values.copy(data=double_centered(values.values)[0]))


def hidden_state(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS], *, site: Site, layer: Layer, share: Share
) -> xr.Dataset:
    """One hidden state, and what is left of it when as few components as hold a share are kept.

    Returns:
        `original` and `reduced`, (`token`, `d_model`); `correlation`, Pearson's of the two;
        `n_components`; `rank` and `reduced_rank`; attributes `layer`, `share`.
    """
    values = _of_one_text(section)[site].astype(np.float64)
    original = values.values
    sigma = np.linalg.svd(double_centered(original)[0], compute_uv=False)
    kept = reduced(original, share)
    return xr.Dataset(
        {
            "original": (values.dims, original),
            "reduced": (values.dims, kept),
            "correlation": np.corrcoef(original.ravel(), kept.ravel())[0, 1],
            "n_components": n_components(sigma, share),
            "rank": np.linalg.matrix_rank(original),
            "reduced_rank": np.linalg.matrix_rank(kept),
        },
        {"text": ("token", section["text"].values)},
        {"layer": layer, "share": share},
    )


def components(
    section: Annotated[xr.Dataset, ONE_TEXT, ALL_TOKENS], *, site: Site, share: Share
) -> xr.Dataset:
    """How many components of a hidden state hold a share of the variance, in every layer.

    Returns:
        (`tokens`,), of all tokens and of all but the first: `n_components`; `share_of_components`,
        their part of all that there are; `first`, the share of the variance in the first one;
        `norm` of the hidden state. Attribute `share`.
    """
    section = _of_one_text(section)
    found: dict[str, list[float]] = {
        name: [] for name in ("n_components", "share_of_components", "first", "norm")
    }
    for first in TOKENS.values():
        matrix = from_position(section, first)[site].values.astype(np.float64)
        sigma = np.linalg.svd(double_centered(matrix)[0], compute_uv=False)
        n = n_components(sigma, share)
        values = (n, n / len(sigma), sigma[0] ** 2 / np.sum(sigma**2), np.linalg.norm(matrix))
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    return xr.Dataset(
        {name: ("tokens", values) for name, values in found.items()},
        {"tokens": list(TOKENS)},
        {"share": share},
    ).astype({"n_components": int})


def one_layer(
    one_layer_reduced: Annotated[xr.Dataset, ONE_TEXT],
    one_layer_components: xr.Dataset,
    components: xr.Dataset,
) -> xr.Dataset:
    """How far all hidden states are from those of the clean run, with one layer reduced.

    Returns:
        (`tokens`, `layer`), of all tokens and of all but the first: `difference`, the norm of the
        matrix of differences, and `relative`, its part of the clean matrix's norm. Attributes
        `reduced_layer`, `n_components` and `share`.

    Raises:
        MicrotomeError: several layers, reduced one at a time.
    """
    if one_layer_reduced.sizes["layer"] != 1:
        raise MicrotomeError(
            f"one_layer_reduced: {one_layer_reduced.sizes['layer']} layers; correct its `layers` "
            "to one, as in layers: [4]"
        )
    by_token = one_layer_reduced["resid_post_difference"].isel(layer=0, drop=True)
    difference = _norms(by_token.rename(read_layer="layer"))
    counted = one_layer_components.isel(layer=0)
    found = {"difference": difference, "relative": difference / components["norm"]}
    attributes = {
        "reduced_layer": one_layer_reduced["layer"].item(),
        "n_components": counted["n_components"].sel(tokens="all").item(),
        "share": counted.attrs["share"],
    }
    return xr.Dataset(found).transpose("tokens", "layer").assign_attrs(attributes)
