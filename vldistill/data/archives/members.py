"""Members of archives: what a reader tells of each, which of their names are safe, and which are taken."""

from __future__ import annotations

import errno
import lzma
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vldistill.artifacts import MANIFEST

CHUNK = 2**20
# Below it nothing counts as a bomb: a short text of blanks packs well.
HARMLESS_BYTES = 2**20
MAX_COMPONENT, MAX_NAME = 255, 4096
# Clearing away a tree takes a call of its own for each level.
MAX_DEPTH = 64
FETCH_AGAIN = "fetch it again"
UNPACK_BY_HAND = "if you trust the archive, unpack it by hand and give its folder"
_UNPACKING = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_DRIVE = re.compile(r"[A-Za-z]:")


class DamagedError(Exception):
    """An archive, or one member of it, that cannot be unpacked. `hint` is the mend."""

    def __init__(self, message: str, hint: str = FETCH_AGAIN):
        self.message, self.hint = message, hint
        super().__init__(message)


@dataclass(slots=True)
class Member:
    """One entry of an archive. name: as it is spelt there. size: the bytes that its header claims. fault: why it is not to be
    unpacked, if so, and hint the mend. handle: the reader's own."""

    name: str
    size: int
    folder: bool = False
    fault: str | None = None
    hint: str = UNPACK_BY_HAND
    handle: Any = None


@contextmanager
def reading() -> Iterator[None]:
    """Turns what the standard library raises over damaged data into DamagedError; a disk that fails stays an OSError."""
    try:
        yield
    except (*_UNPACKING, EOFError, struct.error, RuntimeError, OverflowError, ValueError, OSError) as error:
        # The decompressors raise OSError too, but without a number; EINVAL is a place before the start of the file.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedError(f"is damaged or cut off: {_first_line(error)}") from None


def mode_fault(mode: int, folder: bool) -> str | None:
    """What is wrong with a member by its Unix mode (0: unknown). Bits of a folder are ignored like all that are harmless."""
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        return f"is {kinds.get(kind, 'a device')}, not a file"
    if not folder and kind == stat.S_IFDIR:
        return "is a folder by its mode and a file by its name"
    if not folder and mode & (stat.S_ISUID | stat.S_ISGID):
        return "has the setuid or setgid bit"
    return None


def name_fault(name: str, folder: bool) -> str | None:
    """What is wrong with a member's name by its text alone."""
    parts = name.split("/")
    if "\0" in name:
        return "has a NUL in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or _DRIVE.match(name):
        return "has an absolute name"
    if ".." in parts:
        return "leaves the folder by `..`"
    if not plain_path(name) and (not name or not folder):
        return "has an empty name"
    if len(name.encode(errors="surrogateescape")) > MAX_NAME:
        return f"has a name of more than {MAX_NAME:,} bytes"
    if any(len(part.encode(errors="surrogateescape")) > MAX_COMPONENT for part in parts):
        return f"has a name of more than {MAX_COMPONENT} bytes in one component"
    if len(parts) > MAX_DEPTH:
        return f"lies more than {MAX_DEPTH} folders deep"
    return None


def plain_path(name: str) -> str:
    """A safe name without what means nothing: `./a//b/` is `a/b`, and `./` is nothing."""
    return "/".join([part for part in name.split("/") if part not in ("", ".")])


def is_junk(path: str) -> bool:
    """Whether macOS put it there."""
    return path.startswith("__MACOSX/") or path == "__MACOSX" or path.rpartition("/")[2] == ".DS_Store"


def shown(name: str) -> str:
    """A member's name for a message of one line."""
    return name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}"


class Names:
    """The files and folders that go to one target, from all archives; the name of its manifest is taken from the start."""

    def __init__(self) -> None:
        self._spelt = {MANIFEST: MANIFEST}
        self._folders: set[str] = set()

    def claim(self, path: str, folder: bool) -> str | None:
        """Takes a plain path, and the folders above it. Returns what is wrong where it cannot be had."""
        if folder and path in self._folders:
            return None
        parent = path.rpartition("/")[0]
        if parent and parent not in self._folders and (fault := self.claim(parent, True)):
            return fault
        key = _folded(path)
        other = self._spelt.get(key)
        if other is None:
            self._spelt[key] = key if key == path else path
            if folder:
                self._folders.add(path)
            return None
        if other != path:
            return f"differs from {shown(other)} in case alone, which many file systems take for the same"
        if folder or path in self._folders:
            return "is a file and a folder"
        return f"takes the name of the {MANIFEST} that is written here" if path == MANIFEST else "occurs twice"


def _folded(path: str) -> str:
    # Some file systems also merge the two ways to write an accent.
    return path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
