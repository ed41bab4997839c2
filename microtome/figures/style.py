"""The look of every figure, and how a figure becomes files that depend on nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from microtome.products import replacing

_COMMON = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titleweight": "bold",
    "axes.labelweight": "bold",
    "svg.hashsalt": "microtome",  # ids in the SVG are random without it
    "svg.fonttype": "path",
    "text.hinting": "no_hinting",  # hinted text is wider or narrower from resolution to resolution
}
_DARK = {
    "figure.facecolor": "#282a2c",
    "figure.edgecolor": "#282a2c",
    "savefig.facecolor": "#282a2c",
    "axes.facecolor": "#282a2c",
    "axes.edgecolor": "#DDE2F4",
    "axes.labelcolor": "#DDE2F4",
    "xtick.color": "#DDE2F4",
    "ytick.color": "#DDE2F4",
    "text.color": "#DDE2F4",
    "legend.facecolor": "#282a2c",
    "lines.color": "#DDE2F4",
}

#: Fill colours of the three things a figure compares, in order: red, green, blue.
FILLS = ((0.9, 0.7, 0.7), (0.7, 0.9, 0.7), (0.7, 0.7, 0.9))
#: Line colours and markers that go with them.
LINES = (("r", "s"), ("g", "o"), ("b", "^"))
#: Colour map of depth: from the first layer to the last.
DEPTH = "plasma"


@contextmanager
def style(theme: str) -> Iterator[None]:
    """Draw in the light or the dark theme."""
    with mpl.rc_context(_COMMON | (_DARK if theme == "dark" else {})):
        yield


def ink() -> str:
    """The colour of text and outlines in the theme at hand."""
    return mpl.rcParams["text.color"]


def save(figure: Figure, svg: str | Path, png: str | Path, *, dpi: int) -> None:
    """Write a figure as SVG and PNG, byte for byte the same whenever it looks the same.

    Args:
        figure: the figure; its layout is final.
        svg: the SVG file.
        png: the PNG file.
        dpi: dots per inch of the PNG.
    """
    # Rasterised parts (large scatters) of the SVG follow the resolution of the PNG.
    with replacing(svg) as unfinished:
        figure.savefig(unfinished, format="svg", dpi=dpi, metadata={"Date": None})
    with replacing(png) as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)
