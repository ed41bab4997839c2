"""Text as a heatmap: every token in a box whose colour is its value.

Boxes are set like words in a paragraph, by the widths of their glyphs. All lengths are points.
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

#: The font of a text, where it has the glyphs.
FONT = "DejaVu Sans Mono"
#: What stands for a character that has no glyph of its own.
SIGNS = {"\n": "↵", "\t": "→"}
NOT_PRINTABLE, MISSING = "·", "□"

#: Lengths in units of the font size: from a box's side to its text, from box to box, from line to
#: line, from a box's top to its bottom and to the baseline of its text.
PAD, GAP, LINE, BOX, BASELINE = 0.22, 0.12, 1.65, 1.4, 0.95


@dataclass(frozen=True)
class Piece:
    """A token in its place, or a part of one that is longer than a line.

    Attributes:
        token: which token.
        text: what is drawn of it.
        line: its line, from 0.
        left: where its box begins.
        width: how wide its box is.
    """

    token: int
    text: str
    line: int
    left: float
    width: float


def typeset(texts: Sequence[str], width: float, size: float) -> list[Piece]:
    """Set tokens one after another into lines.

    A token that contains a line break ends its line. One longer than a line is cut.

    Args:
        texts: the tokens' texts, spaces and line breaks included.
        width: of the lines.
        size: of the font.
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
    """How high a text is that is set into lines of some width, in points."""
    return _height(typeset(texts, width, size), size)


def text_heatmap(
    axes: Axes, texts: Sequence[str], values: np.ndarray, cmap: str, size: float = 12
) -> None:
    """Fill axes with a text, each token on the colour of its value; draw it in `style`.

    Args:
        axes: where; their place in the figure must be final, for lines end where they do. Give
            them the height that `text_height` says: if they are lower, the font gets smaller.
        texts: the tokens' texts, spaces and line breaks included.
        values: from 0 to 1, (token,).
        cmap: the name of a colour map.
        size: of the font, in points.
    """
    width, height = (72 / axes.get_figure(root=True).dpi * side for side in axes.bbox.size)
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
    """A token's text with a sign for every character that has no glyph to be seen by."""
    return "".join(map(_glyph, text))


@cache
def _glyph(character: str) -> str:
    sign = visible(character)
    return sign if any(sign in glyphs(font) for font in _fonts(sign)) else MISSING


@cache
def _fonts(text: str) -> list[str]:
    return [FONT, *fonts_for(text)]


def _parts(text: str, room: float, size: float) -> Iterator[str]:
    """A text in parts that fit into some room, or at least of one character each."""
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
    """A text's width per font size, from its fonts' own metrics, which know no resolution."""
    font = FontProperties(family=_fonts(text), size=1)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def _height(pieces: Sequence[Piece], size: float) -> float:
    return (1 + max((piece.line for piece in pieces), default=-1)) * LINE * size


def _readable_on(colour: np.ndarray) -> str:
    """Black or white, whichever has the higher contrast as WCAG 2 defines it."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return "black" if luminance > 0.179 else "white"
