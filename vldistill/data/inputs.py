"""The raw files of an artifact: whether they are still those that it was made from (by names, sizes and times, as make judges),
and what of them is broken, left out and counted up to a share, where a user allows it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vldistill.errors import InputError, Problems


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


def signatures(raw: Path, images: Iterable[str]) -> dict[str, str]:
    """What a manifest keeps of its raw files."""
    images = list(images)
    return {"inputs": inputs_signature(raw, images), "inputs_sizes": inputs_signature(raw, images, times=False)}


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


@dataclass(frozen=True)
class LeftOut:
    """lines: of the raw files, faulty ones. images: broken or missing. records: that were dropped for their images, or where
    images alone are read, those. kept: records, or images, that stay."""

    lines: int
    images: int
    records: int
    kept: int

    @property
    def share(self) -> float:
        gone = self.lines + self.records
        return gone / max(gone + self.kept, 1)

    def __str__(self) -> str:
        gone = self.lines + self.records
        return (
            f"left out {gone:,} of {gone + self.kept:,} ({self.share:.1%}): {self.lines:,} faulty lines, "
            f"{self.records:,} for {self.images:,} broken images"
        )


def parse_share(text: str) -> float:
    """ "2.5%" or "2.5" to 0.025. Raises InputError where it is no share."""
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"--skip-broken {text[:40]} is no share", hint="give one like 5%")
    return value


def may_be_left_out(problems: Problems) -> bool:
    """Whether all faults are of lines or images alone."""
    return all(fault.part is not None for fault in problems.items)


def settled(problems: Problems, allowed: float, kept: int, subject: str) -> LeftOut | None:
    """Where images alone are read, and `problems` counts those that are broken: what is left out, None where nothing is broken.
    kept: images without a fault. Raises InputError with the faults where they may not be left out."""
    if not (problems and allowed and may_be_left_out(problems)):
        problems.raise_if_any(subject)
        return None
    broken = problems.count
    left = LeftOut(0, broken, broken, kept)
    judge(left, allowed, problems, subject)
    return left


def judge(left: LeftOut, allowed: float, problems: Problems, subject: str) -> None:
    """Raises InputError with the faults where more is broken than allowed."""
    if left.share <= allowed and left.kept:
        return
    try:
        problems.raise_if_any(subject)
    except InputError as error:
        message = f"{left.share:.1%} are broken, over the {allowed:.1%} of --skip-broken"
        raise InputError(f"{subject}: {message}\n{error}", faults=error.faults or [error]) from None
