"""Dimensionality: how many dimensions vectors take up, many reduced to two, one that separates.

Source: Mike X Cohen, "50 ML projects to understand LLMs", projects 28 and 29; project 42, part 5
and the second demo.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.statistics.distributions import is_constant
from microtome.statistics.positions import from_position


def component_variances(vectors: np.ndarray) -> np.ndarray:
    """How much of the vectors' variance each of their principal components holds.

    Args:
        vectors: (…, vector, dimension), of any dtype; computed in float64.

    Returns:
        Squared singular values of the vectors minus their mean, the largest first, (…, component):
        as many as there are vectors or dimensions, whichever are fewer. Divided by the number of
        vectors they are variances.
    """
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=-2, keepdims=True)
    turned = np.swapaxes(centred, -1, -2)
    few = vectors.shape[-2] <= vectors.shape[-1]
    squares = np.linalg.eigvalsh(centred @ turned if few else turned @ centred)
    return np.maximum(squares, 0)[..., ::-1]


def components_needed(variances: np.ndarray, percent: float) -> np.ndarray:
    """How many of the largest components together hold more than so much of the variance.

    Args:
        variances: of the components, the largest first, (…, component).
        percent: of the sum of all variances, above 0 and below 100.

    Returns:
        (…), int64; 0 where there is no variance.
    """
    total = variances.sum(axis=-1)
    held = variances.cumsum(axis=-1)
    enough = (held <= percent / 100 * total[..., None]).sum(axis=-1) + 1
    return np.where(total > 0, enough, 0)


def double_centred(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the means of rows and columns out of a matrix.

    Args:
        matrix: (row, column), of any dtype; computed in float64.

    Returns:
        The matrix whose rows and columns have mean 0; and what was taken out, which is a row's mean
        plus a column's mean minus the mean of all. Both (row, column).
    """
    values = matrix.astype(np.float64)
    means = values.mean(axis=0) + values.mean(axis=1, keepdims=True) - values.mean()
    return values - means, means


def low_rank(matrix: np.ndarray, percent: float) -> np.ndarray:
    """A matrix with the fewest components that hold more than so much of the variance.

    Means of rows and columns are taken out before and added after. The intervention `project` with
    `centered: [tokens, neurons]` makes the same of hidden states.

    Args:
        matrix: (row, column).
        percent: above 0 and below 100.

    Returns:
        (row, column), float64.
    """
    centred, means = double_centred(matrix)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    n = components_needed(singular**2, percent)
    return (left[:, :n] * singular[:n]) @ right[:n] + means


def participation_ratio(variances: np.ndarray) -> np.ndarray:
    """As how many components of equal variance the components count.

    The squared sum of the variances by the sum of their squares: 1 if one component holds all, n if
    n components hold the same.

    Args:
        variances: of the components, (…, component).

    Returns:
        (…), float64; NaN where there is no variance.
    """
    with np.errstate(invalid="ignore"):
        shares = variances / variances.sum(axis=-1, keepdims=True)
        return 1 / (shares**2).sum(axis=-1)


