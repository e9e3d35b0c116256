"""Heatmaps: a matrix as lightness, dark for large, with its scale beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from labkit.plotting.style import styled_axes

MOST_CELLS_WITH_TEXT = 150


def heatmap(
    values: npt.NDArray[Any],
    *,
    title: str,
    x_label: str,
    y_label: str,
    value_label: str,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    value_format: str = ".2f",
) -> Figure:
    """Draw a matrix, row 0 at the top; a small one has its values written into the cells.

    Args:
        values: Rows by columns.
        title: The claim that the figure shows.
        x_label: What the columns are, with the unit.
        y_label: What the rows are, with the unit.
        value_label: What the values are, with the unit.
        row_names: One a row.
        column_names: One a column.
        value_format: Format of a value in its cell.

    Raises:
        ValueError: No matrix, or names that do not fit it.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"values has shape {table.shape}: expected (rows, columns), not empty")
    for kind, names, size in zip(
        ("row", "column"), (row_names, column_names), table.shape, strict=True
    ):
        if names is not None and len(names) != size:
            raise ValueError(f"{len(names)} {kind} names for {size} {kind}s")
    with styled_axes(title=title, x_label=x_label, y_label=y_label) as (figure, axes):
        image = axes.imshow(table, cmap="Greys", aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=axes, label=value_label)
        axes.grid(visible=False)
        if row_names is not None:
            axes.set_yticks(range(len(row_names)), list(row_names))
        if column_names is not None:
            axes.set_xticks(range(len(column_names)), list(column_names))
        if table.size <= MOST_CELLS_WITH_TEXT:
            middle = (np.nanmin(table) + np.nanmax(table)) / 2
            for (row, column), value in np.ndenumerate(table):
                ink = "white" if value > middle else "black"
                text = format(value, value_format)
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    return figure
