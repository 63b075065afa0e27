"""`prepare toy`: writes the toy worlds' raw files, then reads them with the loaders of the real datasets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vldistill.artifacts import (
    MANIFEST,
    new_manifest,
    read_manifest,
    refuse_existing,
    remove_leftovers,
    within_parents,
    write_manifest,
)
from vldistill.data.prepare import prepare
from vldistill.data.sources.jsonl import Jsonl
from vldistill.data.sources.table import SourceOptions
from vldistill.data.sources.vqa import Vqa
from vldistill.data.toy.diverse import JSONL_TASKS
from vldistill.data.toy.layouts import DATASETS, write_toy
from vldistill.errors import InputError
from vldistill.locking import exclusive

RAW_NAME = "toy"


def prepare_toy(
    out: Path,
    raw: Path,
    *,
    seed: int,
    scale: float,
    min_answer_count: int = 9,
    overwrite: bool,
    datasets: Sequence[str] = DATASETS,
) -> list[dict[str, Any]]:
    """Writes raw files to `raw/toy/<dataset>` and artifacts to `out/toy-<dataset>`; returns the artifacts' manifests.

    min_answer_count: VQA's. Raw files of the same seed and scale are kept, unless `overwrite` is on. Raises InputError before
    anything is written where one of the folders is taken.
    """
    targets = {name: (raw / RAW_NAME / name, out / f"{RAW_NAME}-{name}") for name in datasets}
    for root, target in targets.values():
        if overwrite or not _is_there(root, seed, scale):
            refuse_existing(root, overwrite, "toy")
            refuse_existing(target, overwrite, "prepare")
    manifests = []
    for name, (root, target) in targets.items():
        layout, own = _source(name, min_answer_count)
        with within_parents(root), exclusive(root):
            remove_leftovers(root)
            if not overwrite and _is_there(root, seed, scale):
                manifests.append(prepare(layout, root, target, options=own))
            else:
                place = name, layout, root, target
                manifests.append(_prepare_one(*place, seed=seed, scale=scale, overwrite=overwrite, options=own))
    return manifests


def _is_there(root: Path, seed: int, scale: float) -> bool:
    """Whether the raw files are those of such a world. Raises InputError where they are of another one."""
    if not (root / MANIFEST).exists():
        return False
    manifest = read_manifest(root, "toy", make_it="vldistill prepare toy --overwrite")
    if (manifest.get("seed"), manifest.get("scale")) != (seed, scale):
        raise InputError(
            f"is a toy world of --seed {manifest.get('seed')} --scale {manifest.get('scale')}",
            where=str(root),
            hint="ask for the same, pass --overwrite, or give other places with --raw and --out",
        )
    return True


def _source(name: str, min_answer_count: int) -> tuple[str, SourceOptions | None]:
    """What reads a data set, and how."""
    if name in JSONL_TASKS:
        return "jsonl", Jsonl(task=JSONL_TASKS[name])
    return name, Vqa(min_answer_count=min_answer_count) if name == "vqa" else None


def _prepare_one(
    name: str, layout: str, root: Path, target: Path, *, seed: int, scale: float, options: SourceOptions | None, overwrite: bool
) -> dict[str, Any]:
    """One dataset. Its old raw files stay until the new ones are written, and come back where reading those fails."""
    retired, fresh = (root.with_name(f".{name}.{os.getpid()}.{state}") for state in ("old", "new"))
    placed = False
    try:
        write_toy(fresh, seed=seed, scale=scale, datasets=(name,))
        write_manifest(fresh / name, new_manifest("toy", seed=seed, scale=scale, complete=True))
        if root.exists():
            root.rename(retired)
        (fresh / name).rename(root)
        placed = True
        manifest = prepare(layout, root, target, options=options, overwrite=overwrite)
    except BaseException:
        if placed:
            shutil.rmtree(root, ignore_errors=True)
        if retired.exists():
            retired.rename(root)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(retired, ignore_errors=True)
    return manifest
