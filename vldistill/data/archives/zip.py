"""Reading a zip archive member by member. `zipfile` lists and decompresses; what it takes on trust is checked here."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
