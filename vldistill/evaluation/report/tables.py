"""The grid of runs as a table of text cells, and that table as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vldistill.evaluation.report.grid import Cell, Figure, GridColumn, Group, columns_of, published_for

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
    published: tuple[tuple[Figure, ...], ...]
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
