"""`vldistill pretrain`, `finetune` and `distill`: one command, but for the stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vldistill.commands.options import DryRun, LimitOption, NameOption, Overrides, Overwrite, RecipeOption, Resume, RunsOption
from vldistill.commands.output import last_line, show_plan
from vldistill.errors import InputError


def training(stage_name: str, help_text: str) -> Callable[..., None]:
    """The command of a stage. help_text: its help."""

    def command(
        recipe: RecipeOption,
        overrides: Overrides = None,
        name: NameOption = None,
        runs: RunsOption = Path("runs"),
        limit: LimitOption = None,
        resume: Resume = None,
        dry_run: DryRun = False,
        overwrite: Overwrite = False,
    ) -> None:
        if resume not in (None, "auto"):
            raise InputError(f"--resume {resume}: only auto is known", hint="--resume auto starts a run, or goes on with it")
        if resume and overwrite:
            raise InputError("--resume and --overwrite", hint="give one: to go on with what is there, or to start anew")
        from vldistill.recipe.load import load_recipe
        from vldistill.runtime import is_first_rank, join_step, launched_processes

        words = overrides or []
        loaded = load_recipe(recipe, [*words, *([f"data.limit={limit}"] if limit else [])])
        from vldistill.training.build import build_parts
        from vldistill.training.run import run_stage
        from vldistill.training.stages import Stage, describe, for_stage

        stage = Stage(stage_name, for_stage(stage_name, loaded), words, runs, name, overwrite, resume is not None)
        if dry_run:
            join_step()
            rows = describe(stage, build_parts(stage.recipe), launched_processes())
            if is_first_rank():
                show_plan(f"{stage_name} {loaded.name}", rows)
            return
        manifest = run_stage(stage)
        accuracy, step = round(manifest["best"]["accuracy"], 4), manifest["best"]["step"]
        last_line({"run": str(stage.folder), "accuracy": accuracy, "step": step, "wall_s": manifest["wall_s"]})

    command.__name__, command.__doc__ = stage_name, help_text
    return command


pretrain = training("pretrain", "Train on captions or text alone, without labels.")
finetune = training("finetune", "Train on labels alone: baselines, teachers.")
distill = training("distill", "Train a student with its teachers: DiDE, ADVL.")
