"""A shard: an HDF5 file, the description beside it, and its journal.

`shard-0000.h5` is laid out for a fixed list of keys before the first row is computed, and never grows. `shard-0000.json` is
written once, before the first row: whose part it is, how many rows, where each dataset lies, and CRC-32 sums of all that is not
a row's value. `shard-0000.journal` says which rows have been written since.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.artifacts import file_digest, write_json
from vldistill.errors import InputError
from vldistill.store.container import lay_out
from vldistill.store.damage import damaged
from vldistill.store.disk import sync_folder, write_at, writing
from vldistill.store.journal import Journal, read_journal
from vldistill.store.layout import KEY_BYTES, Column, datasets, starts_name
from vldistill.store.table import ShardEntry, Table, shard_name

# Rows are checked by the block. A small one costs a line of journal, a large one is read whole for one row of it.
_BLOCK_BYTES = 1 << 20
_PIECE_BYTES = 1 << 17
_REST = "rest"


@dataclass(frozen=True)
class Extent:
    """One dataset's place in the file."""

    kind: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return self.kind.itemsize * prod(self.shape)


class Shard:
    """One shard, opened by its description; `Shard(...)` raises InputError where that is missing or not what the manifest says.

    part: (i, n), the writer it belongs to. rows: N. extents: every dataset's place.
    """

    def __init__(self, table: Table, name: str):
        folder, columns, entry = table.folder, table.columns, table.shards[name]
        self.name, self.columns, self.mend, self._entry = name, columns, table.mend, entry
        self.path, self.journal_path = folder / f"{name}.h5", folder / f"{name}.journal"
        description = folder / f"{name}.json"
        try:
            if file_digest(description) != entry.digest:
                raise self._damaged(description, "was edited: it is not what the manifest says")
            value = json.loads(description.read_bytes())
            self.part: tuple[int, int] = tuple(value["part"])
            self.rows, self._size, self._sums = _natural(value["rows"]), _natural(value["size"]), dict(value["crc"])
            shapes = datasets(columns, self.rows, {name: _natural(count) for name, count in value["elements"].items()})
            self.extents = {name: Extent(*shape, _natural(value["offsets"][name])) for name, shape in shapes.items()}
            if any(extent.offset + extent.size > self._size for extent in self.extents.values()):
                raise ValueError("a dataset ends beyond the file")
        except FileNotFoundError:
            raise self._damaged(description, "is missing: the manifest names it") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(description, f"is no description of a shard: {error}") from None
        self._starts: dict[str, np.ndarray] = {}

    def check(self) -> None:
        """Raises InputError where the file is missing, has another size, or HDF5's structure in it is damaged. Keys and starts
        are checked as they are read, rows by their blocks."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            raise self._damaged(self.path, "is missing: the manifest names it") from None
        if size != self._size:
            raise self._damaged(self.path, f"has {size:,} bytes, {self._size:,} were written")
        if _sum_of_rest(self.read(offset, end - offset) for offset, end in _gaps(self.extents, size)) != self._sums.get(_REST):
            raise self._damaged(self.path, "is damaged in HDF5's own structure")

    def journal(self) -> Journal:
        """The rows that are there. Raises InputError where the journal is damaged, or shorter than it has been."""
        journal = read_journal(self.journal_path, self.rows, len(self.columns), self.mend)
        if journal.rows < self._entry.committed:
            raise self._damaged(self.journal_path, f"names {journal.rows:,} rows, it named {self._entry.committed:,}")
        return journal

    def keys(self) -> np.ndarray:
        """[N, 20] uint8. Raises InputError where they are damaged."""
        return np.frombuffer(self._checked("keys"), np.uint8).reshape(-1, KEY_BYTES)

    def starts(self, column: str) -> np.ndarray:
        """[N + 1] int64: where each row of a ragged column starts. Raises InputError where they are damaged."""
        if column not in self._starts:
            self._starts[column] = np.frombuffer(self._checked(starts_name(column)), "<i8")
        return self._starts[column]

    def lengths(self) -> dict[str, np.ndarray]:
        """[N] of each ragged column."""
        return {column.name: np.diff(self.starts(column.name)) for column in self.columns if column.ragged}

    def span(self, column: Column, first: int, end: int) -> tuple[int, int]:
        """Offset in the file and number of bytes of a column's rows [first, end)."""
        if column.ragged:
            starts = self.starts(column.name)
            first, end = int(starts[first]), int(starts[end])
        return self.extents[column.name].offset + first * column.element_bytes, (end - first) * column.element_bytes

    def view(self, column: Column, raw: np.ndarray) -> np.ndarray:
        """The column's values in `raw`, the bytes of the file: [N, *shape], or [E, *shape] of all elements."""
        extent = self.extents[column.name]
        return raw[extent.offset : extent.offset + extent.size].view(extent.kind).reshape(extent.shape)

    @property
    def block_rows(self) -> int:
        """Blocks end at multiples of this many rows, at the latest."""
        return max(1, _BLOCK_BYTES * self.rows // max(1, sum(self.extents[column.name].size for column in self.columns)))

    def _checked(self, name: str) -> bytes:
        extent = self.extents[name]
        data = self.read(extent.offset, extent.size)
        if zlib.crc32(data) != self._sums.get(name):
            raise self._damaged(self.path, f"is damaged in its {'keys' if name == 'keys' else 'starts of rows'}")
        return data

    def _damaged(self, where: Path, message: str) -> InputError:
        return damaged(where, message, self.mend)

    def crc(self, offset: int, size: int) -> int:
        """CRC-32 of a part of the file. Raises InputError where it cannot be read."""
        # In pieces that stay in a processor's cache.
        crc, buffer = 0, memoryview(bytearray(min(size, _PIECE_BYTES)))
        try:
            with self.path.open("rb", buffering=0) as file:
                while size and (count := os.preadv(file.fileno(), [buffer[: min(size, _PIECE_BYTES)]], offset)):
                    crc, offset, size = zlib.crc32(buffer[:count], crc), offset + count, size - count
        except OSError as error:
            raise self._damaged(self.path, f"cannot be read: {error.strerror}") from None
        return crc

    def read(self, offset: int, size: int) -> bytes:
        """Of the file; less where it ends before. Raises InputError where it cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise self._damaged(self.path, f"cannot be read: {error.strerror}") from None


def shard_bytes(columns: Sequence[Column], rows: int, elements: Mapping[str, int]) -> int:
    """Size of the HDF5 file that would hold so many rows, and in all so many elements of each ragged column."""
    return lay_out(datasets(columns, rows, elements)).size if rows else 0


def create_shard(
    folder: Path,
    number: int,
    part: tuple[int, int],
    columns: Sequence[Column],
    keys: np.ndarray,
    lengths: Mapping[str, np.ndarray],
) -> tuple[str, ShardEntry]:
    """Makes a shard for [N, 20] uint8 keys, all of its space taken; returns its name and what the manifest has to say of it.

    The HDF5 file is renamed into place when it is whole and synced. Raises VldistillError where the disk is full.
    """
    name, rows = shard_name(number), len(keys)
    elements = {column: int(count.sum()) for column, count in lengths.items()}
    shapes = datasets(columns, rows, elements)
    container = lay_out(shapes)
    tables = {"keys": keys.tobytes()}
    for column, count in lengths.items():
        tables[starts_name(column)] = np.concatenate([[0], np.cumsum(count)]).astype("<i8").tobytes()
    path, temporary = folder / f"{name}.h5", folder / f".{name}.h5.tmp"
    with writing(path, container.size):
        try:
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                # Fails here, and not in the middle of a night's work, where the disk cannot hold it.
                os.posix_fallocate(descriptor, 0, container.size)
                for offset, piece in container.pieces:
                    write_at(descriptor, piece, offset)
                for table, data in tables.items():
                    write_at(descriptor, data, container.offsets[table])
                extents = {table: Extent(*shape, container.offsets[table]) for table, shape in shapes.items()}
                gaps = [os.pread(descriptor, end - offset, offset) for offset, end in _gaps(extents, container.size)]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sums = {table: zlib.crc32(data) for table, data in tables.items()}
        value: dict[str, Any] = {
            "part": list(part),
            "rows": rows,
            "elements": elements,
            "offsets": container.offsets,
            "size": container.size,
            "crc": {**sums, _REST: _sum_of_rest(gaps)},
        }
        description = folder / f"{name}.json"
        write_json(description, value)
        sync_folder(folder)
    return name, ShardEntry(file_digest(description), rows)


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of rows or bytes")
    return value


def _gaps(extents: Mapping[str, Extent], size: int) -> list[tuple[int, int]]:
    """[offset, end) of all that belongs to no dataset."""
    gaps, end = [], 0
    for extent in sorted((extent for extent in extents.values() if extent.size), key=lambda extent: extent.offset):
        if extent.offset > end:
            gaps.append((end, extent.offset))
        end = extent.offset + extent.size
    return [*gaps, (end, size)] if end < size else gaps


def _sum_of_rest(parts: Sequence[bytes] | Iterator[bytes]) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc
