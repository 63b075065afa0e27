"""Tars of samples as WebDataset reads them, each written and read in one layout only.

A sample is one tuple of images (1, or 2 for pairs) with all records of its split that have exactly this tuple:

    000000017.json     a list of the record objects, as they stand in the split's .jsonl
    000000017.0.jpg    the image file as it is, and for pairs 000000017.1.jpg

The key before the first dot is the running number of the sample in its split. Headers are made here rather than by `tarfile`,
some of whose bytes differ between Python versions: the same input gives the same bytes on any machine. Reading is as strict.
"""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path, PurePosixPath

from vldistill.data.image_files import SUFFIXES

BLOCK = 512
AGAIN = "run the `vldistill prepare` that made it again, with --overwrite"
# name, mode, uid, gid, size, mtime, checksum, type, link, magic and version, user, group, device numbers, prefix: POSIX ustar.
_HEADER = struct.Struct("100s 8s 8s 8s 12s 12s 8s c 100s 8s 32s 32s 8s 8s 155s 12x")
_SIZE = slice(124, 136)
_ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp"}
_SUFFIXES = tuple(suffix[1:] for suffix in SUFFIXES)
_NAME = re.compile(rf"([0-9]{{9}})\.(json|[01]\.(?:{'|'.join(_SUFFIXES)}))")


def header(name: str, size: int) -> bytes:
    """A member's header, 512 bytes: a plain file of mode 0644, with no owner and no time."""
    parts = [
        name.encode("ascii"),
        b"0000644",
        b"0000000",
        b"0000000",
        b"%011o" % size,
        b"%011o" % 0,
        b" " * 8,
        b"0",
        b"",
        b"ustar\x0000",
        b"",
        b"",
        b"",
        b"",
        b"",
    ]
    # The checksum is of the header with blanks in its place.
    parts[6] = b"%06o\0 " % sum(_HEADER.pack(*parts))
    return _HEADER.pack(*parts)


def image_name(number: int, position: int, path: str, data: bytes) -> str:
    """The name of an image in its sample. Its ending is the file's own where that is one of an image, else the content's."""
    suffix = PurePosixPath(path).suffix[1:].lower()
    return f"{number:09d}.{position}.{suffix if suffix in _SUFFIXES else _ENDINGS.get(data[:2], 'jpg')}"


def parse_header(block: bytes) -> tuple[str, int]:
    """Name and size of a member. Raises ValueError where the block is not what `header` makes of the two."""
    match = _NAME.fullmatch(block[:100].rstrip(b"\0").decode("ascii", "replace"))
    digits = re.fullmatch(rb"([0-7]{11})\0", block[_SIZE])
    size = int(digits[1], 8) if digits else 0
    if match is None or not size or block != header(match[0], size):
        raise ValueError("no header as `vldistill prepare` writes it")
    return match[0], size


class TarWriter:
    """Writes one tar, and knows its size and sha256 when it is closed. Use as a context manager."""

    def __init__(self, path: Path):
        self.size, self._hash = 0, hashlib.sha256()
        self._file = path.open("wb")

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        with self._file:
            if kind is None:
                self._write(bytes(2 * BLOCK))

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def add(self, name: str, data: bytes) -> int:
        """Writes a member and returns where its content begins."""
        place = self.size + BLOCK
        self._write(header(name, len(data)))
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        return place

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
