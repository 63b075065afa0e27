"""Shards: an artifact's images packed with their records into WebDataset tars, since millions of small files are what cluster
file systems cannot serve.

The folder `shards/` of an artifact holds `<split>-000000.tar` and so on, N samples each. A sample is one tuple of images (1, or
2 for pairs) with all records of its split that have exactly this tuple:

    000000017.json     a list of the record objects, as they stand in the split's .jsonl
    000000017.0.jpg    the image file as it is, and for pairs 000000017.1.jpg

The key before the first dot is the running number of the sample in its split. Headers are made here rather than by `tarfile`,
some of whose bytes differ between Python versions: the same input gives the same bytes on any machine. Reading is as strict.

By `index.npy` any image is read without unpacking: key, place, size and CRC-32 of its content, and the tar's number, in the
order of the keys. A key is 8 bytes of a hash of the image's path, so an image takes 28 bytes and the file can be mapped. An
image that several samples share is packed with each of them; the index names the first.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vldistill.artifacts import file_digest
from vldistill.data.image_files import SUFFIXES, ImageInfo, read_image
from vldistill.errors import InputError

BLOCK = 512
AGAIN = "run the `vldistill prepare` that made it again, with --overwrite"
# name, mode, uid, gid, size, mtime, checksum, type, link, magic and version, user, group, device numbers, prefix: POSIX ustar.
_HEADER = struct.Struct("100s 8s 8s 8s 12s 12s 8s c 100s 8s 32s 32s 8s 8s 155s 12x")
_SIZE = slice(124, 136)
_ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp"}
_SUFFIXES = tuple(suffix[1:] for suffix in SUFFIXES)
_NAME = re.compile(rf"([0-9]{{9}})\.(json|[01]\.(?:{'|'.join(_SUFFIXES)}))")
SHARDS_FOLDER = "shards"
INDEX_FILE = "index.npy"
SEED = 0
INDEX_TYPE = np.dtype([("key", "<u8"), ("place", "<u8"), ("size", "<u4"), ("crc", "<u4"), ("tar", "<u4")])
_ROW = struct.Struct("<QQIII")
# Reading waits for the file system more than for a processor.
_THREADS = 8
_BATCH = 8
_AHEAD = 2 * _THREADS
_TOLD_EVERY = 64


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


@dataclass(frozen=True)
class Packed:
    """shards: tars, samples and bytes of each split. files: sha256 of every file, by its name within the artifact."""

    shards: dict[str, dict[str, int]]
    files: dict[str, str]


@dataclass(frozen=True)
class _Sample:
    """One tuple of images, and the lines of the records that have it."""

    images: tuple[str, ...]
    lines: list[bytes]


def tar_names(shards: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The tars' names by their number in the index, from the manifest's `shards`."""
    return [_tar_name(split, number) for split, part in shards.items() for number in range(part["files"])]


def path_key(path: str) -> int:
    """An image's key in the index, 0 to 2^64 - 1."""
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "big")


