"""Reading a store: rows by key, gathered through a memory map.

A row is checked against its block's checksum the first time that one of the block is read, so what reaches training is what was
written, at the price of one pass over what is used. HDF5 is not asked: its datasets lie at fixed offsets, and a random row of a
map costs a hundredth of what it costs through its interface.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vldistill.store.checking import block_damage, mapped
from vldistill.store.layout import Column, as_keys
from vldistill.store.manifest import load_manifest
from vldistill.store.snapshot import Snapshot
from vldistill.store.table import Kind, Table


class Rows:
    """The rows of a table; those that are committed later are seen by one that is opened later.

    Files are opened at the first use in each process, so that a DataLoader's workers may be forked or spawned; row numbers are
    the same in all that have this object.
    """

    def __init__(self, table: Table):
        self._table = table
        self._state: _State | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": None}

    @property
    def folder(self) -> Path:
        return self._table.folder

    @property
    def columns(self) -> tuple[Column, ...]:
        return self._table.columns

    def __len__(self) -> int:
        """Rows that are there. Raises InputError where a file is damaged, as all that follows does."""
        return self._opened.snapshot.count

    def find(self, keys: Any) -> np.ndarray:
        """[K] int64: the row of each of [K, 20] uint8 keys (or see `layout.as_keys`), -1 where there is none."""
        return self._opened.snapshot.find(as_keys(keys))

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
        views = state.views[place]
        if len(views) == 1:
            return views[0].take(rows, axis=0)
        shards = state.shard_of(rows)
        values = np.empty((len(rows), *state.columns[place].shape), state.columns[place].numpy)
        # Row by row: a batch has few rows of each shard, and a gather from each costs more than it saves.
        for number, (shard, row) in enumerate(zip(shards.tolist(), (rows - state.snapshot.bases[shards]).tolist(), strict=True)):
            values[number] = views[shard][row]
        return values

    def read_ragged(self, row: int, column: str) -> np.ndarray:
        """[L, *shape], a copy of all elements of a row. Raises what `read` does."""
        state = self._opened
        place = state.places[column]
        if not state.columns[place].ragged:
            raise ValueError(f"{column} is not ragged: use read")
        state.check(np.array([row]), place)
        shard = int(state.shard_of(np.array([row]))[0])
        within = row - state.snapshot.bases[shard]
        starts = state.snapshot.shards[shard].starts(column)
        return np.array(state.views[place][shard][starts[within] : starts[within + 1]])

    def lengths(self, column: str) -> np.ndarray:
        """[R] int64: how many elements each row of a ragged column has, whether or not it is there; no value is read."""
        shards = self._opened.snapshot.shards
        return np.concatenate([np.empty(0, np.int64), *(np.diff(shard.starts(column)) for shard in shards)])

    def check(self) -> None:
        """Raises InputError at the first block of any column that is damaged, or where a row is not there; reads all of them."""
        state = self._opened
        for place in range(len(self.columns)):
            state.check(np.arange(len(state.snapshot.keys)), place)

    @property
    def _opened(self) -> _State:
        if self._state is None:
            self._state = _State(Snapshot.take(self._table), self.columns)
        return self._state


class GrowingStore(Rows):
    """A store that writers add to, complete or not."""

    kind: ClassVar[Kind]

    def __init__(self, folder: Path):
        """Raises InputError where `folder` is no store of this kind, or its manifest is not its own."""
        self.manifest = load_manifest(folder, self.kind)
        super().__init__(self.manifest.table)

    @property
    def fields(self) -> dict[str, str | int | float]:
        """All that the values depend on."""
        return self.manifest.fields

    @property
    def complete(self) -> bool:
        """Whether all that was last asked for is there."""
        return self.manifest.complete


class _State:
    """What one process has open. views: by column and shard, [N, *shape], or [E, *shape] of all elements. sound: by column, [R]
    whether a row's block was checked."""

    def __init__(self, snapshot: Snapshot, columns: tuple[Column, ...]):
        self.snapshot, self.columns = snapshot, columns
        self.places = {column.name: place for place, column in enumerate(columns)}
        self.raw = [mapped(shard) for shard in snapshot.shards]
        files = list(zip(snapshot.shards, self.raw, strict=True))
        self.views = [[shard.view(column, raw) for shard, raw in files] for column in columns]
        self.sound = np.zeros((len(columns), len(snapshot.keys)), bool)

    def shard_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.snapshot.bases, rows, side="right") - 1

    def check(self, rows: np.ndarray, place: int) -> None:
        """Raises where one of the rows is not there, or a block of theirs is damaged in this column."""
        if rows.size and rows.min() < 0:
            raise ValueError(f"row {rows.min()} is no row: its key was not found")
        sound = self.sound[place]
        if sound[rows].all():
            return
        rows = rows[~sound[rows]]
        blocks = self.snapshot.block_of[rows]
        if blocks.min() < 0:
            raise ValueError(f"row {rows[blocks.argmin()]} is not there")
        for shard, number in sorted(set(zip(self.shard_of(rows).tolist(), blocks.tolist(), strict=True))):
            block, base = self.snapshot.journals[shard].blocks[number], self.snapshot.bases[shard]
            keys = self.snapshot.keys[base + block.first : base + block.end]
            damage = block_damage(self.snapshot.shards[shard], place, block, keys)
            if damage:
                raise damage.error()
            sound[base + block.first : base + block.end] = True
