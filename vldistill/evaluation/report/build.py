"""From folders of runs to a report, with the pictures and the importance of modalities that `analyze` has left beside them,
and the report as one self-contained HTML page: no script, no network, pictures within."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.evaluation.page import render
from vldistill.evaluation.report.grid import Group, group_runs, problems_of, remarks_of
from vldistill.evaluation.report.runs import read_runs
from vldistill.evaluation.report.samples import SampleSet, sample_sets
from vldistill.evaluation.report.tables import (
    TaskGrid,
    bar_charts,
    cost_chart,
    curve_charts,
    make_grid,
    note_of,
    style_of,
    text_table,
)
from vldistill.places import read_regular

FIGURES = "figures"
"""Below a run."""
VIEWS = {
    "modality": "attention on each modality",
    "tokens": "attention on words",
    "words": "selected words",
    "attention": "attention of words over the image",
}
_LARGEST = 4 << 20
"""Bytes of a picture that a page takes in."""


@dataclass(frozen=True)
class Picture:
    """name: the run's. view: what it shows. short: whether it takes little of a page, so that it need not be unfolded."""

    name: str
    view: str
    png: bytes
    short: bool


def pictures(groups: Sequence[Group]) -> list[Picture]:
    """Those of each group's first run that has any, but none too large for a page."""
    chosen = []
    for group in groups:
        for run in group.runs:
            name = f"{group.name}/seed{run.seed}"
            own = [
                Picture(name, title, read_regular(path), view == "modality")
                for view, title in VIEWS.items()
                if (path := run.folder / FIGURES / f"{view}.png").is_file() and path.stat().st_size <= _LARGEST
            ]
            if own:
                chosen += own
                break
    return chosen


@dataclass(frozen=True)
class Importance:
    """Mean attention of [CLS] over heads and layers, in [0, 1], on visual and on text tokens (ADVL, Fig. 8)."""

    vision: float
    text: float

    @property
    def gap(self) -> float:
        """By how much text outweighs vision."""
        return self.text - self.vision


@dataclass(frozen=True)
class Shift:
    """A run's importance before it was trained, None where that was not read, and after. split: of the records."""

    name: str
    split: str
    before: Importance | None
    after: Importance


def modality_shifts(groups: Sequence[Group]) -> list[Shift]:
    """Of each run that has been analysed, in order."""
    shifts = []
    for group in groups:
        for run in group.runs:
            path = run.folder / FIGURES / "modality.json"
            try:
                content = json.loads(read_regular(path))
                before, after = (_importance(content["averages"].get(when)) for when in ("before", "after"))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if after is not None:
                shifts.append(Shift(f"{group.name}/seed{run.seed}", str(content.get("split", "")), before, after))
    return shifts


def _importance(averages: dict[str, float] | None) -> Importance | None:
    return None if averages is None else Importance(float(averages["vision"]), float(averages["text"]))


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


def build_report(sources: Sequence[Path], *, title: str, samples: int) -> Report:
    """Reads all runs that are named or lie below the named folders. samples: records shown of each data set. Raises InputError
    where there are no runs."""
    runs = read_runs(sources)
    groups = group_runs(runs)
    by_data: dict[str, list[Group]] = {}
    for group in groups:
        by_data.setdefault(_data_of(group), []).append(group)
    tasks = tuple(TaskReport(name, tuple(own), make_grid(own)) for name, own in by_data.items())
    complete = sum(run.flag is None for run in runs)
    summary = f"{len(runs)} run(s), {complete} of them whole, in {len(groups)} group(s) of recipe and variant."
    return Report(
        title,
        summary,
        tasks,
        tuple(problems_of(groups)),
        tuple(remarks_of(groups)),
        tuple(sample_sets(groups, samples)) if samples else (),
        tuple(modality_shifts(groups)),
        tuple(pictures(groups)),
    )


def _data_of(group: Group) -> str:
    """What a group was trained on."""
    run = group.runs[0]
    if run.data is None:
        return "data not known"
    return f"{run.data.name} ({run.task})" if run.task and run.task not in run.data.name else run.data.name
