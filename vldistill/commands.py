"""What each command does and prints, between the command line's strings and the stages."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vldistill.errors import InputError

console = Console()


def plan_table(title: str, rows: dict[str, str]) -> Table:
    """Two columns: what, and which."""
    table = Table(title=title, box=None, show_header=False, title_justify="left", pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    return table


def prepare_command(
    dataset: str, *, raw: Path | None, out: Path | None, min_count: int, labels: tuple[str, ...], task: str | None,
    val_directories: tuple[str, ...], limit: int | None, check: str, seed: int, scale: float, dry_run: bool, overwrite: bool,
) -> None:
    """`vldistill prepare`."""
    from vldistill.data.prepare import SOURCES, prepare, render_counts
    from vldistill.data.prepare_toy import prepare_toy
    from vldistill.data.sources.base import SourceOptions, nearest

    if check not in ("decode", "header", "none"):
        raise InputError(f"--images {check} is not known", hint="decode, header or none")
    options = SourceOptions(min_answer_count=min_count, val_directories=val_directories, labels=labels, task=task)
    name = dataset.replace("-", "_").lower()
    if name == "toy":
        folder, raw = out or Path("artifacts/data"), raw or Path("artifacts/raw")
        if dry_run:
            console.print(plan_table("prepare toy", {"writes raw files": raw / "toy", "writes artifacts": folder / "toy-*"}))
            return
        manifests = prepare_toy(folder, raw, seed=seed, scale=scale, options=options, overwrite=overwrite)
        places = [folder / f"toy-{manifest['dataset']}" for manifest in manifests]
    else:
        if name not in SOURCES:
            raise InputError(f"no dataset {dataset!r}", hint=nearest(name, [*SOURCES, "toy"]))
        if raw is None:
            raise InputError("--raw is missing", hint=f"vldistill prepare {dataset} --raw FOLDER, the official download")
        target = out or Path("artifacts/data") / name
        manifests, places = [_prepare_one(prepare, name, raw, target, options, limit, check, dry_run, overwrite)], [target]
    for manifest, place in zip(manifests, places, strict=True):
        for note in manifest.get("notes") or []:
            console.print(f"note: {note}", highlight=False, markup=False)
        console.print(render_counts(manifest))
        console.print(f"{'would write' if dry_run else 'wrote'} {place}\n", highlight=False)


def _prepare_one(prepare, name, raw, target, options, limit, check, dry_run, overwrite):
    arguments = {"options": options, "limit": limit, "overwrite": overwrite, "decode_images": check == "decode",
                 "check_images": check != "none", "dry_run": dry_run}
    if not console.is_terminal:
        return prepare(name, raw, target, **arguments)
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("checking images", total=None)
        return prepare(name, raw, target, progress=lambda done, total: progress.update(bar, completed=done, total=total), **arguments)


def _load(recipe: str, overrides: list[str], limit: int | None = None):
    from vldistill.recipe import load_recipe

    return load_recipe(recipe, [*overrides, *([f"data.limit={limit}"] if limit else [])])


def cache_command(recipe: str, overrides: list[str]) -> None:
    """`vldistill cache`: refuses a recipe whose teacher has nothing to store."""
    loaded = _load(recipe, overrides)
    if loaded.teacher is None:
        raise InputError("nothing to cache: the recipe has no teacher", where=recipe, hint="train it with: vldistill finetune")
    raise InputError(
        f"nothing to cache: a {loaded.teacher.kind} teacher runs live, its attention maps are too large to store", where=recipe,
        hint=f"go on with: vldistill distill --recipe {recipe}")


def pretrain_command(recipe: str, overrides: list[str]) -> None:
    """`vldistill pretrain`: refuses a recipe without a pre-training section."""
    loaded = _load(recipe, overrides)
    if loaded.pretrain is None:
        raise InputError("nothing to pre-train: the recipe has no `pretrain` section", where=recipe,
                         hint=f"go on with: vldistill distill --recipe {recipe}")
    raise InputError(f"pretrain.tasks {', '.join(loaded.pretrain.tasks)}: this version has no pre-training objective", where=recipe,
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
    print(json.dumps({"run": str(stage.folder), "accuracy": round(best["accuracy"], 4), "step": best["step"],
                      "wall_s": manifest["wall_s"]}))
