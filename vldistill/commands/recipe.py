"""`vldistill recipe ls | show | check | cp`."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from vldistill.terminal import say, write

recipe_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, show, check and copy recipes.",
    epilog="Example: vldistill recipe show quickstart_dide",
)

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file, or a shipped one's name.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe fields to change.")]


@recipe_app.command("ls", epilog="Example: vldistill recipe ls")
def ls() -> None:
    """List the recipes that ship with the tool."""
    from vldistill.recipe.load import load_recipe, shipped_recipes

    paths = shipped_recipes()
    indent = max(len(path.stem) for path in paths) + 2
    # A line each for `grep`; only a terminal has an edge to keep to.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for path in paths:
        text = load_recipe(str(path)).description
        lines = textwrap.wrap(text, max(width - indent, 20)) if width else [text]
        say(f"{path.stem:<{indent}}" + f"\n{'':<{indent}}".join(lines))


@recipe_app.command("show", epilog="Example: vldistill recipe show quickstart_dide optim.lr=5e-4")
def show(
    name: Name,
    overrides: Overrides = None,
    explain: Annotated[bool, typer.Option("--explain", help="Above each field, what it means.")] = False,
) -> None:
    """Print a recipe with every default filled in."""
    from vldistill.recipe.load import dump_recipe, load_recipe

    recipe = load_recipe(name, overrides)
    if explain:
        from vldistill.recipe.reference import explained

        write(explained(recipe).removesuffix("\n"))
    else:
        write(dump_recipe(recipe).removesuffix("\n"))


@recipe_app.command("fields", epilog="Example: vldistill recipe fields student.sizes")
def fields(
    name: Annotated[str, typer.Argument(metavar="FIELD", help="Those below this one only.", show_default=False)] = "",
) -> None:
    """Say what the fields of a recipe mean, what they take, and their defaults."""
    from vldistill.errors import InputError
    from vldistill.recipe.reference import reference

    entries = reference(name)
    if not entries:
        raise InputError(f"a recipe has no field {name!r}", hint="`vldistill recipe fields` lists them all")
    for entry in entries:
        given = "" if entry.default == "" else "; must be given" if entry.default is None else f"; default {entry.default}"
        kinds = f" [{', '.join(entry.kinds)}]" if entry.kinds else ""
        say(f"{entry.name}{kinds}: {entry.takes}{given}")
        width = max(shutil.get_terminal_size().columns, 40) if sys.stdout.isatty() else 100
        for line in textwrap.wrap(entry.meaning, width - 4):
            say(f"    {line}")


@recipe_app.command("check", epilog="Example: vldistill recipe check my_recipe.yaml")
def check(names: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Recipe files or names.")]) -> None:
    """Validate recipes without opening any data."""
    from vldistill.recipe.load import find_recipe, load_recipe

    for name in names:
        load_recipe(name)
        say(f"{find_recipe(name)}: ok")


@recipe_app.command("cp", epilog="Example: vldistill recipe cp quickstart_dide my_recipe.yaml")
def cp(name: Name, target: Annotated[Path, typer.Argument(metavar="TO", help="File or folder to copy to.")]) -> None:
    """Copy a recipe for editing."""
    from vldistill.recipe.load import copy_recipe

    say(f"wrote {copy_recipe(name, target)}")
