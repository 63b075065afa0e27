"""The runs of ADVL's result tables, as `bin/reproduce-advl.sh` asks for them:

    python bin/reproduce_advl.py TABLE count|list|cache|run|all|table [--settings S,S] [--seeds K,K] [--only WORD] [KEY=VALUE ...]

A run is a table's row in one setting with one seed. Tables 7, 8, 10 and 11 are the low-shot columns of 1, 2, 4 and 3 with their
deviations.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from reproduce_advl_rows import FALLING, LOWSHOT_OF, SETTINGS, SHIFT, TABLES, Row, rows_of

LOWSHOT_EPOCHS = 20
_WIDEST = 120  # columns that a whole table takes
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

    def score(self, split: str) -> float | None:
        """In percent; None where it has not been evaluated."""
        path = self.folder / "eval" / split / "metrics.json"
        return 100 * json.loads(path.read_text(encoding="utf-8"))[self.row.metric] if path.exists() else None


def runs_of(table: int, settings: list[str], seeds: list[int], only: str | None, given: list[str]) -> list[Run]:
    """All runs in a fixed order. With all data there is one draw, and the paper has one run: the first seed."""
    return [Run(LOWSHOT_OF.get(table, table), row, setting, seed, tuple(given))
            for row in rows_of(table) if not only or only in row.name or only == row.task
            for setting in settings if setting in row.paper
            for seed in (seeds[:1] if setting == "full" else seeds)]


def call(command: list[str]) -> None:
    print("+", shlex.join(command), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def train(run: Run) -> None:
    """One run with its evaluations; a training that is complete is left as it is, and one that was killed is replaced."""
    manifest = run.folder / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text(encoding="utf-8")).get("complete"):
        print(f"{run.folder} is complete", flush=True)
    else:
        call([*run.training, *["--overwrite"] * manifest.exists()])
    for split in run.splits:
        call(["vldistill", "evaluate", str(run.folder), "--split", split])


def fill_caches(runs: list[Run]) -> None:
    for command in dict.fromkeys(tuple(run.cache) for run in runs if run.row.teachers):
        call(list(command))


def print_table(table: int, runs: list[Run]) -> None:
    """What has been evaluated so far: mean and deviation over seeds, beside the paper's figure."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"ADVL, Table {table}: accuracy % on val", title_justify="left", box=None, pad_edge=False)
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for split in run.splits:
            score = run.score(split)
            column = found.setdefault(run.row.name, {}).setdefault(SHIFT if split != "val" else run.setting, [])
            column += [] if score is None else [score]
    columns = [name for name in (*SETTINGS, SHIFT) if any(name in cells for cells in found.values())]
    for name in ("row", *(part for column in columns for part in (column, "paper"))):
        shown.add_column(name, justify="left" if name == "row" else "right", no_wrap=True)
    for row in (row for row in rows_of(table) if row.name in found):
        cells = [part for column in columns for part in (_mean(found[row.name].get(column)), f"{row.paper.get(column, '')}")]
        shown.add_row(row.name, *cells)
    Console(width=max(Console().width, _WIDEST)).print(shown)


def _mean(values: list[float] | None) -> str:
    if not values:
        return "" if values is None else "-"
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f} ({len(values)})" if len(values) > 1 else "")


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
    if not all(seed.isdigit() for seed in asked.seeds.split(",")):
        parser.error(f"--seeds {asked.seeds}: numbers, as 0,1,2,3")
    if wrong := [word for word in asked.given if "=" not in word]:
        parser.error(f"{wrong[0]!r} is no KEY=VALUE")
    runs = runs_of(asked.table, list(settings), [int(seed) for seed in asked.seeds.split(",")], asked.only, asked.given)
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
    elif not asked.number.isdigit() or int(asked.number) >= len(runs):
        parser.error(f"run: --number 0 to {len(runs) - 1}, which an array job sets; it is {asked.number or 'missing'}")
    else:
        train(runs[int(asked.number)])


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `list | head`
    main(sys.argv[1:])
