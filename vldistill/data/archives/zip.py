"""Reading a zip archive member by member. `zipfile` lists and decompresses; what it takes on trust is checked here."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vldistill.data.archives.members import (
    CHUNK,
    HARMLESS_BYTES,
    UNPACK_BY_HAND,
    DamagedError,
    Member,
    mode_fault,
    reading,
)

# No others: `zipfile` holds all that a chunk of bzip2 or LZMA unpacks to, which may be gigabytes.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x2041
_MORE_THAN_ANY = 2**62


class ZipReader:
    """The members of a zip, in the order of its directory. To be closed; a context manager.

    ratio: how many times its packed size a member, or all of them, may have. most: entries. needed: the bytes that all
    members claim. position: packed bytes read so far. Raises DamagedError where it is no zip or goes beyond these.
    """

    def __init__(self, path: Path, *, ratio: int, most: int):
        self._ratio, self.position = ratio, 0
        self._file = path.open("rb")
        try:
            size = os.fstat(self._file.fileno()).st_size
            count = _count_entries(self._file, most)
            with reading():
                self._zip = zipfile.ZipFile(self._file)
            entries = self._zip.infolist()
            if len(entries) != count:
                raise DamagedError("has a directory that contradicts itself")
            self.needed = sum(entry.file_size for entry in entries)
            if sum(entry.compress_size for entry in entries) > size:
                raise DamagedError("has members that overlap, as bombs have", UNPACK_BY_HAND)
            if self.needed > max(HARMLESS_BYTES, ratio * size):
                raise _bomb(self.needed, size, ratio)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ZipReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def __iter__(self) -> Iterator[Member]:
        for entry in self._zip.infolist():
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
        if member.size > max(HARMLESS_BYTES, self._ratio * entry.compress_size):
            raise _bomb(member.size, entry.compress_size, self._ratio)
        # `zipfile` would stop at the claimed size, whatever follows: what is really there is counted.
        entry.file_size = _MORE_THAN_ANY
        with reading():
            file = self._zip.open(entry)
        with file:
            while True:
                with reading():
                    chunk = file.read(CHUNK)
                done += len(chunk)
                if done > member.size or (not chunk and done < member.size):
                    found = "more" if done > member.size else f"{done:,}"
                    raise DamagedError(f"claims {member.size:,} bytes, and has {found}")
                if not chunk:
                    return
                self.position = start + entry.compress_size * done // member.size
                yield chunk


def _bomb(size: int, packed: int, ratio: int) -> DamagedError:
    return DamagedError(f"unpacks to {size:,} bytes, more than {ratio} times its {packed:,}, as a bomb does", UNPACK_BY_HAND)


def _count_entries(file: BinaryIO, most: int) -> int:
    """Walks the directory at the end of a zip, since `zipfile` holds all of it before anything can be refused."""
    start = file.read(4)
    if not start:
        raise DamagedError("is empty (0 bytes)")
    if start[:2] != b"PK":
        raise DamagedError("is not a zip archive")
    end = file.seek(0, os.SEEK_END)
    begin = file.seek(max(0, end - 22 - 65_535 - 76))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise DamagedError("is cut off: its directory, which comes last, is missing")
    size, position = struct.unpack_from("<I", tail, at + 12)[0], begin + at
    # The larger numbers of a zip64 stand before it.
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\6\7" and tail[at - 76 : at - 72] == b"PK\6\6":
        size, position = struct.unpack_from("<Q", tail, at - 76 + 40)[0], position - 76
    if size > position:
        raise DamagedError("is damaged: its directory begins before the file")
    file.seek(position - size)
    count = 0
    while size > 0:
        head = file.read(46)
        if len(head) < 46 or head[:4] != b"PK\1\2":
            raise DamagedError("is damaged: its directory does not hold entries")
        more = sum(struct.unpack_from("<HHH", head, 28))
        file.seek(more, os.SEEK_CUR)
        size, count = size - 46 - more, count + 1
        if count > most:
            raise DamagedError(f"has more than {most:,} entries", UNPACK_BY_HAND)
    return count
