"""The one exception family of the tool.

Every error that a user can mend says what is wrong, where (`file:line`), and what to do about it. Only
`vldistill.cli.main` turns one into text and an exit code:
0 done, 1 failure while running, 2 bad input or refusal, 85 preempted after a checkpoint, 130 interrupted.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
MAX_PROBLEMS_SHOWN = 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_ERRORS = (*_NO_ROOM, errno.EIO)
"""What the operating system says of a disk that is full or broken, or of a file that may not grow: no fault of the input."""
_FAILING = "its disk, or the way there, fails: copy it from elsewhere"
_CHUNK = 1 << 24
NO_ROOM = "free some space and run the same command again"
_ELSEWHERE = "choose another place, or mend the permissions of this one"


class VldistillError(Exception):
    """A failure while running (exit code 1). `hint` is the mend: a command to run or a value to change."""

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None):
        self.message, self.where, self.hint = message, where, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class InputError(VldistillError):
    """Bad input or a refusal (exit code 2); nothing has been written. part: what of the input is at fault alone, LINE or IMAGE,
    so that it could be left out; None where it is the whole. faults: all that were found, where they are several."""

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        part: str | None = None,
        faults: list[InputError] | None = None,
    ):
        super().__init__(message, where=where, hint=hint)
        self.part, self.faults = part, faults or []


LINE, IMAGE = "line", "image"


@contextmanager
def writing(path: Path, size: int | None = None, *, hint: str = NO_ROOM, every: bool = False) -> Iterator[None]:
    """Turns one of DISK_ERRORS, or `every` error of the operating system, into one line that says what failed: VldistillError
    naming the file and, where it is known, how many bytes were to be written."""
    try:
        yield
    except OSError as error:
        if not every and error.errno not in DISK_ERRORS:
            raise
        failed = failed_file(error)
        if failed is not None and failed.read and error.errno in DISK_ERRORS:
            raise unreadable(failed.name, error) from None
        what = "cannot be written" if size is None else f"cannot write {size:,} bytes"
        mend = hint if error.errno in DISK_ERRORS or hint != NO_ROOM else _ELSEWHERE
        raise VldistillError(f"{what}: {error.strerror or error}", where=str(path), hint=mend) from None


@dataclass(frozen=True)
class FailedFile:
    """A file that a system call failed on. read: whether it was being read."""

    name: str
    read: bool


def failed_file(error: OSError) -> FailedFile | None:
    """The file that an error speaks of. Python names it where a file cannot be opened, but not where a read or a write fails
    later: then it is the one that the innermost function of the traceback has open. None where no function has one."""
    if error.filename is not None:
        return FailedFile(str(error.filename), False)
    failed, traceback = None, error.__traceback__
    while traceback is not None:
        held = list(traceback.tb_frame.f_locals.values())
        # A reader of ours keeps its file as an attribute.
        ours = [own for own in held if type(own).__module__.startswith("vldistill.")]
        held += [part for own in ours for part in getattr(own, "__dict__", {}).values()]
        for value in held:
            if isinstance(value, io.IOBase) and isinstance(name := getattr(value, "name", None), str):
                read = not set(str(getattr(value, "mode", ""))) & set("wax+")
                # No read is refused for want of room.
                failed = failed if read and error.errno in _NO_ROOM else FailedFile(name, read)
        traceback = traceback.tb_next
    return failed


def unreadable(where: str | Path, error: OSError) -> VldistillError:
    """What is said of a file that a failing disk does not give."""
    return VldistillError(f"cannot be read: {error.strerror or error}", where=str(where), hint=_FAILING)


def read_through(path: Path) -> None:
    """Reads a file to its end. For those that a library maps into memory, where a read that fails ends the process, or reads
    itself and then says of anything that it is broken. Raises VldistillError where the disk fails."""
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(_CHUNK):
                pass
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise unreadable(path, error) from None
        raise


def first_line(error: BaseException) -> str:
    """What an error of a library says, shortened: some tell it in many lines, some not at all."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@dataclass
class Problems:
    """Collects every fault of an input in one pass, so that a user mends them all at once.

    `add` records one; `raise_if_any` raises a single `InputError` with one line for each (the first 20) and the total. every:
    readers that give up after many faults shall not. count: of faulty lines and images; one fault may be that of many.
    """

    items: list[InputError] = field(default_factory=list)
    every: bool = False
    count: int = 0

    def add(
        self, message: str, *, where: str | None = None, hint: str | None = None, part: str | None = None, count: int = 1
    ) -> None:
        self.items.append(InputError(message, where=where, hint=hint, part=part))
        self.count += count

    def __bool__(self) -> bool:
        return bool(self.items)

    def raise_if_any(self, subject: str = "") -> None:
        if not self.items:
            return
        if len(self.items) == 1:
            raise self.items[0]
        lines = [str(item) for item in self.items[:MAX_PROBLEMS_SHOWN]]
        more = len(self.items) - len(lines)
        if more:
            lines.append(f"... and {more} more")
        summary = f"{len(self.items)} problems" + (f" in {subject}" if subject else "") + ", nothing was written"
        raise InputError("\n".join([*lines, summary]), faults=self.items)


def needed(value: T | None, what: str) -> T:
    """What is there unless the program itself is at fault: no input can leave it out. Raises TypeError where it is not."""
    if value is None:
        raise TypeError(f"{what} is missing")
    return value
