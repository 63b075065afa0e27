"""Caches on a node's own disk (see `vldistill.staging`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vldistill import staging
from vldistill.artifacts import MANIFEST
from vldistill.store.manifest import load_manifest
from vldistill.teachers.cache.store import CACHE


def staged(folder: Path, say: Callable[[str], None]) -> Path:
    """Where to read a cache. Raises InputError as `vldistill.staging.staged`."""
    if staging.is_wanted() and not load_manifest(folder, CACHE).complete:
        staging.one_a_node(say)(f"{folder} is read where it is: it is not complete")
        return folder
    # By its manifest, which a writer replaces last and which has a digest of each shard's description.
    return staging.staged(staging.Original(folder, folder.name, MANIFEST, lambda: _names(folder)), say)


def _names(folder: Path) -> list[str]:
    shards = load_manifest(folder, CACHE).shards
    return [MANIFEST, *sorted(path.name for path in folder.iterdir() if path.stem in shards and path.is_file())]
