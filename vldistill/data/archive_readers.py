"""Members of zip and tar archives, of which nothing is taken on trust: which names are safe, and what `zipfile` and `tarfile`
pass over.

`zipfile` holds all entries before one can be refused and stops at a claimed size. `tarfile` takes a damaged header for the end
of the archive, leaves the checksum at the end of a packed file unread, and holds extended headers of any length.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
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
from pathlib import Path
from typing import Any

from vldistill.artifacts import MANIFEST
from vldistill.errors import first_line

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
# By what a file is, not by its name: a .tar may be packed.
_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
# Of one member; eight times what the longest name takes. Some Pythons take the square of it to read one.
_MAX_HEADERS = 2**15
_SENSELESS = "is damaged: a header makes no sense"
_FAULTS = {
    tarfile.LNKTYPE: "is a hard link, not a file",
    tarfile.SYMTYPE: "is a symbolic link, not a file",
    tarfile.CHRTYPE: "is a device, not a file",
    tarfile.BLKTYPE: "is a device, not a file",
    tarfile.FIFOTYPE: "is a named pipe, not a file",
}
# No others: `zipfile` holds all that a chunk of bzip2 or LZMA unpacks to, which may be gigabytes.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x2041
_MORE_THAN_ANY = 2**62


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
        raise DamagedError(f"is damaged or cut off: {first_line(error)}") from None


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


class TarReader:
    """The members of a tar, in order. To be closed; a context manager.

    ratio: how many times its packed size the content may have. needed: bytes that are known to be needed, none before it is read.
    position: packed bytes read so far. Raises DamagedError where it is no tar, is cut off, or goes beyond the ratio; nothing more
    is read then.
    """

    needed = 0

    def __init__(self, path: Path, *, ratio: int):
        self._raw = path.open("rb", buffering=0)
        self._size, head = os.fstat(self._raw.fileno()).st_size, self._raw.read(6)
        self._raw.seek(0)
        unpacked = next((start(self._raw) for magic, start in _PACKED.items() if head.startswith(magic)), self._raw)
        self._plain, self._ratio = unpacked is self._raw, ratio
        self._file = _Bytes(unpacked)
        self._members, self._ended = 0, False

    def __enter__(self) -> TarReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._raw.close()

    @property
    def position(self) -> int:
        return self._raw.tell()

    def __iter__(self) -> Iterator[Member]:
        if not self._size:
            raise DamagedError("is empty (0 bytes)")
        self._file.left = _MAX_HEADERS
        with reading():
            try:
                self._tar = tarfile.TarFile(fileobj=self._file, encoding="utf-8", errors="surrogateescape")
            except tarfile.ReadError:
                raise DamagedError("is not a tar archive") from None
        while not self._ended and (info := self._next()):
            yield self._member(info)

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The content of the file that was told last. Raises DamagedError."""
        self._ended, self._file.left = True, member.size
        # It lies where its header ends. `extractfile` copies it twice more.
        while size := min(self._file.left, CHUNK):
            with reading():
                data = self._file.read(size)
            if len(data) < size:
                raise DamagedError("is cut off")
            yield data
        self._ended = False

    def _next(self) -> tarfile.TarInfo | None:
        self._file.left = _MAX_HEADERS
        with reading():
            # At 0 there is none. Python 3.10 would look before it.
            info = self._tar.next() if self._tar.offset else None
        self._tar.members.clear()  # type: ignore[attr-defined]  # else it holds all of them
        if info is None:
            if len(self._file.last) < tarfile.BLOCKSIZE:
                raise DamagedError("is cut off")
            if self._file.last != bytes(tarfile.BLOCKSIZE):
                raise DamagedError(_SENSELESS)
            self._drain()
        elif info.size < 0 or self._tar.offset <= info.offset:
            raise DamagedError(_SENSELESS if self._members else "is not a tar archive")
        self._members += 1
        return info

    def _member(self, info: tarfile.TarInfo) -> Member:
        # Before 1988 a folder was a file whose name ends so.
        folder = info.isdir() or (info.isreg() and info.name.endswith("/"))
        fault, hint = _FAULTS.get(info.type), UNPACK_BY_HAND
        if info.issparse() or any(key.startswith("GNU.sparse") for key in info.pax_headers):
            fault = "is a sparse file, which is not read"
        elif not fault and not folder:
            fault = mode_fault(info.mode & 0o7777, False) if info.isreg() else f"is of an unknown kind {info.type!r}"
        # Where the next member begins, before anything up to there is read.
        if self._tar.offset > self._size if self._plain else self._beyond(self._tar.offset):
            self._ended = True
            fault, hint = ("is cut off", FETCH_AGAIN) if self._plain else (self._bomb, UNPACK_BY_HAND)
        return Member(info.name, info.size, folder, fault, hint)

    def _drain(self) -> None:
        # The checksum of a packed file comes at its end.
        self._file.left = CHUNK
        with reading():
            while self._file.read(CHUNK):
                self._file.left = CHUNK
                if not self._plain and self._beyond(self._file.tell()):
                    raise DamagedError(self._bomb, UNPACK_BY_HAND)

    def _beyond(self, position: int) -> bool:
        # A header and what fills the last block pack well, and do not count.
        return position - 2 * tarfile.BLOCKSIZE * self._members > max(HARMLESS_BYTES, self._ratio * self._size)

    @property
    def _bomb(self) -> str:
        return f"unpacks to more than {self._ratio} times the archive's {self._size:,} bytes, as a bomb does"


