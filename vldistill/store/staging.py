"""Stores, and packed images, copied to a node's own disk where VLDISTILL_STAGE says so, since random reads of a cluster's
shared file system are slow and load it for everybody.

A copy is made once a node and used again while it is the same. What is read of it is checked as everywhere.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vldistill.artifacts import MANIFEST, known_digest, read_manifest
from vldistill.errors import InputError, VldistillError
from vldistill.locking import held
from vldistill.store.uses import Use

VARIABLE = "VLDISTILL_STAGE"
AUTO = "auto"
_PLACES = ("SLURM_TMPDIR", "TMPDIR")
_WAIT_SECONDS = 3600.0


@dataclass(frozen=True)
class Original:
    """What is to be copied. name: of the copy, which no other content shares at the same time. first: the file by whose content
    a copy is recognised, the others being compared by size. names: all files, that one first, as they are when it is asked."""

    folder: Path
    name: str
    first: str
    names: Callable[[], list[str]]


def is_wanted() -> bool:
    return bool(os.environ.get(VARIABLE))


def by_content(folder: Path, first: str, names: list[str], name: str | None = None) -> Original:
    """Of a folder that never changes, and whose files are opened when they are first read: named by its content, too."""
    return Original(folder, f"{name or folder.name}-{known_digest(folder / first)[:12]}", first, lambda: names)


def staged_store(folder: Path, use: Use, say: Callable[[str], None]) -> Path:
    """Where to read a store, see `staged`. It is recognised by its manifest, which a writer replaces last and which has a digest
    of each shard's table."""
    if not is_wanted():
        return folder

    def names() -> list[str]:
        shards = read_manifest(folder, use.stage, make_it=use.make_it, partial=True).get("shards", {})
        return [MANIFEST, *use.files, *(f"{shard}{suffix}" for shard in shards for suffix in (".h5", ".json"))]

    if not use.shared:
        return staged(by_content(folder, MANIFEST, names()), say)
    if not read_manifest(folder, use.stage, make_it=use.make_it, partial=True)["complete"]:
        one_a_node(say)(f"{folder} is read where it is: it is not complete")
        return folder
    return staged(Original(folder, folder.name, MANIFEST, names), say)


def staged(original: Original, say: Callable[[str], None]) -> Path:
    """Where to read it: its copy where one is wanted and can be had, else its folder; `say` is told which, and why. Raises
    InputError where the variable names what is no folder."""
    folder, wanted = original.folder, os.environ.get(VARIABLE, "")
    if not wanted:
        return folder
    say = one_a_node(say)
    place = next((named for name in _PLACES if (named := os.environ.get(name))), "") if wanted == AUTO else wanted
    if not place:
        say(f"{folder} is read where it is: neither {' nor '.join(_PLACES)} names a folder of this node")
        return folder
    if not Path(place).is_dir():
        raise InputError("is no folder", where=place, hint=f"set {VARIABLE} to a folder of the node's own disk, or to {AUTO}")
    try:
        return _copied(original, _own_folder(Path(place)), say)
    except OSError as error:
        say(f"{folder} is read where it is: {error.filename or place}: {error.strerror or error}")
    except VldistillError as error:
        say(f"{folder} is read where it is: {error}")
    return folder


def copy_of(path: Path) -> Path | None:
    """The copy that a file belongs to; None where it is no copy's."""
    own = f"vldistill-{os.getuid()}"
    copies = (folder for folder in path.parents if folder.parent.name == own)
    return next((folder for folder in copies if (folder.parent / f"{folder.name}.lock").exists()), None)


def drop(copy: Path) -> None:
    """Takes a copy away, so that the next process that wants one makes it anew; those that read this one keep its files."""
    with suppress(OSError):
        aside = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        copy.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def damaged(where: Path | str, message: str, mend: str) -> InputError:
    """The refusal to read a file any further, in which damage was found. mend: what the user does about it; a copy is dropped,
    and then it is enough to run the same command again."""
    copy = copy_of(Path(where))
    if copy is None:
        return InputError(message, where=str(where), hint=mend)
    drop(copy)
    return InputError(
        message,
        where=str(where),
        hint="it was a copy on this node and is dropped: run the same command again, a run with --resume auto",
    )


def one_a_node(say: Callable[[str], None]) -> Callable[[str], None]:
    """Of the processes of a node only the first speaks."""
    return say if os.environ.get("LOCAL_RANK", "0") == "0" else lambda text: None


def _own_folder(place: Path) -> Path:
    """A folder that nobody else can write. Raises PermissionError where there is another's."""
    own = place / f"vldistill-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    state = own.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise PermissionError(None, "others may write there", str(own))
    return own


def _copied(original: Original, own: Path, say: Callable[[str], None]) -> Path:
    """The copy, made by the first process that asks while the others wait. Raises OSError or VldistillError where it fails."""
    folder, target, started = original.folder, own / original.name, time.monotonic()
    with held(own / f"{original.name}.lock", wait=_WAIT_SECONDS):
        for left in own.glob(f".{original.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        names = original.names()
        if _same(original, target, names):
            say(f"{folder} is read from {target}")
            return target
        needed, free = sum((folder / name).stat().st_size for name in names), shutil.disk_usage(own).free
        if needed > free:
            raise VldistillError(f"needs {needed:,} bytes, {free:,} are free in {own}")
        temporary = own / f".{original.name}.{os.getpid()}.tmp"
        temporary.mkdir()
        try:
            for name in names:
                shutil.copyfile(folder / name, temporary / name)
            if not _same(original, temporary, names):
                raise VldistillError("changed while it was copied")
            # Processes that read an old copy keep its files.
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    say(f"{folder} is read from {target}, where {needed / 1e6:,.1f} MB were copied in {time.monotonic() - started:.1f} s")
    return target


def _same(original: Original, copy: Path, names: list[str]) -> bool:
    folder, first = original.folder, original.first
    try:
        return filecmp.cmp(folder / first, copy / first, shallow=False) and all(
            (folder / name).stat().st_size == (copy / name).stat().st_size for name in names
        )
    except FileNotFoundError:
        return False
