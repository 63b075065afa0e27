"""The runs of ADVL's result tables, as `bin/reproduce-advl.sh` asks for them:

    python bin/reproduce_advl.py TABLE count|list|cache|run|all|table [--settings S,S] [--seeds K,K] [--only WORD] [KEY=VALUE ...]

A run is a table's row in one setting with one seed. Tables 7, 8, 10 and 11 are the low-shot columns of 1, 2, 4 and 3 with their
deviations.
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
from reproduce_advl_rows import FALLING, LOWSHOT_OF, SETTINGS, SHIFT, TABLES, Row, rows_of
from reproduce_runs import call, check_given, mean, numbered, score, seeds_of, show

LOWSHOT_EPOCHS = 20
ACTIONS = ("count", "list", "cache", "run", "all", "table")


@dataclass(frozen=True)
class Run:
    """A row in one setting with one seed. given: recipe fields of the user's, which win."""

    table: int
    row: Row
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
            fields += [f"data.train=train-lowshot{self.setting}-seed{self.seed}", "train.steps=null",
                       f"train.epochs={LOWSHOT_EPOCHS}", "train.validate_every=epoch", "optim.warmup=0.1"]
            fields += ["optim.milestones=[14,18]"] * (self.row.recipe in FALLING)
        return fields

    @property
    def training(self) -> list[str]:
        # Runs side by side must not write one cache.
        require = ["cache.mode=require"] * self.row.teachers
        stage = "distill" if self.row.teachers else "finetune"
        return ["vldistill", stage, *self.fields, *require, *self.given, "--name", self.variant]

    @property
    def cache(self) -> list[str]:
        return ["vldistill", "cache", *self.fields, *self.given]

    @property
    def splits(self) -> list[str]:
        """What it is evaluated on: val, and with all data the shifted val where the paper has it."""
        return ["val", *["val-shift"] * (self.setting == "full" and SHIFT in self.row.paper)]


def runs_of(table: int, settings: list[str], seeds: list[int], only: str | None, given: list[str]) -> list[Run]:
    """All runs in a fixed order. With all data there is one draw, and the paper has one run: the first seed."""
    return [Run(LOWSHOT_OF.get(table, table), row, setting, seed, tuple(given))
            for row in rows_of(table) if not only or only in row.name or only == row.task
            for setting in settings if setting in row.paper
            for seed in (seeds[:1] if setting == "full" else seeds)]


def train(run: Run) -> None:
    """One run with its evaluations."""
    reproduce_runs.train(run.folder, run.training)
    for split in run.splits:
        call(["vldistill", "evaluate", str(run.folder), "--split", split])


def fill_caches(runs: list[Run]) -> None:
    for command in dict.fromkeys(tuple(run.cache) for run in runs if run.row.teachers):
        call(list(command))


def print_table(table: int, runs: list[Run]) -> None:
    """What has been evaluated so far: mean and deviation over seeds, beside the paper's figure."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for split in run.splits:
            reached = score(run.folder, split, run.row.metric)
            column = found.setdefault(run.row.name, {}).setdefault(SHIFT if split != "val" else run.setting, [])
            column += [] if reached is None else [reached]
    columns = [name for name in (*SETTINGS, SHIFT) if any(name in cells for cells in found.values())]
    rows = [[row.name, *(part for column in columns for part in (mean(cells.get(column)), f"{row.paper.get(column, '')}"))]
            for row in rows_of(table) if (cells := found.get(row.name)) is not None]
    show(f"ADVL, Table {table}: accuracy % on val", ["row", *(part for column in columns for part in (column, "paper"))], rows)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bin/reproduce-advl.sh")
    parser.add_argument("table", type=int, choices=TABLES)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("--settings", help="of 100, 1000, full; all that the table has by default")
    parser.add_argument("--seeds", default="0,1,2,3")
    parser.add_argument("--only", metavar="WORD", help="rows whose name holds it, or whose task it is")
    parser.add_argument("--number", default=os.environ.get("SLURM_ARRAY_TASK_ID", ""), help="run: which, from 0")
    parser.add_argument("given", nargs="*", metavar="KEY=VALUE", help="recipe fields, for every run")
    asked = parser.parse_intermixed_args(words)
    settings = asked.settings.split(",") if asked.settings else SETTINGS[: 2 if asked.table in LOWSHOT_OF else 3]
    if wrong := [setting for setting in settings if setting not in SETTINGS]:
        parser.error(f"--settings {wrong[0]}: one of {', '.join(SETTINGS)}")
    check_given(parser, asked.given)
    runs = runs_of(asked.table, list(settings), seeds_of(parser, asked.seeds), asked.only, asked.given)
    if not runs:
        parser.error("no run is left of the table: mend --settings or --only")
    if asked.action == "count":
        print(len(runs))
    elif asked.action == "list":
        for number, run in enumerate(runs):
            print(number, shlex.join(run.training))
    elif asked.action == "cache":
        fill_caches(runs)
    elif asked.action == "table":
        print_table(asked.table, runs)
    elif asked.action == "all":
        for run in runs:
            train(run)
    else:
        train(runs[numbered(parser, asked.number, len(runs))])


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `list | head`
    main(sys.argv[1:])
