"""The runs of DiDE's tables, as `bin/reproduce-dide-tables.sh` and `bin/reproduce-dide-toy.sh` ask for them:

    python bin/reproduce_dide.py [--toy] TABLE count|list|before|run|all|table [--seeds K,K] [--only WORD] [KEY=VALUE ...]

A run is a table's row on one task with one seed; before it come teachers and pre-training, once for all seeds.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import reproduce_runs
from reproduce_dide_rows import FULL, FULL_ONLY, TABLES, TITLES, TOY, Row, Step, name_of, rows_of
from reproduce_runs import call, check_given, mean, numbered, score, seeds_of, show

ACTIONS = ("count", "list", "before", "run", "all", "table")
TOY_DATA = "vqa,nlvr2,snli-ve,coco,gcc,sbu,visual-genome"


@dataclass(frozen=True)
class Run:
    """A row with one seed. given: recipe fields of the user's, which win."""

    table: str
    row: Row
    seed: int
    given: tuple[str, ...]

    @property
    def step(self) -> Step:
        row = self.row
        if not row.stage:
            return row.task.teacher
        table = self.table if self.table.startswith("fig") else f"table{self.table}"
        variant = f"{table}-{row.task.name}-{row.name}"
        return Step(row.stage, row.task.recipe, variant, (*row.task.overrides, *row.overrides, *self.given), self.seed)


def runs_of(table: str, world, seeds: list[int], only: str | None, given: list[str]) -> list[Run]:
    """All runs in a fixed order; of a teacher there is one."""
    return [Run(table, row, seed, tuple(given)) for row in rows_of(table, world)
            if not only or only in row.name or only == row.task.name
            for seed in (seeds if row.stage else [0])]


def steps_before(runs: list[Run]) -> list[Step]:
    """What they build on, each once, in an order that works."""
    return list(dict.fromkeys(step for run in runs for step in run.row.before))


def prepare(steps: list[Step], *, toy: bool) -> None:
    if toy and not Path("artifacts/data/toy-visual_genome").exists():
        call(["vldistill", "prepare", "toy", "--datasets", TOY_DATA, "--overwrite"])
    for step in steps:
        reproduce_runs.train(step.folder, step.command)


def finish(run: Run) -> None:
    """A training with its evaluations."""
    if run.row.stage:
        reproduce_runs.train(run.step.folder, run.step.command)
    for split in run.row.task.splits:
        call(["vldistill", "evaluate", str(run.step.folder), "--split", split])


def print_table(table: str, runs: list[Run], *, toy: bool) -> None:
    """What has been evaluated so far: mean and deviation over seeds, beside the paper's figures, of a toy task those of the data
    set that it stands for."""
    columns = list(dict.fromkeys((run.row.task.name, split, metric)
                                 for run in runs for split in run.row.task.splits for metric in run.row.task.metrics))
    found: dict[str, dict[tuple[str, str, str], list[float]]] = {}
    paper: dict[str, dict[str, str]] = {}
    for run in runs:
        task = run.row.task
        paper.setdefault(run.row.name, {})[task.name] = " / ".join(f"{figure:g}" for figure in run.row.paper.values())
        for split, metric in ((split, metric) for split in task.splits for metric in task.metrics):
            reached = score(run.step.folder, split, metric)
            column = found.setdefault(run.row.name, {}).setdefault((task.name, split, metric), [])
            column += [] if reached is None else [reached]
    tasks = list(dict.fromkeys(task for task, _, _ in columns if any(of.get(task) for of in paper.values())))
    rows = [[name, *(mean(cells.get(column)) for column in columns), *(paper[name].get(task, "") for task in tasks)]
            for name, cells in found.items()]
    heads = [f"{task} {split}" if metric == "accuracy" else metric for task, split, metric in columns]
    title = f"DiDE, {name_of(table)}{' in the toy world' * toy}, {TITLES[table]}: %"
    show(title, ["row", *heads, *(f"paper, {task}" for task in tasks)], rows)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bin/reproduce-dide-tables.sh")
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("--toy", action="store_true", help="in the toy world")
    parser.add_argument("--seeds", help="0,1,2,3 by default, in the toy world 0,1,2")
    parser.add_argument("--only", metavar="WORD", help="rows whose name holds it, or whose task it is")
    parser.add_argument("--number", default=os.environ.get("SLURM_ARRAY_TASK_ID", ""), help="run: which, from 0")
    parser.add_argument("given", nargs="*", metavar="KEY=VALUE", help="recipe fields, for every run")
    asked = parser.parse_intermixed_args(words)
    check_given(parser, asked.given)
    if asked.toy and asked.table in FULL_ONLY:
        parser.error(f"{name_of(asked.table)} is not for the toy world: leave out --toy, or choose of "
                     f"{', '.join(table for table in TABLES if table not in FULL_ONLY)}")
    seeds = seeds_of(parser, asked.seeds or ("0,1,2" if asked.toy else "0,1,2,3"))
    runs = runs_of(asked.table, TOY if asked.toy else FULL, seeds, asked.only, asked.given)
    if not runs:
        parser.error("no run is left of the table: mend --only")
    before = steps_before(runs)
    if asked.action == "count":
        print(len(runs))
    elif asked.action == "list":
        for step in before:
            print("before:", shlex.join(step.command))
        for number, run in enumerate(runs):
            print(number, shlex.join(run.step.command) if run.row.stage else f"vldistill evaluate {run.step.folder}")
    elif asked.action == "before":
        prepare(before, toy=asked.toy)
    elif asked.action == "table":
        print_table(asked.table, runs, toy=asked.toy)
    elif asked.action == "all":
        prepare(before, toy=asked.toy)
        for run in runs:
            finish(run)
    else:
        finish(runs[numbered(parser, asked.number, len(runs))])


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `list | head`
    main(sys.argv[1:])
