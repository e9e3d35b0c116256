"""Curves: several runs over their steps, and one run over the envelope of normal results."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from labkit.plotting.style import Values, as_vector, colour, line_style, styled_axes

Curve: TypeAlias = Values | tuple[Values, Values]


def curves(
    series: Mapping[str, Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    smooth: int = 1,
    x_log: bool = False,
    y_log: bool = False,
) -> Figure:
    """Draw each named curve, the values against 1, 2, 3 … or against the abscissae given.

    Args:
        series: Name to values, or to the pair `(x, values)`.
        title: The claim that the figure shows.
        x_label: Horizontal axis with its unit.
        y_label: Vertical axis with its unit.
        smooth: Width of a running mean over past points; the raw curve stays visible, faint.
        x_log: Logarithmic horizontal axis.
        y_log: Logarithmic vertical axis.

    Raises:
        ValueError: No series, an empty one, unequal lengths, or `smooth` below 1.
    """
    if not series:
        raise ValueError("series={} holds nothing to draw")
    if smooth < 1:
        raise ValueError(f"smooth={smooth} must be at least 1 (1 draws the values as they are)")
    points = {name: _points(name, curve) for name, curve in series.items()}
    with styled_axes(title=title, x_label=x_label, y_label=y_label) as (figure, axes):
        for index, (name, (x, y)) in enumerate(points.items()):
            _draw(axes, index, name, x, y, smooth)
        if x_log:
            axes.set_xscale("log")
            _thin_out(axes.xaxis)
        if y_log:
            axes.set_yscale("log")
            _thin_out(axes.yaxis)
        if len(points) > 1:
            axes.legend()
    return figure


def _thin_out(axis: Axis) -> None:
    """Name only powers of ten on a logarithmic axis that shows more than one of them."""
    low, high = axis.get_view_interval()
    if math.floor(math.log10(high)) > math.ceil(math.log10(low)):
        axis.set_minor_formatter(NullFormatter())


def loss_curves(
    series: Mapping[str, Curve],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "loss (nats a token)",
    smooth: int = 1,
) -> Figure:
    """Draw training losses over steps: `curves` with the axes that every training run shares."""
    return curves(series, title=title, x_label=x_label, y_label=y_label, smooth=smooth)


def envelope(
    runs: npt.NDArray[Any],
    curve: Values,
    *,
    title: str,
    x_label: str,
    y_label: str,
    x: Values | None = None,
    band_name: str = "normal results",
    curve_name: str = "yours",
) -> Figure:
    """Draw one curve over the band `[min, max]` that several normal runs span at each point.

    Args:
        runs: One run a row, one point a column.
        curve: The curve to judge, as many points as `runs` has columns.
        title: The claim that the figure shows.
        x_label: Horizontal axis with its unit.
        y_label: Vertical axis with its unit.
        x: Abscissae; 1, 2, 3 … when absent.
        band_name: Legend entry of the band.
        curve_name: Legend entry of the curve.

    Raises:
        ValueError: `runs` is no table, or the numbers of points differ.
    """
    table = np.asarray(runs, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"runs has shape {table.shape}: expected (runs, points), not empty")
    y = as_vector(curve_name, curve)
    steps = np.arange(1.0, y.size + 1) if x is None else as_vector("x", x)
    if not table.shape[1] == y.size == steps.size:
        raise ValueError(
            f"runs have {table.shape[1]} points, {curve_name!r} has {y.size} and x has "
            f"{steps.size}: they must be equal"
        )
    with styled_axes(title=title, x_label=x_label, y_label=y_label) as (figure, axes):
        low, high = table.min(axis=0), table.max(axis=0)
        axes.fill_between(steps, low, high, color="#c9c9c9", label=f"{band_name} ({len(table)})")
        axes.plot(steps, np.median(table, axis=0), color="#7a7a7a", linewidth=1, linestyle="--")
        axes.plot(steps, y, color=colour(0), label=curve_name)
        axes.legend()
    return figure


def running_mean(values: Values, width: int) -> npt.NDArray[np.float64]:
    """The mean of the last `width` values at each point, of fewer at the start."""
    array = as_vector("values", values)
    sums = np.concatenate([[0.0], np.cumsum(array)])
    ends = np.arange(1, array.size + 1)
    starts = np.maximum(ends - width, 0)
    means: npt.NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _points(name: str, curve: Curve) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if isinstance(curve, tuple) and len(curve) == 2 and not np.isscalar(curve[0]):
        x, y = (as_vector(name, np.asarray(part)) for part in curve)
    else:
        y = as_vector(name, np.asarray(curve))
        x = np.arange(1.0, y.size + 1)
    if x.size != y.size:
        raise ValueError(f"curve {name!r} has {x.size} abscissae and {y.size} values")
    return x, y


def _draw(
    axes: Axes,
    index: int,
    name: str,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    smooth: int,
) -> None:
    drawn = y
    if smooth > 1:
        axes.plot(x, y, color=colour(index), linewidth=0.7, alpha=0.35)
        drawn = running_mean(y, smooth)
    marker = "o" if y.size <= 12 else ""
    axes.plot(x, drawn, color=colour(index), linestyle=line_style(index), marker=marker, label=name)
