"""Archives, as data sets are downloaded, unpacked into one new folder that a data set can then be read from.

An archive is not trusted: nothing of it is written but plain files below folders made here, under names that were judged,
and no more bytes than it may have. All faults are told at once, and one fault leaves nothing behind.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vldistill import artifacts
from vldistill.data.archive_readers import (
    CHUNK,
    UNPACK_BY_HAND,
    DamagedError,
    Member,
    Names,
    TarReader,
    ZipReader,
    is_junk,
    name_fault,
    plain_path,
    shown,
)
from vldistill.errors import InputError, Problems, VldistillError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_RATIO = 100
MAX_ENTRIES = 2_000_000
MAX_FAULTS = 10_000


def is_archive(path: Path) -> bool:
    """Whether a file is an archive by its name. What it holds is judged when it is unpacked."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def find_sources(raw: Path, target: Path) -> list[Path]:
    """What is to be unpacked to `target`: the archive `raw`, or all files directly in the folder `raw`, hidden ones left out.

    Raises InputError where there is no archive, or the folder holds anything but files (`target` itself is passed over).
    """
    if not raw.exists():
        raise InputError("no such file or folder", where=str(raw), hint="give an archive, or a folder of archives")
    if not raw.is_dir():
        if not is_archive(raw):
            raise InputError("is no archive", where=str(raw), hint=f"one ends in {', '.join(SUFFIXES)}")
        return [raw]
    problems, sources = Problems(), []
    for path in sorted(raw.iterdir()):
        if path.name.startswith(".") or path.resolve() == target.resolve():
            continue
        if path.is_file():
            sources.append(path)
        else:
            what = "is a folder" if path.is_dir() else "is not a file"
            problems.add(
                f"{what} beside the archives",
                where=str(path),
                hint="give a folder of archives and annotation files alone, or unpack by hand",
            )
    problems.raise_if_any(str(raw))
    if not any(map(is_archive, sources)):
        raise InputError("holds no archive", where=str(raw), hint="leave out --unpack to read it as it is")
    return sources


def unpacked_before(sources: Sequence[Path], target: Path, *, overwrite: bool = False) -> dict[str, Any] | None:
    """The manifest of `target`, with `unchanged`, where the same sources were unpacked to it and as much is still there.

    The same: by name, size and time of change. None where there is work to do. Raises InputError where the target is
    anything else, unless `overwrite` is on and it was made by unpacking.
    """
    if not target.exists() or (overwrite and target.is_dir() and not any(target.iterdir())):
        return None
    try:
        manifest = artifacts.read_manifest(target, "unpack", make_it="")
    except InputError:
        raise InputError(
            "already exists, and was not made by unpacking",
            where=str(target),
            hint="give another place with --unpack DIR, or read it with --raw",
        ) from None
    same = manifest.get("sources") == _signature(sources)
    if same and manifest.get("holds") == _holds(target):
        return {**manifest, "unchanged": True}
    if not overwrite:
        reason = "no longer holds what was unpacked" if same else "was unpacked from other archives, or they have changed"
        raise InputError(reason, where=str(target), hint="pass --overwrite, or another --unpack DIR, or read it with --raw")
    return None


