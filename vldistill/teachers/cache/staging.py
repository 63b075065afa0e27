"""Caches on a node's own disk: copied there before training where VLDISTILL_STAGE says so, since random rows of a cluster's
shared file system are slow and load it for everybody.

The copy has the cache's own name and files, is made once a node, and is used again while it is the same. What is read of it is
checked as everywhere, by its blocks' checksums.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

from vldistill.artifacts import MANIFEST
from vldistill.errors import InputError, VldistillError
from vldistill.locking import held
from vldistill.teachers.cache.disk import free_bytes
from vldistill.teachers.cache.manifest import load_manifest

VARIABLE = "VLDISTILL_STAGE"
AUTO = "auto"
_PLACES = ("SLURM_TMPDIR", "TMPDIR")
_WAIT_SECONDS = 3600.0


def staged(folder: Path, say: Callable[[str], None]) -> Path:
    """Where to read a cache: its copy where one is wanted and can be had, else `folder`; `say` is told which, and why. Raises
    InputError where the variable names what is no folder."""
    wanted = os.environ.get(VARIABLE, "")
    if not wanted:
        return folder
    if os.environ.get("LOCAL_RANK", "0") != "0":
        say = _quiet
    place = next((found for name in _PLACES if (found := os.environ.get(name))), "") if wanted == AUTO else wanted
    if not place:
        say(f"{folder} is read where it is: neither {' nor '.join(_PLACES)} names a folder of this node")
        return folder
    if not Path(place).is_dir():
        raise InputError("is no folder", where=place, hint=f"set {VARIABLE} to a folder of the node's own disk, or to {AUTO}")
    if not load_manifest(folder).complete:
        say(f"{folder} is read where it is: it is not complete")
        return folder
    try:
        return _copied(folder, _own_folder(Path(place)), say)
    except OSError as error:
        say(f"{folder} is read where it is: {error.filename or place}: {error.strerror or error}")
    except VldistillError as error:
        say(f"{folder} is read where it is: {error}")
    return folder


def _quiet(text: str) -> None:
    """One process a node speaks."""


def _own_folder(place: Path) -> Path:
    """A folder that nobody else can write. Raises PermissionError where there is another's."""
    own = place / f"vldistill-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    state = own.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise PermissionError(None, "others may write there", str(own))
    return own


def _copied(folder: Path, own: Path, say: Callable[[str], None]) -> Path:
    """The copy, made by the first process that asks while the others wait. Raises OSError or VldistillError where it fails."""
    target, started = own / folder.name, time.monotonic()
    with held(own / f"{folder.name}.lock", wait=_WAIT_SECONDS):
        for left in own.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        names = _names(folder)
        if _same(folder, target, names):
            say(f"{folder} is read from {target}")
            return target
        needed, free = sum((folder / name).stat().st_size for name in names), free_bytes(own)
        if needed > free:
            raise VldistillError(f"needs {needed:,} bytes, {free:,} are free in {own}")
        temporary = own / f".{folder.name}.{os.getpid()}.tmp"
        temporary.mkdir()
        try:
            for name in names:
                shutil.copyfile(folder / name, temporary / name)
            if not _same(folder, temporary, names):
                raise VldistillError("changed while it was copied")
            # Processes that read an old copy keep its files.
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    say(f"{folder} is read from {target}, where {needed / 1e6:,.1f} MB were copied in {time.monotonic() - started:.1f} s")
    return target


def _names(folder: Path) -> list[str]:
    """Files that make up the cache; the manifest first, which a writer replaces last."""
    shards = load_manifest(folder).shards
    return [MANIFEST, *sorted(path.name for path in folder.iterdir() if path.stem in shards and path.is_file())]


def _same(folder: Path, copy: Path, names: list[str]) -> bool:
    """By size, and the manifest, which has a digest of each shard's description, by content."""
    try:
        return (folder / MANIFEST).read_bytes() == (copy / MANIFEST).read_bytes() and all(
            (folder / name).stat().st_size == (copy / name).stat().st_size for name in names)
    except FileNotFoundError:
        return False
