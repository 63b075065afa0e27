"""Reading a tar archive, packed or not, once from front to end.

Not by `tarfile`: it holds an extended header of any length, may loop for ever over a negative size, and leaves the CRC of
a .tar.gz unchecked. Read are v7, ustar, GNU and pax archives.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

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

_BLOCK = 512
_MAX_EXTENDED = 2**20
# A long name, a long link and two pax headers may precede a member.
_MAX_IN_A_ROW = 8
# What xz -9 needs to unpack, four times over.
_MAX_DICTIONARY = 2**28
_FILES = (b"0", b"\0", b"7")
_FAULTS = {
    b"1": "is a hard link, not a file",
    b"2": "is a symbolic link, not a file",
    b"3": "is a device, not a file",
    b"4": "is a device, not a file",
    b"6": "is a named pipe, not a file",
    b"S": "is a sparse file, which is not read",
}


class TarReader:
    """The members of a tar, in order. To be closed; a context manager.

    ratio: how many times its packed size the content may have. position: packed bytes read so far. Raises DamagedError
    where it is no tar, is cut off, or goes beyond the ratio; nothing more is read then.
    """

    def __init__(self, path: Path, *, ratio: int):
        self._raw = path.open("rb")
        size = os.fstat(self._raw.fileno()).st_size
        self._file = _unpacked(self._raw)
        self._plain = self._file is self._raw
        self._limit = size if self._plain else max(HARMLESS_BYTES, ratio * size)
        self._bomb = f"unpacks to more than {ratio} times the archive's {size:,} bytes, as a bomb does"
        self._content = self._left = self._padding = self._members = 0
        self._ended = False

    def __enter__(self) -> TarReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._raw.close()

    @property
    def position(self) -> int:
        return self._raw.tell()

    def __iter__(self) -> Iterator[Member]:
        while not self._ended and (member := self._next()):
            self._members += 1
            yield member

    def chunks(self, member: Member) -> Iterator[bytes]:
        """The content of the file that was told last. Raises DamagedError."""
        while self._left:
            yield self._take()

    def _next(self) -> Member | None:
        name, size, sparse = None, None, False
        for _ in range(_MAX_IN_A_ROW):
            while self._left:
                self._take()
            self._exactly(self._padding)
            self._padding = 0
            block = self._exactly(_BLOCK)
            if not block.strip(b"\0"):
                self._drain()
                return None
            kind, length = block[156:157], self._parsed(_checked_size, block)
            if kind in (b"x", b"X"):
                records = self._parsed(_pax_records, self._extended(length))
                name = records.get(b"path", name)
                size = self._parsed(_decimal, records[b"size"]) if b"size" in records else size
                sparse = sparse or any(key.startswith(b"GNU.sparse") for key in records)
            elif kind == b"L":
                name = self._extended(length).rstrip(b"\0")
            elif kind in (b"g", b"K"):
                self._extended(length)
            else:
                return self._member(block, kind, _name(block) if name is None else name, length if size is None else size, sparse)
        raise self._stop("is damaged: extended headers follow each other without a file")

    def _member(self, block: bytes, kind: bytes, raw_name: bytes, size: int, sparse: bool) -> Member:
        name = raw_name.decode("utf-8", "surrogateescape")
        # Before 1988 a folder was a file whose name ends so.
        folder = kind == b"5" or (kind in _FILES and name.endswith("/"))
        if kind in _FILES and not folder:
            fault = _FAULTS[b"S"] if sparse else mode_fault(self._parsed(_number, block[100:108]) & 0o7777, False)
        else:
            fault = None if folder else _FAULTS.get(kind, f"is of an unknown kind {kind!r}")
        # Links, devices and folders have no content, whatever their size says.
        self._left = 0 if kind in b"123456" else size
        self._padding = -self._left % _BLOCK
        if self._content + self._left > self._limit:
            self._ended = True
            return Member(name, size, folder, *(("is cut off", FETCH_AGAIN) if self._plain else (self._bomb, UNPACK_BY_HAND)))
        return Member(name, size, folder, fault)

    def _extended(self, length: int) -> bytes:
        if length > _MAX_EXTENDED:
            raise self._stop(f"is damaged: an extended header has {length:,} bytes")
        data = self._exactly(length)
        self._count(length)
        self._exactly(-length % _BLOCK)
        return data

    def _take(self) -> bytes:
        data = self._read(min(self._left, CHUNK))
        if not data:
            raise self._stop("is cut off")
        self._left -= len(data)
        return self._count(len(data)) or data

    def _drain(self) -> None:
        # The checksum of a packed file comes at its end.
        while data := self._read(CHUNK):
            self._count(len(data))
        self._ended = True

    def _exactly(self, length: int) -> bytes:
        data = self._read(length) if length else b""
        while len(data) < length and (more := self._read(length - len(data))):
            data += more
        if len(data) < length:
            raise self._stop("is cut off" if self._members else "is not a tar archive" if data else "is empty")
        return data

    def _read(self, length: int) -> bytes:
        try:
            with reading():
                return self._file.read(length)
        except DamagedError:
            self._ended = True
            raise

    def _count(self, length: int) -> None:
        self._content += length
        if self._content > self._limit:
            raise self._stop(self._bomb, UNPACK_BY_HAND)

    def _parsed(self, parse: Callable[[bytes], Any], data: bytes) -> Any:
        try:
            return parse(data)
        except (ValueError, IndexError):
            raise self._stop("is damaged: a header makes no sense" if self._members else "is not a tar archive") from None

    def _stop(self, message: str, *hint: str) -> DamagedError:
        self._ended = True
        return DamagedError(message, *hint)


def _unpacked(raw: BinaryIO) -> BinaryIO:
    # By what it is, not by its name: a .tar may be packed.
    head = raw.read(6)
    raw.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if head.startswith(b"BZh"):
        return io.BufferedReader(_Unpacked(raw, bz2.BZ2Decompressor))
    if head == b"\xfd7zXZ\0":
        return io.BufferedReader(_Unpacked(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_DICTIONARY)))
    return raw


class _Unpacked(io.RawIOBase):
    """A bzip2 or xz file. Its like in the standard library gives xz whatever memory a header asks for."""

    def __init__(self, raw: BinaryIO, start: Callable[[], Any]):
        self._raw, self._start, self._state = raw, start, start()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._state.eof:
                # Several streams may follow each other; xz pads with zeros.
                data = self._state.unused_data.lstrip(b"\0")
                while not data and (more := self._raw.read(CHUNK)):
                    data = more.lstrip(b"\0")
                if not data:
                    return 0
                self._state = self._start()
            elif self._state.needs_input and not (data := self._raw.read(2**16)):
                raise EOFError("the packed data ends too early")
            found = self._state.decompress(data, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)


def _checked_size(block: bytes) -> int:
    """The size that a header gives. Raises ValueError where its checksum is wrong (some old ones add signed bytes)."""
    summed = 256 + sum(block[:148]) + sum(block[156:])
    if _number(block[148:156]) not in (summed, summed - 256 * sum(byte > 127 for byte in block[:148] + block[156:])):
        raise ValueError("checksum")
    return _number(block[124:136])


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or binary where the first bit is set. Raises ValueError, for a negative one too."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        if value >= 2**62:
            raise ValueError("too large")
        return value
    digits = field.split(b"\0", 1)[0].strip()
    if digits and not digits.isdigit():
        raise ValueError("no number")
    return int(digits or b"0", 8)


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise ValueError("no number")
    return int(digits)


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0", 1)[0], block[345:500].split(b"\0", 1)[0]
    # GNU's older format keeps times where ustar has the first part of a name.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """`LENGTH KEY=VALUE\\n`, repeated. Raises ValueError, IndexError."""
    records, at = {}, 0
    while at < len(data):
        space = data.index(b" ", at, at + 20)
        end = at + _decimal(data[at:space])
        if not space + 1 < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError("length")
        key, mark, value = data[space + 1 : end - 1].partition(b"=")
        if not mark:
            raise ValueError("no key")
        records[key], at = value, end
    return records
