"""The look of every figure, and how a figure becomes files that depend on nothing else."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import manimgx_fonts
import matplotlib as mpl
import noto_cjk_sans_otc
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font

from microtome.store.files import replacing

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

_COMMON: "dict[RcKeyType, Any]" = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titleweight": "bold",
    "axes.labelweight": "bold",
    "svg.hashsalt": "microtome",  # ids in the SVG are random without it
    "svg.fonttype": "path",
    "text.hinting": "no_hinting",  # hinted text is wider or narrower from resolution to resolution
}
_DARK: "dict[RcKeyType, Any]" = {
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

#: The font of all text. It comes with matplotlib.
FONT = "DejaVu Sans"
#: Packages that contain Google's Noto fonts: text in any script is drawn alike on every machine,
#: whatever fonts it has.
_MORE_FONTS = (manimgx_fonts, noto_cjk_sans_otc)

#: The characters that XML cannot hold. Matplotlib repeats every text in a comment, as it is.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: Fill colours of the series of a figure, in order: red, green, blue, then mixtures of these.
FILLS = (
    (0.9, 0.7, 0.7),
    (0.7, 0.9, 0.7),
    (0.7, 0.7, 0.9),
    (0.9, 0.7, 0.9),
    (0.7, 0.9, 0.9),
    (0.9, 0.9, 0.7),
)
#: Line colours that match the fills.
LINES = "rgbmcy"
#: Markers of the lines, one more than colours, so that 42 pairs of both are distinct.
MARKERS = "so^DvPX"
#: Colour map from the first layer to the last.
DEPTH = "plasma"


@contextmanager
def style(theme: str, texts: Iterable[str] = ()) -> Iterator[None]:
    """Draw in the light or the dark theme.

    Args:
        theme: light or dark.
        texts: texts in the figure that may be in any script, such as tokens.
    """
    fonts: dict[RcKeyType, Any] = {"font.family": fonts_for("".join(texts))}
    with mpl.rc_context(_COMMON | fonts | (_DARK if theme == "dark" else {})):
        yield


def token_texts(statistics: Iterable[xr.Dataset]) -> list[str]:
    """The tokens that statistics are about or predict, which may be in any script."""
    return [
        str(text)
        for data in statistics
        for name in ("text", "top_text")
        if name in data.coords
        for text in data[name].values.flat
    ]


def fonts_for(text: str) -> list[str]:
    """The fonts that a text needs, in the order in which a glyph is looked up in them.

    There is no font that it does not need, as each makes drawing slower.
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
    """Register more fonts with matplotlib and return their names."""
    known = len(fontManager.ttflist)
    for package in _MORE_FONTS:
        for file in sorted(files(package).iterdir(), key=lambda file: file.name):
            if file.name.endswith((".ttf", ".ttc")):
                fontManager.addfont(str(file))
    return [font.name for font in fontManager.ttflist[known:] if font.style == "normal"]


def ink() -> str:
    """The colour of text and outlines in the current theme."""
    return mpl.rcParams["text.color"]


def save(figure: Figure, svg: str | Path, png: str | Path, *, dpi: int) -> None:
    """Write a figure as SVG and PNG; the same figure always gives the same bytes.

    Args:
        figure: the figure; its layout is final.
        svg: the SVG file.
        png: the PNG file.
        dpi: dots per inch of the PNG.
    """
    with replacing(png) as unfinished:
        # Level 6, the default, takes half as long again to save one more percent.
        level = {"compress_level": 3}
        figure.savefig(unfinished, format="png", dpi=dpi, pil_kwargs=level)
    figure.set_layout_engine("none")  # keep the layout made for the PNG: making it is slow
    # Rasterised parts (large scatters) of the SVG follow the resolution of the PNG.
    drawn = StringIO()
    figure.savefig(drawn, format="svg", dpi=dpi, metadata={"Date": None})
    with replacing(svg) as unfinished:
        unfinished.write_text(_NO_XML.sub("\ufffd", drawn.getvalue()), encoding="utf-8")
