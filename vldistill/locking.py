"""Locks between processes, and between the nodes of a cluster, on files beside what they protect.

HDF5's own lock is often switched off on clusters, and then admits a second writer without a word. Here `flock` decides: the
kernel gives such a lock back when its process ends, however it ends. Where a file system has no `flock`, a file that only one
process can create stands in, which names its owner: one that was left behind is recognised on the owner's own host, by its
process being gone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vldistill.errors import InputError, VldistillError

# 524: what Linux's NFS client says, a number that it should have kept for itself.
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, 524}
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. birth: when the kernel started the process, in its clock ticks, since process numbers are used
    again."""

    pid: int = 0
    host: str = ""
    since: str = ""
    birth: int = 0

    @classmethod
    def me(cls) -> Holder:
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), _birth(os.getpid()))

    @classmethod
    def read(cls, path: Path) -> Holder:
        """What a lock's file says; nobody in particular where it is gone or says nothing."""
        try:
            value = json.loads(path.read_bytes())
            return cls(int(value["pid"]), str(value["host"]), str(value["since"]), int(value["birth"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} since {self.since}" if self.pid else "a process that did not say its name"

    @property
    def is_gone(self) -> bool:
        """True where it is known to have ended: only a process of this host can be looked up."""
        return self.host == socket.gethostname() and (not _exists(self.pid) or _birth(self.pid) != self.birth)


class FileLock:
    """A lock on `path`, a file of its own, which says who has it if `named`, and goes with it unless `kept`.

    It is not handed down to forked children, who would keep it beyond their parent's end.
    """

    def __init__(self, path: Path, *, named: bool = True, kept: bool = True):
        self.path, self._named, self._kept = path, named, kept
        self._descriptor: int | None = None
        self._created: Path | None = None

    def take(self) -> bool:
        """Takes the lock if it is free. A refused attempt changes nothing that is on disk."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                return error.errno in _NO_FLOCK and self._create()
            if _is_file(descriptor, self.path):
                break
            # Whoever had it has removed its file since it was opened here: a lock on that one keeps nobody out.
            os.close(descriptor)
        self._descriptor = descriptor
        _HELD.add(self)
        if self._named:
            # A full disk takes the name away, not the lock.
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _text(Holder.me()), 0)
        return True

    def release(self) -> None:
        if not self._kept and (self._descriptor is not None or self._created is not None):
            self.path.unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
        if self._created is not None:
            self._created.unlink(missing_ok=True)
        self._descriptor = self._created = None

    def holder(self) -> Holder:
        """Who has it, as far as is known."""
        created = _stand_in(self.path)
        return Holder.read(created if created.exists() else self.path)

    def forget(self) -> None:
        """For a forked child: the parent keeps its lock, the child has nothing to do with it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._created = None

    def _create(self) -> bool:
        path = _stand_in(self.path)
        if is_held_by_file(path):
            return False
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, _text(Holder.me()))
        finally:
            os.close(descriptor)
        self._created = path
        _HELD.add(self)
        return True


_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [lock.forget() for lock in list(_HELD)])


def is_held(path: Path) -> bool:
    """Whether some process has the lock on `path`; nothing is created or changed, but a stand-in of a dead process is
    removed."""
    if is_held_by_file(_stand_in(path)):
        return True
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_FLOCK
    finally:
        os.close(descriptor)
    return False


def is_held_by_file(path: Path) -> bool:
    """Whether the stand-in `path` belongs to a process that may still run; one that was left behind is removed."""
    try:
        seen = path.stat().st_ino
    except FileNotFoundError:
        return False
    if not Holder.read(path).is_gone:
        return True
    # Another process may have done the same, and taken the lock since: what was moved away must be what was seen.
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if aside.stat().st_ino != seen:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
    return path.exists()


@contextmanager
def held(path: Path, *, wait: float) -> Iterator[None]:
    """Holds the lock on `path` for a short while, and waits so many seconds for it. Raises VldistillError when they are
    over."""
    lock, until = FileLock(path, named=False), time.monotonic() + wait
    while not lock.take():
        if time.monotonic() > until:
            raise VldistillError(f"is locked by {lock.holder()}, waited {wait:.0f} s", where=str(path),
                                 hint=f"which one: fuser {path}")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Holds `target`, a file or folder that need not exist, against every other process that asks the same, by a lock beside it
    which is gone afterwards. Its parent exists.

    Raises InputError where another process has it; what a dead one left is no obstacle.
    """
    lock = FileLock(target.parent / f".{target.name}.lock", kept=False)
    if not lock.take():
        raise InputError(f"is being written by {lock.holder()}", where=str(target), hint="wait for it, or end it")
    try:
        yield
    finally:
        lock.release()


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether `path` names the file that is open."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), named)


def _stand_in(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _text(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode() + b"\n"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _birth(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 where it is gone or the system does not say."""
    try:
        # The name in parentheses may hold anything; what follows it are numbers, of which this is the twentieth.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
