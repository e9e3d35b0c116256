"""Bars with intervals: an estimate is never drawn without its uncertainty where one is known."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from matplotlib.figure import Figure

from labkit.plotting.style import HATCHES, colour, styled_axes


@runtime_checkable
class HasInterval(Protocol):
    """What `labkit.evaluation.bootstrap.Interval` offers."""

    @property
    def low(self) -> float: ...

    @property
    def estimate(self) -> float: ...

    @property
    def high(self) -> float: ...


Bar: TypeAlias = HasInterval | tuple[float, float, float] | float | int


def bars_with_intervals(
    values: Mapping[str, Bar],
    *,
    title: str,
    y_label: str,
    x_label: str = "method",
    reference: float | None = None,
    value_format: str = ".3g",
) -> Figure:
    """Draw one bar a name, its height the estimate, its whisker the interval `[low, high]`.

    Args:
        values: Name to an interval, a triple `(low, estimate, high)`, or a bare number.
        title: The claim that the figure shows.
        y_label: Vertical axis with its unit.
        x_label: What the names are.
        reference: A level drawn as a dashed line (chance, the unmodified model).
        value_format: Format of the number on each bar.

    Raises:
        ValueError: No values, or an interval that does not contain its estimate.
    """
    if not values:
        raise ValueError("values={} holds nothing to draw")
    triples = {name: _triple(name, bar) for name, bar in values.items()}
    with styled_axes(title=title, x_label=x_label, y_label=y_label) as (figure, axes):
        for index, (name, (low, estimate, high)) in enumerate(triples.items()):
            hatch = HATCHES[index % len(HATCHES)]
            axes.bar(name, estimate, color=colour(index), hatch=hatch, edgecolor="white", width=0.6)
            if high > low:
                spread = [[estimate - low], [high - estimate]]
                # The white one below keeps the whisker visible on a dark bar.
                for ink, width in (("white", 4), ("#333333", 1.5)):
                    axes.errorbar(
                        name, estimate, yerr=spread, color=ink, linewidth=width, capsize=5
                    )
            text = format(estimate, value_format)
            axes.annotate(
                text, (index, high), ha="center", va="bottom", xytext=(0, 3),
                textcoords="offset points",
            )  # fmt: skip
        if reference is not None:
            axes.axhline(reference, color="#333333", linestyle="--", linewidth=1)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.12)
    return figure


def _triple(name: str, bar: Bar) -> tuple[float, float, float]:
    if isinstance(bar, int | float):
        return float(bar), float(bar), float(bar)
    triple = bar if isinstance(bar, tuple) else (bar.low, bar.estimate, bar.high)
    low, estimate, high = (float(value) for value in triple)
    if not low <= estimate <= high:
        raise ValueError(f"{name!r}: low={low}, estimate={estimate}, high={high} are out of order")
    return low, estimate, high
