"""`prepare toy`: writes the toy world's raw files, then reads them with the loaders of the real datasets."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from vldistill.artifacts import new_manifest, refuse_existing, write_manifest
from vldistill.data.prepare import prepare
from vldistill.data.sources.base import SourceOptions
from vldistill.data.toy.layouts import write_toy

# Captions have no loader of their own yet: their raw files are written for the tools that read COCO's.
PREPARED = ("vqa", "nlvr2", "snli_ve")
RAW_NAME = "toy"


def prepare_toy(
    out: Path, raw: Path, *, seed: int, scale: float, options: SourceOptions, overwrite: bool
) -> list[dict[str, Any]]:
    """Writes raw files below `raw/toy` and artifacts `out/toy-<dataset>`; returns the artifacts' manifests.

    The old world stays until the new one is written, and comes back where reading the new one fails.
    """
    targets = {name: out / f"{RAW_NAME}-{name}" for name in PREPARED}
    root = raw / RAW_NAME
    for target in (root, *targets.values()):
        refuse_existing(target, overwrite)
    retired = raw / f".{RAW_NAME}.{os.getpid()}.old"
    fresh = raw / f".{RAW_NAME}.{os.getpid()}.new"
    placed = False
    try:
        write_toy(fresh, seed=seed, scale=scale)
        write_manifest(fresh, new_manifest("toy", seed=seed, scale=scale, complete=True))
        if root.exists():
            root.rename(retired)
        fresh.rename(root)
        placed = True
        manifests = [
            prepare(name, root / name, target, options=options if name == "vqa" else SourceOptions(), overwrite=overwrite)
            for name, target in targets.items()
        ]
    except BaseException:
        shutil.rmtree(root if placed else fresh, ignore_errors=True)
        if retired.exists():
            retired.rename(root)
        raise
    shutil.rmtree(retired, ignore_errors=True)
    return manifests
