"""Timelines: one row for each worker, one bar for each thing it does; idle time stays blank."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from labkit.plotting.style import HATCHES, styled_axes

SHADES = ("#ffffff", "#b8b8b8", "#dfe6f1", "#7d8fae")  # pairs: light and dark of one kind


class Piece(NamedTuple):
    """What a worker does from `start` to `end`; pieces of one `kind` look alike."""

    start: float
    end: float
    label: str
    kind: int


def timeline(
    rows: Mapping[str, Sequence[Piece]],
    *,
    title: str,
    x_label: str,
    y_label: str = "rank",
    kinds: Sequence[str],
) -> Figure:
    """Draw each worker's pieces along the time, the first worker at the top.

    Args:
        rows: A worker's name to its pieces, which may not overlap.
        title: The claim that the figure shows.
        x_label: The time, with its unit.
        y_label: What the workers are.
        kinds: What the kinds of pieces are called in the legend.

    Raises:
        ValueError: There is no piece, one ends before it starts, or its kind has no name.
    """
    pieces = [piece for row in rows.values() for piece in row]
    if not pieces:
        raise ValueError(f"{list(rows)} have no pieces: there is nothing to draw")
    for piece in pieces:
        if piece.end <= piece.start or not 0 <= piece.kind < len(kinds):
            raise ValueError(f"{piece} must end after it starts, and be one of {list(kinds)}")
    size = (6.4, 0.9 + 0.38 * len(rows))
    with styled_axes(title=title, x_label=x_label, y_label=y_label, size_inches=size) as drawn:
        figure, axes = drawn
        bars = {}
        for place, row in enumerate(rows.values()):
            for start, end, label, kind in row:
                shade, hatch = SHADES[kind % len(SHADES)], HATCHES[kind // len(SHADES)]
                box = axes.barh(
                    place, end - start, left=start, height=0.86, color=shade, hatch=hatch
                )
                bars[kind] = box
                box.patches[0].set(edgecolor="black", linewidth=0.5)
                axes.text((start + end) / 2, place, label, ha="center", va="center", fontsize=7)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.grid(visible=False)
        named = [(bars[kind], kinds[kind]) for kind in sorted(bars)]
        axes.legend(
            *zip(*named, strict=True), loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8
        )
    return figure
