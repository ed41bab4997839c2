"""What figures share: looks, grids of panels, ends of colour bars, series of any number."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from microtome.figures.panels import (
    colour_bar_ends,
    depth_colours,
    heatmap,
    histogram_line,
    laminar_profile,
    looks,
    panel,
    panel_grid,
    strips,
)


@pytest.mark.parametrize("n", [1, 3, 4, 6, 10])
def test_a_laminar_profile_draws_every_series(n):
    axes = Figure().subplots()
    series = {f"S{i}": np.arange(5.0) + i for i in range(n)}
    laminar_profile(axes, range(5), series, "r")
    assert [line.get_label() for line in axes.lines] == list(series)
    for line, values in zip(axes.lines, series.values(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)


def test_a_heatmap_has_its_limits_and_a_bar_that_says_what_lies_beyond():
    axes = Figure().subplots()
    values = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    heatmap(axes, values, (0, 4), "Norm", cmap="viridis")
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), values)
    assert image.get_clim() == (0, 4) and image.get_cmap().name == "viridis"
    assert image.get_extent() == [-0.5, 2.5, -0.5, 1.5]  # the first row lowest
    assert image.colorbar.extend == "max" and image.colorbar.ax.get_ylabel() == "Norm"


def test_no_two_things_look_alike():
    assert len(set(looks(40))) == 40
    assert [look.marker for look in looks(3)] == ["s", "o", "^"]


def test_one_panel_is_given_or_made():
    figure, axes = panel(None, (5, 3), layout="tight")
    assert figure.axes == [axes]
    assert tuple(figure.get_size_inches()) == (5, 3)
    inner = figure.add_subfigure(axes.get_gridspec()[0]).subplots()
    assert panel(inner, (2, 2), layout="constrained") == (figure, inner)


@pytest.mark.parametrize(
    ("n", "rows", "columns", "size"),
    [(1, 1, 1, (4, 3)), (2, 1, 2, (8, 3)), (3, 1, 3, (12, 3)), (4, 2, 3, (12, 6))],
)
def test_a_grid_has_a_panel_for_each(n, rows, columns, size):
    figure, panels = panel_grid(n, (12, 3), layout="tight")
    assert figure.axes == panels
    assert len(panels) == n
    assert tuple(figure.get_size_inches()) == size
    places = [axes.get_subplotspec() for axes in panels]
    assert all(place.get_gridspec().get_geometry() == (rows, columns) for place in places)
    assert [place.num1 for place in places] == list(range(n))


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0, 1], "neither"),
        ([-1, 1], "min"),
        ([0, 2], "max"),
        ([-1, 2], "both"),
        ([0, 1 + 2e-16, np.nan], "neither"),
    ],
)
def test_a_colour_bar_has_an_arrow_where_values_lie_beyond(values, ends):
    assert colour_bar_ends(np.array(values, float), (0.0, 1.0)) == ends


def test_depth_colours_begin_or_end_with_the_maps_own():
    first, last = depth_colours(5, first=0), depth_colours(5)
    np.testing.assert_array_equal(first[1:], last[:-1])


def test_strips_jitter_alike_in_every_run():
    values = np.random.default_rng(1).normal(size=(3, 50))
    drawn = []
    for _ in range(2):
        axes = Figure().subplots()
        strips(axes, values, jitter=0.01)
        drawn.append([line.get_xdata() for line in axes.lines])
        assert all(abs(x - i).max() < 0.1 for i, x in enumerate(drawn[-1]))
    np.testing.assert_array_equal(*drawn)


def test_a_histogram_is_drawn_without_what_a_row_was_filled_up_with():
    axes = Figure().subplots()
    histogram_line(axes, np.array([0, 1, np.nan]), np.array([4, 0, np.nan]))
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 4], [1, 0]])
