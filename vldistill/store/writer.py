"""Writing a store: rows are collected in memory, and written as a shard once SHARD_BYTES are together or SHARD_SECONDS are over.

    with StoreWriter(folder, use, columns, said) as writer:
        pending = writer.pending(keys)
        for batch in batches_of(pending.indices):
            writer.put(keys[batch], {"pooled": compute(batch)})

A writer may end at any moment, by an error, a signal or a full disk: the shards that it has written stay, and the next writer
goes on behind them. A shared store is written by several processes side by side, each computing its own part of the keys.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.artifacts import MANIFEST, sync_folder
from vldistill.errors import NO_ROOM, InputError, VldistillError, writing
from vldistill.locking import NamedLock, held
from vldistill.store.layout import (
    KEY_BYTES,
    Column,
    KeyIndex,
    Manifest,
    ShardEntry,
    as_keys,
    begun_manifest,
    checked_columns,
    first_places,
    has_begun,
    load_manifest,
    owners,
    shard_name,
    shard_number,
)
from vldistill.store.reader import open_shards
from vldistill.store.shard import write_shard
from vldistill.store.staging import damaged
from vldistill.store.uses import Use
from vldistill.versions import gone_on, refuse_mixing

KEPT = f"{NO_ROOM}; finished rows are kept"
SHARD_BYTES = 64 << 20
SHARD_SECONDS = 60.0
_OVERHEAD = 1 << 14
"""Bytes of a shard beside its rows, about."""
_MANIFEST_LOCK = ".manifest.lock"
# A change takes milliseconds; a whole array of jobs may stand in the queue.
_WAIT_SECONDS = 60.0
_LOCK = re.compile(r"(?P<file>\.writer-(?P<part>\d+)-of-(?P<count>\d+)\.lock)(\.held)?\Z")
_HALF = re.compile(rf"\.(?:{re.escape(MANIFEST)}|(?P<shard>shard-\d+)\.\w+)\.\d+\.tmp\Z")
_SHARD_FILE = re.compile(r"(?P<shard>shard-\d+)\.(h5|json)\Z")


@dataclass(frozen=True)
class Pending:
    """What of [K] keys a writer has to compute. indices: [P] int64 places in the keys, each key once. present, others: different
    keys that are there already, and that are other writers' to compute. bytes_needed: of their rows, but for ragged columns.
    bytes_free: on their disk."""

    indices: np.ndarray
    present: int
    others: int
    bytes_needed: int
    bytes_free: int

    def __len__(self) -> int:
        return len(self.indices)


class StoreWriter:
    """A context manager. said: what the manifest says beside what all say; what is put in there later is saved with the next
    shard. part: (i, n), the part of the keys that this writer computes (see `layout.owners`).

    Entering makes the folder if it is not there, and raises InputError where another process writes this part, or writes by
    another n, or the store there has other columns. Leaving without an exception declares a shared store complete if all that was
    asked for is there; leaving with one keeps what was put whole.
    """

    def __init__(
        self,
        folder: Path,
        use: Use,
        columns: Sequence[Column],
        said: Mapping[str, Any] | None = None,
        *,
        part: tuple[int, int] = (0, 1),
        mixing: str | None = None,
    ):
        """mixing: what to do, where rows may not be added to those of other versions of a library; None: they may. Raises
        InputError where an argument is none that a store can have; nothing is written yet."""
        if not 0 <= part[0] < part[1]:
            raise InputError(f"is no part of {part[1]}", where=f"shard {part[0]}/{part[1]}", hint="i/n with 0 <= i < n")
        self.folder, self.use, self.columns, self.part = folder, use, checked_columns(columns), part
        self.said: dict[str, Any] = dict(said or {})
        self._mixing = mixing
        self._asked: list[np.ndarray] = []
        self._rows: list[tuple[np.ndarray, Mapping[str, np.ndarray], Mapping[str, np.ndarray]]] = []
        self._wanted, self._done = KeyIndex(as_keys([])), np.zeros(0, bool)
        self._bytes, self._since, self._failed = 0, time.monotonic(), False
        self._lock: NamedLock | None = None

    def __enter__(self) -> StoreWriter:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._changing():
                if self.use.shared:
                    self._lock = _take_place(self.folder, self.part)
                try:
                    self._remove_leftovers(self._open_manifest())
                except BaseException:
                    self._leave()
                    raise
        self.begin()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self.commit()
                self._finish()
            else:
                # The rows are worth a try; what is told is the error that ended the work.
                with suppress(VldistillError):
                    self.commit()
        finally:
            self._leave()

    def begin(self) -> None:
        """What follows is the work of the next rows; the manifest says how many seconds all took."""
        self._since = time.monotonic()

    def stored_keys(self) -> np.ndarray:
        """[R, 20] uint8, of the rows that are there. Raises InputError where the store is damaged."""
        parts = [shard.keys for shard in open_shards(self._manifest())]
        return np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *parts])

    def pending(self, keys: Any) -> Pending:
        """What of `keys` (see `as_keys`) is left for this writer. Raises InputError where the store is damaged, or has rows of
        other versions of a library that the pending ones would be mixed with."""
        self.commit()
        keys = as_keys(keys)
        self._asked.append(keys)
        there, different = self.stored_keys(), first_places(keys)
        missing = different[KeyIndex(there).find(keys[different]) < 0]
        mine = missing[owners(keys[missing], self.part[1]) == self.part[0]]
        self._wanted, self._done = KeyIndex(keys[mine]), np.zeros(len(mine), bool)
        needed = len(mine) * (KEY_BYTES + sum(column.element_bytes for column in self.columns if not column.ragged))
        needed += (needed // SHARD_BYTES + 1) * _OVERHEAD * bool(len(mine))
        if len(mine) and self.use.shared:
            self._change({"request": self._request(), "wanted": len(there) + len(missing), "complete": False}, {})
        return Pending(mine, len(different) - len(missing), len(missing) - len(mine), needed, free_bytes(self.folder))

    def put(self, keys: Any, values: Mapping[str, np.ndarray], lengths: Mapping[str, Any] | None = None) -> bool:
        """Takes rows. keys: [B, 20] uint8. values: of each column [B, *shape], or the elements of all B rows one after another
        where it is ragged, in the column's own type; lengths: [B] of each of those. They are kept as they are, and must not
        change.

        Returns whether all that was put so far is on disk: safe from now on. Raises ValueError where the values do not fit, or
        rows were asked for and one is not pending or was put already, and VldistillError where the disk does not take them, now
        or before.
        """
        keys, lengths = as_keys(keys), {name: np.asarray(count, np.int64) for name, count in (lengths or {}).items()}
        self._check(keys, values, lengths)
        if self._failed:
            raise VldistillError("takes no more rows: a write failed", where=str(self.folder), hint=KEPT)
        if len(keys):
            self._rows.append((keys, dict(values), lengths))
        self._bytes += keys.nbytes + sum(value.nbytes for value in values.values())
        if self._bytes >= SHARD_BYTES or time.monotonic() - self._since >= SHARD_SECONDS:
            self.commit()
        return not self._rows

    def commit(self) -> None:
        """Writes what was put as a shard, if anything was. Raises VldistillError where the disk does not take it: finished shards
        stay as they are, and nothing more is taken."""
        if not self._rows:
            return
        # Taken away first: an interrupt in the middle may lose these rows, but cannot write them twice.
        rows, self._rows, self._bytes, self._failed = self._rows, [], 0, True
        pieces = {"keys": [keys for keys, _, _ in rows]}
        pieces |= {column.name: [values[column.name] for _, values, _ in rows] for column in self.columns}
        ragged = [column.name for column in self.columns if column.ragged]
        lengths = {name: np.concatenate([own[name] for _, _, own in rows]) for name in ragged}
        manifest = self._manifest()
        # Numbers are divided among the writers as the keys are, so that none waits for another.
        name = next(name for number in count(*self.part) if (name := shard_name(number)) not in manifest.shards)
        with writing(self.folder, hint=KEPT, every=True):
            digest = write_shard(self.folder / f"{name}.h5", self.columns, pieces, lengths)
            sync_folder(self.folder)
            self._change({}, {name: ShardEntry(digest, sum(map(len, pieces["keys"])))})
        self._failed = False
        self.begin()

    def _check(self, keys: np.ndarray, values: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray]) -> None:
        places = self._wanted.find(keys)
        if len(first_places(keys)) < len(keys) or (self._asked and ((places < 0).any() or self._done[places].any())):
            raise ValueError("a row is put once, and only if it is pending")
        names = [column.name for column in self.columns]
        if set(values) != set(names) or set(lengths) != {column.name for column in self.columns if column.ragged}:
            raise ValueError(f"columns {sorted(values)}, lengths of {sorted(lengths)} are given, {names} were declared")
        if any(count.shape != (len(keys),) or (count < 0).any() for count in lengths.values()):
            raise ValueError(f"lengths are {len(keys)} numbers from 0 on")
        for column in self.columns:
            rows, value = int(lengths[column.name].sum()) if column.ragged else len(keys), values[column.name]
            if value.shape != (rows, *column.shape) or value.dtype != column.numpy:
                declared = f"{(rows, *column.shape)} {column.dtype}"
                raise ValueError(f"{column.name} is {value.shape} {value.dtype}, {declared} was declared")
        if self._asked:
            self._done[places] = True

    def _finish(self) -> None:
        """Says in the manifest how far the whole is. Any writer that finds all keys there may say that it is complete: rows are
        written before they are looked for, so that of several which end together the last one finds them; and one that was asked
        for less than another cannot speak for that one's keys."""
        said = dict(self.said)
        if self._asked and self.use.shared:
            asked, there = np.concatenate(self._asked), self.stored_keys()
            missing = int((KeyIndex(there).find(asked[first_places(asked)]) < 0).sum())
            request = self._manifest().value["request"]
            if request is None:
                said |= {"request": self._request(), "wanted": len(there) + missing}
            if request in (None, self._request()) and not missing:
                said["complete"] = True
        self._change(said, {}, mixing=True)

    def _change(self, said: Mapping[str, Any], shards: Mapping[str, ShardEntry], *, mixing: bool = False) -> None:
        """Adds to what the manifest says, and shards to those that it names. Raises InputError where rows that come would be
        mixed with those of other versions: another writer may have been the first."""
        with self._changing():
            manifest, before = self._manifest(), self._manifest()
            if manifest.shards and self._mixing and not mixing:
                refuse_mixing(manifest.value, self.folder, self._mixing)
            if shards:
                # In a store that has no rows yet, under its own versions alone.
                manifest.value |= gone_on(manifest.value if manifest.shards else {})
                manifest.value["wall_s"] = round(manifest.value["wall_s"] + time.monotonic() - self._since, 3)
            manifest.value |= {**self.said, **said}
            manifest.shards = dict(sorted({**manifest.shards, **shards}.items(), key=lambda item: shard_number(item[0])))
            if manifest != before:
                manifest.save()

    def _changing(self) -> AbstractContextManager[None]:
        """Holds the lock under which a shared store's manifest is changed and its writers take their places."""
        return held(self.folder / _MANIFEST_LOCK, wait=_WAIT_SECONDS) if self.use.shared else nullcontext()

    def _manifest(self) -> Manifest:
        return load_manifest(self.folder, self.use, partial=True)

    def _request(self) -> str:
        """A digest of the keys as a set, by which the jobs of an array know that they work on the same. The keys are digests, so
        their sum tells sets apart as well as a digest of their sorted list."""
        asked = np.concatenate(self._asked)
        words = asked[first_places(asked)].view(np.uint32)
        return words.sum(axis=0, dtype=np.uint64).astype(">u8").tobytes().hex()

    def _open_manifest(self) -> Manifest:
        """The store's manifest, a new one where there is none. Raises InputError where it has other columns, or is gone from a
        store that has rows."""
        if not (self.folder / MANIFEST).exists():
            if has_begun(self.folder):
                raise damaged(self.folder, "has rows and no manifest.json", self.use.mend(self.folder, {}))
            begun_manifest(self.folder, self.use, self.columns, self.said).save()
        manifest = self._manifest()
        if manifest.columns != self.columns:
            raise InputError(
                f"has columns {_shown(manifest.columns)}; asked for are {_shown(self.columns)}",
                where=str(self.folder),
                hint="give them another name or other fields",
            )
        return manifest

    def _remove_leftovers(self, manifest: Manifest) -> None:
        """Removes what killed writers left: half-written files, and shards of this part that the manifest never came to name."""
        for path in self.folder.iterdir():
            shard, half = _SHARD_FILE.match(path.name), _HALF.match(path.name)
            if (shard and self._is_own(shard["shard"]) and shard["shard"] not in manifest.shards) or (
                # A manifest is written under the lock.
                half and (half["shard"] is None or self._is_own(half["shard"]))
            ):
                path.unlink()

    def _is_own(self, shard: str) -> bool:
        return shard_number(shard) % self.part[1] == self.part[0]

    def _leave(self) -> None:
        if self._lock is not None:
            self._lock.release()


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where `folder` (or the nearest of its parents that exists) lies."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


