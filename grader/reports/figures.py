"""The figures of the class report, in the course's one style."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from grader.html_page import picture
from grader.reports.item_analysis import Item
from labkit.plotting.style import HATCHES, colour, styled_axes

DOTS_PER_INCH = 160
WIDTH_PIXELS = 560
MOST_BINS = 20
WIDE, TURNED_FROM = 0.4, 5
ROOM_FOR_LEGEND = 122


def scores(points: Sequence[float], most: float) -> str:
    """How many submissions got how many points."""
    count = min(MOST_BINS, max(5, round(most)))
    edges = np.linspace(0, max(most, *points, 1.0), count + 1)
    median = float(np.median(points))
    with styled_axes(
        title=f"The median is {median:.3g} of {most:.3g} points",
        x_label="automatic points",
        y_label="submissions",
    ) as (figure, axes):
        axes.hist(points, bins=edges.tolist(), color=colour(0), edgecolor="white")
        axes.axvline(median, color=colour(1), linestyle="--")
        _whole_numbers(axes)
    return _image(figure, "Histogram of the points")


def pass_rates(items: Sequence[Item]) -> str:
    """Share of the class that passes each exercise that was checked; empty if none was."""
    items = [item for item in items if item.checked]
    if not items:
        return ""
    hardest = min(items, key=lambda item: item.solved / item.checked)
    share = hardest.solved / hardest.checked
    with styled_axes(
        title=f"Fewest solve {hardest.check}: {share:.0%}",
        x_label="exercise",
        y_label="share that passes (%)",
    ) as (figure, axes):
        at = np.arange(len(items))
        for index, (name, rates) in enumerate(
            {
                "notebook's inputs": [item.public_rate for item in items],
                "hidden inputs": [item.hidden_rate for item in items],
            }.items()
        ):
            heights = [100 * (rate or 0.0) for rate in rates]
            axes.bar(
                at + (index - 0.5) * WIDE, heights, WIDE, label=name, color=colour(2 * index),
                hatch=HATCHES[index], edgecolor="white",
            )  # fmt: skip
        axes.set_ylim(0, ROOM_FOR_LEGEND)
        axes.set_yticks(range(0, 101, 20))
        axes.legend(loc="upper center", ncols=2)
        _names(axes, [item.check for item in items])
    return _image(figure, "Pass rates of the exercises; the table has the numbers")


def discrimination(items: Sequence[Item]) -> str:
    """How well exercises tell strong submissions from weak ones; empty where it is undefined."""
    known = [item for item in items if item.discrimination is not None]
    if not known:
        return ""
    values = [item.discrimination or 0.0 for item in known]
    weakest = known[int(np.argmin(values))]
    with styled_axes(
        title=f"{weakest.check} tells strong from weak least: {min(values):.2f}",
        x_label="exercise",
        y_label="correlation with the other points",
    ) as (figure, axes):
        axes.bar(np.arange(len(known)), values, 0.6, color=colour(0), edgecolor="white")
        axes.axhline(0, color="#333333", linewidth=1)
        axes.set_ylim(min(0.0, *values) - 0.05, 1)
        _names(axes, [item.check for item in known])
    return _image(figure, "Discrimination of the exercises; the table has the numbers")


def seconds(times: Sequence[float]) -> str:
    """How long submissions took."""
    slow = float(np.quantile(times, 0.95))
    with styled_axes(
        title=f"95% of submissions are graded within {slow:.3g} s",
        x_label="time for a submission (s)",
        y_label="submissions",
    ) as (figure, axes):
        bins = min(MOST_BINS, max(5, len(times)))
        axes.hist(times, bins=bins, range=(0, max(*times, 0.1)), color=colour(0), edgecolor="white")
        _whole_numbers(axes)
    return _image(figure, "Histogram of the time taken")


def _whole_numbers(axes: Any) -> None:
    axes.yaxis.get_major_locator().set_params(integer=True)


def _names(axes: Any, names: Sequence[str]) -> None:
    turned = {"rotation": 25, "ha": "right"} if len(names) >= TURNED_FROM else {}
    axes.set_xticks(np.arange(len(names)), names, **turned)
    axes.grid(visible=False, axis="x")


def _image(figure: Any, alt: str) -> str:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return f"<figure>{picture(b64encode(file.getvalue()).decode(), alt, WIDTH_PIXELS)}</figure>"
