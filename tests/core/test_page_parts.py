"""What pages are made of: READMEs, Markdown, numbers, files, profiles over the relative depth."""

import numpy as np
import pytest
import xarray as xr

from microtome.errors import MicrotomeError
from microtome.figures.depth import depth_profiles
from microtome.page.files import FIRST, WHOLE, picture_size, read_table, read_texts
from microtome.page.markdown import html, inline, plain
from microtome.page.numbers import listed, number, peak, quoted, share, significant, spread
from microtome.page.readme import read_readme
from microtome.statistics.depth import by_depth, laminar

README = """# A study

Why is this
so?

Source: a book.

## Method

```python
# Not a heading
## Nor this
```

## Figures

### `one`

Drawn.

## Aside

More.
"""


def test_a_readme_is_read_by_its_headings(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(README)
    found = read_readme(file)
    assert (found.title, found.question) == ("A study", "Why is this\nso?")
    assert list(found.chapters) == ["Method", "Figures", "Aside"]
    assert "## Nor this" in found.chapters["Method"]
    assert found.sections("Figures") == {"one": "Drawn."}
    assert found.others == {"Aside": "More."}


@pytest.mark.parametrize("text", ["", "\n\n", "# Title", "no heading at all"])
def test_a_readme_may_say_little(tmp_path, text):
    file = tmp_path / "README.md"
    file.write_text(text)
    found = read_readme(file)
    assert found.chapters == {}
    assert found.question == text.strip().removeprefix("# Title")
    assert read_readme(tmp_path / "none.md").question == ""


def test_markdown_asks_no_network_for_anything():
    text = "A ![plot](https://example.org/a.png) and [this](b.md) <img src='https://c'> $x^2$."
    found = html(text, lambda target: None)
    assert "<img" not in found and "<a" not in found and "https://example" not in found
    assert "A plot and this &lt;img" in found
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in found
    assert html("```math\n\\frac{a}{b}\n```").count("<mfrac>") == 1
    assert "<munder>" in html("$$\n\\sum_i\n$$") and "<munder>" not in html("$\\sum_i$")
    assert "<mo>&lt;</mo>" in html("$a < b$") and "<mo>−</mo>" in html("$a - b$")
    assert '<a href="c.html">this</a>' in inline("[this](b.md)", lambda target: "c.html")
    assert plain("**Bold** `code`\nand [a link](b.md) $x_1$") == "Bold code and a link x_1"


def test_numbers_are_said_in_few_digits():
    assert [number(x) for x in (0.256, -0.004, -1.5, 12345.6, np.nan)] == [
        *("0.26", "0.00", "−1.50", "12,346", "undefined")
    ]
    assert [significant(x) for x in (0, 1.2345, 0.000123, -4.18e-7)] == [
        *("0.00", "1.23", "0.000123", "−4.18 × 10⁻⁷")
    ]
    assert [share(x) for x in (0.0, 0.0042, 0.5, 1.0, np.nan)] == [
        *("0%", "0.4%", "50%", "100%", "undefined")
    ]
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert quoted(" the") == "“␣the”"


def test_extremes_are_said_with_their_place():
    values = xr.DataArray([0.5, np.nan, 2.0, -1.0], {"layer": [0, 3, 6, 9]}, "layer")
    assert spread(values) == "−1.00 to 2.00"
    assert peak(values) == "layer 6 (2.00)"
    assert peak(values, 1, lowest=True) == "layer 9 (−1.0)"
    assert peak(xr.DataArray([1.0, 0.0], {"hidden": ["Emb", "L0"]}, "hidden")) == "Emb (1.00)"
    assert spread(values[1:2]) == "undefined" and peak(values[1:2]) == "no place"
    assert spread(values[:1]) == "0.50"


def test_a_table_is_rounded_and_cut(tmp_path):
    file = tmp_path / "table.csv"
    rows = [f"{i},{'-0.123456' if i else ''},{'a' if i else '1e1'}\n" for i in range(WHOLE + 1)]
    file.write_text("".join(["n,x,text\n", *rows]))
    found = read_table(file)
    assert found.columns == [("n", True), ("x", True), ("text", False)]
    assert found.rows[:2] == [["0", "", "1e1"], ["1", "−0.1235", "a"]]
    assert (len(found.rows), found.n) == (FIRST, WHOLE + 1)
    file.write_text("".join(["n,x,text\n", *rows[:-1]]))
    assert len(read_table(file).rows) == WHOLE


def test_as_many_texts_are_shown_as_there_is_room_for(tmp_path):
    file = tmp_path / "texts.yaml"
    file.write_text(f"source: a book\ntexts: [{', '.join(['word ' * 500] * 4)}]\n")
    found = read_texts(file)
    assert (found.source, len(found.texts), found.left_out) == ("a book", 2, 2)
    file.write_text("source: a book\ntemplate: 'A {word}'\nwords: {x: [b, c], y: [d, e]}\n")
    found = read_texts(file)
    assert (found.template, found.words) == ("A {word}", {"x": ["b", "c"], "y": ["d", "e"]})


def test_layers_lie_at_their_relative_depth():
    deep = xr.DataArray([1.0, 2.0, 3.0], {"layer": [0, 2, 4]}, "layer")
    shallow = xr.DataArray([4.0], {"layer": [0]}, "layer")
    found = by_depth({"deep": deep, "shallow": shallow}, {"deep": 5, "shallow": 1})
    assert found["depth"].values.tolist() == [0, 0.5, 1, 0]
    assert found["value"].values.tolist() == [1, 2, 3, 4]
    assert found["model"].values.tolist() == ["deep"] * 3 + ["shallow"]
    hidden = xr.DataArray([5.0, 6.0, 7.0], {"hidden": ["Emb", "L0", "L1"]}, "hidden")
    assert by_depth({"a": hidden}, {"a": 2})["depth"].values.tolist() == [0, 0.5, 1]
    (axes,) = depth_profiles(found, label="Values").axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"deep": [[0, 1], [0.5, 2], [1, 3]], "shallow": [[0, 4]]}


STATISTIC = xr.Dataset(
    {"t": (("scale", "layer"), [[1.0, 2.0], [3.0, 4.0]]), "n": ("scale", [5, 6])},
    {"scale": ["cosine", "fisher_z"], "layer": [0, 1]},
)


def test_a_profile_is_chosen_by_its_places():
    assert laminar(STATISTIC, "t", {"scale": "fisher_z"}).values.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("variable", "at", "says"),
    [
        ("s", {}, "no variable 's'; it has"),
        ("t", {}, "t differs by scale too; choose a place along each with `at`"),
        ("t", {"scal": "cosine"}, "t has no dimension 'scal'; did you mean 'scale'?"),
        ("t", {"scale": "cosin"}, "scale has no place 'cosin'; did you mean 'cosine'?"),
        ("n", {"scale": "cosine"}, "n has no dimension `layer`; take another variable"),
    ],
)
def test_what_is_no_profile_is_refused(variable, at, says):
    with pytest.raises(MicrotomeError) as error:
        laminar(STATISTIC, variable, at)
    assert says.removesuffix("it has") in str(error.value)


def test_the_size_of_a_picture_is_read_from_its_head(tmp_path):
    from matplotlib.figure import Figure

    Figure(figsize=(3, 2)).savefig(tmp_path / "a.png", dpi=50)
    assert picture_size(tmp_path / "a.png") == (150, 100)
