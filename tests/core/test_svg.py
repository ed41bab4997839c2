"""SVGs are XML, whatever characters the texts in them have."""

from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from microtome.figures.panels import token_label
from microtome.figures.style import save, style

#: Control characters, a lone surrogate, and the two characters that Unicode keeps free.
ODD = ["\x00", "\x01", "\x0b", "\x1b", "\x7f", "\x9f", "\ud800", "\ufffe", "\uffff"]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("label", [token_label, str])
def test_an_svg_with_odd_characters_is_xml(tmp_path, label):
    texts = ODD if label is token_label else [odd for odd in ODD if odd != "\ud800"]
    with style("light", texts):
        figure = Figure()
        axes = figure.subplots()
        axes.set_title(label("".join(texts)))
        axes.set_xticks(range(len(texts)), [label(f"a{odd}b") for odd in texts])
        save(figure, tmp_path / "x.svg", tmp_path / "x.png", dpi=50)
    assert ElementTree.parse(tmp_path / "x.svg").getroot().tag.endswith("svg")


def test_a_token_label_shows_what_cannot_be_seen():
    assert token_label("a b\n\t\x00$\u200b") == "a␣b↵→·\\$·"
