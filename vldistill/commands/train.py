"""`vldistill pretrain`, `finetune` and `distill`."""

from __future__ import annotations

from pathlib import Path

from vldistill.commands.output import console, last_line, plan_table
from vldistill.recipe import load_recipe
from vldistill.schema import Recipe


def _load(recipe: str, overrides: list[str], limit: int | None = None) -> Recipe:
    return load_recipe(recipe, [*overrides, *([f"data.limit={limit}"] if limit else [])])


def train_command(
    stage_name: str, recipe: str, overrides: list[str], *, name: str | None, runs: Path, limit: int | None, dry_run: bool,
    overwrite: bool,
) -> None:
    """`vldistill pretrain`, `finetune` and `distill`."""
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
