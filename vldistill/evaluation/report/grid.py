"""Runs grouped by recipe and variant, and the mean and standard deviation over their seeds."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vldistill.evaluation.report.runs import RunRecord

_SEED = re.compile(r"-seed\d+$")
VALIDATION = "validation"
"""The column of what training itself saw at its best step."""
# In the order in which they are shown. ECE is an error, so less is better, and it stays beside accuracy.
METRICS = {
    "accuracy": "accuracy",
    "consistency": "consistency",
    "q_to_a": "Q -> A",
    "qa_to_r": "QA -> R",
    "q_to_ar": "Q -> AR",
    "ece": "ECE",
    "ir_r1": "IR R@1",
    "ir_r5": "IR R@5",
    "ir_r10": "IR R@10",
    "tr_r1": "TR R@1",
    "tr_r5": "TR R@5",
    "tr_r10": "TR R@10",
}


@dataclass(frozen=True)
class GridColumn:
    """split: an evaluation's folder, or VALIDATION. metric: a key of METRICS. Figures are percentages."""

    split: str
    metric: str

    @property
    def title(self) -> str:
        name = METRICS[self.metric]
        return self.split if self.metric == "accuracy" else f"{self.split} {name}"


@dataclass(frozen=True)
class Cell:
    """Percentages of a group's runs, and how many runs there are in all."""

    values: tuple[float, ...]
    runs: int

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Of the sample (n - 1); None of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    recipe: str
    variant: str
    runs: tuple[RunRecord, ...]

    @property
    def name(self) -> str:
        return f"{self.recipe}/{self.variant}"

    @property
    def whole(self) -> tuple[RunRecord, ...]:
        """Those whose figures count: complete, on all data."""
        return tuple(run for run in self.runs if run.flag is None)

    @property
    def mixed(self) -> bool:
        """Whether its runs were made with different settings, so that a mean means little. Seed k of a low-shot recipe trains on
        draw k, which is no other setting."""
        settings = [_without_seed(run.settings) for run in self.runs if run.settings]
        return any(own != settings[0] for own in settings[1:])

    def cell(self, column: GridColumn) -> Cell:
        values = [value for run in self.whole if (value := value_of(run, column)) is not None]
        return Cell(tuple(values), len(self.runs))


def _without_seed(settings: dict[str, Any]) -> dict[str, Any]:
    data, train = settings.get("data", {}), settings.get("train", {})
    return {
        **settings,
        "data": {**data, "train": _SEED.sub("", str(data.get("train")))},
        "train": {name: value for name, value in train.items() if name != "seed"},
    }


def value_of(run: RunRecord, column: GridColumn) -> float | None:
    """A run's figure in percent, or None where it has none, or one of a part of the data."""
    if column.split == VALIDATION:
        return _percent(run.best.get(column.metric))
    metrics = run.scores.get(column.split, {})
    return None if metrics.get("partial") else _percent(metrics.get(column.metric))


def _percent(value: Any) -> float | None:
    return 100 * value if isinstance(value, int | float) and not isinstance(value, bool) else None


def group_runs(runs: Iterable[RunRecord]) -> list[Group]:
    """In the order of their first run."""
    by_name: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        by_name.setdefault((run.recipe, run.variant), []).append(run)
    return [Group(recipe, variant, tuple(own)) for (recipe, variant), own in by_name.items()]


def columns_of(groups: Iterable[Group]) -> list[GridColumn]:
    """What any of the runs has a figure for: the validation's accuracy, then each evaluation's metrics."""
    splits: dict[str, set[str]] = {}
    for group in groups:
        for run in group.runs:
            if "accuracy" in run.best:
                splits.setdefault(VALIDATION, set()).add("accuracy")
            for split, metrics in run.scores.items():
                if not metrics.get("partial"):
                    splits.setdefault(split, set()).update(set(METRICS) & set(metrics))
    order = sorted(splits, key=lambda split: (split != VALIDATION, split))
    return [GridColumn(split, metric) for split in order for metric in METRICS if metric in splits[split]]


def remarks_of(groups: Iterable[Group]) -> list[str]:
    """A line for each group whose runs differ in more than their seed."""
    return [
        f"{group.name}: its runs were made with different settings; compare their recipe.yaml" for group in groups if group.mixed
    ]


def problems_of(groups: Iterable[Group]) -> list[str]:
    """A line for each run, or evaluation, whose figures do not count."""
    problems = []
    for group in groups:
        problems += [f"{run.folder}: {run.flag}" for run in group.runs if run.flag]
        problems += [
            f"{run.folder}: evaluated on a part of {split} only"
            for run in group.runs
            for split, metrics in run.scores.items()
            if metrics.get("partial") and not run.partial
        ]
    return problems
