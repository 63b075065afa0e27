"""All rows of a store at one moment: its shards one after another, and which of their rows are there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vldistill.store.journal import Journal, block_numbers
from vldistill.store.key_index import KeyIndex
from vldistill.store.layout import KEY_BYTES
from vldistill.store.shard import Shard
from vldistill.store.table import Table


@dataclass
class Snapshot:
    """shards, in the order of their numbers, with their journals. bases: [S + 1] the number of each one's first row, all rows
    of the store counted through. keys: [R, 20] uint8. block_of: [R] int32, the place of each row's block among its shard's, -1
    for a row that is not there (not yet, or no longer wanted)."""

    shards: list[Shard]
    journals: list[Journal]
    bases: np.ndarray
    keys: np.ndarray
    block_of: np.ndarray

    @classmethod
    def take(cls, table: Table) -> Snapshot:
        """Opens all shards of the table. Raises InputError at the first that is damaged."""
        shards = open_shards(table)
        for shard in shards:
            shard.check()
        journals = [shard.journal() for shard in shards]
        keys = [np.empty((0, KEY_BYTES), np.uint8), *(shard.keys() for shard in shards)]
        blocks = [
            np.empty(0, np.int32),
            *(block_numbers(journal.blocks, shard.rows) for shard, journal in zip(shards, journals, strict=True)),
        ]
        bases = np.cumsum([0, *(shard.rows for shard in shards)])
        return cls(shards, journals, bases, np.concatenate(keys), np.concatenate(blocks))

    @property
    def count(self) -> int:
        """Rows that are there."""
        return sum(journal.rows for journal in self.journals)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """[K] int64: the row of each of [K, 20] uint8 keys, -1 where it is not there."""
        return self._index.find(keys)

    @cached_property
    def _index(self) -> KeyIndex:
        return KeyIndex(self.keys, np.flatnonzero(self.block_of >= 0))


def open_shards(table: Table) -> list[Shard]:
    """The shards by their descriptions. Raises InputError where one is missing or edited."""
    return [Shard(table, name) for name in table.shards]
