"""`prepare toy`: writes the toy world's raw files, then reads them with the loaders of the real datasets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from vldistill.artifacts import refuse_existing
from vldistill.data.prepare import prepare
from vldistill.data.sources.base import SourceOptions
from vldistill.data.toy.layouts import DATASETS, write_toy

# Captions have no loader of their own yet: their raw files are written for the tools that read COCO's.
PREPARED = ("vqa", "nlvr2", "snli_ve")
RAW_NAME = "toy"


def prepare_toy(
    out: Path, raw: Path, *, seed: int, scale: float, options: SourceOptions, overwrite: bool
) -> list[dict[str, Any]]:
    """Writes raw files below `raw/toy` and artifacts `out/toy-<dataset>`; returns the artifacts' manifests."""
    targets = {name: out / f"{RAW_NAME}-{name}" for name in PREPARED}
    for target in targets.values():
        refuse_existing(target, overwrite)
    root = raw / RAW_NAME
    if root.exists() and overwrite:
        for name in DATASETS:
            shutil.rmtree(root / name, ignore_errors=True)
    write_toy(root, seed=seed, scale=scale)
    return [
        prepare(name, root / name, target, options=options if name == "vqa" else SourceOptions(), overwrite=overwrite)
        for name, target in targets.items()
    ]
