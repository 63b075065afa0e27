"""From folders of runs to a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vldistill.evaluation.report.analyses import modality_shifts, pictures
from vldistill.evaluation.report.grid import Group, group_runs, problems_of, remarks_of
from vldistill.evaluation.report.page import Report, TaskReport
from vldistill.evaluation.report.runs import read_runs
from vldistill.evaluation.report.samples import sample_sets
from vldistill.evaluation.report.tables import make_grid


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