class _Bytes(io.BufferedReader):
    """The unpacked bytes of a tar. left: how many may be read, to be set before each use. last: what was read last."""

    left, last = 0, b""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self.left:
            raise DamagedError(f"is damaged: extended headers of one member have more than {_MAX_HEADERS:,} bytes")
        self.left -= size
        self.last = super().read(size)
        return self.last


class ZipReader:
    """The members of a zip, in the order of its directory. To be closed; a context manager.

    ratio: how many times its packed size a member, or all of them, may have. most: entries. needed: the bytes that all
    members claim. position: packed bytes read so far. Raises DamagedError where it is no zip or goes beyond these.
    """

    def __init__(self, path: Path, *, ratio: int, most: int):
        self._ratio, self.position, size = ratio, 0, path.stat().st_size
        with path.open("rb") as file:
            start = file.read(2)
        if start != b"PK":
            raise DamagedError("is not a zip archive" if start else "is empty (0 bytes)")
        with reading():
            self._zip = _Zip(path, most)
        self._entries = self._zip.infolist()
        self.needed = sum(entry.file_size for entry in self._entries)
        if sum(entry.compress_size for entry in self._entries) > size:
            raise DamagedError("has members that overlap, as bombs have", UNPACK_BY_HAND)
        self._refuse_bomb(self.needed, size)

    def __enter__(self) -> ZipReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __iter__(self) -> Iterator[Member]:
        for entry in self._entries:
            # `filename` is cut at a NUL.
            name = entry.orig_filename
            folder = name.endswith("/")
            fault = mode_fault(entry.external_attr >> 16, folder)
            if entry.flag_bits & _ENCRYPTED:
                fault = "is encrypted"
            elif entry.compress_type not in _METHODS:
                fault = f"is packed by a method that is not read ({zipfile.compressor_names.get(entry.compress_type, '?')})"
            yield Member(name, entry.file_size, folder, fault, handle=entry)

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The content of a file, checked against its CRC and its claimed size. Raises DamagedError; the other members can
        still be read then."""
        entry, start, done = member.handle, self.position, 0
        self.position += entry.compress_size
        self._refuse_bomb(member.size, entry.compress_size)
        # `zipfile` would stop at the claimed size, whatever follows: what is really there is counted.
        entry.file_size = _MORE_THAN_ANY
        with reading(), self._zip.open(entry) as file:
            while chunk := file.read(CHUNK):
                done += len(chunk)
                if done > member.size:
                    raise DamagedError(f"claims {member.size:,} bytes, and has more")
                self.position = start + entry.compress_size * done // member.size
                yield chunk
        if done < member.size:
            raise DamagedError(f"claims {member.size:,} bytes, and has {done:,}")

    def _refuse_bomb(self, size: int, packed: int) -> None:
        if size > max(HARMLESS_BYTES, self._ratio * packed):
            message = f"unpacks to {size:,} bytes, more than {self._ratio} times its {packed:,}, as a bomb does"
            raise DamagedError(message, UNPACK_BY_HAND)


class _Zip(zipfile.ZipFile):
    """One that stops at an entry too many, where `zipfile` holds all of them before any can be refused."""

    def __init__(self, path: Path, most: int):
        self._most = most
        super().__init__(path)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _Entries(self._most) if name == "filelist" else value)


class _Entries(list[zipfile.ZipInfo]):
    """What `zipfile` fills."""

    def __init__(self, most: int):
        super().__init__()
        self._most = most

    def append(self, entry: zipfile.ZipInfo) -> None:
        if len(self) == self._most:
            raise DamagedError(f"has more than {self._most:,} entries", UNPACK_BY_HAND)
        super().append(entry)
