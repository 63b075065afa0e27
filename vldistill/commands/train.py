"""`vldistill pretrain`, `finetune` and `distill`."""

from __future__ import annotations

from pathlib import Path

from vldistill.commands.output import console, last_line, plan_table
from vldistill.errors import InputError
from vldistill.recipe import load_recipe
from vldistill.schema import Recipe


def _load(recipe: str, overrides: list[str], limit: int | None = None) -> Recipe:
    return load_recipe(recipe, [*overrides, *([f"data.limit={limit}"] if limit else [])])


def pretrain_command(recipe: str, overrides: list[str]) -> None:
    """`vldistill pretrain`: refuses a recipe without a pre-training section."""
    loaded = _load(recipe, overrides)
    if loaded.pretrain is None:
        raise InputError("nothing to pre-train: the recipe has no `pretrain` section", where=recipe,
                         hint=f"go on with: vldistill distill --recipe {recipe}")
    tasks = ", ".join(loaded.pretrain.tasks)
    raise InputError(f"pretrain.tasks {tasks}: this version has no pre-training objective", where=recipe,
                     hint="remove the section, and start the student from a pre-trained encoder with student.init")


def train_command(
    stage_name: str, recipe: str, overrides: list[str], *, name: str | None, runs: Path, limit: int | None, dry_run: bool,
    overwrite: bool,
) -> None:
    """`vldistill finetune` and `vldistill distill`."""
    loaded = _load(recipe, overrides, limit)
    from vldistill.training.stages import Stage, build_parts, describe, for_stage, run_stage

    stage = Stage(stage_name, for_stage(stage_name, loaded), overrides, runs, name, overwrite)
    if dry_run:
        console.print(plan_table(f"{stage_name} {loaded.name}", describe(stage, build_parts(stage.recipe))))
        return
    manifest = run_stage(stage)
    best = manifest["best"]
    last_line({"run": str(stage.folder), "accuracy": round(best["accuracy"], 4), "step": best["step"],
               "wall_s": manifest["wall_s"]})
