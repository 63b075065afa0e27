"""Runs grouped by recipe and variant, with mean and standard deviation over their seeds; and the papers' figures, each with
its table and row, that a group is to be compared with."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from vldistill.evaluation.report.runs import RunRecord, start_of

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


_PRESENT = "present"
_LOWSHOT = re.compile(r"lowshot(\d+)")
_COLUMN = re.compile(r"(?P<task>\w+)/(?P<split>[\w-]+)(?::(?P<metric>\w+))?(?:@(?P<examples>\w+))?$")
FULL = "full"
"""Trained on the whole training set."""


@dataclass(frozen=True)
class Place:
    """What a figure is of. examples: of each type in the training set, or FULL."""

    task: str
    split: str
    metric: str
    examples: str


@dataclass(frozen=True)
class PublishedFigure:
    """A published percentage. paper, table, row: where it stands."""

    paper: str
    table: str
    row: str
    value: float

    @property
    def source(self) -> str:
        return f"{self.paper}, Table {self.table}, {self.row}"


@dataclass(frozen=True)
class _Row:
    name: tuple[str, str, str]
    when: dict[str, Any]
    figures: dict[Place, PublishedFigure]


@cache
def _rows() -> tuple[_Row, ...]:
    text = resources.files("vldistill.evaluation.report").joinpath("published.yaml").read_text(encoding="utf-8")
    rows = []
    for table in yaml.safe_load(text):
        places = [_place(column) for column in table["columns"]]
        for row in table["rows"]:
            figures = {
                place: PublishedFigure(table["paper"], table["table"], row["name"], value)
                for place, value in zip(places, row["figures"], strict=True)
                if value is not None
            }
            rows.append(_Row((table["paper"], table["table"], row["name"]), table["when"] | row["when"], figures))
    return tuple(rows)


def _place(column: str) -> Place:
    """
    >>> _place("vcr/val:q_to_a@100")
    Place(task='vcr', split='val', metric='q_to_a', examples='100')
    """
    task, split, metric, examples = _COLUMN.match(column).group("task", "split", "metric", "examples")
    return Place(task, split, metric or "accuracy", examples or FULL)


def row_figures(paper: str, table: str, row: str, task: str) -> dict[Place, float]:
    """What a paper's table has in a row for a task, {} where nothing. Raises KeyError where the paper has no such row."""
    figures_of = [own.figures for own in _rows() if own.name == (paper, table, row)]
    if not figures_of:
        raise KeyError(f"{paper}, Table {table}: no row {row!r}")
    return {place: figure.value for figures in figures_of for place, figure in figures.items() if place.task == task}


def published_for(group: Group, columns: list[GridColumn]) -> dict[GridColumn, list[PublishedFigure]]:
    """Of each column the papers' figures of the same method, task and split; of each paper those of the row that says most of the
    method."""
    if not group.runs:
        return {}
    run = group.runs[0]
    settings = _flat(run)
    fitting = [row for row in _rows() if _holds(row.when, settings)]
    examples = _examples(run)
    splits = {column: "val" if column.split == VALIDATION else column.split for column in columns}
    by_column = {column: _best(fitting, Place(run.task, split, column.metric, examples)) for column, split in splits.items()}
    # What training saw is the same split as an evaluation's, where there is one; its figure is shown once.
    evaluated = {column.split for column in columns}
    return {
        column: figures
        for column, figures in by_column.items()
        if figures and not (column.split == VALIDATION and "val" in evaluated)
    }


def _best(fitting: list[_Row], place: Place) -> list[PublishedFigure]:
    best: dict[str, tuple[int, PublishedFigure]] = {}
    for row in fitting:
        if (figure := row.figures.get(place)) is None:
            continue
        if figure.paper not in best or len(row.when) > best[figure.paper][0]:
            best[figure.paper] = (len(row.when), figure)
    return [figure for _, figure in best.values()]


def _examples(run: RunRecord) -> str:
    match = _LOWSHOT.search(str(run.settings.get("data", {}).get("train", "")))
    return match[1] if match else FULL


def _flat(run: RunRecord) -> dict[str, Any]:
    """The recipe's fields by dotted name, and as `init.*` those of the run it started from."""
    return {
        "recipe": run.recipe,
        **dict(_fields(run.settings)),
        **{f"init.{name}": value for name, value in _fields(start_of(run))},
    }


def _fields(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _holds(when: dict[str, Any], settings: dict[str, Any]) -> bool:
    return all(_is(settings.get(name), wanted) for name, wanted in when.items())


def _is(value: Any, wanted: Any) -> bool:
    """
    >>> _is("swinv2_large", "swin*"), _is(24, ["last", 24]), _is(None, "present")
    (True, True, False)
    """
    if isinstance(wanted, list):
        return any(_is(value, one) for one in wanted)
    if wanted == _PRESENT:
        return value is not None
    if isinstance(wanted, str) and wanted.endswith("*"):
        return str(value).startswith(wanted[:-1])
    return value == wanted