def check_room(folder: Path, needed: int) -> None:
    """Raises VldistillError where so many bytes do not fit on the disk."""
    free = free_bytes(folder)
    if needed > free:
        raise VldistillError(
            f"needs {needed:,} bytes, {free:,} are free",
            where=str(folder),
            hint="free some space, or name a place on another disk",
        )


def _take_place(folder: Path, part: tuple[int, int]) -> NamedLock:
    """The lock of part (i, n). Raises InputError, with nothing changed, where a live writer has this part, or one of another n,
    whose keys would overlap; what a dead one left is no obstacle."""
    matches = [match for path in folder.iterdir() if (match := _LOCK.match(path.name))]
    strangers = {match["file"]: match for match in matches if int(match["count"]) != part[1]}
    for name, match in strangers.items():
        other = NamedLock(folder / name, named=False)
        if not other.take():
            raise _refusal(other, f"part {match['part']} of {match['count']}, which overlaps", part)
        other.release()
    for name in strangers:
        (folder / name).unlink(missing_ok=True)
    lock = NamedLock(folder / f".writer-{part[0]}-of-{part[1]}.lock")
    if not lock.take():
        raise _refusal(lock, "the same", part)
    return lock


def _refusal(lock: NamedLock, what: str, part: tuple[int, int]) -> InputError:
    return InputError(
        f"part {part[0]} of {part[1]} cannot be written: {lock.holder()} is writing {what}",
        where=str(lock.path.parent),
        hint=lock.way_out,
    )


def _shown(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} {column.dtype}{list(column.shape)}{' ragged' * column.ragged}" for column in columns)
