"""A plain HDF5 file of contiguous datasets, laid out in memory and written by the caller.

HDF5 itself never touches the disk: it ends the process where a disk is full or a file may not grow, and leaves a file that
nobody can open. So it writes its few kilobytes of structure into memory, and tells where each dataset will lie; space,
structure and rows are then written with ordinary system calls, whose errors are ordinary errors. The file is read by any HDF5
program.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

# Of every dataset's place, in bytes: whole cache lines, and no type is split.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Container:
    """size: of the whole file. offsets: of each dataset (0 where it is empty). pieces: (offset, bytes) of HDF5's structure in
    the order of writing; all else is zero or belongs to the datasets."""

    size: int
    offsets: dict[str, int]
    pieces: list[tuple[int, bytes]]


class _Holes(io.RawIOBase):
    """A file in memory that keeps what was written and not what lies between, which may be hundreds of gigabytes."""

    def __init__(self) -> None:
        self.size, self.pieces, self._at = 0, [], 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        return self.size

    def write(self, data) -> int:
        piece = bytes(data)
        self.pieces.append((self._at, piece))
        self._at += len(piece)
        self.size = max(self.size, self._at)
        return len(piece)

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        for offset, piece in self.pieces:
            first, end = max(offset, self._at), min(offset + len(piece), self._at + len(view))
            if first < end:
                view[first - self._at : end - self._at] = piece[first - offset : end - offset]
        self._at += len(view)
        return len(view)


def lay_out(datasets: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> Container:
    """Lays out a file of these datasets (name -> type and shape): contiguous, uncompressed, without fill values."""
    holes, offsets = _Holes(), {}
    with h5py.File(holes, "w", alignment_threshold=1, alignment_interval=_ALIGNMENT) as file:
        for name, (kind, shape) in datasets.items():
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.CONTIGUOUS)
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            # No times within: the same rows give the same file.
            plist.set_obj_track_times(False)
            space = h5py.h5s.create_simple(shape)
            dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(kind, logical=True), space, plist)
            offsets[name] = dataset.get_offset() or 0
    return Container(holes.size, offsets, holes.pieces)


def offsets_by_hdf5(path: Path) -> dict[str, int]:
    """Where HDF5 itself finds each dataset of a file. Raises OSError, RuntimeError, KeyError or ValueError where it cannot."""
    # From an open file, of which HDF5 asks no lock: file systems that have none would refuse it, whatever it is told here, where
    # HDF5_USE_FILE_LOCKING says otherwise.
    with path.open("rb") as opened, h5py.File(opened, "r") as file:
        return {str(name): int(file[name].id.get_offset() or 0) for name in file}