def unpack(
    sources: Sequence[Path], target: Path, *, overwrite: bool = False, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Unpacks archives, and copies files that are none, into the one folder `target`, and returns its manifest.

    progress(done, total) counts packed bytes. Where the same was unpacked before, the manifest comes back with `unchanged`
    (not on disk). Raises InputError with every fault found, and where the disk has no room; nothing is then left behind.
    """
    if (kept := unpacked_before(sources, target, overwrite=overwrite)) is not None:
        return kept
    for source in sources:
        if source.resolve().is_relative_to(target.resolve()):
            raise InputError("is where the archives are", where=str(target), hint="give another place with --unpack DIR")
    signature = _signature(sources)
    with artifacts.building(target, overwrite=overwrite, stage="unpack") as folder:
        work = _Unpacking(folder, sources, progress)
        work.run()
        manifest = artifacts.new_manifest(
            "unpack",
            sources=signature,
            counts={"archives": sum(map(is_archive, sources)), "files": work.files, "bytes": work.bytes},
            holds=_holds(folder),
            complete=True,
        )
        artifacts.write_manifest(folder, manifest)
    return manifest


class _Unpacking:
    """One unpacking under way. Once something is wrong nothing more is written, and the rest is read only to be judged."""

    def __init__(self, folder: Path, sources: Sequence[Path], progress: Callable[[int, int], None] | None):
        self._folder, self._sources, self._progress = folder, sources, progress
        self._problems, self._names = Problems(), Names()
        self._made: set[str] = {""}
        self._total = sum(source.stat().st_size for source in sources)
        self._reader: ZipReader | TarReader | None = None
        self._before = self._told = self._entries = self._room = 0
        self.files = self.bytes = 0

    def run(self) -> None:
        """Does all. Raises InputError with all faults."""
        self._reserve(self._claimed())
        # Each member takes its part when its turn comes.
        self._room = 0
        for source in self._sources:
            try:
                if not is_archive(source):
                    self._member(Member(source.name, source.stat().st_size), lambda _, source=source: _blocks(source))
                else:
                    self._archive(source)
            except DamagedError as error:
                self._fault(str(source), error.message, error.hint)
            self._reader = None
            self._before += source.stat().st_size
            self._advance(last=True)
        self._raise_faults()

    def _claimed(self) -> int:
        """The bytes that are known to be needed before anything is unpacked: those of zips and of files that are copied."""
        needed = 0
        for source in self._sources:
            if not is_archive(source):
                needed += source.stat().st_size
                continue
            with suppress(DamagedError), _opened(source) as reader:  # what is damaged is told when its turn comes
                needed += reader.needed
        return needed

    def _archive(self, source: Path) -> None:
        empty = True
        with _opened(source) as self._reader:
            reader = self._reader
            for member in reader:
                self._entries += 1
                if self._entries > MAX_ENTRIES:
                    raise DamagedError(f"has more than {MAX_ENTRIES:,} entries", UNPACK_BY_HAND)
                empty = empty and member.folder
                try:
                    self._member(member, reader.chunks)
                except DamagedError as error:
                    self._fault(f"{source}:{shown(member.name)}", error.message, error.hint)
                self._advance()
        if empty:
            raise DamagedError("holds no file")

    def _member(self, member: Member, chunks: Callable[[Member], Iterable[bytes]]) -> None:
        path = plain_path(member.name)
        fault = name_fault(member.name, member.folder)
        if fault is None and is_junk(path):
            return
        if fault is None and member.fault:
            raise DamagedError(member.fault, member.hint)
        if fault := fault or (self._names.claim(path, member.folder) if path else None):
            raise DamagedError(fault, UNPACK_BY_HAND)
        if member.folder:
            self._make(path)
            return
        if self._problems:
            for _ in chunks(member):
                self._advance()
            return
        self._reserve(member.size)
        self._make(path.rpartition("/")[0])
        self._write(path, chunks(member))
        self.files += 1

    def _write(self, path: str, chunks: Iterable[bytes]) -> None:
        with _naming():
            # Exclusive: a file system that takes two names for the same must not lose the first.
            file = open(f"{self._folder}/{path}", "xb")  # noqa: PTH123, SIM115 (a Path per file is slow)
        with file:
            for chunk in chunks:
                file.write(chunk)
                self.bytes += len(chunk)
                self._advance()

    def _make(self, path: str) -> None:
        if path in self._made or self._problems:
            return
        self._make(path.rpartition("/")[0])
        with _naming():
            os.mkdir(f"{self._folder}/{path}")  # noqa: PTH102 (as above)
        self._made.add(path)

    def _reserve(self, needed: int) -> None:
        # The disk is asked again only when what it had is spent, since it may be asked over a network.
        if needed > self._room:
            self._room = shutil.disk_usage(self._folder).free
        if needed > self._room:
            raise VldistillError(
                f"needs {needed:,} bytes more, {self._room:,} are free",
                where=str(self._folder.parent),
                hint="free some, or give a place on another disk with --unpack DIR",
            )
        self._room -= needed

    def _advance(self, last: bool = False) -> None:
        done = self._before + (self._reader.position if self._reader else 0)
        if self._progress and (last or done - self._told >= CHUNK):
            self._told = done
            self._progress(min(done, self._total), self._total)

    def _fault(self, where: str, message: str, hint: str) -> None:
        self._problems.add(message, where=where, hint=hint)
        if len(self._problems.items) >= MAX_FAULTS:
            self._raise_faults()

    def _raise_faults(self) -> None:
        first = self._sources[0]
        self._problems.raise_if_any(str(first if len(self._sources) == 1 else first.parent))


@contextmanager
def _naming() -> Iterator[None]:
    """Tells a name that this file system does not take from a disk that fails."""
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            raise
        reason = getattr(error, "strerror", None) or "its letters cannot be written"
        raise DamagedError(f"cannot have this name here: {reason}", UNPACK_BY_HAND) from None


def _opened(source: Path) -> ZipReader | TarReader:
    if source.name.lower().endswith(".zip"):
        return ZipReader(source, ratio=MAX_RATIO, most=MAX_ENTRIES)
    return TarReader(source, ratio=MAX_RATIO)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            yield block


def _signature(sources: Sequence[Path]) -> list[dict[str, Any]]:
    states = [(path.name, path.stat()) for path in sources]
    return [{"name": name, "size": state.st_size, "mtime_ns": state.st_mtime_ns} for name, state in sorted(states)]


def _holds(folder: Path) -> dict[str, int]:
    """How many files lie below a folder, and their bytes; hidden ones, which desktops strew, and its manifest left out."""
    files = size = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not (name == artifacts.MANIFEST and place == str(folder)):
                files, size = files + 1, size + os.stat(f"{place}/{name}").st_size  # noqa: PTH116
    return {"files": files, "bytes": size}
