"""Reading a tar archive, packed or not, once from front to end, by `tarfile`.

What `tarfile` takes on trust is checked here: it takes a damaged header for the end of the archive, leaves the checksum at the
end of a packed file unread, and holds extended headers of any length.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from vldistill.data.archives.members import (
    CHUNK,
    FETCH_AGAIN,
    HARMLESS_BYTES,
    UNPACK_BY_HAND,
    DamagedError,
    Member,
    mode_fault,
    reading,
)

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


class TarReader:
    """The members of a tar, in order. To be closed; a context manager.

    ratio: how many times its packed size the content may have. position: packed bytes read so far. Raises DamagedError
    where it is no tar, is cut off, or goes beyond the ratio; nothing more is read then.
    """

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
