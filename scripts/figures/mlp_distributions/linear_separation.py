"""Two rings that no line parts in two dimensions, and a plane does in three."""

import xarray as xr
from matplotlib.figure import Figure

from microtome.figures.style import FILLS, ink, save, style
from microtome.store.datasets import read_dataset
from microtome.workflow.jobs import job

#: Fill colour and marker of each ring.
LOOKS = {"inner": (FILLS[1], "o"), "outer": (FILLS[0], "s")}


def draw(rings: xr.Dataset) -> Figure:
    """Draw both rings, flat and lifted by their radius; source: project 42, the second demo."""
    figure = Figure(figsize=(12, 5))
    flat = figure.add_axes((0.04, 0.1, 0.42, 0.8))
    # A cube leaves much of its axes empty: they reach beyond the figure's edges, not its data.
    lifted = figure.add_axes((0.5, 0.02, 0.5, 0.88), projection="3d")
    lifted.set_box_aspect((1, 1, 0.8), zoom=1.2)
    for ring, (fill, marker) in LOOKS.items():
        x, y, radius = (rings[name].sel(ring=ring).values for name in ("x", "y", "radius"))
        look = {
            "linestyle": "none",
            "marker": marker,
            "markersize": 9,
            "markerfacecolor": fill,
            "markeredgecolor": ink(),
            "label": ring.capitalize(),
        }
        flat.plot(x, y, **look)
        lifted.plot(x, y, radius, **look)
    flat.axis("square")
    flat.set(xlabel="x", ylabel="y", xticklabels=[], yticklabels=[])
    flat.set(title="A) Non-linearly separable in 2D")
    lifted.set(xlabel="x", ylabel="y", zlabel="Radius", xticklabels=[], yticklabels=[])
    lifted.set(title="B) Linearly separable in 3D")
    for axis in (lifted.xaxis, lifted.yaxis):
        axis.labelpad = -8
    lifted.view_init(20, 20)
    return figure


if __name__ == "__main__":
    with job(snakemake), style(snakemake.params.style["theme"]):
        figure = draw(read_dataset(snakemake.input.linear_separation), **snakemake.params.options)
        save(figure, *snakemake.output, dpi=snakemake.params.style["dpi"])
