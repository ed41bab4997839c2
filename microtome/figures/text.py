"""Text as a heatmap: every token in a box that is coloured by a value.

Boxes are set like the words of a paragraph, by the widths of their glyphs. All lengths are points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path

from microtome.figures.style import fonts_for, glyphs

#: The font of a text, as far as it has the glyphs.
FONT = "DejaVu Sans Mono"
#: Signs for characters without a visible glyph.
SIGNS = {"\n": "↵", "\t": "→"}
NOT_PRINTABLE, MISSING = "·", "□"

#: Lengths in units of the font size: between the side of a box and its text, between boxes,
#: between lines, the height of a box, and from its top to the baseline of its text.
PAD, GAP, LINE, BOX, BASELINE = 0.22, 0.12, 1.65, 1.4, 0.95


@dataclass(frozen=True)
class Piece:
    """A token in its place, or a part of a token that is longer than a line.

    Attributes:
        token: index of the token.
        text: the text that is drawn.
        line: index of the line.
        left: left side of the box.
        width: width of the box.
    """

    token: int
    text: str
    line: int
    left: float
    width: float


def typeset(texts: Sequence[str], width: float, size: float) -> list[Piece]:
    """Set tokens into lines, one after another.

    A token that contains a line break ends its line. A token longer than a line is cut.

    Args:
        texts: texts of the tokens, with spaces and line breaks.
        width: width of the lines.
        size: font size.
    """
    pieces, line, left = [], 0, 0.0
    for token, text in enumerate(texts):
        for part in _parts(shown(text), width - 2 * PAD * size, size):
            taken = _text_width(part, size) + 2 * PAD * size
            if left > 0 and left + taken > width:
                line, left = line + 1, 0.0
            pieces.append(Piece(token, part, line, left, taken))
            left += taken + GAP * size
        if "\n" in text:
            line, left = line + 1, 0.0
    return pieces


def text_height(texts: Sequence[str], width: float, size: float = 12) -> float:
    """The height in points of a text set into lines of some width."""
    return _height(typeset(texts, width, size), size)


def text_heatmap(
    axes: Axes, texts: Sequence[str], values: np.ndarray, cmap: str, size: float = 12
) -> None:
    """Fill axes with a text, each token on the colour of its value; call it within `style`.

    Args:
        axes: where. Their place in the figure must be final, as lines are broken at their width.
            Give them the height of `text_height`; in lower axes the font gets smaller.
        texts: texts of the tokens, with spaces and line breaks.
        values: values from 0 to 1, (token,).
        cmap: name of a colour map.
        size: font size in points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None  # where these axes are
    width, height = (72 / figure.dpi * side for side in axes.bbox.size)
    pieces = typeset(texts, width, size)
    while _height(pieces, size) > height * (1 + 1e-9):
        size *= 0.97
        pieces = typeset(texts, width, size)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    colours = mpl.colormaps[cmap](np.asarray(values, dtype=np.float64))[:, :3]
    for piece in pieces:
        top = piece.line * LINE * size
        axes.add_patch(
            FancyBboxPatch(
                (piece.left, top),
                piece.width,
                BOX * size,
                boxstyle=f"round,pad=0,rounding_size={PAD * size}",
                facecolor=colours[piece.token],
                edgecolor="none",
            )
        )
        axes.text(
            piece.left + PAD * size,
            top + BASELINE * size,
            piece.text,
            color=_readable_on(colours[piece.token]),
            fontfamily=_fonts(piece.text),
            fontsize=size,
            parse_math=False,
        )


def visible(text: str) -> str:
    """A text with a sign for each line break, tab and character that cannot be printed."""
    return "".join(
        SIGNS.get(character, character if character.isprintable() else NOT_PRINTABLE)
        for character in text
    )


def shown(text: str) -> str:
    """A token's text with a sign for every character that has no visible glyph."""
    return "".join(map(_glyph, text))


@cache
def _glyph(character: str) -> str:
    sign = visible(character)
    return sign if any(sign in glyphs(font) for font in _fonts(sign)) else MISSING


@cache
def _fonts(text: str) -> list[str]:
    return [FONT, *fonts_for(text)]


def _parts(text: str, room: float, size: float) -> Iterator[str]:
    """Cut a text into parts that fit a width, of at least one character each."""
    while len(text) > 1 and _text_width(text, size) > room:
        end = 1
        while _text_width(text[: end + 1], size) <= room:
            end += 1
        yield text[:end]
        text = text[end:]
    yield text


def _text_width(text: str, size: float) -> float:
    return size * _advance(text)


@cache
def _advance(text: str) -> float:
    """The width of a text per font size, from the metrics of its fonts, at any resolution."""
    font = FontProperties(family=_fonts(text), size=1)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def _height(pieces: Sequence[Piece], size: float) -> float:
    return (1 + max((piece.line for piece in pieces), default=-1)) * LINE * size


def _readable_on(colour: np.ndarray) -> str:
    """Black or white, whichever has the higher contrast after WCAG 2."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return "black" if luminance > 0.179 else "white"
