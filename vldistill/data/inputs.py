"""Whether a raw data set is still what an artifact was made from: the names, sizes and times of its files, as make judges."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def inputs_signature(raw: Path, images: Iterable[str] = (), *, times: bool = True) -> str:
    """A digest (32 hex digits) of path, size and time of change of every file below the folder `raw`, hidden ones left out.
    times: whether those count, which a copy does not keep.

    A single file has a signature with its `images` (paths relative to its folder), since its folder may hold anything.
    A tenth of a second for ten thousand files; contents are not read.
    """
    state = hashlib.blake2b(digest_size=16)
    files = _walk(raw, "") if raw.is_dir() else _named(raw.parent, [raw.name, *images])
    for path, status in sorted(files):
        state.update(f"{path}\0{status if times else status.split()[0]}\0".encode(errors="surrogateescape"))
    return state.hexdigest()


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", _status(entry.path)


def _named(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys(names):
        yield name, _status(folder / name)


def _status(path: str | Path) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path per image is slow)
    except OSError:
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"
