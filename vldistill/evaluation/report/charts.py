"""A report's charts as SVG: learning curves, accuracy bars, cost."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from vldistill.evaluation.report.grid import Group
from vldistill.evaluation.report.runs import RunRecord
from vldistill.evaluation.report.tables import GridRow, TaskGrid

# Okabe and Ito's colours, which most people with colour blindness tell apart; black and yellow left out.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", ":", "-.")
_SMALL, _BAR = (4.0, 2.7), 0.34  # inches; a small chart, and the height of a bar
_MOST_POINTS = 400
_UNPLOTTED = {"step", "split", "epoch", "pairs", "pairs_per_s", "count", "negatives"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vldistill",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a run's name begins no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
}


_styled = rc_context(_STYLE)
"""Decorates what draws: axes take their style when they are made, the picture when it is saved."""


@dataclass(frozen=True)
class Chart:
    """title: what it shows, in words. svg: the picture."""

    title: str
    svg: str


def style_of(place: int) -> tuple[str, str]:
    """Colour and line style of a group, by its place in the report."""
    return COLOURS[place % len(COLOURS)], _DASHES[place // len(COLOURS) % len(_DASHES)]


@_styled
def curve_charts(groups: Sequence[Group]) -> list[Chart]:
    """A chart for each quantity that the runs logged: accuracy on validation first, the losses, then what else there is. Thin
    lines are runs, thick ones their mean."""
    charts = []
    for split, name in _quantities(groups):
        figure = Figure(figsize=_SMALL, layout="constrained")
        axes = figure.add_subplot()
        for place, group in enumerate(groups):
            _draw_group(axes, group, split, name, *style_of(place))
        axes.set(xlabel="optimiser steps")
        axes.grid(alpha=0.25)
        charts.append(Chart(f"{name}, validation" if split == "val" else name, _svg(figure)))
    return charts


def _quantities(groups: Sequence[Group]) -> list[tuple[str, str]]:
    quantities = {
        (row.get("split", ""), name)
        for group in groups
        for run in group.runs
        for row in run.curve
        for name, value in row.items()
        if name not in _UNPLOTTED and isinstance(value, int | float)
    }
    return sorted(quantities, key=lambda key: (key[0] != "val", not key[1].startswith(("accuracy", "loss")), key[1]))


def _draw_group(axes, group: Group, split: str, name: str, colour: str, dash: str) -> None:
    lines = [points for run in group.runs if (points := points_of(run, split, name))]
    alone = len(lines) == 1
    for points in lines:
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linestyle=dash,
            linewidth=1.6 if alone else 0.7,
            alpha=1 if alone else 0.45,
            marker="o" if len(points) == 1 else None,
        )
    if not alone and lines:
        axes.plot(*zip(*mean_curve(lines), strict=True), color=colour, linestyle=dash, linewidth=1.9)


def points_of(run: RunRecord, split: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of a run, thinned out evenly where there are very many."""
    points = [
        (row["step"], row[name]) for row in run.curve if row.get("split") == split and isinstance(row.get(name), int | float)
    ]
    every = -(-len(points) // _MOST_POINTS) or 1
    return points if every == 1 else [*points[::every], *points[-1:]]


def mean_curve(lines: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The mean at the steps that all lines have.

    >>> mean_curve([[(1, 2.0), (2, 4.0)], [(1, 4.0), (3, 1.0)]])
    [(1, 3.0)]
    """
    tables = [dict(line) for line in lines]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return [(step, statistics.mean(table[step] for table in tables)) for step in shared]


@_styled
def bar_charts(grid: TaskGrid) -> list[Chart]:
    """A chart for each column with something to compare: bars of the means from zero, whiskers of one deviation, dots of the
    runs, diamonds of the papers."""
    charts = []
    for place, column in enumerate(grid.columns):
        if column.metric == "ece":  # an error, of which less is better, and too small for this axis
            continue
        rows = [(number, row) for number, row in enumerate(grid.rows) if row.cells[place].mean is not None]
        if len(rows) < 2:
            continue
        figure, axes = _for_bars(rows, "%")
        for height, (number, row) in enumerate(rows):
            cell, colour = row.cells[place], style_of(number)[0]
            axes.barh(
                height,
                cell.mean,
                color=colour,
                alpha=0.55,
                height=0.7,
                xerr=cell.deviation,
                error_kw={"elinewidth": 1.2, "capsize": 3, "ecolor": "#1c1c1f"},
            )
            axes.plot(cell.values, [height] * len(cell.values), "o", color=colour, markersize=3.2)
            values = [published.value for published in row.published[place]]
            axes.plot(values, [height] * len(values), "D", color="none", markeredgecolor="#1c1c1f", markersize=5.5)
        axes.set(xlim=(0, 100))
        charts.append(Chart(column.title, _svg(figure)))
    return charts


@_styled
def cost_chart(grid: TaskGrid) -> Chart | None:
    """Seconds of a run, by group; None where there is nothing to compare."""
    rows = [(number, row) for number, row in enumerate(grid.rows) if row.seconds is not None]
    if len(rows) < 2:
        return None
    figure, axes = _for_bars(rows, "seconds of a run")
    for height, (number, row) in enumerate(rows):
        axes.barh(height, row.seconds, color=style_of(number)[0], alpha=0.55, height=0.7)
    return Chart("training time", _svg(figure))


def _for_bars(rows: Sequence[tuple[int, GridRow]], unit: str) -> tuple[Figure, Axes]:
    """A chart with a line for each row, the first on top."""
    figure = Figure(figsize=(_SMALL[0], 0.75 + _BAR * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(rows)), [row.group.variant for _, row in rows])
    axes.set(xlabel=unit, ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.25)
    return figure, axes


def _svg(figure: Figure) -> str:
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return buffer.getvalue()
