"""The papers' figures, each with its table and row, and which of them a run is to be compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from vldistill.evaluation.report.grid import VALIDATION, GridColumn, Group
from vldistill.evaluation.report.runs import RunRecord, start_of

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
class Figure:
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
    figures: dict[Place, Figure]


@cache
def _rows() -> tuple[_Row, ...]:
    text = resources.files("vldistill.evaluation.report").joinpath("published.yaml").read_text(encoding="utf-8")
    rows = []
    for table in yaml.safe_load(text):
        places = [_place(column) for column in table["columns"]]
        for row in table["rows"]:
            figures = {
                place: Figure(table["paper"], table["table"], row["name"], value)
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


def published_for(group: Group, columns: list[GridColumn]) -> dict[GridColumn, list[Figure]]:
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


def _best(fitting: list[_Row], place: Place) -> list[Figure]:
    best: dict[str, tuple[int, Figure]] = {}
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
