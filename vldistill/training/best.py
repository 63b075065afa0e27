"""The best model of a run that is not finished, kept apart by the step that it is of, with the digest of each of its files.

A checkpoint names the best model of its own moment, and that one stays as long as the checkpoint does: a run that is killed
between a new best and its next checkpoint goes on with the one before. `model/` is there when the run is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vldistill.artifacts import file_digest
from vldistill.errors import InputError, VldistillError, writing

FOLDER, MODEL = "best", "model"
"""Below a run."""


def folder_of(run: Path, step: int) -> Path:
    """Where the best model of a step is kept."""
    return run / FOLDER / f"step-{step:08d}"


def digests_of(folder: Path) -> dict[str, str]:
    """sha256 of each file of a model folder, by name."""
    return {path.name: file_digest(path) for path in sorted(folder.iterdir())}


def is_whole(run: Path, best: dict[str, Any]) -> bool:
    """Whether the files of a best model (see `loop.Best`) are those that were written."""
    folder = folder_of(run, best["step"])
    return folder.is_dir() and digests_of(folder) == best["files"]


def check_best(run: Path, best: dict[str, Any], step: int, checkpoint: Path) -> None:
    """Raises InputError where the best model that a checkpoint of `step` names is gone or damaged; one of that very step is
    written anew from the checkpoint. That of an earlier version's run, which had it in `model/`, is taken as it is."""
    if best["metrics"] is None or best["step"] == step:
        return
    kept = folder_of(run, best["step"])
    if best.get("files") is None and not kept.exists() and (run / MODEL).is_dir():
        kept.parent.mkdir(exist_ok=True)
        (run / MODEL).rename(kept)
    if best.get("files") is not None and not is_whole(run, best):
        raise InputError(
            f"the best model so far, of step {best['step']}, is gone or damaged",
            where=str(kept),
            hint=f"remove {checkpoint}, so that the one before it is taken, or start anew with --overwrite",
        )


def restored(run: Path, best: dict[str, Any], step: int) -> dict[str, Any]:
    """What a checkpoint of `step` says of the best model, once it is checked (see `check_best`); without `files` where it is to
    be written anew."""
    if best["metrics"] is None or (best.get("files") is not None and is_whole(run, best)):
        return best
    kept = folder_of(run, best["step"])
    return {**best, "files": digests_of(kept) if best["step"] != step and kept.is_dir() else None}


def tidy(run: Path, needed: Iterable[int]) -> None:
    """Removes the best models of other steps: no checkpoint goes on from them."""
    keep = {folder_of(run, step) for step in needed}
    for path in (run / FOLDER).glob("step-*"):
        if path not in keep:
            shutil.rmtree(path)


def publish(run: Path, step: int, files: dict[str, str]) -> None:
    """Makes `model/` of the best model; the latter stays. Raises VldistillError where it is not what was written, or the disk is
    full."""
    source, half, target = folder_of(run, step), run / f".{MODEL}.tmp", run / MODEL
    with writing(target):
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        for name in files:
            try:
                os.link(source / name, half / name)
            except OSError:  # a file system without links
                shutil.copyfile(source / name, half / name)
        if digests_of(half) != files:
            raise VldistillError(
                f"the best model, of step {step}, is no longer what was written",
                where=str(source),
                hint="go on with the same command and --resume auto",
            )
        if target.exists():
            shutil.rmtree(target)
        half.rename(target)


def remove_best(run: Path) -> None:
    """A run that is complete has its model."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)
