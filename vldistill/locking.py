"""Locks between processes, and between the nodes of a cluster, on files beside what they protect.

HDF5's own lock is often switched off on clusters, and then admits a second writer without a word. Here `flock` decides: the
kernel gives such a lock back when its process ends, however it ends. Where a file system has no `flock`, a file that only one
process can create stands in, which names its owner: one that was left behind is recognised on the owner's own host by its
process being gone, and on others by its age, since an owner that lives makes it younger all the time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vldistill.errors import InputError, VldistillError, writing
from vldistill.terminal import complain

# 524: what Linux's NFS client says, a number that it should have kept for itself.
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, 524}
_POLL_SECONDS = 0.02
_SILENT_SECONDS = 10.0
"""After which a wait is spoken of."""
_TAKEN = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
LEASE_SECONDS = 180.0
"""Age at which a stand-in is nobody's any more, by the clock of its own file system."""
_RENEW_SECONDS = 20.0
WAIT_VARIABLE = "VLDISTILL_LOCK_WAIT"
BUSY = 75
"""The exit code of a command that has waited in vain for another one's lock, by which a cluster's script puts it back."""


class Busy(VldistillError):
    """Another process has what is to be written, and time to wait for it is over."""

    exit_code = BUSY


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. birth: when the kernel started the process, in its clock ticks, since process numbers are used
    again. lease: whether it makes its stand-in younger; that of an earlier version does not."""

    pid: int = 0
    host: str = ""
    since: str = ""
    birth: int = 0
    lease: bool = False

    @classmethod
    def me(cls) -> Holder:
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), _birth(os.getpid()), True)

    @classmethod
    def read(cls, path: Path) -> Holder:
        """What a lock's file says; nobody in particular where it is gone or says nothing."""
        try:
            value = json.loads(path.read_bytes())
            return cls(int(value["pid"]), str(value["host"]), str(value["since"]), int(value["birth"]),
                       value.get("lease") is True)
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} since {self.since}" if self.pid else "a process that did not say its name"

    @property
    def is_gone(self) -> bool:
        """True where it is known to have ended: only a process of this host can be looked up."""
        return self.is_here and (not _exists(self.pid) or _birth(self.pid) != self.birth)

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this host."""
        return self.host == socket.gethostname()


class FileLock:
    """A lock on `path`, a file of its own, which says who has it if `named`, and goes with it unless `kept`.

    It is not handed down to forked children, who would keep it beyond their parent's end.
    """

    def __init__(self, path: Path, *, named: bool = True, kept: bool = True):
        self.path, self._named, self._kept = path, named, kept
        self._descriptor: int | None = None
        self._created: Path | None = None

    def take(self) -> bool:
        """Takes the lock if it is free. A refused attempt changes nothing that is on disk. Raises VldistillError where a disk
        fails."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                free = _flock(descriptor, self.path)
            except VldistillError:
                os.close(descriptor)
                raise
            if not free:
                os.close(descriptor)
                return free is None and self._create()
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

    @property
    def way_out(self) -> str:
        """What a user does about a lock that is taken; for a hint."""
        created = _stand_in(self.path)
        if not created.exists():
            return f"wait for it, or end it; the lock is {self.path}"
        if (holder := Holder.read(created)).lease or not holder.pid:
            return f"wait for it, or end it; if it has been killed, {created} is free by itself after {LEASE_SECONDS:.0f} s"
        return f"wait for it, or end it; if it has been killed, remove {created}"

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
        own = _text(Holder.me())
        try:
            with writing(path, len(own), every=True):
                os.write(descriptor, own)
        except VldistillError:
            path.unlink(missing_ok=True)  # without a name it would be nobody's for a long time
            raise
        finally:
            os.close(descriptor)
        self._created = path
        _HELD.add(self)
        threading.Thread(target=_renew, args=(weakref.ref(self), path, own), daemon=True).start()
        return True


