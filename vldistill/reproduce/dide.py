"""The runs of DiDE's tables and of its Fig. 3. A run is a table's row on one task with one seed; before it come teachers and
pre-training, once for all seeds."""

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

ACTIONS = ("count", "list", "before", "run", "all", "table")
TOY_DATA = "vqa,nlvr2,snli-ve,coco,gcc,sbu,visual-genome"


class Step(TableEntry):
    """A training."""

    stage: str
    recipe: str
    variant: str = "default"
    overrides: tuple[str, ...] = ()
    seed: int = 0

    @property
    def folder(self) -> Path:
        return Path("runs", self.recipe, self.variant, f"seed{self.seed}")

    @property
    def command(self) -> list[str]:
        fields = [f"train.seed={self.seed}", *self.overrides]
        return ["vldistill", self.stage, "--recipe", self.recipe, *fields, "--name", self.variant]

    def train(self) -> None:
        train(self.folder, self.command)


class DideTask(TableEntry):
    """What a student is fine-tuned on. recipe: its distillation. splits: what it is evaluated on, by `metrics`. teacher: the
    fusion model that it learns from. start: what it starts from without pre-training of its own, and what that takes."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    splits: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    teacher: Step
    start: tuple[Step, ...] = ()


class World(TableEntry):
    """seeds: by default. tasks: by the papers' columns. pretraining: DiDE's, "kd" with distillation and "std" without."""

    seeds: str
    tasks: dict[str, DideTask]
    pretraining: dict[str, Step]


class OwnRecipe(TableEntry):
    """Of a row on one task, in place of the task's."""

    recipe: str
    overrides: tuple[str, ...] = ()


class DideRow(TableEntry):
    """stage: "distill", "finetune", or "" for the teacher, which is there already. pretraining: what it starts from. paper: the
    row that the published figures are of, in table `source`, or in the row's own."""

    name: str
    stage: str = ""
    overrides: tuple[str, ...] = ()
    pretraining: str | None = None
    recipes: dict[str, OwnRecipe] = Field(default_factory=dict)
    teacher: Step | None = None
    paper: str = ""
    source: str = ""


class DideTable(TableEntry):
    """columns: tasks, where its world has them."""

    title: str
    worlds: tuple[str, ...] = ("full", "toy")
    columns: tuple[str, ...] = ("nlvr2", "snli_ve", "vqa")
    rows: tuple[DideRow, ...]


class DideTables(TableEntry):
    worlds: dict[str, World]
    tables: dict[str, DideTable]


@cache
def dide_tables() -> DideTables:
    return read_tables("dide.yaml", DideTables)


@dataclass(frozen=True)
class DideRun:
    """A row on a task. before: what it builds on, in an order that works. paper: published percentages, in order."""

    row: DideRow
    task: DideTask
    step: Step
    before: tuple[Step, ...]
    paper: tuple[float, ...]

    @property
    def line(self) -> str:
        return shlex.join(self.step.command) if self.row.stage else f"vldistill evaluate {self.step.folder}"

    def finish(self) -> None:
        if self.row.stage:
            self.step.train()
        evaluate(self.step.folder, self.task.splits)


def runs_of(asked: TableRequest, world: str) -> list[DideRun]:
    """All runs in a fixed order; of a teacher there is one."""
    return [
        _run(asked, row, column, task, dide_tables().worlds[world], seed)
        for row in dide_tables().tables[asked.table].rows
        for column, task in _tasks_of(asked.table, row, world)
        if asked.wants(row.name, task.name)
        for seed in (asked.seeds if row.stage else [0])
    ]


def _tasks_of(table: str, row: DideRow, world: str) -> list[tuple[str, DideTask]]:
    tasks = dide_tables().worlds[world].tasks
    wanted = [column for column in dide_tables().tables[table].columns if column in (row.recipes or tasks) and column in tasks]
    teacher = {"teacher": row.teacher} if row.teacher else {}
    return [
        (column, tasks[column].model_copy(update=teacher | (dict(row.recipes[column]) if row.recipes else {})))
        for column in wanted
    ]


