"""`vldistill recipe ls | show | check | cp`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vldistill.schema import Recipe

recipe_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show, check and copy recipes.",
                         epilog="Example: vldistill recipe show quickstart_dide")

Name = Annotated[str, typer.Argument(help="Recipe file, or the name of one that ships with the tool.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe fields to change.")]


def _teachers(recipe: Recipe) -> str:
    models = [part.model for part in (recipe.teachers.vision, recipe.teachers.text) if part]
    return " + ".join(models) or (recipe.teacher.kind if recipe.teacher else "-")


@recipe_app.command("ls", epilog="Example: vldistill recipe ls")
def ls() -> None:
    """List the recipes that ship with the tool."""
    from rich.console import Console
    from rich.table import Table

    from vldistill.recipe import load_recipe, shipped_recipes

    table = Table("recipe", "student", "teacher", "what it is", box=None, pad_edge=False)
    for path in shipped_recipes():
        recipe = load_recipe(str(path))
        table.add_row(path.stem, recipe.student.kind, _teachers(recipe), recipe.description)
    Console().print(table)


@recipe_app.command("show", epilog="Example: vldistill recipe show quickstart_dide optim.lr=5e-4")
def show(name: Name, overrides: Overrides = None) -> None:
    """Print a recipe with every default filled in."""
    from vldistill.recipe import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(name, overrides)), nl=False)


@recipe_app.command("check", epilog="Example: vldistill recipe check my_recipe.yaml")
def check(names: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipe files or names.")]) -> None:
    """Validate recipes without opening any data."""
    from vldistill.recipe import find_recipe, load_recipe

    for name in names:
        load_recipe(name)
        typer.echo(f"{find_recipe(name)}: ok")


@recipe_app.command("cp", epilog="Example: vldistill recipe cp quickstart_dide my_recipe.yaml")
def cp(name: Name, target: Annotated[Path, typer.Argument(help="File or folder to copy to.")]) -> None:
    """Copy a recipe for editing."""
    from vldistill.recipe import copy_recipe

    typer.echo(f"wrote {copy_recipe(name, target)}")
