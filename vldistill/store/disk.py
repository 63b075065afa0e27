"""Room on the disk for what a store is to hold."""

from __future__ import annotations

import os
from pathlib import Path

from vldistill.errors import NO_ROOM, VldistillError

KEPT = f"{NO_ROOM}; finished rows are kept"


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where `folder` (or the nearest of its parents that exists) lies."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


def check_room(folder: Path, needed: int) -> None:
    """Raises VldistillError where so many bytes do not fit on the disk."""
    free = free_bytes(folder)
    if needed > free:
        raise VldistillError(
            f"needs {needed:,} bytes, {free:,} are free",
            where=str(folder),
            hint="free some space, or name a place on another disk",
        )
