"""Dimensionality: many dimensions reduced to two, and classes that a third one separates.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 42, part 5 and the second demo.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.statistics.distributions import is_constant


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
