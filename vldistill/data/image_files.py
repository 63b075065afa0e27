"""Image files: opening one safely as RGB, and checking all of a data set's in one pass.

A header is judged before anything is decoded, only the allow-listed formats are tried, and a truncated file is an error, never a
grey-filled picture. Pixels are taken as stored, unless they are asked for upright: the published pipelines of all models here
open a file by Pillow and leave EXIF's orientation alone.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vldistill.errors import IMAGE, InputError, Problems, first_line
from vldistill.runtime import own_cores

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Of files of these formats."""
MAX_PIXELS = 25_000_000
"""Of an image that is opened, unless a caller allows more."""
MAX_BYTES = 256 * 2**20
_CHUNK = 32
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by EXIF's orientation."""
_ON_ITS_SIDE = (5, 6, 7, 8)
# `warnings.catch_warnings` swaps global state, so only one thread at a time may hold it.
_WARNINGS = threading.Lock()
_SLASHES = "its folders are set apart by \\: write / instead"
_SMALLER = "resize it, or allow more with --max-pixels; to a data artifact `vldistill prepare` gives it"
_PERMISSIONS = "check its permissions, and those of the folders above it"
_TRUST = "pass --follow-links if you trust the link"


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """sha1 of the file's bytes (hex), and its size in pixels as it is stored. turned: whether it lies on its side by its EXIF
    data, so that width and height change places where it is seen upright."""

    sha1: str
    width: int
    height: int
    turned: bool = False

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ImageInfo:
        """From a line of a list of images; those of earlier versions do not say how an image lies."""
        return cls(row["sha1"], row["width"], row["height"], bool(row.get("turned")))

    def to_row(self, path: str) -> dict[str, Any]:
        row = {"path": path, "sha1": self.sha1, "width": self.width, "height": self.height}
        return {**row, "turned": True} if self.turned else row

    def size(self, upright: bool) -> tuple[int, int]:
        """(width, height) as an image is seen, upright or as stored."""
        return (self.height, self.width) if upright and self.turned else (self.width, self.height)


