"""Checks the file of `bin/grid.sh` and writes what its jobs read."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from vldistill.artifacts import building
from vldistill.errors import InputError, VldistillError
from vldistill.recipe.load import load_recipe, variant_name
from vldistill.terminal import write

TRAININGS = ("pretrain", "finetune", "distill")
SEED = "train.seed="


@dataclass
class CommandGrid:
    """Words of each line. prepare, cache: without the command's name. train: by the run's folder, with the line's number."""

    prepare: list[list[str]] = field(default_factory=list)
    cache: list[list[str]] = field(default_factory=list)
    train: dict[str, tuple[int, list[str]]] = field(default_factory=dict)


class _Training(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parser_of(stage: str) -> _Training:
    """What a line may give. Names in full, and nothing that the jobs give themselves."""
    line = _Training(prog=stage, add_help=False, allow_abbrev=False)
    line.add_argument("--recipe", "-r", required=True)
    line.add_argument("--name")
    line.add_argument("--runs", default="runs")
    line.add_argument("--limit", type=int)
    line.add_argument("overrides", nargs="*")
    return line


def add_training(grid: CommandGrid, number: int, words: list[str]) -> None:
    """Raises InputError where the line is no training, or another line's run."""
    stage = words[0]
    asked = parser_of(stage).parse_intermixed_args(words[1:])
    if asked.name is None:
        raise InputError("has no --name, by which its run is found afterwards")
    limit = [f"data.limit={asked.limit}"] * (asked.limit is not None)
    recipe = load_recipe(asked.recipe, [*asked.overrides, *limit])
    if (recipe.objective.kind == "pretrain") != (stage == "pretrain"):
        raise InputError(f"recipe {recipe.name} has objective `{recipe.objective.kind}`, which `{stage}` does not train")
    variant = variant_name(recipe, asked.overrides, asked.name)
    folder = str(Path(asked.runs, recipe.name, variant, f"seed{recipe.train.seed}"))
    if folder in grid.train:
        raise InputError(f"would write {folder}, as line {grid.train[folder][0]} does", hint="give one of them another --name")
    grid.train[folder] = number, words
    if stage == "distill" and recipe.objective.kind == "advl" and recipe.cache.mode != "live":
        # Features depend on no seed.
        wanted = ["--recipe", asked.recipe, *(word for word in asked.overrides if not word.startswith(SEED)), *limit]
        if wanted not in grid.cache:
            grid.cache.append(wanted)


def read_grid(path: Path, seeds: list[int]) -> CommandGrid:
    """Raises InputError for the first line that is wrong, with its number."""
    grid = CommandGrid()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}", where=str(path)) from None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            if words[0] == "prepare":
                grid.prepare.append(words[1:])
                continue
            if words[0] not in TRAININGS:
                raise InputError(f"begins with {words[0]!r}", hint=f"one of prepare, {', '.join(TRAININGS)}")
            own = any(word.startswith(SEED) for word in words)
            for each in [[*words, f"{SEED}{seed}"] for seed in seeds] if seeds and not own else [words]:
                add_training(grid, number, each)
        except ValueError as error:
            raise InputError(f"{error}".lower(), where=f"{path}:{number}") from None
        except VldistillError as error:
            raise InputError(str(error), where=f"{path}:{number}") from None
    if not grid.train:
        raise InputError("has no training", where=str(path), hint="for example: distill --recipe my_recipe.yaml --name a")
    return grid


def write_grid(path: Path, folder: Path, *, seeds: list[int], most_tasks: int, dry_run: bool) -> None:
    """The folder, a new one, gets prepare.txt, cache.txt and train-0.txt (with more than `most_tasks` trainings train-1.txt and
    so on), a command's words a line, and runs.txt, the folder of each training; a dry run prints the lines. Raises InputError
    for the first line that is wrong."""
    grid = read_grid(path, seeds)
    train = [shlex.join(each) for _, each in grid.train.values()]
    files = {"prepare": [shlex.join(each) for each in grid.prepare], "cache": [shlex.join(each) for each in grid.cache]}
    if dry_run:
        for name, lines in {**files, "train": train}.items():
            for line in lines:
                write(f"{name:8} {line.removeprefix(f'{name} ')}")
        return
    files["runs"] = list(grid.train)
    for part, start in enumerate(range(0, len(train), most_tasks)):
        files[f"train-{part}"] = train[start : start + most_tasks]
    # A new one: jobs that wait read those of another submission.
    with building(folder) as new:
        for name, lines in files.items():
            (new / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    write(f"{len(grid.train)} run(s), {len(grid.cache)} cache line(s), {len(grid.prepare)} of prepare; copied to {folder}")
