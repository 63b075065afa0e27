"""What an artifact can be given without making it again: variants of its splits, and shards.

Neither changes its fingerprint. Its manifest is written last, so that a file without an entry is none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vldistill.artifacts import file_digest, read_manifest, write_manifest
from vldistill.data.image_files import ImageInfo
from vldistill.data.records import read_jsonl
from vldistill.data.shards import SHARDS_FOLDER, pack_shards
from vldistill.data.variants import Variants, make_variants
from vldistill.data.writing import IMAGES_FILE
from vldistill.errors import InputError, Problems
from vldistill.locking import exclusive
from vldistill.versions import gone_on

Progress = Callable[[int, int], None]


def add_missing(
    out: Path, manifest: dict[str, Any], variants: Variants, shards: int | None, *, dry_run: bool, progress: Progress | None
) -> dict[str, Any]:
    """Adds those of `variants`, and the shards of so many samples a tar, that the artifact `out` lacks.

    Returns its manifest, with the names of new variants as `added` and whether there are new shards as `packed` (not on disk).
    Raises InputError where it has other shards, was edited since it was made, or another process is writing it.
    """
    missing, packing = _lacking(out, manifest, variants, shards)
    if not missing and not packing:
        return manifest
    if dry_run:
        return manifest | ({"packed": True} if packing else {}) | ({"added": missing} if missing else {})
    with exclusive(out):
        # Another may have added to it until now.
        manifest = read_manifest(out, "prepare", make_it="vldistill prepare") | {"unchanged": True}
        for place in (*out.glob(".variants-*"), *out.glob(".shards-*")):
            shutil.rmtree(place)  # a killed process's
        missing, packing = _lacking(out, manifest, variants, shards)
        if packing:
            manifest = _add_shards(out, manifest, shards, progress)
        return _add_variants(out, manifest, missing) if missing else manifest


def _lacking(out: Path, manifest: dict[str, Any], variants: Variants, shards: int | None) -> tuple[list[str], bool]:
    """Variants to be made, and whether shards are. Raises InputError where there are shards of another size."""
    labelled = [split for split, part in manifest["counts"].items() if part["labelled"]]
    names = variants.names(list(manifest["counts"]), labelled) if variants else []
    missing = [name for name in names if name not in manifest["variants"]]
    packed = manifest["options"].get("shards")
    if None not in (shards, packed) and shards != packed:
        raise InputError(
            f"already has shards, of {packed:,} samples", where=str(out), hint=f"pass --overwrite, or --shards {packed}"
        )
    return missing, shards is not None and packed is None


def pack_images(
    folder: Path, out: Path, manifest: dict[str, Any], images: dict[str, ImageInfo], shards: int, progress: Progress | None
) -> None:
    """Packs the artifact `folder` into `out` (see `pack_shards`), and enters the shards in its manifest."""
    packed = pack_shards(folder, out, Path(manifest["raw_root"]), list(manifest["counts"]), images, shards, progress)
    manifest["shards"] = packed.shards
    manifest["files"] |= packed.files


def _add_variants(out: Path, manifest: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    with TemporaryDirectory(dir=out, prefix=".variants-") as place:
        entries = make_variants(out, Path(place), manifest["task"], manifest["labels"], missing)
        for name in missing:
            (Path(place) / f"{name}.jsonl").replace(out / f"{name}.jsonl")
    manifest = {**manifest, "variants": {**manifest["variants"], **entries}, **gone_on(manifest)}
    _write(out, manifest)
    return {**manifest, "added": missing}


def _add_shards(out: Path, manifest: dict[str, Any], shards: int, progress: Progress | None) -> dict[str, Any]:
    for name in (IMAGES_FILE, *(f"{split}.jsonl" for split in manifest["counts"])):
        if file_digest(out / name) != manifest["files"][name]:
            raise InputError("differs from what its manifest records", where=str(out / name), hint="prepare with --overwrite")
    rows = read_jsonl(out / IMAGES_FILE, Problems(), parse=json.loads)
    images = {row["path"]: ImageInfo.from_row(row) for _, row in rows}
    manifest = {**manifest, "files": dict(manifest["files"]), "options": {**manifest["options"], "shards": shards}}
    with TemporaryDirectory(dir=out, prefix=".shards-") as place:
        folder = Path(place) / SHARDS_FOLDER
        pack_images(out, folder, manifest, images, shards, progress)
        # There where a command was killed before it could write the manifest.
        shutil.rmtree(out / SHARDS_FOLDER, ignore_errors=True)
        folder.rename(out / SHARDS_FOLDER)
    _write(out, manifest)
    return {**manifest, "packed": True}


def _write(out: Path, manifest: dict[str, Any]) -> None:
    transient = ("unchanged", "added", "packed", "advice")
    write_manifest(out, {key: value for key, value in manifest.items() if key not in transient})
