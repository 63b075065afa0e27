"""A shard: some rows as a plain HDF5 file of contiguous datasets, and the table of checksums beside it.

`shard-0000.h5` is laid out in memory, written in one go and never changes. HDF5 itself does not touch the disk: it ends the
process where a disk is full, and leaves a file that nobody can open. `shard-0000.json` says how many rows there are, where
each dataset lies, and the CRC-32 of every block: of a column's rows, of the keys, of the starts of ragged rows, and of all
that is HDF5's own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vldistill.artifacts import json_text, write_files
from vldistill.errors import VldistillError
from vldistill.places import open_regular, read_regular
from vldistill.store.layout import KEY_BYTES, Column, datasets, shown, starts_name
from vldistill.store.staging import damaged

# Of every dataset's place, in bytes: whole cache lines, and no type is split.
_ALIGNMENT = 64
# Rows are checked by the block. A small one costs a checksum, a large one is read whole for one row of it.
_BLOCK_BYTES = 1 << 20
_PIECE_BYTES = 1 << 17
_KEYS, _STRUCTURE = "keys", "structure"


@dataclass(frozen=True)
class Extent:
    """One dataset's place in the file."""

    kind: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return self.kind.itemsize * prod(self.shape)

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class ShardLayout:
    """Where all lies in a file of `size` bytes and so many rows. starts: [N + 1] of each ragged column."""

    columns: Sequence[Column]
    rows: int
    size: int
    block_rows: int
    extents: dict[str, Extent]
    starts: dict[str, np.ndarray]

    @property
    def blocks(self) -> int:
        """Of each column."""
        return -(-self.rows // self.block_rows)

    def rows_of(self, block: int) -> tuple[int, int]:
        """[first, end)."""
        return block * self.block_rows, min(self.rows, (block + 1) * self.block_rows)

    def span(self, column: Column, block: int) -> tuple[int, int]:
        """[first, end) of a block's bytes."""
        first, end = self.rows_of(block)
        if column.ragged:
            first, end = int(self.starts[column.name][first]), int(self.starts[column.name][end])
        offset, width = self.extents[column.name].offset, column.element_bytes
        return offset + first * width, offset + end * width

    def whole(self, name: str) -> list[tuple[int, int]]:
        """[first, end) of a dataset's bytes, or of all that belong to none."""
        if name != _STRUCTURE:
            return [(self.extents[name].offset, self.extents[name].end)]
        gaps, end = [], 0
        for extent in sorted((extent for extent in self.extents.values() if extent.size), key=lambda extent: extent.offset):
            gaps.append((end, extent.offset))
            end = extent.end
        return [*gaps, (end, self.size)]


def write_shard(
    path: Path, columns: Sequence[Column], values: Mapping[str, Sequence[np.ndarray]], lengths: Mapping[str, np.ndarray]
) -> str:
    """Writes a shard and its table; both are whole and synced before either has its name. values: of the keys [N, 20] and of each
    column, [N, *shape] or all elements [E, *shape] where it is ragged, in the pieces in which they came: they go to the disk as
    they are, and are copied nowhere. lengths: [N] of each ragged column. Returns the table's digest. Raises VldistillError where
    the disk does not take them."""
    starts = {name: np.concatenate([[0], np.cumsum(count)]) for name, count in lengths.items()}
    values = {**values, **{starts_name(name): [ends] for name, ends in starts.items()}}
    elements, rows = {name: int(ends[-1]) for name, ends in starts.items()}, sum(map(len, values[_KEYS]))
    structure, extents, size = _laid_out(datasets(columns, rows, elements))
    block_rows = max(1, _BLOCK_BYTES * rows // max(1, sum(extents[column.name].size for column in columns)))
    layout = ShardLayout(columns, rows, size, block_rows, extents, starts)
    pieces = {
        name: [np.ascontiguousarray(piece, extent.kind).reshape(-1).view(np.uint8).data for piece in values[name]]
        for name, extent in extents.items()
    }
    gaps = [memoryview(structure[first:end].ljust(end - first, b"\0")) for first, end in layout.whole(_STRUCTURE)]
    filled = sorted((name for name in extents if extents[name].size), key=lambda name: extents[name].offset)
    content = [part for gap, name in zip(gaps, filled, strict=False) for part in (gap, *pieces[name])] + gaps[-1:]
    others = [_KEYS, *map(starts_name, starts)]
    table = {
        "rows": rows,
        "block_rows": block_rows,
        "size": size,
        "elements": elements,
        "offsets": {name: extent.offset for name, extent in extents.items()},
        "crc": {
            _STRUCTURE: zlib.crc32(b"".join(gaps)),
            **{name: _sums(pieces[name], [extents[name].size])[0] for name in others},
        },
        "blocks": {column.name: _sums(pieces[column.name], _block_ends(layout, column)) for column in columns},
    }
    text = json_text(table)
    write_files({path: content, path.with_suffix(".json"): text})
    return _digest(text.encode())


def _block_ends(layout: ShardLayout, column: Column) -> list[int]:
    """Of each block of a column, the place of its end in the column's bytes."""
    offset = layout.extents[column.name].offset
    return [layout.span(column, block)[1] - offset for block in range(layout.blocks)]


def _sums(pieces: Sequence[memoryview], ends: Sequence[int]) -> list[int]:
    """The CRC-32 of each block of bytes that come in pieces. ends: the blocks' ends, counted from the first byte."""
    sums, place, crc = [], 0, 0
    for piece in pieces:
        while len(sums) < len(ends) and ends[len(sums)] <= place + len(piece):
            count = ends[len(sums)] - place
            sums.append(zlib.crc32(piece[:count], crc))
            piece, place, crc = piece[count:], place + count, 0
        place, crc = place + len(piece), zlib.crc32(piece, crc)
    return sums


def _laid_out(shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> tuple[bytes, dict[str, Extent], int]:
    """Of a file with room for these datasets (name -> type and shape): its bytes up to the last that is HDF5's own, the datasets'
    places, and its size. Contiguous, uncompressed, not filled, without times, so that the same rows give the same file."""
    image, extents = io.BytesIO(), {}
    with h5py.File(image, "w", alignment_threshold=1, alignment_interval=_ALIGNMENT) as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.CONTIGUOUS)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        plist.set_obj_track_times(False)
        for name, (kind, shape) in shapes.items():
            space = h5py.h5s.create_simple(shape)
            dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(kind, logical=True), space, plist)
            extents[name] = Extent(kind, shape, dataset.get_offset() or 0)
        file.flush()
        size = file.id.get_filesize()
    return image.getvalue(), extents, size


class Shard:
    """One shard, opened by its table. Raises InputError where a file is missing, was cut, or is not what was written in its
    structure, its keys or its starts; rows are checked by their blocks. mend: what the user does about that."""

    def __init__(self, path: Path, columns: Sequence[Column], digest: str, mend: str):
        self.path, self.mend = path, mend
        table = path.with_suffix(".json")
        try:
            content = read_regular(table)
            if _digest(content) != digest:
                raise damaged(table, "was edited: it is not what the manifest says", mend)
            self._parse(columns, json.loads(content))
        except FileNotFoundError:
            raise damaged(table, "is missing: the manifest names it", mend) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise damaged(table, f"is no table of a shard: {error}", mend) from None
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise damaged(path, "is missing: the manifest names it", mend) from None
        if size != self.layout.size:
            raise damaged(path, f"has {size:,} bytes, {self.layout.size:,} were written", mend)
        self._read(_STRUCTURE, "in HDF5's own structure")
        self.keys = self._read(_KEYS, "in its keys").reshape(-1, KEY_BYTES)
        for column in columns:
            if column.ragged:
                starts = self._read(starts_name(column.name), "in its starts of rows").view("<i8")
                self.layout.starts[column.name] = starts

    def _parse(self, columns: Sequence[Column], value: dict[str, Any]) -> None:
        rows, size, block_rows = (_natural(value[name]) for name in ("rows", "size", "block_rows"))
        shapes = datasets(columns, rows, {name: _natural(count) for name, count in value["elements"].items()})
        extents = {name: Extent(*shape, _natural(value["offsets"][name])) for name, shape in shapes.items()}
        if block_rows == 0 or any(extent.end > size or extent.offset % _ALIGNMENT for extent in extents.values()):
            raise ValueError("a dataset lies where none is")
        self.layout = ShardLayout(columns, rows, size, block_rows, extents, {})
        self._crc = {name: _natural(crc) for name, crc in value["crc"].items()}
        self._blocks = {column.name: np.array(value["blocks"][column.name], np.uint32) for column in columns}
        if any(sums.shape != (self.layout.blocks,) for sums in self._blocks.values()):
            raise ValueError("a block has no checksum")

    @property
    def rows(self) -> int:
        return self.layout.rows

    def lengths(self, column: str) -> np.ndarray:
        """[N] of a ragged column."""
        return np.diff(self.layout.starts[column])

    def mapped(self) -> np.ndarray:
        """The file as bytes, mapped into memory. Raises InputError where it is empty, VldistillError where it cannot be."""
        try:
            return np.memmap(self.path, np.uint8, "r").view(np.ndarray)
        except ValueError as error:
            raise damaged(self.path, f"cannot be mapped into memory: {error}", self.mend) from None
        except OSError as error:
            hint = "each shard needs an open file, and its size of the address space: ulimit -n, ulimit -v"
            message = f"cannot be mapped into memory: {error.strerror or error}"
            raise VldistillError(message, where=str(self.path), hint=hint) from None

    def view(self, column: Column, raw: np.ndarray) -> np.ndarray:
        """The column's values in `raw`, the bytes of the file: [N, *shape], or [E, *shape] of all elements."""
        extent = self.layout.extents[column.name]
        return raw[extent.offset : extent.end].view(extent.kind).reshape(extent.shape)

    def check(self, column: Column, block: int) -> int:
        """Compares one block of a column with its checksum; returns its bytes. Raises InputError, naming its rows, where it is
        damaged or cannot be read: it is not yet asked through the map, where a disk that fails, or a file that was cut, ends the
        process."""
        start, stop = self.layout.span(column, block)
        if self._crc_of(start, stop) != self._blocks[column.name][block]:
            first, end = self.layout.rows_of(block)
            keys = shown(self.keys[first:end])
            raise damaged(self.path, f"column {column.name} is damaged in rows {first} to {end - 1}, of keys {keys}", self.mend)
        return stop - start

    def _read(self, name: str, part: str) -> np.ndarray:
        """A dataset, or all that belongs to none, as bytes, once it was compared with its checksum."""
        try:
            with open_regular(self.path) as file:
                parts = [os.pread(file.fileno(), end - first, first) for first, end in self.layout.whole(name)]
        except OSError as error:
            raise damaged(self.path, f"cannot be read: {error.strerror}", self.mend) from None
        data = b"".join(parts)
        if zlib.crc32(data) != self._crc.get(name):
            raise damaged(self.path, f"is damaged {part}", self.mend)
        return np.frombuffer(data, np.uint8)

    def _crc_of(self, first: int, end: int) -> int:
        # In pieces that stay in a processor's cache.
        crc, buffer = 0, memoryview(bytearray(_PIECE_BYTES))
        try:
            with open_regular(self.path) as file:
                while first < end and (count := os.preadv(file.fileno(), [buffer[: end - first]], first)):
                    crc, first = zlib.crc32(buffer[:count], crc), first + count
        except OSError as error:
            raise damaged(self.path, f"cannot be read: {error.strerror}", self.mend) from None
        return crc


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of rows or bytes")
    return value
