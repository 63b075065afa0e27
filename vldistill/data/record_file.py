"""Splits too large to hold: millions of captions, read one by one when they are asked for."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from vldistill.data.records import Record, record_of
from vldistill.errors import InputError
from vldistill.places import open_regular

LARGE = 200_000
"""A split of more records is not held: in memory a caption takes about 1 KB, and its tokens as much again."""
_CHUNK = 1 << 24

Found = TypeVar("Found")


class RecordFile(Sequence[Record]):
    """The records of a split that `prepare` wrote, in file order, the first `limit` of them; 8 bytes each are held."""

    def __init__(self, path: Path, limit: int | None = None):
        self.path = path
        self._starts = line_starts(path)
        self._count = min(len(self._starts) - 1, limit or len(self._starts))
        self._bytes: mmap.mmap | None = None
        self._last: tuple[int, Record] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        """Raises InputError where the line is no record."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._last is None or self._last[0] != index:
            self._last = index, self._read(index)
        return self._last[1]

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(self._count))

    def __getstate__(self) -> dict[str, Any]:
        """What another process is given: it maps the file for itself."""
        return self.__dict__ | {"_bytes": None, "_last": None}

    def _read(self, index: int) -> Record:
        if self._bytes is None:
            with self.path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        line = self._bytes[self._starts[index] : self._starts[index + 1]]
        try:
            return record_of(json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"is not a record: {error}",
                where=f"{self.path}:{index + 1}",
                hint="make the artifact again with `vldistill prepare`",
            ) from None


class Mapped(Sequence, Generic[Found]):
    """A function of each record, computed when it is asked for."""

    def __init__(self, function: Callable[[Record], Found], records: Sequence[Record]):
        self._function, self._records = function, records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Found:
        return self._function(self._records[index])


def mapped(function: Callable[[Record], Found], records: Sequence[Record]) -> Sequence[Found]:
    """A function of each record: computed now where the records are held, else when it is asked for."""
    return [function(record) for record in records] if isinstance(records, list) else Mapped(function, records)


def line_starts(path: Path) -> np.ndarray:
    """[lines + 1] int64: where each line begins, and where the file ends. Raises InputError where it cannot be read."""
    pieces, place = [np.zeros(1, dtype=np.int64)], 0
    try:
        with open_regular(path) as file:
            while chunk := file.read(_CHUNK):
                pieces.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n")) + place + 1)
                place += len(chunk)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    starts = np.concatenate(pieces)
    return starts if starts[-1] == place else np.append(starts, place)
