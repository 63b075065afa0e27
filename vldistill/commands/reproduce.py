"""`vldistill reproduce advl | dide`, and what the scripts in `bin/` ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vldistill.errors import InputError

reproduce_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, run and show the papers' tables.",
    epilog="Example: vldistill reproduce dide 5 list",
)

Table = Annotated[str, typer.Argument(metavar="TABLE", help="Its number in the paper; fig3 is DiDE's Fig. 3.")]
Given = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe fields, for every run.")]
Only = Annotated[str | None, typer.Option("--only", metavar="WORD", help="Only rows of this task, or with this in their name.")]
Number = Annotated[
    str,
    typer.Option("--number", metavar="N", envvar="SLURM_ARRAY_TASK_ID", show_envvar=False, help="run: the run's number, from 0."),
]


@reproduce_app.command("advl", epilog="Example: vldistill reproduce advl 9 all --settings 100")
def advl(
    table: Table,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="count, list, cache, run, all or table.")],
    given: Given = None,
    settings: Annotated[str, typer.Option("--settings", metavar="S,S", help="Some of 100, 1000, full; all by default.")] = "",
    seeds: Annotated[str, typer.Option("--seeds", metavar="K,K", help="Seeds of the runs.")] = "0,1,2,3",
    only: Only = None,
    number: Number = "",
) -> None:
    """ADVL's tables 1-4 and 7-11."""
    from vldistill.reproduce.advl import reproduce_advl
    from vldistill.reproduce.tables import TableRequest, checked_fields, seeds_of

    reproduce_advl(TableRequest(table, action, seeds_of(seeds), only, number, checked_fields(given or [])), settings)


@reproduce_app.command("dide", epilog="Example: vldistill reproduce dide 7 all --toy --only ve3")
def dide(
    table: Table,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="count, list, before, run, all or table.")],
    given: Given = None,
    toy: Annotated[bool, typer.Option("--toy", help="In the toy world: tables 4-7.")] = False,
    seeds: Annotated[str, typer.Option("--seeds", metavar="K,K", help="Seeds of the runs (0,1,2,3; with --toy 0,1,2).")] = "",
    only: Only = None,
    number: Number = "",
) -> None:
    """DiDE's tables 2 and 4-7, and its figure 3."""
    from vldistill.reproduce.dide import reproduce_dide, seeds_in
    from vldistill.reproduce.tables import TableRequest, checked_fields, seeds_of

    drawn = seeds_of(seeds or seeds_in("toy" if toy else "full"))
    reproduce_dide(TableRequest(table, action, drawn, only, number, checked_fields(given or [])), toy=toy)


@reproduce_app.command("grid", hidden=True, epilog="Example: vldistill reproduce grid grid.txt lines --dry-run")
def grid(
    path: Annotated[Path, typer.Argument(metavar="GRID", help="A command a line.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, for what the jobs read.")],
    seeds: Annotated[str, typer.Option("--seeds", metavar="K,K", help="Every training with each of them.")] = "",
    most_tasks: Annotated[int, typer.Option("--most-tasks", metavar="N", help="Trainings of an array.")] = 1001,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the lines, and write nothing.")] = False,
) -> None:
    """Check and split the lines of `bin/grid.sh`."""
    from vldistill.reproduce.grid import write_grid
    from vldistill.reproduce.tables import seeds_of

    write_grid(path, folder, seeds=seeds_of(seeds) if seeds else [], most_tasks=most_tasks, dry_run=dry_run)


@reproduce_app.command("quickstart", hidden=True, epilog="Example: vldistill reproduce quickstart dide quickstart")
def quickstart(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="cache or grid: ADVL's runs; advl or dide: the table.")],
    of: Annotated[str, typer.Argument(metavar="SEEDS|DIR", help="How many seeds, or the folder of the table's runs.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The table's picture, instead of one in DIR.")] = None,
) -> None:
    """Do a part of `bin/quickstart`."""
    from vldistill.reproduce import quickstart
    from vldistill.reproduce.tables import chosen

    runs = {"cache": quickstart.fill_caches, "grid": quickstart.run_grid}
    if chosen(what, [*runs, "advl", "dide"]) == "advl":
        quickstart.advl_quickstart(Path(of), out or Path(of, "quickstart-advl.png"))
    elif what == "dide":
        quickstart.dide_quickstart(Path(of), out or Path(of, "quickstart.png"))
    elif of.isdigit():
        runs[what](int(of))
    else:
        raise InputError(f"{of!r} is no number of seeds")
