"""Rows into one shard: written in place, then synced, then named in the journal, in this order.

A block is a run of rows whose bytes lie together in every column. It grows as long as batches continue it and ends at the
latest at fixed places (see `Shard.block_rows`), so that a reader of one row has little to check.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from vldistill.errors import VldistillError
from vldistill.places import refuse_links
from vldistill.store.disk import append, sync_folder, write_at, writing
from vldistill.store.journal import Block, Journal, to_lines
from vldistill.store.shard import Shard


class ShardOutput:
    """Open for writing, by the one writer that the shard belongs to. pending_bytes: written and not yet committed.

    After a write or a commit that failed or was interrupted nothing more is taken: what was not synced cannot be relied upon, and
    the journal may have a torn end, which the next writer cuts off.
    """

    def __init__(self, shard: Shard, journal: Journal):
        """Cuts off the journal's torn end. Raises VldistillError where the files cannot be written, InputError where one is a
        link, behind which another file would be written."""
        self.shard, self.pending_bytes, self._failed = shard, 0, False
        self._blocks: list[Block] = []
        refuse_links(shard.path.parent, shard.path.name, shard.journal_path.name)
        with writing(shard.journal_path):
            self._data = os.open(shard.path, os.O_RDWR | os.O_NOFOLLOW)
            grown = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._journal = os.open(shard.journal_path, grown, 0o666)
            os.ftruncate(self._journal, journal.whole_bytes)
            sync_folder(shard.path.parent)

    def write(self, first: int, end: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes rows [first, end): of each column [end - first, *shape], or all elements of the rows where it is ragged.
        Raises VldistillError where the disk does not take them, now or before."""
        self._refuse_after_failure()
        while first < end:
            stop = min(end, (first // self.shard.block_rows + 1) * self.shard.block_rows)
            values = self._write_block(first, stop, values)
            first = stop

    def commit(self, seconds: float) -> None:
        """Makes the rows written so far durable, and then known. seconds: that they took. Raises VldistillError."""
        self._refuse_after_failure()
        if not self._blocks:
            return
        # Taken away first: an interrupt in the middle may lose these rows, but cannot name them twice.
        blocks, self._blocks, self.pending_bytes = self._blocks, [], 0
        blocks[-1] = replace(blocks[-1], seconds=seconds)
        lines = to_lines(blocks)
        try:
            with writing(self.shard.path):
                os.fdatasync(self._data)
            with writing(self.shard.journal_path, len(lines)):
                append(self._journal, lines)
                os.fdatasync(self._journal)
        except BaseException:
            self._failed = True
            raise

    def close(self) -> None:
        os.close(self._data)
        os.close(self._journal)

    def _refuse_after_failure(self) -> None:
        if self._failed:
            raise VldistillError(
                "takes no more rows: a write failed",
                where=str(self.shard.path),
                hint="run the same command again: finished rows are kept",
            )

    def _start_disk(self, offset: int, width: int) -> None:
        """Has the kernel write these bytes out now, so that the sync of a commit has less to wait for."""
        if width:
            with suppress(OSError):
                os.posix_fadvise(self._data, offset, width, os.POSIX_FADV_DONTNEED)

    def _write_block(self, first: int, end: int, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Writes rows within one block and returns the values of the rows after them."""
        last = self._blocks[-1] if self._blocks else None
        grows = last is not None and last.end == first and first % self.shard.block_rows
        sums, rest, size = [], {}, 0
        for number, column in enumerate(self.shard.columns):
            offset, width = self.shard.span(column, first, end)
            count = width // column.element_bytes
            data = np.ascontiguousarray(values[column.name][:count]).reshape(-1).view(np.uint8).data
            rest[column.name] = values[column.name][count:]
            try:
                with writing(self.shard.path, width):
                    write_at(self._data, data, offset)
            except VldistillError:
                self._failed = True
                raise
            sums.append(zlib.crc32(data, last.crcs[number] if grows else 0))
            size += width
            self._start_disk(offset, width)
        block = Block(last.first if grows else first, end, tuple(sums))
        self._blocks[-1 if grows else len(self._blocks) :] = [block]
        self.pending_bytes += size
        return rest
