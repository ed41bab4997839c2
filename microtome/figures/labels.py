"""Labels worded from the names and attributes in a statistic."""

from collections.abc import Sequence

import xarray as xr


def stage_labels(histograms: xr.Dataset) -> list[str]:
    """Name the stage of an MLP that each site of a dataset is; other sites keep their names.

    Args:
        histograms: coordinate `site`; attributes of
            `microtome.models.stored.StoredMLP.attributes`.
    """
    function = histograms.attrs["activation_function"]
    between = {"pre": "Expansion", "post": function}
    if histograms.attrs["gated"]:
        between = {
            "pre": f"Gate (before {function})",
            "pre_linear": "Up",
            "post": f"{function}(gate) × up",
        }
    known = {"ln2_out": "Input", **between, "mlp_out": "Projection"}
    sites: Sequence[str] = histograms["site"].values.tolist()
    return [known.get(site, site) for site in sites]


def site_definition(statistic: xr.Dataset) -> str:
    """Define the site of a dataset where its meaning differs between models.

    An example is `pre = output of gate_proj, before SiLU`. Other sites keep their names.

    Args:
        statistic: attributes `site` and those of
            `microtome.models.stored.StoredMLP.attributes` for that site.
    """
    facts = statistic.attrs
    site, function = facts["site"], facts["activation_function"]
    if "module" not in facts:
        return site
    meaning = {
        "pre": f"before {function}",
        "pre_linear": f"which {function}(gate) is multiplied with",
        "post": f"{function}(gate) × up" if facts["gated"] else f"after {function}",
    }
    module = facts["module"].removeprefix("mlp.")
    return f"{site} = {facts['side']} of {module}, {meaning[site]}"
