"""`vldistill prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from vldistill.commands.output import console, plan_table
from vldistill.commands.prepare_tables import render_counts, render_lowshot, render_rewritten, short_types
from vldistill.data.prepare import LAYOUTS, SOURCES, prepare
from vldistill.data.prepare_toy import prepare_toy
from vldistill.data.sources.base import SourceOptions, nearest
from vldistill.data.toy.layouts import DATASETS
from vldistill.data.variants import Variants
from vldistill.errors import InputError


def prepare_command(
    dataset: str, *, raw: Path | None, out: Path | None, min_count: int, vqa_split: str, labels: tuple[str, ...],
    task: str | None, val_directories: tuple[str, ...], splits: tuple[str, ...], limit: int | None, check: str,
    follow_links: bool, seed: int, scale: float, datasets: tuple[str, ...], lowshot: tuple[str, ...], seeds: tuple[str, ...],
    domain_shift: bool, statements: bool, dry_run: bool, overwrite: bool,
) -> None:
    """`vldistill prepare`."""
    if check not in ("decode", "header", "none"):
        raise InputError(f"--images {check} is not known", hint="decode, header or none")
    options = SourceOptions(min_answer_count=min_count, vqa_split=vqa_split, val_directories=val_directories, labels=labels,
                            task=task, splits=splits or None)
    variants = Variants(_numbers("--lowshot", lowshot), _numbers("--seeds", seeds), domain_shift, statements)
    name = dataset.replace("-", "_").lower()
    if name == "list":
        console.print(_datasets())
        return
    if name == "toy":
        given = {"--lowshot, --domain-shift or --statements": bool(variants), "--splits": splits, "--limit": limit,
                 "--labels": labels, "--task": task, "--val-directories": val_directories,
                 "--images": check != "decode", "--follow-links": follow_links}
        for option, value in given.items():
            if value:
                raise InputError(f"{option} means nothing for toy", hint="leave it out; --scale sets the size of the world")
        folder, raw = out or Path("artifacts/data"), raw or Path("artifacts/raw")
        chosen = tuple(_toy_dataset(given) for given in datasets) or DATASETS
        if dry_run:
            names = f"{{{','.join(chosen)}}}"
            console.print(plan_table("prepare toy", {"writes raw files": raw / "toy" / names,
                                                     "writes artifacts": folder / f"toy-{names}"}))
            return
        manifests = prepare_toy(folder, raw, seed=seed, scale=scale, options=options, overwrite=overwrite, datasets=chosen)
        places = [folder / f"toy-{manifest['dataset']}" for manifest in manifests]
    else:
        if datasets:
            raise InputError(f"--datasets means nothing for {dataset}", hint="leave it out; it is for toy")
        if name not in SOURCES:
            raise InputError(f"no dataset {dataset!r}", hint=nearest(name, LAYOUTS))
        if raw is None:
            raise InputError("--raw is missing", hint=f"vldistill prepare {dataset} --raw FOLDER, the official download")
        target = out or Path("artifacts/data") / name
        manifests, places = [_prepare_with_progress(
            name, raw, target, options=options, limit=limit, overwrite=overwrite, decode_images=check == "decode",
            check_images=check != "none", follow_links=follow_links, dry_run=dry_run,
            variants=variants)], [target]
    for manifest, place in zip(manifests, places, strict=True):
        _print(manifest, place, dry_run)


def _toy_dataset(given: str) -> str:
    name = given.replace("-", "_").lower()
    if name not in DATASETS:
        raise InputError(f"the toy world has no dataset {given!r}", hint=nearest(name, DATASETS))
    return name


def _datasets() -> Table:
    table = Table("dataset", "what it reads from --raw", box=None, pad_edge=False)
    for name, layout in LAYOUTS.items():
        table.add_row(name.replace("_", "-"), layout)
    return table


def _numbers(option: str, values: tuple[str, ...]) -> tuple[int, ...]:
    if not all(value.isascii() and value.isdigit() for value in values):
        raise InputError(f"{option} {','.join(values)} is not a list of whole numbers", hint=f"{option} 100,1000")
    return tuple(dict.fromkeys(map(int, values)))


def _print(manifest: dict[str, Any], place: Path, dry_run: bool) -> None:
    added = manifest.get("added", [])
    if manifest.get("unchanged") and not added:
        console.print(f"up to date: {place}, made from the same input", highlight=False, soft_wrap=True)
        return
    for note in manifest.get("notes") or []:
        console.print(f"note: {note}", highlight=False, markup=False)
    if not manifest.get("unchanged"):
        console.print(render_counts(manifest))
    names = added or list(manifest.get("variants", {}))
    for table in (*render_lowshot(manifest, names), *render_rewritten(manifest, names)):
        console.print(table)
    for line in short_types(manifest, names):
        console.print(f"note: {line}", highlight=False, markup=False)
    done = "would write" if dry_run else f"added {len(added)} to" if added else "wrote"
    console.print(f"{done} {place}\n", highlight=False, soft_wrap=True)


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


