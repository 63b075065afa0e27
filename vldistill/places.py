"""Files and folders that a command is given, or finds: plain ones, no links where it writes, and places that can be written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, TextIO

from vldistill.errors import InputError


def open_regular(path: Path) -> BinaryIO:
    """A file to be read. Raises OSError where it is missing or no plain file: a pipe or a device that somebody has put there
    would be waited for, or read, without end."""
    # So that the file knows its name, where a read of it fails.
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 (the caller closes it)
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    file.close()
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, os.strerror(number) if number == errno.EISDIR else "is no plain file", str(path))


def read_regular(path: Path) -> bytes:
    """All of a file, see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def open_own(path: Path) -> TextIO:
    """A file of a folder of ours, to be written at its end. Raises InputError where a link stands there, through which another
    file would be written."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError("is a link, or no plain file", where=str(path), hint="remove it; nothing is written behind it")
    # Looked at again as it is opened, in case somebody was quicker.
    return open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def refuse_links(folder: Path, *names: str) -> None:
    """Raises InputError where one of the names in a folder of ours is a link, behind which another folder would be written."""
    for name in names:
        if (folder / name).is_symlink():
            raise InputError(
                "is a link, behind which nothing is written", where=str(folder / name), hint="remove it, or name the place itself"
            )


def check_writable(*targets: Path | None) -> None:
    """Raises InputError where a file or folder of one of these names cannot be made, by the folders that are there: said before a
    command computes what it could not write."""
    for target in targets:
        if target is None:
            continue
        place = next(one for one in (target, *target.absolute().parents) if one.exists())
        if place != target and not place.is_dir():
            raise InputError(f"cannot be written: {place} is no folder", where=str(target), hint="choose another place")
        # A file is replaced by another one, for which its folder counts.
        folder = place if place.is_dir() else place.absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            reason = "the disk is mounted read-only" if os.statvfs(folder).f_flag & os.ST_RDONLY else "permission denied"
            raise InputError(
                f"cannot be written: {reason}",
                where=str(target),
                hint=f"choose another place, or mend what may be done in {folder}",
            )


def check_file(target: Path | None) -> None:
    """The same for a file that a person names, whose folder is not made: its name may be a slip."""
    check_writable(target)
    if target is not None and not target.absolute().parent.is_dir():
        raise InputError("no such folder", where=str(target.parent), hint=f"make it, or choose another place for {target.name}")
