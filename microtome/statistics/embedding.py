"""Tokens in two dimensions, so that similar ones lie close.

Source: Mike X Cohen, "50 ML projects to understand LLMs", project 42, part 5.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from microtome.errors import MicrotomeError


def tsne(section: xr.Dataset, sites: Sequence[str], perplexity: float, seed: int) -> xr.Dataset:
    """Embed the tokens' activations at each site by t-SNE.

    Args:
        section: variables (`token`, …) with the coordinate `text`, the sites among them.
        sites: the sites.
        perplexity: about how many neighbours a token has.
        seed: of the random draws.

    Returns:
        `embedding`, (`site`, `token`, `component`), float64, without a unit; coordinate `text`.

    Raises:
        MicrotomeError: as many neighbours as there are tokens, or more.
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
        # The exact method sums in one order, whatever the number of threads. scikit-learn's own
        # rule for the learning rate is N / 48, at least 50; of few tokens, 50 throws some far out.
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
