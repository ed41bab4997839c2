"""The look of every figure, and how a figure becomes files that depend on nothing else."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from io import StringIO
from pathlib import Path

import manimgx_fonts
import matplotlib as mpl
import noto_cjk_sans_otc
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font

from microtome.store.files import replacing

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

#: The font of all that is written. It comes with matplotlib.
FONT = "DejaVu Sans"
#: Packages that are nothing but fonts, Google's Noto: with them, a text in any script is drawn on
#: every machine, whatever fonts that has.
_MORE_FONTS = (manimgx_fonts, noto_cjk_sans_otc)

#: The characters that XML cannot hold. Matplotlib repeats every text in a comment, as it is.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: Fill colours of the things a figure compares, in order: red, green, blue, then their mixtures.
FILLS = (
    (0.9, 0.7, 0.7),
    (0.7, 0.9, 0.7),
    (0.7, 0.7, 0.9),
    (0.9, 0.7, 0.9),
    (0.7, 0.9, 0.9),
    (0.9, 0.9, 0.7),
)
#: Line colours that go with them.
LINES = "rgbmcy"
#: Markers of the lines. There is one more than there are colours: no pair comes twice before 42.
MARKERS = "so^DvPX"
#: Colour map of depth: from the first layer to the last.
DEPTH = "plasma"


@contextmanager
def style(theme: str, texts: Iterable[str] = ()) -> Iterator[None]:
    """Draw in the light or the dark theme.

    Args:
        theme: light or dark.
        texts: what the figure writes that may be in any script: tokens.
    """
    fonts = {"font.family": fonts_for("".join(texts))}
    with mpl.rc_context(_COMMON | fonts | (_DARK if theme == "dark" else {})):
        yield


def token_texts(statistics: Iterable[xr.Dataset]) -> list[str]:
    """The tokens that statistics are about, which may be in any script."""
    return [
        str(text)
        for data in statistics
        if "text" in data.coords
        for text in data["text"].values.flat
    ]


def fonts_for(text: str) -> list[str]:
    """The fonts that a text needs, in the order that they are asked for a glyph.

    No more than it needs: each makes drawing slower, whether or not it has a glyph.
    """
    needed = [FONT]
    missing = set(text) - glyphs(FONT)
    for font in _more_fonts() if missing else ():
        if missing & glyphs(font):
            needed.append(font)
            missing -= glyphs(font)
    return needed


@cache
def glyphs(font: str) -> frozenset[str]:
    """The characters that a font has a glyph for."""
    return frozenset(map(chr, get_font(findfont(font)).get_charmap()))


@cache
def _more_fonts() -> list[str]:
    """Make more fonts known to matplotlib; their names."""
    known = len(fontManager.ttflist)
    for package in _MORE_FONTS:
        for file in sorted(files(package).iterdir(), key=lambda file: file.name):
            if file.name.endswith((".ttf", ".ttc")):
                fontManager.addfont(file)
    return [font.name for font in fontManager.ttflist[known:] if font.style == "normal"]


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
    with replacing(png) as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)
    figure.set_layout_engine("none")  # as laid out for the PNG: to do it again takes as long
    # Rasterised parts (large scatters) of the SVG follow the resolution of the PNG.
    drawn = StringIO()
    figure.savefig(drawn, format="svg", dpi=dpi, metadata={"Date": None})
    with replacing(svg) as unfinished:
        unfinished.write_text(_NO_XML.sub("\ufffd", drawn.getvalue()), encoding="utf-8")