def numerical_rank(variances: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How many components stand out from what rounding to float32 makes of the largest one.

    Args:
        variances: squared singular values, (…, component).
        shape: of the matrix, vectors by dimensions.

    Returns:
        (…), int64: the singular values above the largest one times the longer side of the matrix
        times float32's machine epsilon, which is the rule of `torch.linalg.matrix_rank` and
        `numpy.linalg.matrix_rank`.
    """
    singular = np.sqrt(variances)
    least = singular.max(axis=-1, keepdims=True) * max(shape) * np.finfo(np.float32).eps
    return (singular > least).sum(axis=-1)


def dimensionality(states: xr.DataArray, percent: float, first_token: int) -> xr.Dataset:
    """How many dimensions the tokens of each text take up, with and without its first tokens.

    Args:
        states: hidden states of texts (see `microtome.statistics.layers`).
        percent: of the variance that components are counted for.
        first_token: position of the first token that is left in.

    Returns:
        (`tokens`, `sequence`, `hidden`), tokens `all` and `rest`: `rank` as float32 tells it,
        `n_components` that hold more than `percent`, `participation_ratio`. (`tokens`,
        `sequence`): `n_tokens`, and `n_unique` of them. Attributes `percent` and `first_token`.

    Raises:
        MicrotomeError: no token is left.
    """
    counted = xr.concat(
        [
            _dimensionality(states, percent),
            _dimensionality(from_position(states, first_token), percent),
        ],
        xr.Variable("tokens", ["all", "rest"]),
    )
    return counted.assign_attrs(percent=percent, first_token=first_token)


def _dimensionality(states: xr.DataArray, percent: float) -> xr.Dataset:
    """What `dimensionality` returns of all tokens that there are."""
    numbers, texts = [], []
    for number, text in states.groupby("sequence"):
        numbers.append(number)
        shape = (text.sizes["token"], text.sizes["d_model"])
        # One state at a time: in float64, all of them would take twice the room they have.
        variances = np.stack([component_variances(state) for state in text.values])
        found = {
            "rank": numerical_rank(variances, shape),
            "n_components": components_needed(variances, percent),
            "participation_ratio": participation_ratio(variances),
        }
        counts = {"n_tokens": shape[0], "n_unique": len(np.unique(text["token_id"]))}
        texts.append(
            xr.Dataset({name: ("hidden", values) for name, values in found.items()} | counts)
        )
    return xr.concat(texts, xr.Variable("sequence", numbers)).assign_coords(
        hidden=states["hidden"].values
    )


def tsne(section: xr.Dataset, sites: Sequence[str], perplexity: float, seed: int) -> xr.Dataset:
    """Embed the tokens' activations at each site by t-SNE.

    Args:
        section: variables (`token`, …) with the coordinate `text`, the sites among them.
        sites: the sites.
        perplexity: the effective number of a token's neighbours.
        seed: seed of the random draws.

    Returns:
        `embedding`, (`site`, `token`, `component`), float64, in arbitrary units; coordinate
        `text`.

    Raises:
        MicrotomeError: as many neighbours as there are tokens, or more; tokens that are all equal.
    """
    from sklearn.manifold import TSNE

    n_tokens = section.sizes["token"]
    if not 0 < perplexity < n_tokens:
        raise MicrotomeError(
            f"perplexity: {perplexity}; t-SNE of {n_tokens} tokens wants more than 0 and less "
            f"than {n_tokens}, correct the `perplexity` option or use a longer text"
        )
    embeddings = []
    for site in sites:
        vectors = section[site].values.reshape(n_tokens, -1).astype(np.float64)
        if n_tokens < 2 or is_constant(vectors, axis=0).all():
            raise MicrotomeError(
                f"site {site}: its {n_tokens} tokens are all equal, which t-SNE cannot set apart; "
                "use another text"
            )
        # The exact method always sums in the same order, whatever the number of threads.
        # scikit-learn's learning rate, N / 48 but at least 50, throws some of few tokens far out.
        reduced = TSNE(
            n_components=2,
            perplexity=perplexity,
            init="pca",
            learning_rate=max(n_tokens / 48, 10),
            method="exact",
            random_state=seed,
        )
        embeddings.append(reduced.fit_transform(vectors).astype(np.float64))
    return xr.Dataset(
        {"embedding": (("site", "token", "component"), np.stack(embeddings))},
        {"site": list(sites), "text": ("token", section["text"].values.astype(object))},
    )


def noisy_line_demonstration(n: int, length: float, noise: float, seed: int) -> xr.Dataset:
    """Points on a line, and beside it: of one dimension, and of two that are one in effect.

    Args:
        n: points.
        length: of the line, along x, from 0.
        noise: standard deviation of the normal noise added to y.
        seed: seed of the random draws.

    Returns:
        `x`, (`point`,), and `y`, (`kind`, `point`), kinds `line` and `noisy`; of each kind the
        `participation_ratio`, (`kind`,); attribute `length`.
    """
    random = np.random.default_rng(seed)
    x = random.uniform(0, length, n)
    y = np.stack([x, x + random.normal(scale=noise, size=n)])
    variances = component_variances(np.stack([np.broadcast_to(x, y.shape), y], axis=-1))
    found = {
        "x": ("point", x),
        "y": (("kind", "point"), y),
        "participation_ratio": ("kind", participation_ratio(variances)),
    }
    return xr.Dataset(found, {"kind": ["line", "noisy"]}, {"length": length})


def linear_separation_demonstration(n: int, noise: float, seed: int) -> xr.Dataset:
    """Two noisy rings around the origin, which no line separates, and the radius, which does.

    Args:
        n: points per ring, at equal angles.
        noise: standard deviation of the normal noise added to x and y.
        seed: seed of the random draw.

    Returns:
        `x`, `y` and `radius`, (`ring`, `point`); the rings `inner` and `outer` have radius 1
        and 2 before the noise.

    Raises:
        MicrotomeError: noise that leaves no number.
    """
    angle = 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angle), np.sin(angle)])
    rings = np.array([1.0, 2.0])[:, None, None] * circle
    rings += np.random.default_rng(seed).normal(scale=noise, size=rings.shape)
    x, y = rings[:, 0], rings[:, 1]
    with np.errstate(over="ignore", invalid="ignore"):
        radius = np.hypot(x, y)
    if not np.isfinite(radius).all():
        raise MicrotomeError(f"noise {noise}: the radius is no number; give a smaller `noise`")
    columns = {"x": x, "y": y, "radius": radius}
    return xr.Dataset(
        {name: (("ring", "point"), values) for name, values in columns.items()},
        {"ring": ["inner", "outer"]},
    )