def _run(asked: TableRequest, row: DideRow, column: str, task: DideTask, world: World, seed: int) -> DideRun:
    start = [world.pretraining[row.pretraining]] if row.pretraining else []
    # A row with a recipe of its own that learns from labels needs nobody.
    before = () if row.recipes and row.stage == "finetune" else (*task.start, task.teacher, *start)
    overrides = (*task.overrides, *(f"student.init={step.folder}" for step in start), *row.overrides, *asked.given)
    prefix = asked.table if asked.table.startswith("fig") else f"table{asked.table}"
    step = Step(stage=row.stage, recipe=task.recipe, variant=f"{prefix}-{task.name}-{row.name}", overrides=overrides, seed=seed)
    paper = row_figures("DiDE", row.source or asked.table, row.paper, column) if row.paper else {}
    return DideRun(row, task, step if row.stage else task.teacher, before, tuple(paper.values()))


def steps_before(runs: list[DideRun]) -> list[Step]:
    """What they build on, each once, in an order that works."""
    return list(dict.fromkeys(step for run in runs for step in run.before))


def name_of(table: str) -> str:
    return f"Fig. {table.removeprefix('fig')}" if table.startswith("fig") else f"Table {table}"


def print_table(table: str, runs: list[DideRun], *, toy: bool) -> None:
    """What has been evaluated so far: mean and deviation over seeds, beside the paper's figures, of a toy task those of the data
    set that it stands for."""
    scores: dict[str, dict[tuple[str, str, str], list[float]]] = {}
    paper: dict[str, dict[str, str]] = {}
    for run in runs:
        paper.setdefault(run.row.name, {})[run.task.name] = " / ".join(f"{figure:g}" for figure in run.paper)
        for column in ((run.task.name, split, metric) for split in run.task.splits for metric in run.task.metrics):
            scores.setdefault(run.row.name, {}).setdefault(column, []).extend(score(run.step.folder, *column[1:]))
    columns = list(dict.fromkeys(column for cells in scores.values() for column in cells))
    tasks = list(dict.fromkeys(task for task, _, _ in columns if any(of.get(task) for of in paper.values())))
    rows = [
        [name, *(mean(cells.get(column)) for column in columns), *(paper[name].get(task, "") for task in tasks)]
        for name, cells in scores.items()
    ]
    heads = [f"{task} {split}" if metric == "accuracy" else metric for task, split, metric in columns]
    title = f"DiDE, {name_of(table)}{' in the toy world' * toy}, {dide_tables().tables[table].title}: %"
    show(title, ["row", *heads, *(f"paper, {task}" for task in tasks)], rows)


def seeds_in(world: str) -> str:
    return dide_tables().worlds[world].seeds


def reproduce_dide(asked: TableRequest, *, toy: bool) -> None:
    tables = dide_tables().tables
    chosen(asked.table, list(tables))
    chosen(asked.action, ACTIONS)
    world = "toy" if toy else "full"
    if world not in tables[asked.table].worlds:
        raise InputError(
            f"{name_of(asked.table)} is not for the toy world: leave out --toy, or choose of "
            f"{', '.join(name for name, table in tables.items() if world in table.worlds)}"
        )
    runs = runs_of(asked, world)
    before = steps_before(runs)

    def prepare() -> None:
        if toy and not Path("artifacts/data/toy-visual_genome").exists():
            call(["vldistill", "prepare", "toy", "--datasets", TOY_DATA, "--overwrite"])
        for step in before:
            step.train()

    act(
        asked,
        runs,
        "--only",
        prepare=prepare,
        show=lambda: print_table(asked.table, runs, toy=toy),
        before=[step.command for step in before],
        prepares=True,
    )
