"""`prepare toy`: writes the toy worlds' raw files, then reads them with the loaders of the real datasets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vldistill.artifacts import new_manifest, refuse_existing, remove_leftovers, within_parents, write_manifest
from vldistill.data.prepare import prepare
from vldistill.data.sources.base import SourceOptions
from vldistill.data.toy.diverse.layouts import JSONL_TASKS
from vldistill.data.toy.layouts import DATASETS, write_toy
from vldistill.locking import alone

RAW_NAME = "toy"


def prepare_toy(
    out: Path,
    raw: Path,
    *,
    seed: int,
    scale: float,
    options: SourceOptions,
    overwrite: bool,
    datasets: Sequence[str] = DATASETS,
) -> list[dict[str, Any]]:
    """Writes raw files to `raw/toy/<dataset>` and artifacts to `out/toy-<dataset>`; returns the artifacts' manifests.

    options: VQA's. Raises InputError before anything is written where one of the folders is taken.
    """
    targets = {name: (raw / RAW_NAME / name, out / f"{RAW_NAME}-{name}") for name in datasets}
    for places in targets.values():
        for place, stage in zip(places, ("toy", "prepare"), strict=True):
            refuse_existing(place, overwrite, stage)
    manifests = []
    for name, (root, target) in targets.items():
        with within_parents(root), alone(root):
            remove_leftovers(root)
            manifests.append(
                _prepare_one(name, root, target, seed=seed, scale=scale, overwrite=overwrite, options=_options(name, options)))
    return manifests


def _options(name: str, given: SourceOptions) -> SourceOptions:
    task = JSONL_TASKS.get(name)
    return replace(given if name == "vqa" else SourceOptions(), task=task)


def _prepare_one(
    name: str, root: Path, target: Path, *, seed: int, scale: float, options: SourceOptions, overwrite: bool
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
        manifest = prepare("jsonl" if name in JSONL_TASKS else name, root, target, options=options, overwrite=overwrite)
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
