"""A report as one self-contained HTML page: no script, no network, pictures within."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vldistill.evaluation.page import render
from vldistill.evaluation.report.analyses import Picture, Shift
from vldistill.evaluation.report.charts import bar_charts, cost_chart, curve_charts, style_of
from vldistill.evaluation.report.grid import Group
from vldistill.evaluation.report.samples import SampleSet
from vldistill.evaluation.report.tables import TaskGrid, note_of, text_table


@dataclass(frozen=True)
class TaskReport:
    """The runs of one task. title: the data they were trained on."""

    title: str
    groups: tuple[Group, ...]
    grid: TaskGrid


@dataclass(frozen=True)
class Report:
    """problems: lines on runs whose figures do not count. remarks: on what else to know of them."""

    title: str
    summary: str
    tasks: tuple[TaskReport, ...]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    samples: tuple[SampleSet, ...]
    shifts: tuple[Shift, ...]
    pictures: tuple[Picture, ...]


def report_page(report: Report) -> str:
    return render("report.html", title=report.title, summary=report.summary, report=report, tasks=list(map(_task, report.tasks)))


def _task(task: TaskReport) -> dict[str, Any]:
    """What the page shows of a task. kinds: the class of each column. legend: the style of each group's line, and its name."""
    table = text_table(task.grid)
    kinds = [
        " ".join(["n"] * numeric + ["paper"] * (name == "paper")) for name, numeric in zip(table.head, table.numeric, strict=True)
    ]
    lines = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashed"}
    styles = [style_of(place) for place in range(len(task.groups))]
    legend = [
        (f"border-color:{colour};border-top-style:{lines[dash]}", group.name)
        for (colour, dash), group in zip(styles, task.groups, strict=True)
    ]
    return {
        "title": task.title,
        "table": table,
        "kinds": kinds,
        "note": note_of([task.grid]),
        "legend": legend,
        "sources": "; ".join(task.grid.sources),
        "bars": bar_charts(task.grid),
        "curves": curve_charts(task.groups),
        "cost": cost_chart(task.grid),
        "runs": [run for group in task.groups for run in group.runs],
    }
