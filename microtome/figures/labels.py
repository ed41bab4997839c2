"""Words for what a statistic's names and attributes say."""

from collections.abc import Sequence

import xarray as xr


def stage_labels(histograms: xr.Dataset) -> list[str]:
    """Name the stages of an MLP that the sites of a dataset are; other sites keep their names.

    Args:
        histograms: coordinate `site`; attributes of
            `microtome.model.stored.StoredMLP.attributes`.
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
    """Say what the site of a dataset is in its model, as far as that differs between models.

    `pre = output of gate_proj, before SiLU`, say. A site that is the same in all models is its
    own name.

    Args:
        statistic: attributes `site` and those of
            `microtome.model.stored.StoredMLP.attributes` for that site.
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
    module = facts["module"].rpartition(".")[2]
    return f"{site} = {facts['side']} of {module}, {meaning[site]}"
