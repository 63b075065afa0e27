"""The grid of runs for the eye: as a table of text cells, in Markdown, LaTeX or CSV, and with the runs' curves as charts in
SVG."""

from __future__ import annotations

import csv
import html
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from vldistill.evaluation.report.grid import Cell, GridColumn, Group, PublishedFigure, columns_of, published_for
from vldistill.evaluation.report.runs import RunRecord

NOTHING = "–"
"""A cell without a figure."""
_NOTE = "mean ± standard deviation over seeds, in percent; (n/m): n of m runs count."
_PAPER = " paper: full-size models on the whole data."


def note_of(grids: Iterable[TaskGrid]) -> str:
    """What stands below tables."""
    return _NOTE + _PAPER * any(grid.sources for grid in grids)


@dataclass(frozen=True)
class GridRow:
    """A group's figures beside the papers'. cost: mean seconds of a run, and bytes at most."""

    group: Group
    cells: tuple[Cell, ...]
    published: tuple[tuple[PublishedFigure, ...], ...]
    seconds: float | None
    memory: int | None
    energy: float | None


@dataclass(frozen=True)
class TaskGrid:
    columns: tuple[GridColumn, ...]
    rows: tuple[GridRow, ...]

    @property
    def with_paper(self) -> tuple[bool, ...]:
        """Of each column, whether any row has a published figure."""
        return tuple(any(row.published[place] for row in self.rows) for place in range(len(self.columns)))

    @property
    def sources(self) -> list[str]:
        """Where the papers' figures stand, each row of theirs once."""
        by_source: dict[str, dict[str, None]] = {}
        for figure in (figure for row in self.rows for figures in row.published for figure in figures):
            by_source.setdefault(figure.source, {})[f"{figure.value:g}"] = None
        return [f"{source}: {', '.join(values)}" for source, values in by_source.items()]


def make_grid(groups: Sequence[Group]) -> TaskGrid:
    columns = columns_of(groups)
    return TaskGrid(tuple(columns), tuple(_row(group, columns) for group in groups))


def _row(group: Group, columns: list[GridColumn]) -> GridRow:
    published = published_for(group, columns)
    seconds = [run.cost.seconds for run in group.whole if run.cost.seconds is not None]
    memory = [run.cost.gpu_memory or run.cost.memory for run in group.whole if run.cost.gpu_memory or run.cost.memory]
    energy = [run.cost.energy for run in group.whole if run.cost.energy is not None]
    return GridRow(
        group,
        tuple(group.cell(column) for column in columns),
        tuple(tuple(published.get(column, ())) for column in columns),
        sum(seconds) / len(seconds) if seconds else None,
        max(memory, default=None),
        sum(energy) / len(energy) if energy else None,
    )


@dataclass(frozen=True)
class TextTable:
    """head: names of columns. rows: cells, as many as columns. numeric: which columns stand at the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def text_table(grid: TaskGrid) -> TextTable:
    """Recipe, variant and runs; each column, and beside it the papers' figures where there are any; cost where it is known."""
    costs = {
        "s/run": [NOTHING if row.seconds is None else f"{row.seconds:,.0f}" for row in grid.rows],
        "memory": [NOTHING if row.memory is None else f"{row.memory / 1e9:.2f} GB" for row in grid.rows],
        "energy": [NOTHING if row.energy is None else f"{row.energy / 3.6e6:.3f} kWh" for row in grid.rows],
    }
    costs = {name: cells for name, cells in costs.items() if any(cell != NOTHING for cell in cells)}
    head = ["recipe", "variant", "runs"]
    for column, paper in zip(grid.columns, grid.with_paper, strict=True):
        head += [column.title, *["paper"] * paper]
    rows = []
    for number, row in enumerate(grid.rows):
        whole, runs = len(row.group.whole), len(row.group.runs)
        cells = [row.group.recipe, row.group.variant, f"{whole} of {runs}" if whole < runs else f"{whole}"]
        for cell, figures, paper in zip(row.cells, row.published, grid.with_paper, strict=True):
            cells += [shown(cell), *[" / ".join(f"{figure.value:.2f}" for figure in figures) or NOTHING] * paper]
        rows.append((*cells, *(column[number] for column in costs.values())))
    head += list(costs)
    return TextTable(tuple(head), tuple(rows), tuple(number > 1 for number in range(len(head))))


def shown(cell: Cell) -> str:
    """
    >>> shown(Cell((50.0, 52.0), 3)), shown(Cell((), 3))
    ('51.00 ± 1.41 (2/3)', '–')
    """
    if cell.mean is None:
        return NOTHING
    deviation = f" ± {cell.deviation:.2f}" if cell.deviation is not None else ""
    missing = f" ({len(cell.values)}/{cell.runs})" if len(cell.values) < cell.runs else ""
    return f"{cell.mean:.2f}{deviation}{missing}"


def to_markdown(table: TextTable) -> str:
    rule = ["---:" if numeric else "---" for numeric in table.numeric]
    lines = [table.head, rule, *table.rows]
    return "\n".join("| " + " | ".join(map(_markdown, line)) + " |" for line in lines) + "\n"


def _markdown(text: str) -> str:
    """A cell that shows what is in it: no tags, no ends of cells or rows."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",
        "→": r"$\to$",
    }
)


def to_latex(table: TextTable) -> str:
    """For the package booktabs."""
    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row(table.head),
        r"\midrule",
        *map(_latex_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(" ".join(cell.split()).replace("->", "→").translate(_LATEX) for cell in cells) + r" \\"


def to_csv(grid: TaskGrid, title: str, *, head: bool = True) -> str:
    """One line for each group, column and published figure, unrounded. title: of the data; head: whether names come first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if head:
        writer.writerow(
            ["data", "recipe", "variant", "split", "metric", "mean", "std", "runs_with_figure", "runs", "published", "source"]
        )
    for row in grid.rows:
        for column, cell, figures in zip(grid.columns, row.cells, row.published, strict=True):
            published = [(figure.value, figure.source) for figure in figures] or [("", "")]
            for value, source in published:
                names = map(_plain, (title, row.group.recipe, row.group.variant, column.split, column.metric))
                writer.writerow([*names, _number(cell.mean), _number(cell.deviation), len(cell.values), cell.runs, value, source])
    return buffer.getvalue()


def _plain(name: str) -> str:
    """A name that no spreadsheet takes for a formula, in one line."""
    name = " ".join(name.split())
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


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