def _renew(holder: weakref.ref[FileLock], path: Path, own: bytes) -> None:
    """Makes the stand-in younger for as long as it is held. A process that was stopped for so long that another has taken it ends
    at once, as by kill -9, which leaves nothing half-written: two would write the same."""
    while True:
        time.sleep(_RENEW_SECONDS)
        lock = holder()
        if lock is None or lock._created != path:
            return
        del lock
        try:
            # By its text: the number of a file that is gone is soon another one's.
            if path.read_bytes() == own:
                os.utime(path)
                continue
        except FileNotFoundError:
            pass
        except OSError:
            continue  # of a file system that does not answer for a while
        lock = holder()
        if lock is not None and lock._created == path:  # not given back meanwhile
            told = f"vldistill: {path} was taken by {Holder.read(path)} while this process was stopped\n"
            os.write(2, told.encode())
            os._exit(BUSY)


_HELD: weakref.WeakSet[FileLock] = weakref.WeakSet()
os.register_at_fork(after_in_child=lambda: [lock.forget() for lock in list(_HELD)])


def _flock(descriptor: int, path: Path) -> bool | None:
    """Takes the kernel's lock on an open file, whose path is for messages: whether it was free, or None where the file system has
    no locks. Raises VldistillError where it fails otherwise."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        if error.errno in _TAKEN:
            return False
        raise VldistillError(f"cannot be locked: {error.strerror or error}", where=str(path),
                             hint="its disk, or the way there, fails: choose another place, or mend this one") from None
    return True


def is_held(path: Path) -> bool:
    """Whether some process has the lock on `path`; nothing is created or changed, but a stand-in of a dead process is
    removed. Raises VldistillError where a disk fails."""
    if is_held_by_file(_stand_in(path)):
        return True
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return _flock(descriptor, path) is False
    finally:
        os.close(descriptor)


def is_held_by_file(path: Path) -> bool:
    """Whether the stand-in `path` belongs to a process that may still run; one that was left behind is removed."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    seen, holder = found.st_ino, Holder.read(path)
    # One without a name is of a process that ended before it could write it.
    leased = holder.lease or not holder.pid
    if not holder.is_gone and (holder.is_here or not leased or _now(path) - found.st_mtime < LEASE_SECONDS):
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
    lock, began, told = FileLock(path, named=False), time.monotonic(), False
    while not lock.take():
        waited = time.monotonic() - began
        if waited > wait:
            raise VldistillError(f"is locked by {lock.holder()}, waited {wait:.0f} s", where=str(path),
                                 hint=f"which one: fuser {path}")
        if waited > _SILENT_SECONDS and not told:
            complain(f"note: {path} is locked by {lock.holder()}; waiting up to {wait:.0f} s for it")
            told = True
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Holds `target`, a file or folder that need not exist, against every other process that asks the same, by a lock beside it
    which is gone afterwards. Its parent exists.

    Raises InputError where another process has it; what a dead one left is no obstacle. Where WAIT_VARIABLE says so it is waited
    for, and then Busy is raised.
    """
    lock, wait = FileLock(target.parent / f".{target.name}.lock", kept=False), _wait_seconds()
    until, told = time.monotonic() + wait, False
    while not lock.take():
        message = f"is being written by {lock.holder()}"
        if wait == 0:
            raise InputError(message, where=str(target), hint=lock.way_out)
        if time.monotonic() > until:
            raise Busy(f"{message}, waited {wait:g} s ({WAIT_VARIABLE})", where=str(target), hint=lock.way_out)
        if not told:
            complain(f"{target} {message}; waiting up to {wait:g} s for it ({WAIT_VARIABLE})")
            told = True
        time.sleep(min(0.5, wait / 10))
    try:
        yield
    finally:
        lock.release()


def _wait_seconds() -> float:
    """Raises InputError where the variable is no number."""
    told = os.environ.get(WAIT_VARIABLE, "")
    try:
        seconds = float(told or 0)
        if not 0 <= seconds < float("inf"):
            raise ValueError
    except ValueError:
        raise InputError(f"{told!r} is no number of seconds", where=WAIT_VARIABLE) from None
    return seconds


def _now(beside: Path) -> float:
    """The time by the clock of the file system, which other hosts share; this host's may differ."""
    probe = beside.with_name(f"{beside.name}.{os.getpid()}.now.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return 0.0  # nothing is older
    finally:
        with suppress(OSError):
            probe.unlink()


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
