"""Rows into the shards of a folder that nobody reads before it is whole, as `artifacts.building` makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.store.disk import check_room
from vldistill.store.layout import Column, Lengths, as_keys, checked_columns, checked_lengths
from vldistill.store.output import ShardOutput
from vldistill.store.shard import Shard, create_shard, shard_bytes
from vldistill.store.table import ShardEntry, Table, table_fields


class FolderWriter:
    """Writes shard after shard. The space of each is taken before its first row, so that a disk that cannot hold it is found out
    then."""

    def __init__(self, folder: Path, columns: Sequence[Column]):
        self._folder, self._columns = folder, checked_columns(columns)
        self._shards: dict[str, ShardEntry] = {}

    @contextmanager
    def shard(self, keys: Any, lengths: Lengths | None = None) -> Iterator[ShardOutput]:
        """The next shard, open for the rows of `keys` (see `as_keys`), which are all written in their order and are durable when
        this is left. lengths: [N] of each ragged column. Raises VldistillError where the disk does not take them."""
        keys = as_keys(keys)
        lengths = checked_lengths(self._columns, lengths, len(keys))
        elements = {name: int(count.sum()) for name, count in lengths.items()}
        check_room(self._folder, shard_bytes(self._columns, len(keys), elements))
        name, entry = create_shard(self._folder, len(self._shards), (0, 1), self._columns, keys, lengths)
        shard = Shard(Table(self._folder, self._columns, {name: entry}, ""), name)
        output = ShardOutput(shard, shard.journal())
        try:
            yield output
            output.commit(0.0)
        finally:
            output.close()
        entry.committed = shard.journal().rows
        if entry.committed != entry.rows:
            raise ValueError(f"{entry.committed} of {entry.rows} rows were written")
        self._shards[name] = entry

    def fields(self) -> dict[str, Any]:
        """What the folder's manifest says of the rows."""
        return table_fields(self._columns, self._shards)


def write_all(writer: FolderWriter, keys: Any, values: dict[str, np.ndarray], lengths: Lengths | None = None) -> None:
    """One shard whose values are all at hand: of each column [N, *shape], or all elements where it is ragged."""
    with writer.shard(keys, lengths) as output:
        output.write(0, len(keys), values)
