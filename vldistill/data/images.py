"""Where the images of an artifact come from: a folder of files, or the shards that `prepare --shards` packed them into."""

from __future__ import annotations

import os
import zlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from vldistill.artifacts import file_digest
from vldistill.data.image_files import MAX_PIXELS, decode_image, open_image, read_image
from vldistill.data.shards import AGAIN, BLOCK, INDEX_FILE, INDEX_TYPE, parse_header, path_key
from vldistill.errors import InputError, first_line
from vldistill.store.staging import damaged

# Some systems allow a process 256. With fewer tars than this none is opened twice.
MOST_OPEN = 128
_ANYWHERE = Path("/")
"""The folder of images that a user names one by one."""


@dataclass(frozen=True)
class ImageFolder:
    """Image files below `root`. upright, most_pixels: see `open_image`."""

    root: Path
    upright: bool = False
    most_pixels: int = MAX_PIXELS

    def read(self, path: str) -> bytes:
        """The file as it is. Raises InputError naming it."""
        return read_image(self._within(path))

    def open(self, path: str) -> Image.Image:
        """The image as 8-bit RGB (see `open_image`). Raises InputError naming the file."""
        return open_image(self._within(path), upright=self.upright, most_pixels=self.most_pixels)

    def turned(self, upright: bool) -> ImageFolder:
        """The same images, upright or as stored."""
        return replace(self, upright=upright)

    def _within(self, path: str) -> Path:
        """Raises InputError where a path, which an artifact of somebody else gives, leads out of the folder."""
        if self.root != _ANYWHERE and (path.startswith("/") or ".." in path.split("/")):
            raise InputError(
                f"image path {path[:200]!r} leaves the raw folder",
                where=str(self.root),
                hint="prepare the data again: vldistill prepare",
            )
        return self.root / path


def named_images(most_pixels: int | None = None) -> ImageFolder:
    """The images that a user names one by one. most_pixels: of one; None: MAX_PIXELS."""
    return ImageFolder(_ANYWHERE, most_pixels=most_pixels or MAX_PIXELS)


class ShardImages:
    """The images of an artifact's shards, read where they lie in the tars.

    folder: where they lie. names: the tars, by their number in the index. digest: sha256 of the index. upright, most_pixels: see
    `open_image`. Opening takes one listing
    of the folder and a digest of the index (28 bytes an image); what the tars hold is verified image by image, as it is read.
    Raises InputError where the index was edited or a tar is missing.
    """

    upright = False

    def __init__(self, folder: Path, names: Sequence[str], digest: str | None, most_pixels: int = MAX_PIXELS):
        self.folder, self.names, self.most_pixels = folder, list(names), most_pixels
        index = folder / INDEX_FILE
        there = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 (a Path per tar is slow)
        for name in (INDEX_FILE, *names):
            if name not in there:
                raise damaged(folder / name, "is named in the manifest but missing", AGAIN)
        if file_digest(index) != digest:
            raise damaged(index, "differs from what its manifest records", AGAIN)
        self._start()

    def __getstate__(self) -> dict[str, Any]:
        # For a worker that is spawned: it maps the index and opens the tars by itself.
        return {name: getattr(self, name) for name in ("folder", "names", "most_pixels", "upright")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def turned(self, upright: bool) -> ShardImages:
        """The same images, upright or as stored."""
        if upright == self.upright:
            return self
        other = copy(self)  # which opens the tars by itself
        other.upright = upright
        return other

    def read(self, path: str) -> bytes:
        """The image's file as it was packed. Raises InputError naming tar and member."""
        name, place, size, crc = self._find(path)
        try:
            file = self._tar(name)
            file.seek(place)
            data = file.read(size)
        except OSError as error:
            raise damaged(self.folder / name, f"cannot be read: {error.strerror or error}", AGAIN) from None
        if zlib.crc32(data) != crc:
            fault = "differs from what was packed" if len(data) == size else "is cut off"
            raise damaged(self._where(name, place), f"image {path} {fault}", AGAIN)
        return data

    def open(self, path: str) -> Image.Image:
        """The image as 8-bit RGB (see `open_image`). Raises InputError naming tar and member."""
        data = self.read(path)
        try:
            return decode_image(data, path, upright=self.upright, most_pixels=self.most_pixels)
        except InputError as error:
            name, place, _, _ = self._find(path)
            raise InputError(f"image {path} {error.message}", where=self._where(name, place), hint=error.hint) from None

    def _find(self, path: str) -> tuple[str, int, int, int]:
        """Tar, place, size and CRC-32 of an image's content."""
        if self._index is None:
            self._index = self._mapped()
            self._keys = self._index["key"]
        key = path_key(path)
        # Not `np.searchsorted`, which would copy the whole column for each image.
        row = bisect_left(self._keys, key)
        if row == len(self._keys) or self._keys[row] != key:
            raise damaged(self.folder / INDEX_FILE, f"image {path} is not in the shards", AGAIN)
        _, place, size, crc, number = self._index[row].item()
        if number >= len(self.names):
            raise damaged(self.folder / INDEX_FILE, f"names a tar {number:,} that there is not", AGAIN)
        return self.names[number], place, size, crc

    def _mapped(self) -> np.ndarray:
        """The index, mapped, so that all processes share one copy in memory."""
        path = self.folder / INDEX_FILE
        try:
            index = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
        except (OSError, ValueError, TypeError, SyntaxError, EOFError) as error:
            raise damaged(path, f"cannot be read: {first_line(error)}", AGAIN) from None
        if index.dtype != INDEX_TYPE or index.ndim != 1:
            raise damaged(path, "is no index of shards", AGAIN)
        return index

    def _tar(self, name: str) -> BinaryIO:
        if self._process != os.getpid():
            # A forked worker shares its parent's place in each file, so it opens them anew.
            for file in self._files.values():
                file.close()
            self._start()
        file = self._files.pop(name, None) or (self.folder / name).open("rb")
        self._files[name] = file
        if len(self._files) > MOST_OPEN:
            self._files.popitem(last=False)[1].close()
        return file

    def _start(self) -> None:
        self._process, self._files = os.getpid(), OrderedDict()
        self._index = self._keys = None

    def _where(self, name: str, place: int) -> str:
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(place - BLOCK)
                return f"{self.folder / name}:{parse_header(file.read(BLOCK))[0]}"
        except (OSError, ValueError):  # a damaged header, or a copy that has been dropped since
            return f"{self.folder / name}, byte {place:,}"


Images = ImageFolder | ShardImages