def pack_shards(
    folder: Path,
    out: Path,
    root: Path,
    splits: Sequence[str],
    images: Mapping[str, ImageInfo],
    size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Packs splits of the artifact `folder` into `out`, a new folder, `size` samples a tar; `progress(done, total)` counts
    samples.

    images: what is known of each, by its path below `root`. Samples are in the order of a hash of their paths, so that a tar
    read front to back is a random sample; the records of one are in file order. The images of a hundred samples or so are held
    at once, and some 24 bytes for each record and 28 for each image. Raises InputError where an image is gone or is no longer
    what `images` says.
    """
    out.mkdir()
    orders = {split: _Order(folder / f"{split}.jsonl") for split in splits}
    total, done = sum(map(len, orders.values())), 0
    shards: dict[str, dict[str, int]] = {}
    files: dict[str, str] = {}
    rows = bytearray()
    for split, order in orders.items():
        part = shards[split] = {"files": 0, "samples": 0, "bytes": 0}
        with closing(_loaded(order.samples(), root, images)) as loaded:
            for first in loaded:
                name = _tar_name(split, part["files"])
                with TarWriter(out / name) as tar:
                    for sample, contents in chain([first], islice(loaded, size - 1)):
                        _write(tar, len(files), part["samples"], sample, contents, rows)
                        part["samples"] += 1
                        done += 1
                        if progress and (done % _TOLD_EVERY == 0 or done == total):
                            progress(done, total)
                files[f"{SHARDS_FOLDER}/{name}"] = tar.sha256
                part["files"] += 1
                part["bytes"] += tar.size
    _write_index(out / INDEX_FILE, rows, len(images))
    files[f"{SHARDS_FOLDER}/{INDEX_FILE}"] = file_digest(out / INDEX_FILE)
    return Packed(shards, files)


def _tar_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


class _Order:
    """The samples of a split in a random order: where its lines begin, sorted by a hash of their images."""

    def __init__(self, path: Path):
        self._path = path
        ranks, places, place = array("Q"), array("Q"), 0
        with path.open("rb") as file:
            for line in file:
                name = "\0".join((str(SEED), *json.loads(line)["images"]))
                ranks.append(path_key(name))
                places.append(place)
                place += len(line)
        hashes = np.frombuffer(ranks, np.uint64)
        order = np.argsort(hashes, kind="stable")
        self._places = np.frombuffer(places, np.uint64)[order]
        # Where the next rank begins.
        self._ends = np.append(np.flatnonzero(np.diff(hashes[order])) + 1, len(order))

    def __len__(self) -> int:
        return len(self._ends)

    def samples(self) -> Iterator[_Sample]:
        start = 0
        with self._path.open("rb") as file:
            for end in self._ends.tolist():
                tuples: dict[tuple[str, ...], list[bytes]] = {}
                for place in self._places[start:end].tolist():
                    file.seek(place)
                    line = file.readline().rstrip(b"\n")
                    tuples.setdefault(tuple(json.loads(line)["images"]), []).append(line)
                # More than one where two hashes are equal, which nobody will see.
                for images in sorted(tuples):
                    yield _Sample(images, tuples[images])
                start = end


def _loaded(samples: Iterator[_Sample], root: Path, images: Mapping[str, ImageInfo]) -> Iterator[tuple[_Sample, list[bytes]]]:
    """Samples with the files of their images, which are read by threads, a few batches ahead."""

    def load(batch: list[_Sample]) -> list[list[bytes]]:
        return [[_read(root, path, images[path].sha1) for path in sample.images] for sample in batch]

    waiting: deque[tuple[list[_Sample], Any]] = deque()
    pool = ThreadPoolExecutor(max_workers=_THREADS)
    try:
        while True:
            batch = list(islice(samples, _BATCH))
            if batch:
                waiting.append((batch, pool.submit(load, batch)))
            if waiting and (len(waiting) > _AHEAD or not batch):
                ready, future = waiting.popleft()
                yield from zip(ready, future.result(), strict=True)
            elif not batch:
                return
    finally:
        # On Ctrl-C the queue must not be worked off first.
        pool.shutdown(wait=True, cancel_futures=True)


def _read(root: Path, path: str, sha1: str) -> bytes:
    data = read_image(root / path)
    if hashlib.sha1(data, usedforsecurity=False).hexdigest() != sha1:
        raise InputError(
            "has changed since it was checked",
            where=str(root / path),
            hint="is something still writing there? prepare again when it is done",
        )
    return data


def _write(tar: TarWriter, number: int, count: int, sample: _Sample, contents: list[bytes], rows: bytearray) -> None:
    """Writes the sample `count` of its split into the tar `number`, and adds its images to the index."""
    tar.add(f"{count:09d}.json", b"[" + b",\n".join(sample.lines) + b"]\n")
    for position, (path, data) in enumerate(zip(sample.images, contents, strict=True)):
        place = tar.add(image_name(count, position, path, data), data)
        rows += _ROW.pack(path_key(path), place, len(data), zlib.crc32(data), number)


def _write_index(path: Path, rows: bytearray, images: int) -> None:
    table = np.frombuffer(rows, INDEX_TYPE)
    _, first = np.unique(table["key"], return_index=True)
    if len(first) != images:
        raise InputError(
            f"{images:,} images have {len(first):,} keys, so the index cannot tell them apart",
            where=str(path),
            hint="rename the image folder, or leave --shards out",
        )
    np.save(path, table[first])
