"""`vldistill prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vldistill.commands.output import console, plan_table
from vldistill.data.prepare import SOURCES, prepare, render_counts
from vldistill.data.prepare_toy import prepare_toy
from vldistill.data.sources.base import SourceOptions, nearest
from vldistill.errors import InputError


def prepare_command(
    dataset: str, *, raw: Path | None, out: Path | None, min_count: int, labels: tuple[str, ...], task: str | None,
    val_directories: tuple[str, ...], splits: tuple[str, ...], limit: int | None, check: str, follow_links: bool, seed: int,
    scale: float, dry_run: bool, overwrite: bool,
) -> None:
    """`vldistill prepare`."""
    if check not in ("decode", "header", "none"):
        raise InputError(f"--images {check} is not known", hint="decode, header or none")
    options = SourceOptions(min_answer_count=min_count, val_directories=val_directories, labels=labels, task=task,
                            splits=splits or None)
    name = dataset.replace("-", "_").lower()
    if name == "toy":
        given = {"--splits": splits, "--limit": limit, "--labels": labels, "--task": task, "--val-directories": val_directories,
                 "--images": check != "decode", "--follow-links": follow_links}
        for option, value in given.items():
            if value:
                raise InputError(f"{option} means nothing for toy", hint="leave it out; --scale sets the size of the world")
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
        manifests, places = [_prepare_with_progress(
            name, raw, target, options=options, limit=limit, overwrite=overwrite, decode_images=check == "decode",
            check_images=check != "none", follow_links=follow_links, dry_run=dry_run)], [target]
    for manifest, place in zip(manifests, places, strict=True):
        for note in manifest.get("notes") or []:
            console.print(f"note: {note}", highlight=False, markup=False)
        console.print(render_counts(manifest))
        console.print(f"{'would write' if dry_run else 'wrote'} {place}\n", highlight=False)


def _prepare_with_progress(name: str, raw: Path, target: Path, **arguments: Any) -> dict[str, Any]:
    """`prepare` with a bar that counts images, on a terminal."""
    if not console.is_terminal:
        return prepare(name, raw, target, **arguments)
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("checking images", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        return prepare(name, raw, target, progress=advance, **arguments)


