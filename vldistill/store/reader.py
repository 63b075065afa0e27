"""Reading a store: rows by key, gathered through memory maps.

A row is checked against its block's checksum the first time that one of the block is read, so what reaches training is what was
written, at the price of one pass over what is used; no caller reads past this. HDF5 is not asked: its datasets lie at fixed
offsets, and a random row of a map costs a hundredth of what it costs through its interface.
"""

from __future__ import annotations

import math
import resource
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from vldistill.store.layout import KEY_BYTES, Column, KeyIndex, Manifest, as_keys, load_manifest
from vldistill.store.shard import Shard
from vldistill.store.uses import Use


class StoreReader:
    """The rows of a store; those that are written later are seen by one that is opened later.

    Files are opened at the first use in each process, so that a DataLoader's workers may be forked or spawned; row numbers are
    the same in all that have this object.
    """

    def __init__(self, folder: Path, use: Use, *, partial: bool = False):
        """Raises InputError as `load_manifest`."""
        self.manifest = load_manifest(folder, use, partial=partial)
        self._state: Snapshot | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": None}

    @property
    def folder(self) -> Path:
        return self.manifest.folder

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.manifest.columns

    @property
    def complete(self) -> bool:
        """Whether all that was last asked for is there."""
        return self.manifest.value["complete"]

    def __len__(self) -> int:
        """Rows that are there. Raises InputError where a file is damaged, as all that follows does."""
        return len(self._opened.keys)

    def find(self, keys: Any) -> np.ndarray:
        """[K] int64: the row of each of [K, 20] uint8 keys (or see `layout.as_keys`), -1 where there is none."""
        return self._opened.find(as_keys(keys))

    def read(self, rows: Any, column: str) -> np.ndarray:
        """[B, *shape], a copy of the values of [B] rows (repeated ones too).

        Raises InputError where a block that is needed is damaged, ValueError where a row is not there or the column is ragged,
        and KeyError or IndexError where there is no such column or row.
        """
        rows, state = np.asarray(rows, dtype=np.int64), self._opened
        place = state.places[column]
        if state.columns[place].ragged:
            raise ValueError(f"{column} is ragged: use read_ragged")
        state.check(rows, place)
        return state.gather(rows, place)

    def read_ragged(self, row: int, column: str) -> np.ndarray:
        """[L, *shape], a copy of all elements of a row. Raises what `read` does."""
        state = self._opened
        place = state.places[column]
        if not state.columns[place].ragged:
            raise ValueError(f"{column} is not ragged: use read")
        state.check(np.array([row]), place)
        shard = int(np.searchsorted(state.bases, row, side="right")) - 1
        within, starts = row - state.bases[shard], state.shards[shard].layout.starts[column]
        return np.array(state.views[place][shard][starts[within] : starts[within + 1]])

    def lengths(self, column: str) -> np.ndarray:
        """[R] int64: how many elements each row of a ragged column has; no value is read."""
        return np.concatenate([np.empty(0, np.int64), *(shard.lengths(column) for shard in self._opened.shards)])

    @property
    def keys(self) -> np.ndarray:
        """[R, 20] uint8, of all rows."""
        return self._opened.keys

    @property
    def _opened(self) -> Snapshot:
        if self._state is None:
            self._state = Snapshot(self.manifest)
        return self._state


def open_shards(manifest: Manifest) -> list[Shard]:
    """Raises InputError at the first that is damaged."""
    return [
        Shard(manifest.folder / f"{name}.h5", manifest.columns, entry.digest, manifest.mend)
        for name, entry in manifest.shards.items()
    ]


class Snapshot:
    """All rows of a store at one moment, as one process has them open: its shards one after another. bases: [S + 1] the number of
    each one's first row. keys: [R, 20] uint8. views: by column and shard, [N, *shape], or [E, *shape] of all elements. sound: by
    column, [R] whether a row's block was checked. Raises InputError where a shard is damaged."""

    def __init__(self, manifest: Manifest):
        self.columns, self.shards = manifest.columns, open_shards(manifest)
        self.places = {column.name: place for place, column in enumerate(self.columns)}
        self.bases = np.cumsum([0, *(shard.rows for shard in self.shards)])
        self.keys = np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *(shard.keys for shard in self.shards)])
        self.sound = np.zeros((len(self.columns), len(self.keys)), bool)
        self._tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def find(self, keys: np.ndarray) -> np.ndarray:
        """[K] int64: the row of each of [K, 20] uint8 keys, -1 where it is not there."""
        return self._index.find(keys)

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(self.keys)

    @cached_property
    def views(self) -> list[list[np.ndarray]]:
        _allow_files(len(self.shards))
        files = [(shard, shard.mapped()) for shard in self.shards]
        return [[shard.view(column, raw) for shard, raw in files] for column in self.columns]

    def check(self, rows: np.ndarray, place: int) -> None:
        """Raises where one of the rows is none, or a block of theirs is damaged in this column."""
        if rows.size and rows.min() < 0:
            raise ValueError(f"row {rows.min()} is no row: its key was not found")
        sound = self.sound[place]
        if sound[rows].all():
            return
        rows = rows[~sound[rows]]
        shards = np.searchsorted(self.bases, rows, side="right") - 1
        within = (rows - self.bases[shards]).tolist()
        layouts = [self.shards[shard].layout for shard in shards.tolist()]
        blocks = (row // layout.block_rows for row, layout in zip(within, layouts, strict=True))
        for shard, block in sorted(set(zip(shards.tolist(), blocks, strict=True))):
            self.shards[shard].check(self.columns[place], block)
            first, end = self.shards[shard].layout.rows_of(block)
            sound[self.bases[shard] + first : self.bases[shard] + end] = True

    def gather(self, rows: np.ndarray, place: int) -> np.ndarray:
        """[B, *shape] of rows that are there."""
        column, views = self.columns[place], self.views[place]
        if len(views) == 1 or not len(rows):
            return views[0].take(rows, axis=0) if views else np.empty((0, *column.shape), column.numpy)
        if place not in self._tables:
            self._tables[place] = _one_table(views, column)
        table, numbers = self._tables[place]
        return table[numbers[rows]].view(column.numpy).reshape(len(rows), *column.shape)


def _one_table(views: list[np.ndarray], column: Column) -> tuple[np.ndarray, np.ndarray]:
    """A column of several shards as one array of rows, and [R] the number in it of each row: rows that lie in different maps are
    gathered by one call of NumPy, as fast as those of one. The array spans all addresses from the first map to the last in steps
    of a few bytes; of its numbers none but these may be used."""
    width = column.element_bytes
    step = math.gcd(width, 64)
    first = min(views, key=lambda view: view.ctypes.data)
    places = np.array([(view.ctypes.data - first.ctypes.data) // step for view in views])
    numbers = [place + np.arange(len(view)) * (width // step) for place, view in zip(places, views, strict=True)]
    table = as_strided(first.reshape(-1).view(f"V{width}"), (int(numbers[int(places.argmax())][-1]) + 1,), (step,))
    return table, np.concatenate(numbers)


def _allow_files(count: int) -> None:
    """A map keeps its file open, and many systems allow few until they are asked for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, soft + count), hard))
