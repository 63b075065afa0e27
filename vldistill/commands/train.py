"""`vldistill pretrain`, `finetune` and `distill`."""

from __future__ import annotations

from pathlib import Path

from vldistill.commands.output import last_line, plan_table
from vldistill.errors import InputError
from vldistill.recipe.load import load_recipe
from vldistill.recipe.schema.recipe import Recipe
from vldistill.runtime import is_first_rank, join_step, launched_processes
from vldistill.terminal import show


def _load(recipe: str, overrides: list[str], limit: int | None = None) -> Recipe:
    return load_recipe(recipe, [*overrides, *([f"data.limit={limit}"] if limit else [])])


def train_command(
    stage_name: str,
    recipe: str,
    overrides: list[str],
    *,
    name: str | None,
    runs: Path,
    limit: int | None,
    dry_run: bool,
    overwrite: bool,
    resume: str | None,
) -> None:
    """`vldistill pretrain`, `finetune` and `distill`."""
    if resume not in (None, "auto"):
        raise InputError(f"--resume {resume}: only auto is known", hint="--resume auto starts a run, or goes on with it")
    if resume and overwrite:
        raise InputError("--resume and --overwrite", hint="give one: to go on with what is there, or to start anew")
    loaded = _load(recipe, overrides, limit)
    from vldistill.training.build import build_parts
    from vldistill.training.plan import describe
    from vldistill.training.run import run_stage
    from vldistill.training.stages import Stage, for_stage

    stage = Stage(stage_name, for_stage(stage_name, loaded), overrides, runs, name, overwrite, resume is not None)
    if dry_run:
        join_step()
        rows = describe(stage, build_parts(stage.recipe), launched_processes())
        if is_first_rank():
            show(plan_table(f"{stage_name} {loaded.name}", rows))
        return
    manifest = run_stage(stage)
    best = manifest["best"]
    last_line(
        {"run": str(stage.folder), "accuracy": round(best["accuracy"], 4), "step": best["step"], "wall_s": manifest["wall_s"]}
    )
