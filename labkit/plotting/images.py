"""Small images side by side, each with a caption."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from labkit.plotting.style import RC, colour

CELL_INCHES = 1.1
LINE_INCHES = 0.17


def captioned_images(
    images: npt.NDArray[Any],
    captions: Sequence[str],
    *,
    title: str,
    columns: int = 6,
    marked: Sequence[bool] | None = None,
) -> Figure:
    """Draw grey images row by row, dark for large values, a caption under each.

    Args:
        images: One an item, rows by columns.
        captions: One an image.
        title: The claim that the figure shows.
        columns: Images in a row of the figure.
        marked: Which images get a thick frame, such as those answered wrongly.

    Raises:
        ValueError: No images, captions or marks that do not fit them, or no title.
    """
    table = np.asarray(images, dtype=np.float64)
    marks = [False] * len(table) if marked is None else list(marked)
    if table.ndim != 3 or table.size == 0:
        raise ValueError(f"images has shape {table.shape}: expected (items, rows, columns)")
    if not len(table) == len(captions) == len(marks):
        raise ValueError(f"{len(table)} images, {len(captions)} captions and {len(marks)} marks")
    if not title.strip() or columns < 1:
        raise ValueError(f"title={title!r}, columns={columns}: give a title, and a column or more")
    rows = -(-len(table) // columns)
    lines = 1 + max(caption.count("\n") for caption in captions)
    size = (CELL_INCHES * columns, (CELL_INCHES + LINE_INCHES * (lines + 0.5)) * rows + 0.4)
    with plt.rc_context(RC):
        figure: Figure
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        for index, axes in enumerate(grid.flat):
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            if index >= len(table):
                axes.set_axis_off()
                continue
            axes.imshow(table[index], cmap="Greys", interpolation="nearest")
            axes.set_xlabel(captions[index], fontsize=9)
            for spine in axes.spines.values():
                spine.set(visible=True, linewidth=3 if marks[index] else 0.6)
                spine.set_color(colour(1) if marks[index] else "#999999")
        plt.close(figure)
    return figure
