"""Tables of the study on statistics of a corpus; see README.md."""

import pandas as pd
import xarray as xr

from microtome.options import Count


def highest_tokens(highest_tokens: xr.Dataset, *, n_neurons: Count) -> pd.DataFrame:
    """What the neurons respond to that respond most, of all layers, one row per activation.

    Returns:
        `site`, `layer`, `neuron` (of several heads, numbered one after another), `rank`,
        `activation`, and the token with what stands around it: `before`, `text`, `after`.
    """
    tables = []
    for site in (name for name in highest_tokens if f"{name}_context" in highest_tokens):
        own = highest_tokens[[site, f"{site}_context"]].load()
        rest = [dim for dim in own[site].dims if dim not in ("layer", "rank")]
        flat = own.stack(neuron=rest, create_index=False)
        columns = flat.to_dataframe(dim_order=("layer", "neuron", "rank")).reset_index()
        columns = columns.rename(columns={site: "activation", f"{site}_context": "context"})
        tables.append(columns.assign(site=site))
    found = pd.concat(tables)
    first = found[found["rank"] == 1].nlargest(n_neurons, "activation", keep="first")
    chosen = first[["site", "layer", "neuron"]].merge(found, how="left")
    chosen = chosen[chosen["context"] >= 0]
    contexts = highest_tokens[["before", "text", "after"]].to_dataframe()
    return chosen.join(contexts, on="context")[
        ["site", "layer", "neuron", "rank", "activation", "before", "text", "after"]
    ]
