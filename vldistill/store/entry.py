"""How a writer enters a growing store: its place among the other writers, the manifest, and what killed ones left behind.

All of it happens under the lock of `manifest.changing`, one writer after another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vldistill.artifacts import MANIFEST
from vldistill.errors import InputError
from vldistill.locking import NamedLock
from vldistill.store.damage import damaged
from vldistill.store.layout import Column
from vldistill.store.manifest import Fields, Manifest, load_manifest
from vldistill.store.table import Kind, shard_number

_LOCK = re.compile(r"(?P<file>\.writer-(?P<part>\d+)-of-(?P<count>\d+)\.lock)(\.held)?\Z")
_MANIFEST_HALF = re.compile(rf"\.{re.escape(MANIFEST)}\.\d+\.tmp\Z")
_SHARD_FILE = re.compile(r"\.?(?P<shard>shard-\d+)\.(h5|json|h5\.tmp|json\.\d+\.tmp)\Z")


def take_place(folder: Path, part: tuple[int, int]) -> NamedLock:
    """The lock of part (i, n). Raises InputError, with nothing changed, where a live writer has this part, or one of another n,
    whose keys would overlap; what a dead one left is no obstacle."""
    found = [match for path in folder.iterdir() if (match := _LOCK.match(path.name))]
    strangers = {match["file"]: match for match in found if int(match["count"]) != part[1]}
    for name, match in strangers.items():
        other = NamedLock(folder / name, named=False)
        if not other.take():
            raise _refusal(other, f"part {match['part']} of {match['count']}, which overlaps", part)
        other.release()
    for name in strangers:
        (folder / name).unlink(missing_ok=True)
    lock = NamedLock(folder / f".writer-{part[0]}-of-{part[1]}.lock")
    if not lock.take():
        raise _refusal(lock, "the same", part)
    return lock


def open_manifest(folder: Path, name: str, fields: Fields, columns: Sequence[Column], kind: Kind) -> Manifest:
    """The store's manifest, a new one where there is none. Raises InputError where it has other columns, or is gone from a store
    that has rows."""
    if not (folder / MANIFEST).exists():
        if any(folder.glob("shard-*.journal")):
            raise damaged(folder, "has rows and no manifest.json", kind.mend)
        Manifest.new(folder, name, fields, columns, kind).save()
    manifest = load_manifest(folder, kind)
    if manifest.columns != tuple(columns):
        raise InputError(
            f"has columns {_shown(manifest.columns)}; asked for are {_shown(columns)}",
            where=str(folder),
            hint="give them another name or other fields",
        )
    return manifest


def remove_leftovers(manifest: Manifest, part: tuple[int, int]) -> None:
    """Removes what killed writers left: halves of manifests, and files of this part's shards that the manifest never came to
    name, so that they have no journal and no rows."""
    for path in manifest.folder.iterdir():
        match = _SHARD_FILE.match(path.name)
        orphan = match and not is_taken(manifest, match["shard"]) and shard_number(match["shard"]) % part[1] == part[0]
        if orphan or _MANIFEST_HALF.match(path.name):
            path.unlink()


def is_taken(manifest: Manifest, shard: str) -> bool:
    """Whether a shard of this name is the store's, or somebody put files of a whole one there."""
    return shard in manifest.shards or (manifest.folder / f"{shard}.journal").exists()


def _refusal(lock: NamedLock, what: str, part: tuple[int, int]) -> InputError:
    return InputError(
        f"part {part[0]} of {part[1]} cannot be written: {lock.holder()} is writing {what}",
        where=str(lock.path.parent),
        hint=lock.way_out,
    )


def _shown(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} {column.dtype}{list(column.shape)}{' ragged' * column.ragged}" for column in columns)
