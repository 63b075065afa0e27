"""The runs of ADVL's result tables. A run is a table's row in one setting with one seed. Tables 7, 8, 10 and 11 are the low-shot
columns of 1, 2, 4 and 3 with their deviations."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import Field

from vldistill.errors import InputError
from vldistill.evaluation.report.grid import row_figures
from vldistill.reproduce.tables import (
    TableEntry,
    TableRequest,
    act,
    call,
    chosen,
    evaluate,
    mean,
    read_tables,
    score,
    show,
    train,
)

SETTINGS = ("100", "1000", "full")
"""Examples of each type, or all data."""
SHIFT = "shift"
"""The run with all data on the domain-shifted validation set."""
LOWSHOT_EPOCHS = 20
ACTIONS = ("count", "list", "cache", "run", "all", "table")


class AdvlRow(TableEntry):
    """name: unique in its table. task: what it is trained on. metric: by which it is judged. teachers: False trains it by
    `finetune`. figures: the paper's, in percent, by setting."""

    name: str
    recipe: str
    paper: str
    task: str = "vcr"
    metric: str = ""
    teachers: bool = True
    source: str = ""
    sets: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    figures: dict[str, float] = Field(default_factory=dict)


class AdvlTables(TableEntry):
    """lowshot_of: the tables with the low-shot columns of others. falling: recipes whose learning rate falls at milestones."""

    sets: dict[str, tuple[str, ...]]
    tables: dict[str, tuple[AdvlRow, ...]]
    lowshot_of: dict[str, str]
    falling: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return sorted({*self.tables, *self.lowshot_of}, key=int)

    def rows_of(self, table: str) -> list[AdvlRow]:
        table = self.lowshot_of.get(table, table)
        return [self._whole(table, row) for row in self.tables[table]]

    def _whole(self, table: str, row: AdvlRow) -> AdvlRow:
        metric = row.metric or ("q_to_a" if row.task == "vcr" else "accuracy")
        figures = row_figures("ADVL", row.source or table, row.paper, row.task.replace("-", "_"))
        printed = {
            SHIFT if place.split != "val" else place.examples: value for place, value in figures.items() if place.metric == metric
        }
        overrides = [field for name in row.sets for field in self.sets[name]] + list(row.overrides)
        return row.model_copy(update={"metric": metric, "figures": printed, "overrides": tuple(overrides)})


@cache
def advl_tables() -> AdvlTables:
    return read_tables("advl.yaml", AdvlTables)


@dataclass(frozen=True)
class AdvlRun:
    """A row in one setting with one seed."""

    table: str
    row: AdvlRow
    setting: str
    seed: int
    given: tuple[str, ...]

    @property
    def variant(self) -> str:
        return f"table{self.table}-{self.row.name}-{self.setting}"

    @property
    def folder(self) -> Path:
        return Path("runs", self.row.recipe, self.variant, f"seed{self.seed}")

    @property
    def fields(self) -> list[str]:
        """Overrides of the recipe. Low-shot sets are trained for a fixed number of epochs, not for the full set's steps, with
        warm-up and milestones to match, which would else lie beyond the end."""
        fields = ["--recipe", self.row.recipe, f"train.seed={self.seed}", *self.row.overrides]
        if self.setting != "full":
            fields += [
                f"data.train=train-lowshot{self.setting}-seed{self.seed}",
                "train.steps=null",
                f"train.epochs={LOWSHOT_EPOCHS}",
                "train.validate_every=epoch",
                "optim.warmup=0.1",
            ]
            fields += ["optim.milestones=[14,18]"] * (self.row.recipe in advl_tables().falling)
        return fields

    @property
    def training(self) -> list[str]:
        # Runs side by side must not write one cache.
        require = ["cache.mode=require"] * self.row.teachers
        stage = "distill" if self.row.teachers else "finetune"
        return ["vldistill", stage, *self.fields, *require, *self.given, "--name", self.variant]

    @property
    def line(self) -> str:
        return shlex.join(self.training)

    @property
    def splits(self) -> list[str]:
        """What it is evaluated on: val, and with all data the shifted val where the paper has it."""
        return ["val", *["val-shift"] * (self.setting == "full" and SHIFT in self.row.figures)]

    def finish(self) -> None:
        train(self.folder, self.training)
        evaluate(self.folder, self.splits)


def runs_of(asked: TableRequest, settings: list[str]) -> list[AdvlRun]:
    """All runs in a fixed order. With all data there is one draw, and the paper has one run: the first seed."""
    table = advl_tables().lowshot_of.get(asked.table, asked.table)
    return [
        AdvlRun(table, row, setting, seed, asked.given)
        for row in advl_tables().rows_of(table)
        if asked.wants(row.name, row.task)
        for setting in settings
        if setting in row.figures
        for seed in (asked.seeds[:1] if setting == "full" else asked.seeds)
    ]


def caches_of(runs: list[AdvlRun]) -> list[list[str]]:
    commands = (("vldistill", "cache", *run.fields, *run.given) for run in runs if run.row.teachers)
    return [list(command) for command in dict.fromkeys(commands)]


def print_table(table: str, runs: list[AdvlRun]) -> None:
    """What has been evaluated so far: mean and deviation over seeds, beside the paper's figure."""
    scores: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for split in run.splits:
            column = scores.setdefault(run.row.name, {}).setdefault(SHIFT if split != "val" else run.setting, [])
            column += score(run.folder, split, run.row.metric)
    columns = [name for name in (*SETTINGS, SHIFT) if any(name in cells for cells in scores.values())]
    rows = [
        [row.name, *(part for column in columns for part in (mean(cells.get(column)), f"{row.figures.get(column, '')}"))]
        for row in advl_tables().rows_of(table)
        if (cells := scores.get(row.name)) is not None
    ]
    show(f"ADVL, Table {table}: accuracy % on val", ["row", *(part for column in columns for part in (column, "paper"))], rows)


def reproduce_advl(asked: TableRequest, settings: str) -> None:
    """settings: separated by commas; all that the table has where it is empty."""
    chosen(asked.table, advl_tables().names)
    chosen(asked.action, ACTIONS)
    wanted: list[str] = settings.split(",") if settings else list(SETTINGS[: 2 if asked.table in advl_tables().lowshot_of else 3])
    if wrong := [setting for setting in wanted if setting not in SETTINGS]:
        raise InputError(f"--settings {wrong[0]}: one of {', '.join(SETTINGS)}")
    runs = runs_of(asked, wanted)

    def fill_caches() -> None:
        for command in caches_of(runs):
            call(command)

    act(asked, runs, "--settings or --only", prepare=fill_caches, show=lambda: print_table(asked.table, runs))
