"""Packed images and regions on a node's own disk (see `vldistill.staging`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vldistill import staging
from vldistill.artifacts import MANIFEST, known_digest
from vldistill.data.artifact import DataArtifact
from vldistill.data.images import ShardImages
from vldistill.data.regions.store import RegionStore
from vldistill.data.shards import INDEX_FILE

Say = Callable[[str], None]


def stage_images(data: DataArtifact, say: Say) -> DataArtifact:
    """The artifact, whose shards are read from a copy where one is wanted and can be had. Raises InputError as
    `vldistill.staging.staged`."""
    if not staging.is_wanted():
        return data
    if not isinstance(data.images, ShardImages):
        staging.one_a_node(say)(f"images of {data.folder} are read where they are: it was prepared without --shards")
        return data
    shards = data.images.folder
    names = [INDEX_FILE, *data.images.names]
    # The index has a checksum of every image.
    place = staging.staged(_original(shards, f"{data.folder.resolve().name}-shards", INDEX_FILE, names), say)
    if place == shards:
        return data
    return replace(data, images=ShardImages(place, data.images.names, known_digest(shards / INDEX_FILE), data.images.most_pixels))


def stage_regions(folder: Path, say: Say) -> Path:
    """Where to read a region store, likewise."""
    if not staging.is_wanted():
        return folder
    names = [MANIFEST, *RegionStore(folder).manifest["sizes"]]
    return staging.staged(_original(folder, folder.name, MANIFEST, names), say)


def _original(folder: Path, name: str, first: str, names: list[str]) -> staging.Original:
    """Named by its content, too, since its files are opened when they are first read."""
    return staging.Original(folder, f"{name}-{known_digest(folder / first)[:12]}", first, lambda: names)
