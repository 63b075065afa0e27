"""What the papers' tables have in common: rows from a YAML file that ships with the package, running commands, and saying what
came out."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from vldistill import terminal
from vldistill.errors import InputError, Problems
from vldistill.recipe.strict_yaml import parse_yaml


class TableEntry(BaseModel):
    """A part of such a file; a key that it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Book = TypeVar("Book", bound=TableEntry)


def read_tables(name: str, kind: type[Book]) -> Book:
    """Raises InputError or ValidationError where the file is not as it should be."""
    problems = Problems()
    values, _ = parse_yaml(resources.files("vldistill.reproduce").joinpath(name).read_text(encoding="utf-8"), name, problems)
    problems.raise_if_any(name)
    return kind.model_validate(values)


@dataclass(frozen=True)
class TableRequest:
    """What of a table. number: which run. given: recipe fields of the user's, for every run, which win."""

    table: str
    action: str
    seeds: list[int]
    only: str | None = None
    number: str = ""
    given: tuple[str, ...] = ()

    def wants(self, row: str, task: str) -> bool:
        return not self.only or self.only in row or self.only == task


def chosen(value: str, choices: Sequence[str]) -> str:
    """Raises InputError where it is none of them."""
    if value not in choices:
        raise InputError(f"invalid choice: {value!r}", hint=f"one of {', '.join(choices)}")
    return value


def seeds_of(text: str) -> list[int]:
    if not all(seed.isdigit() for seed in text.split(",")):
        raise InputError(f"--seeds {text}: numbers, as 0,1,2,3")
    return [int(seed) for seed in text.split(",")]


def checked_fields(given: Sequence[str]) -> tuple[str, ...]:
    if wrong := [word for word in given if "=" not in word]:
        raise InputError(f"{wrong[0]!r} is no KEY=VALUE")
    return tuple(given)


class TableRun(Protocol):
    """A row's training with its evaluations. line: its command, or what is done instead."""

    @property
    def line(self) -> str: ...

    def finish(self) -> None: ...


def act(
    asked: TableRequest,
    runs: Sequence[TableRun],
    options: str,
    *,
    prepare: Callable[[], None],
    show: Callable[[], None],
    before: Sequence[Sequence[str]] = (),
    prepares: bool = False,
) -> None:
    """Does what is asked with a table's runs, which are in a fixed order. options: those by which runs are chosen. before: the
    commands that come before all runs, for a listing; `prepare` runs them, and `all` does so too where it `prepares`. show: what
    has been evaluated so far."""
    if not runs:
        raise InputError(f"no run is left of the table: mend {options}")
    if asked.action == "count":
        terminal.write(str(len(runs)))
    elif asked.action == "list":
        for command in before:
            terminal.write(f"before: {shlex.join(command)}")
        for number, run in enumerate(runs):
            terminal.write(f"{number} {run.line}")
    elif asked.action == "table":
        show()
    elif asked.action == "run":
        runs[_numbered(asked.number, len(runs))].finish()
    else:
        if asked.action != "all" or prepares:
            prepare()
        for run in runs if asked.action == "all" else ():
            run.finish()


def _numbered(number: str, count: int) -> int:
    if not number.isdigit() or int(number) >= count:
        raise InputError(f"run: --number 0 to {count - 1}, which an array job sets; it is {number or 'missing'}")
    return int(number)


def call(command: Sequence[str]) -> None:
    """Runs a command of this environment's; ends with its code where it fails."""
    terminal.write(f"+ {shlex.join(command)}")
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if code := subprocess.run(command, check=False, env={**os.environ, "PATH": here}).returncode:
        sys.exit(code)


def train(folder: Path, command: Sequence[str]) -> None:
    """A training that is complete is left as it is, and one that was ended goes on from its last checkpoint."""
    manifest = folder / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text(encoding="utf-8")).get("complete"):
        terminal.write(f"{folder} is complete")
    else:
        call([*command, "--resume", "auto"])


def evaluate(folder: Path, splits: Sequence[str]) -> None:
    for split in splits:
        call(["vldistill", "evaluate", str(folder), "--split", split])


def score(folder: Path, split: str, metric: str) -> list[float]:
    """In percent; empty where it has not been evaluated."""
    path = folder / "eval" / split / "metrics.json"
    return [100 * json.loads(path.read_text(encoding="utf-8"))[metric]] if path.exists() else []


def mean(values: list[float] | None) -> str:
    """Mean and deviation; "-" without a value, nothing where none is expected."""
    if not values:
        return "" if values is None else "-"
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f} ({len(values)})" if len(values) > 1 else "")


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table whose first column is the rows' names."""
    table = terminal.Table(columns[0], box=None, pad_edge=False)
    table.figures(*columns[1:])
    for row in rows:
        table.add_row(*row)
    terminal.say(title, style="italic")
    terminal.show(table)
