"""The command line's options and arguments that several commands take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from vldistill.data.sources.rows import listed
from vldistill.errors import InputError

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
