"""System calls of the writers: whole writes, syncs, room on the disk; their errors say which file and how many bytes."""

from __future__ import annotations

import os
import resource
from functools import partial
from pathlib import Path

from vldistill import errors
from vldistill.errors import VldistillError

MEND = "free some space and run the same command again; a cache keeps its finished rows"
writing = partial(errors.writing, hint=MEND, every=True)


def write_at(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    """Writes all of `data`; a disk that is nearly full takes a part first and fails at the rest."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def append(descriptor: int, data: bytes) -> None:
    """The same at the end of a file that was opened for appending."""
    while data:
        data = data[os.write(descriptor, data) :]


def sync_folder(folder: Path) -> None:
    """Makes the folder's list of files durable: a file that was renamed into it stays after a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where `folder` (or the nearest of its parents that exists) lies."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


def check_room(path: Path, needed: int) -> None:
    """Raises VldistillError where a file of `needed` bytes does not fit on the disk, or is larger than this process may
    write."""
    free = free_bytes(path.parent)
    if needed > free:
        raise VldistillError(
            f"needs {needed:,} bytes, {free:,} are free", where=str(path), hint="free some space, or name a place on another disk"
        )
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise VldistillError(
            f"needs {needed:,} bytes in one file, {limit:,} are allowed",
            where=str(path),
            hint="raise the limit of file size: ulimit -f unlimited",
        )
