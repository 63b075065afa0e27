"""Which rows a writer still has to compute, and where each goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vldistill.store.disk import free_bytes
from vldistill.store.key_index import KeyIndex, first_places
from vldistill.store.layout import Column, owners
from vldistill.store.shard import shard_bytes
from vldistill.store.snapshot import Snapshot


@dataclass(frozen=True)
class Pending:
    """What of [K] keys this writer has to compute.

    indices: [P] int64 places in the keys, each key once, in the order in which to compute them: first the rows that an
    unfinished shard waits for. present, others: different keys that are there already, and that are other writers' to compute.
    bytes_needed: of new files, bytes_free: on their disk.
    """

    indices: np.ndarray
    present: int
    others: int
    bytes_needed: int
    bytes_free: int
    plan: Plan

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Plan:
    """Where the rows go. shard, row: [K] int32 and int64, of each key the place in `snapshot.shards` and the row in it; one
    past the last shard for a row of the new one, -1 for a key that is not pending. new_keys: [M, 20] uint8 of the new shard,
    and their lengths. wanted: rows there will be when all keys are there, whoever computes them."""

    snapshot: Snapshot
    shard: np.ndarray
    row: np.ndarray
    new_keys: np.ndarray
    new_lengths: dict[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]
    wanted: int


def plan_rows(
    folder: Path,
    snapshot: Snapshot,
    columns: Sequence[Column],
    part: tuple[int, int],
    keys: np.ndarray,
    lengths: Mapping[str, np.ndarray],
) -> Pending:
    """Finds what of [K, 20] uint8 keys is not there yet and belongs to `part`, (i, n).

    A row that an earlier, interrupted writer of the same part has laid out keeps its place, if it still has the same lengths.
    """
    different = first_places(keys)
    missing = different[snapshot.find(keys[different]) < 0]
    mine = missing[owners(keys[missing], part[1]) == part[0]]
    shard, row = np.full(len(keys), -1, np.int32), np.full(len(keys), -1, np.int64)
    for number, found in enumerate(snapshot.shards):
        within = slice(snapshot.bases[number], snapshot.bases[number + 1])
        holes = np.flatnonzero(snapshot.block_of[within] < 0)
        if found.part == part and len(holes):
            waiting = mine[shard[mine] < 0]
            rows = KeyIndex(snapshot.keys[within], holes).find(keys[waiting])
            fits = rows >= 0
            for name, count in found.lengths().items():
                fits &= count[rows] == lengths[name][waiting]
            shard[waiting[fits]], row[waiting[fits]] = number, rows[fits]
    new = mine[shard[mine] < 0]
    shard[new], row[new] = len(snapshot.shards), np.arange(len(new))
    new_lengths = {name: value[new] for name, value in lengths.items()}
    needed = shard_bytes(columns, len(new), {name: int(value.sum()) for name, value in new_lengths.items()})
    plan = Plan(snapshot, shard, row, keys[new], new_lengths, lengths, snapshot.count + len(missing))
    indices = mine[np.lexsort((row[mine], shard[mine]))]
    return Pending(indices, len(different) - len(missing), len(missing) - len(mine), needed, free_bytes(folder), plan)


def request_digest(keys: np.ndarray) -> str:
    """A digest of the keys as a set, by which the jobs of an array know that they work on the same. The keys are digests, so
    their sum tells sets apart as well as a digest of their sorted list."""
    words = keys[first_places(keys)].view(np.uint32)
    return words.sum(axis=0, dtype=np.uint64).astype(">u8").tobytes().hex()
