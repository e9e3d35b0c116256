"""Figures carry the data they were given, their labels, and stay apart in grey."""

from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.figure import Figure

from labkit.plotting import style
from labkit.plotting.bars import bars_with_intervals
from labkit.plotting.curves import curves, envelope, loss_curves, running_mean
from labkit.plotting.heatmap import heatmap


@pytest.fixture(autouse=True)
def canvas_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")


def texts(figure: Figure) -> set[str]:
    axes = figure.axes[0]
    return {axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()}


def test_neighbouring_colours_differ_in_luminance():
    weights = np.array([0.2126, 0.7152, 0.0722])
    luminance = [float(weights @ colors.to_rgb(colour)) for colour in style.COLOURS]
    assert np.diff(luminance[:4]).min() > 0.12
    assert len({style.line_style(i) for i in range(5)}) == 5
    assert (style.colour(6), style.line_style(6)) != (style.colour(1), style.line_style(1))


def test_loss_curves_draw_the_values_and_close_the_figure():
    import matplotlib.pyplot as plt

    figure = loss_curves({"LoRA": [3.0, 2.0, 1.5], "full": ([10, 20], [2.5, 2.25])}, title="Falls")
    first, second = figure.axes[0].lines
    np.testing.assert_array_equal(first.get_xydata(), [[1, 3], [2, 2], [3, 1.5]])
    np.testing.assert_array_equal(second.get_xydata(), [[10, 2.5], [20, 2.25]])
    assert texts(figure) == {"Falls", "step", "loss (nats a token)"}
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["LoRA", "full"]
    assert plt.get_fignums() == []


def test_running_mean_equals_its_definition():
    values = np.array([5.0, 1.0, 4.0, 2.0, 9.0])
    expected = [values[max(0, i - 2) : i + 1].mean() for i in range(5)]
    np.testing.assert_allclose(running_mean(values, 3), expected, rtol=1e-12)


def test_envelope_spans_minimum_to_maximum_with_the_learners_curve_on_top():
    runs = np.array([[4.0, 3.0, 2.0], [5.0, 3.5, 1.0]])
    figure = envelope(runs, [4.5, 3.1, 1.5], title="Inside", x_label="step", y_label="loss (nats)")
    axes = figure.axes[0]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(p) for p in corners} >= {(1, 4), (1, 5), (2, 3), (2, 3.5), (3, 1), (3, 2)}
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), [4.5, 3.1, 1.5])
    assert axes.lines[-1].get_zorder() > axes.collections[0].get_zorder()


@dataclass(frozen=True)
class Interval:
    low: float
    estimate: float
    high: float


def test_bars_take_intervals_triples_and_numbers():
    values = {"NF4": Interval(0.1, 0.2, 0.4), "INT4": (0.3, 0.5, 0.6), "bf16": 0.15}
    figure = bars_with_intervals(values, title="NF4 errs least", y_label="error (relative)")
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.2, 0.5, 0.15]
    assert len({bar.get_hatch() for bar in axes.patches}) == 3
    whiskers = [c.get_segments()[0][:, 1].tolist() for c in axes.collections[1::2]]
    np.testing.assert_allclose(whiskers, [[0.1, 0.4], [0.3, 0.6]])


def test_heatmap_shows_the_matrix_with_readable_ink():
    values = np.array([[0.0, 1.0, 0.25], [0.75, 0.5, 0.1]])
    figure = heatmap(
        values, title="Attention", x_label="key (position)", y_label="query (position)",
        value_label="weight", row_names=["a", "b"],
    )  # fmt: skip
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), values)
    ink = {text.get_text(): text.get_color() for text in axes.texts}
    assert ink["1.00"] == "white"
    assert ink["0.00"] == "black"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: loss_curves({}, title="t"), "nothing to draw"),
        (lambda: loss_curves({"a": []}, title="t"), r"'a' has shape \(0,\)"),
        (lambda: loss_curves({"a": [1.0]}, title=" "), "title=' '"),
        (lambda: loss_curves({"a": ([1, 2], [3.0])}, title="t"), "2 abscissae and 1 values"),
        (lambda: curves({"a": [1.0]}, title="t", x_label="", y_label="y"), "x_label=''"),
        (
            lambda: curves({"a": [1.0]}, title="t", x_label="x", y_label="y", smooth=0),
            "smooth=0",
        ),
        (
            lambda: envelope(np.ones((2, 3)), [1.0], title="t", x_label="x", y_label="y"),
            "runs have 3 points, 'yours' has 1",
        ),
        (
            lambda: bars_with_intervals({"a": (2.0, 1.0, 3.0)}, title="t", y_label="y"),
            "out of order",
        ),
        (
            lambda: heatmap(
                np.ones((2, 3)), title="t", x_label="x", y_label="y", value_label="v",
                row_names=["a"],
            ),
            "1 row names for 2 rows",
        ),
    ],
)  # fmt: skip
def test_bad_input_names_the_values(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
