"""Writing a growing store: one process, or the jobs of an array side by side, each computing its own part of the rows.

    with StoreWriter(root, "swin", fields, columns) as writer:
        pending = writer.pending(keys)
        writer.reserve(pending)
        for batch in batches_of(pending.indices):
            writer.put(batch, {"pooled": compute(batch)})

A writer may end at any moment, by an error, a signal or a full disk: what it has committed stays, and the next writer goes on
there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vldistill.errors import InputError, VldistillError
from vldistill.store.disk import check_room, writing
from vldistill.store.entry import is_taken, open_manifest, remove_leftovers, take_place
from vldistill.store.key_index import first_places
from vldistill.store.layout import KEY_BYTES, Column, Lengths, as_keys, checked_columns, checked_lengths
from vldistill.store.manifest import Fields, Manifest, changing, load_manifest, store_folder
from vldistill.store.output import ShardOutput
from vldistill.store.planning import Pending, Plan, plan_rows, request_digest
from vldistill.store.shard import Shard, create_shard
from vldistill.store.snapshot import Snapshot
from vldistill.store.table import Kind, Table, shard_name
from vldistill.versions import refuse_mixing

# Rows are committed once so many bytes, or a batch that took so long, would be lost with them.
COMMIT_BYTES = 8 << 20
COMMIT_SECONDS = 1.0


class StoreWriter:
    """A context manager. shard: (i, n), the part of the keys that this writer computes (see `layout.owners`).

    folder: of the store, which is made if it is not there. Entering raises InputError where another process writes this part,
    or writes by another n, or the store there has other columns. Leaving without an exception declares the store complete if
    all that was asked for is there; leaving with one keeps what was put whole.
    """

    kind: ClassVar[Kind]

    def __init__(
        self,
        root: Path,
        name: str,
        fields: Fields,
        columns: Sequence[Column],
        shard: tuple[int, int] = (0, 1),
        *,
        mixing: bool = False,
    ):
        """mixing: whether rows may be added to those of other versions of a library. Raises InputError where an argument is none
        that a store can have; nothing is written yet."""
        self.part, self.columns = tuple(shard), checked_columns(columns)
        if not 0 <= shard[0] < shard[1]:
            raise InputError(f"is no part of {shard[1]}", where=f"shard {shard[0]}/{shard[1]}", hint="i/n with 0 <= i < n")
        self.folder = store_folder(root, name, fields)
        self._name, self._fields, self._mixing = name, fields, mixing
        self._asked: list[np.ndarray] = []
        self._outputs: dict[str, ShardOutput] = {}
        self._plan: Plan | None = None
        self._shards: list[Shard] = []
        self._done = np.zeros(0, bool)
        self._since = 0.0

    def __enter__(self) -> StoreWriter:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with changing(self.folder):
                self._lock = take_place(self.folder, self.part)
                try:
                    manifest = open_manifest(self.folder, self._name, self._fields, self.columns, self.kind)
                    remove_leftovers(manifest, self.part)
                except BaseException:
                    self._lock.release()
                    raise
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._commit()
                self._finish()
            else:
                # The rows are worth a try; what is told is the error that ended the work.
                with suppress(VldistillError):
                    self._commit()
        finally:
            for output in self._outputs.values():
                output.close()
            self._outputs = {}
            self._lock.release()

    def pending(self, keys: Any, lengths: Lengths | None = None) -> Pending:
        """What of `keys` (see `as_keys`) is left for this writer. lengths: [K] of each ragged column.

        Raises InputError where the store is damaged, or has rows of other versions of a library that the pending ones would be
        mixed with, ValueError where the arguments do not fit.
        """
        self._commit()
        keys = as_keys(keys)
        lengths = checked_lengths(self.columns, lengths, len(keys))
        self._asked.append(keys)
        manifest = self._manifest()
        pending = plan_rows(self.folder, Snapshot.take(manifest.table), self.columns, self.part, keys, lengths)
        if len(pending):
            self._check_versions(manifest)
        return pending

    def reserve(self, pending: Pending) -> None:
        """Takes the disk space of all pending rows, after which `put` takes their values.

        Raises VldistillError where it is not there; finished rows stay as they are.
        """
        plan = pending.plan
        shards, created = list(plan.snapshot.shards), {}
        if len(plan.new_keys):
            check_room(self.folder, pending.bytes_needed)
            # Numbers are divided among the writers as the keys are, so that none waits for another.
            manifest = self._manifest()
            number = next(free for free in count(*self.part) if not is_taken(manifest, shard_name(free)))
            name, entry = create_shard(self.folder, number, self.part, self.columns, plan.new_keys, plan.new_lengths)
            created[name] = entry
            shards.append(Shard(Table(self.folder, self.columns, created, self.kind.mend), name))
        if len(pending):
            with changing(self.folder):
                manifest = self._manifest()
                # Another writer may have been the first.
                self._check_versions(manifest)
                manifest.go_on()
                manifest.shards |= created
                manifest.request, manifest.wanted, manifest.complete = self._request(), plan.wanted, False
                manifest.save()
        for shard in (shards[number] for number in np.unique(plan.shard[pending.indices])):
            if shard.name not in self._outputs:
                self._outputs[shard.name] = ShardOutput(shard, shard.journal())
        self._shards, self._plan, self._done = shards, plan, plan.shard < 0
        self._since = time.monotonic()

    def put(self, indices: Any, values: Mapping[str, np.ndarray]) -> bool:
        """Writes rows. indices: [B] places in the keys that were reserved last. values: of each column [B, *shape], or the
        elements of all B rows one after another where it is ragged, in the column's own type.

        Returns whether all that was put so far is committed: safe from now on. Raises ValueError where the values do not fit,
        or a row is not pending or was put already, and VldistillError where the disk does not take them.
        """
        indices = np.asarray(indices, dtype=np.int64)
        self._check(indices, values)
        starts = {name: np.concatenate([[0], np.cumsum(lengths[indices])]) for name, lengths in self._plan.lengths.items()}
        shards, rows = self._plan.shard[indices], self._plan.row[indices]
        breaks = np.flatnonzero((np.diff(shards) != 0) | (np.diff(rows) != 1)) + 1
        # Marked first: after an interrupt a row may be missing, but is never written once more under the sums of the first time.
        self._done[indices] = True
        for first, end in zip([0, *breaks], [*breaks, len(indices)], strict=True):
            if first < end:
                run = {column.name: _part(values[column.name], starts.get(column.name), first, end) for column in self.columns}
                output = self._outputs[self._shards[shards[first]].name]
                output.write(int(rows[first]), int(rows[first] + end - first), run)
        waiting = sum(output.pending_bytes for output in self._outputs.values())
        if waiting >= COMMIT_BYTES or time.monotonic() - self._since >= COMMIT_SECONDS:
            self._commit()
            return True
        return not waiting

    def _check(self, indices: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        if self._plan is None:
            raise ValueError("rows are reserved before they are put")
        if indices.ndim != 1 or (len(indices) and not 0 <= indices.min() <= indices.max() < len(self._done)):
            raise ValueError(f"indices are [B] places among {len(self._done)} keys")
        if self._done[indices].any() or len(set(indices.tolist())) < len(indices):
            raise ValueError("a row is put once, and only if it is pending")
        if set(values) != {column.name for column in self.columns}:
            raise ValueError(f"columns {sorted(values)} are given, {[column.name for column in self.columns]} were declared")
        for column in self.columns:
            rows = int(self._plan.lengths[column.name][indices].sum()) if column.ragged else len(indices)
            value = values[column.name]
            if value.shape != (rows, *column.shape) or value.dtype != column.numpy:
                declared = f"{(rows, *column.shape)} {column.dtype}"
                raise ValueError(f"{column.name} is {value.shape} {value.dtype}, {declared} was declared")

    def _commit(self) -> None:
        now = time.monotonic()
        waiting = [output for output in self._outputs.values() if output.pending_bytes]
        for output in waiting:
            output.commit((now - self._since) / len(waiting))
        self._since = time.monotonic()

    def _finish(self) -> None:
        """Says in the manifest how far this part is, and whether the whole is complete.

        Any writer that finds all keys there may say so. Rows are committed before they are looked for, so of several that end
        together the last one finds them; and one that was asked for less than another cannot speak for that one's keys.
        """
        snapshot = Snapshot.take(self._manifest().table)
        asked = np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *self._asked])
        missing = int((snapshot.find(asked[first_places(asked)]) < 0).sum())
        rows = {
            shard.name: journal.rows
            for shard, journal in zip(snapshot.shards, snapshot.journals, strict=True)
            if shard.part == self.part
        }
        with changing(self.folder):
            manifest = self._manifest()
            before = deepcopy(manifest)
            for name, committed in rows.items():
                manifest.shards[name].committed = committed
            if self._asked and manifest.request is None:
                manifest.request, manifest.wanted = self._request(), snapshot.count + missing
            if self._asked and manifest.request == self._request() and not missing:
                manifest.complete = True
            if manifest != before:
                manifest.save()

    def _check_versions(self, manifest: Manifest) -> None:
        if manifest.shards and not self._mixing:
            refuse_mixing(manifest.made, self.folder, self.kind.apart)

    def _manifest(self) -> Manifest:
        return load_manifest(self.folder, self.kind)

    def _request(self) -> str:
        return request_digest(np.concatenate(self._asked))


def _part(values: np.ndarray, starts: np.ndarray | None, first: int, end: int) -> np.ndarray:
    return values[first:end] if starts is None else values[starts[first] : starts[end]]
