"""The options and arguments that several commands take, and how their values are read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from vldistill.data.sources.rows import listed
from vldistill.errors import MAX_PROBLEMS_SHOWN, InputError, Problems

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", metavar="FILE", help="Recipe file, or a shipped one's name.", show_default=False)
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe fields to change.", show_default=False)]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder that holds the runs.")]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of this variant of the run.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N records of each split.")]
Workers = Annotated[int, typer.Option("--workers", min=0, metavar="N", help="Processes that read images.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Resume = Annotated[str | None, typer.Option("--resume", metavar="auto", help="Continue an unfinished run, or start a new one.")]
SkipBroken = Annotated[
    str, typer.Option("--skip-broken", metavar="N%", show_default=False, help="Skip broken input, up to this share of it.")
]
Faults = Annotated[Path | None, typer.Option("--faults", metavar="FILE", help="Write every fault found to this file, as JSONL.")]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", min=1, metavar="N", help="Largest image, in pixels; 25,000,000.")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN", help="Run folder, model folder, or hub name.", show_default=False)]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, model folder, or hub name.", show_default=False)]
OtherData = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Data artifact to use instead of the run's own.")]

_MOST_DIGITS = 18


class KnowsOthers(TyperCommand):
    """A command of a group whose commands have options of their own: one of another's is refused by name."""

    def parse_args(self, ctx, args):
        top = ctx
        while top.parent is not None and top.parent.parent is not None:
            top = top.parent
        own, others = _options(self), dict(_commands(top.command))
        vain = {word.partition("=")[0] for word in args if word.startswith("--")} - own
        having = [name for name, options in others.items() if vain & options]
        if having:
            vain_names = ", ".join(sorted(vain & set().union(*others.values())))
            name = ctx.command_path.removeprefix(f"{top.command_path} ")
            raise InputError(f"{vain_names} means nothing for {name}", hint=f"leave it out; it is for {listed(having)}")
        return super().parse_args(ctx, args)


def _options(command) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def _commands(group, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """The commands of a group and of those within it, by what is typed behind its own name, with their options."""
    for name, command in getattr(group, "commands", {}).items():
        yield f"{path}{name}", _options(command)
        yield from _commands(command, f"{path}{name} ")


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a list that an option takes: "a, b" to ("a", "b"); a part with a comma stands in double quotes."""
    if '"' not in text:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        [parts] = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        raise InputError(f"{text[:80]} has a quote that does not end", hint="as in: --labels '\"yes, sir\",no'") from None
    return tuple(part.strip() for part in parts if part.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """A list of whole numbers, as an option takes it."""
    values = split_list(text)
    if not all(value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS for value in values):
        raise InputError(f"{option} {text[:60]} is not a list of whole numbers", hint=f"{option} 100,1000")
    return tuple(map(int, values))


@contextmanager
def all_faults(path: Path | None) -> Iterator[Problems]:
    """Hands out what takes the faults of a command, and writes them to `path` (`--faults FILE`), if there is one, however the
    command ends, as JSONL: an empty file says that there is none. Raises InputError where `path` is a file that this has not
    written."""
    if path is not None:
        _refuse_others(path)
    problems = Problems(every=path is not None)
    try:
        yield problems
    except InputError as error:
        faults = error.faults or [error]
        if path is not None:
            _write(path, faults)
            raise InputError(f"{error}\nall {len(faults):,} faults are in {path}") from None
        if len(faults) > MAX_PROBLEMS_SHOWN:
            raise InputError(f"{error}\n--faults FILE writes all of them") from None
        raise
    if path is not None:
        _write(path, problems.items)


def _row(fault: InputError) -> str:
    return json.dumps({"where": fault.where, "fault": fault.message, "mend": fault.hint}, ensure_ascii=False)


def _write(path: Path, faults: list[InputError]) -> None:
    from vldistill.artifacts import write_text

    write_text(path, "".join(f"{_row(fault)}\n" for fault in faults))


def _refuse_others(path: Path) -> None:
    """Before anything is read: the file may be somebody's data."""
    from vldistill.places import open_regular

    if not path.parent.is_dir():
        raise InputError("no such folder", where=str(path.parent), hint="make it, or name another file for --faults")
    if not path.exists():
        return
    if not path.is_file():
        raise InputError("is no plain file", where=str(path), hint="name a file for --faults")
    with open_regular(path) as file:
        first = file.readline()
    try:
        known = not first or json.loads(first).keys() == {"where", "fault", "mend"}
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise InputError("exists and holds no faults", where=str(path), hint="name another file for --faults")
