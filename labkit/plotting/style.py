"""The course's one figure style: readable in grey, axes with units, titles that state a claim."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Values: TypeAlias = Sequence[float | int] | npt.NDArray[Any]

# Ordered by luminance, dark to light, so that neighbours stay apart on a grey printer. Line style
# and hatch repeat the distinction for readers who see no colour at all.
COLOURS = ("#14213d", "#a63a1b", "#3f8f83", "#d9a441", "#9fb7d9")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\")

RC: dict[str, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d5d5d5",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "labkit",
}


@contextmanager
def styled_axes(
    *, title: str, x_label: str, y_label: str, size_inches: tuple[float, float] = (6.4, 3.6)
) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure and its axes under the style; on leaving, close it so that it shows only once.

    A closed figure stays whole: a notebook shows the returned value, `savefig` works, and no
    global list of open figures grows.

    Args:
        title: The claim that the figure shows, never empty.
        x_label: Horizontal axis with its unit, never empty.
        y_label: Vertical axis with its unit, never empty.
        size_inches: Width and height.

    Raises:
        ValueError: A title or label is empty.
    """
    for name, text in (("title", title), ("x_label", x_label), ("y_label", y_label)):
        if not text.strip():
            raise ValueError(f"{name}={text!r}: give a title, and labels with their units")
    with plt.rc_context(RC):
        figure, axes = plt.subplots(figsize=size_inches)
        try:
            axes.set(title=title, xlabel=x_label, ylabel=y_label)
            yield figure, axes
        finally:
            plt.close(figure)


def colour(index: int) -> str:
    """The colour of series `index`; after the last one they repeat with other line styles."""
    return COLOURS[index % len(COLOURS)]


def line_style(index: int) -> Any:
    """The line style of series `index`, out of step with the colours once those repeat."""
    return LINE_STYLES[(index + index // len(COLOURS)) % len(LINE_STYLES)]


def as_vector(name: str, values: Values) -> npt.NDArray[np.float64]:
    """`values` as a one-dimensional float64 array.

    Raises:
        ValueError: The array is empty or has another number of dimensions.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name!r} has shape {array.shape}: expected a non-empty sequence")
    return array