def open_image(path: str | Path, *, upright: bool = False, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image as 8-bit RGB, transparency composited on white, 16-bit grey scaled. upright: turned as its EXIF data says.

    Raises InputError naming the path where the file is missing, empty, no image of an allowed format, over the pixel
    cap (before decoding), or truncated.
    """
    return decode_image(read_image(path), str(path), upright=upright, most_pixels=most_pixels)


def read_image(path: str | Path) -> bytes:
    """The file as it is. Raises InputError naming the path where it is missing, empty, no file, or over the cap of bytes."""
    with _naming(str(path)):
        return _read(str(path))


def decode_image(data: bytes, where: str, *, upright: bool = False, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image that a file's bytes are, as `open_image` has it. Raises InputError with `where`."""
    with _naming(where):
        image = _decode(_open_header(data, most_pixels))
        turn = _TURNS.get(_orientation(image)) if upright else None
        return _to_rgb(image if turn is None else image.transpose(turn))


def check_paths(relative_paths: Iterable[str], problems: Problems, where_of: Mapping[str, str]) -> list[str]:
    """The paths that, by their text alone, stay inside the root; each of the others goes to `problems`."""
    good = []
    for path in dict.fromkeys(relative_paths):
        pure = PurePosixPath(path)
        if not path.strip() or "\0" in path:
            problems.add(f"image path {path[:200]!r} is not a path", where=where_of.get(path), hint="name a file", part=IMAGE)
        elif pure.is_absolute() or ".." in pure.parts:
            problems.add(
                f"image path {path[:200]!r} leaves the raw folder",
                where=where_of.get(path),
                hint="give it relative to the raw folder, without `..`",
                part=IMAGE,
            )
        else:
            good.append(path)
    return good


def check_images(
    root: Path,
    relative_paths: Iterable[str],
    problems: Problems,
    where_of: Mapping[str, str],
    decode: bool = True,
    follow_links: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    most_pixels: int = MAX_PIXELS,
) -> dict[str, ImageInfo]:
    """Checks every image and returns what is known of the good ones, in the order given.

    Every missing, broken or escaping image goes to `problems` with `where_of[path]`, the line that names it; a folder
    that does not exist is one problem. `decode=False` reads headers only (and hashes). `follow_links` allows links
    that lead out of the root. `progress(done, total)` is called from the calling thread.
    """
    paths = check_paths(relative_paths, problems, where_of)
    present = _existing(root, paths, problems, where_of, follow_links)
    threads = threads or own_cores()  # a SLURM job may own fewer than the node has
    chunks = [present[i : i + _CHUNK] for i in range(0, len(present), _CHUNK)]
    infos: dict[str, ImageInfo] = {}
    done = 0

    def examine(chunk: list[str]) -> list[ImageInfo | _BadImage]:
        return [_examine(os.path.join(root, path), decode, most_pixels) for path in chunk]  # noqa: PTH118 (a Path per image is slow)

    pool = ThreadPoolExecutor(max_workers=max(1, threads))
    try:
        for chunk, results in zip(chunks, pool.map(examine, chunks), strict=True):
            for path, result in zip(chunk, results, strict=True):
                if isinstance(result, ImageInfo):
                    infos[path] = result
                else:
                    problems.add(
                        f"image {_shown(path)}: {result.message}", where=where_of.get(path), hint=result.hint, part=IMAGE
                    )
            done += len(chunk)
            if progress:
                progress(done, len(present))
    finally:
        # On Ctrl-C the queue must not be worked off first.
        pool.shutdown(wait=True, cancel_futures=True)
    return infos


class _BadImage(Exception):
    def __init__(self, message: str, hint: str | None = None):
        self.message, self.hint = message, hint
        super().__init__(message)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except _BadImage as error:
        raise InputError(error.message, where=where, hint=error.hint) from None


def _existing(root: Path, paths: list[str], problems: Problems, where_of: Mapping[str, str], follow_links: bool) -> list[str]:
    """The paths that name a regular file inside `root`: one listing per folder, not a stat per image."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(os.path.dirname(path), []).append(path)  # noqa: PTH120 (a Path per image is slow)
    real_root = os.path.realpath(root)
    good: set[str] = set()
    for folder, members in folders.items():
        place = Path(root) / folder
        fault = entries = None
        try:
            entries = _list_folder(place)
        except (FileNotFoundError, NotADirectoryError):
            fault = f"no such folder: {_shown(str(place))}", near_folder(root, members[0]) or "put the images there"
        except OSError as error:
            fault = f"the folder {_shown(str(place))} cannot be read: {error.strerror or error}", _PERMISSIONS
        if fault is None and not follow_links and not _inside(place, real_root):
            fault = f"the folder {_shown(str(place))} is a link that leaves the raw folder", _TRUST
        if fault is not None:
            many = f"{len(members):,} images" if len(members) > 1 else f"image {_shown(members[0])}"
            problems.add(f"{many}: {fault[0]}", where=where_of.get(members[0]), hint=fault[1], part=IMAGE, count=len(members))
            continue
        near = NearNames(entries)
        for path in members:
            fault = _fault_of(path, place, entries, near, real_root, follow_links)
            if fault is None:
                good.add(path)
            else:
                problems.add(f"image {_shown(path)}: {fault[0]}", where=where_of.get(path), hint=fault[1], part=IMAGE)
    return [path for path in paths if path in good]


def _fault_of(
    path: str, place: Path, entries: Mapping[str, os.DirEntry[str]], near: NearNames, real_root: str, follow_links: bool
) -> tuple[str, str] | None:
    """What is wrong with an image before it is read, and how to mend it."""
    name = PurePosixPath(path).name
    entry = entries.get(name)
    if entry is None:
        return f"no such file in {_shown(str(place))}", near.hint(name) or "put it there, or drop the line"
    if not follow_links and entry.is_symlink() and not _inside(entry.path, real_root):
        return "is a link that leaves the raw folder", _TRUST
    try:
        status = os.stat(entry.path)  # noqa: PTH116 (a Path per image is slow)
    except PermissionError as error:
        return f"cannot be read: {error.strerror}", _PERMISSIONS
    except OSError:
        return "is not a file", "put the image there"  # a link that leads nowhere, or round in a circle
    return None if stat.S_ISREG(status.st_mode) else ("is not a file", "put the image there")


def _list_folder(place: Path) -> dict[str, os.DirEntry[str]]:
    """Raises OSError; a name that is too long is that of no folder."""
    try:
        with os.scandir(place) as entries:
            return {entry.name: entry for entry in entries}
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise FileNotFoundError(error.errno, error.strerror) from None
        raise


def plain(name: str) -> str:
    """A name without what systems differ in: capitals and the Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


class NearNames:
    """The names of one folder."""

    def __init__(self, names: Iterable[str]):
        self._names = names

    @cached_property
    def _known(self) -> tuple[dict[str, str], dict[str, str]]:
        """The names by their plain form, whole and without ending."""
        return {plain(name): name for name in self._names}, {plain(PurePosixPath(name).stem): name for name in self._names}

    def hint(self, name: str) -> str | None:
        """How to mend a name that is not among them, where one is near."""
        if "\\" in name:
            return _SLASHES
        whole, stems = self._known
        near = whole.get(plain(name))
        if near is None:
            near = stems.get(plain(PurePosixPath(name).stem))
            return None if near is None else f"there is {near!r}, with another ending"
        form = unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", name)
        return f"there is {near!r}, " + ("the same name in another Unicode form (NFC, NFD)" if form else "in other capitals")


def near_folder(root: Path, path: str) -> str | None:
    """How to mend an image's path whose folder is not there, where following it part by part finds what is near."""
    if "\\" in path:
        return _SLASHES
    place, parts = Path(root), []
    for part in PurePosixPath(path).parent.parts:
        try:
            there = [entry.name for entry in place.iterdir()]
        except OSError:
            return None
        near = part if part in there else {plain(name): name for name in there}.get(plain(part))
        if near is None:
            return None
        parts.append(near)
        place = place / near
    return f"there is the folder {'/'.join(parts)!r}, in other capitals or another Unicode form"


def _examine(path: str, decode: bool, most_pixels: int) -> ImageInfo | _BadImage:
    try:
        data = _read(path)
        image = _open_header(data, most_pixels)
        width, height = image.size
        if decode:
            # A JPEG drawn at an eighth still reads its whole stream: a truncated one is found, at half the cost.
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
            _decode(image)
        # Pillow decodes a PNG to look for what may stand behind its pixels.
        turned = (decode or "exif" in image.info) and _orientation(image) in _ON_ITS_SIDE
    except _BadImage as error:
        return error
    return ImageInfo(hashlib.sha1(data, usedforsecurity=False).hexdigest(), width, height, turned)


def _read(path: str) -> bytes:
    try:
        # Not blocking, so that a named pipe cannot hold the reader for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor, not a path)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _BadImage("is not a file", "name an image file")
            if status.st_size == 0:
                raise _BadImage("is empty (0 bytes)", "fetch it again")
            if status.st_size > MAX_BYTES:
                raise _BadImage(f"has {status.st_size:,} bytes, over the cap of {MAX_BYTES:,}", "resize it")
            return file.read()
    except FileNotFoundError:
        raise _BadImage("no such file", "put it there") from None
    except IsADirectoryError:
        raise _BadImage("is a folder, an image was expected", "name an image file") from None
    except (OSError, ValueError) as error:
        raise _BadImage(f"cannot be read: {getattr(error, 'strerror', None) or error}", "check its permissions") from None


def _open_header(data: bytes, most_pixels: int) -> Image.Image:
    cap = Image.MAX_IMAGE_PIXELS
    try:
        with _WARNINGS, warnings.catch_warnings():
            # Pillow only warns between its own cap and twice it; ours below refuses.
            warnings.simplefilter("ignore")
            try:
                Image.MAX_IMAGE_PIXELS = max(cap or most_pixels, most_pixels)
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = cap
    except UnidentifiedImageError:
        raise _BadImage(f"is not an image ({', '.join(FORMATS)} are read)", "convert or replace it") from None
    except Image.DecompressionBombError:
        raise _BadImage(f"is over the cap of {most_pixels:,} pixels", _SMALLER) from None
    except Exception as error:  # whatever a parser makes of a hostile header (struct.error, ValueError, ...)
        raise _BadImage(f"has a damaged header: {first_line(error)}", "replace it") from None
    width, height = image.size
    if width * height > most_pixels:
        raise _BadImage(f"has {width:,} x {height:,} pixels, over the cap of {most_pixels:,}", _SMALLER)
    return image


def _decode(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, zlib.error, ... on damage
        raise _BadImage(f"is truncated or damaged: {first_line(error)}", "fetch it again") from None
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 where an image has none or none that can be read, which a viewer shows as it is stored, too."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever a parser makes of hostile bytes (SyntaxError, struct.error, ValueError, ...)
        return 1


def _inside(path: str | Path, real_root: str) -> bool:
    # `realpath`, since `Path.resolve` raises for a loop of links.
    return Path(os.path.realpath(path)).is_relative_to(real_root)


def _shown(path: str) -> str:
    return path if path.isprintable() and len(path) <= 200 else f"{path[:200]!r}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # `convert` would clip 16-bit grey at 255 and turn nearly all of it white.
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
