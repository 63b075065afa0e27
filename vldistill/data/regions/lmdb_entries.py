"""The entries of an LMDB, read by a process of their own: the library follows the pointers of a damaged file through a memory
map, which ends the process that does so."""

from __future__ import annotations

import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_FRAME = struct.Struct("<II")
_LARGEST = 1 << 28
_REFUSED = 1


def entries_of(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each entry, in the order of the keys. path: of the file, or of the folder that holds `data.mdb`. Raises
    ValueError where it is no LMDB, is cut off or damaged."""
    words = [sys.executable, "-m", __name__, str(path.absolute())]
    # From where this package was imported, wherever that is.
    reader = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert reader.stdout is not None and reader.stderr is not None
    try:
        while head := reader.stdout.read(_FRAME.size):
            if len(head) < _FRAME.size:
                break
            key, value = _FRAME.unpack(head)
            data = reader.stdout.read(key + value)
            if len(data) < key + value:
                break
            yield data[:key], data[key:]
        complaint = reader.stderr.read().decode("utf-8", "replace").strip().splitlines()
        code = reader.wait()
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close()
        reader.stderr.close()
    if code == _REFUSED:
        raise ValueError(complaint[-1] if complaint else "is no LMDB that can be read")
    if code:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise ValueError(f"is damaged: reading it ends with {name}")


def main(path: Path) -> None:
    """Writes the entries to standard output, each behind the lengths of its key and its value."""
    import lmdb

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = path / "data.mdb" if path.is_dir() else path
    if file.stat().st_size == 0:
        _refuse("is empty (0 bytes)")
    try:
        with (
            lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False) as database,
            database.begin() as transaction,
        ):
            needed, there = (database.info()["last_pgno"] + 1) * database.stat()["psize"], file.stat().st_size
            if there < needed:
                _refuse(f"is cut off: {needed - there:,} of {needed:,} bytes are missing")
            for key, value in transaction.cursor():
                if len(value) > _LARGEST:
                    _refuse(f"is damaged: an entry of {len(value):,} bytes")
                sys.stdout.buffer.write(_FRAME.pack(len(key), len(value)) + key + value)
            sys.stdout.buffer.flush()
    except lmdb.Error as error:
        _refuse(f"is no LMDB that can be read: {error}")


def _refuse(reason: str) -> None:
    sys.stdout.buffer.flush()
    raise SystemExit(reason)  # to standard error


if __name__ == "__main__":
    main(Path(sys.argv[1]))
