"""Locks between processes, and between the nodes of a cluster, on files beside what they protect.

HDF5's own lock is often switched off on clusters, and then admits a second writer without a word. Here filelock decides: by
`flock`, which the kernel gives back when its process ends, however it ends, or where a file system has none, by a lease that its
holder renews, so that a killed one's is free after a while on any host.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, LeaseCompromise, OwnerRecord, SoftFileLease, Timeout

from vldistill.errors import InputError, VldistillError, writing
from vldistill.terminal import complain

# 524: what Linux's NFS client says, a number that it should have kept for itself.
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, 524}
_SILENT_SECONDS = 10.0  # after which a short wait is spoken of
LEASE_SECONDS, _RENEW_SECONDS = 180.0, 20.0
WAIT_VARIABLE = "VLDISTILL_LOCK_WAIT"
BUSY = 75
"""The exit code of a command that has waited in vain for another one's lock, by which a cluster's script puts it back."""


class Busy(VldistillError):
    """Another process has what is to be written, and time to wait for it is over."""

    exit_code = BUSY


class NamedLock:
    """A lock on `path`, a file of its own, which says who has it if `named`, and goes with it unless `kept`. Forked children do
    not have it."""

    def __init__(self, path: Path, *, named: bool = True, kept: bool = True):
        self.path, self._lent, self._kept = path, path.with_name(f"{path.name}.held"), kept
        on_acquired = self._sign if named else None
        self._flock = FileLock(path, thread_local=False, fallback_to_soft=False, on_acquired=on_acquired)
        self._lease = SoftFileLease(
            self._lent,
            thread_local=False,
            lease_duration=LEASE_SECONDS,
            heartbeat_interval=_RENEW_SECONDS,
            on_compromise=self._leave,
        )

    def take(self) -> bool:
        """Takes the lock if it is free. A refused attempt changes nothing on disk. Raises VldistillError where a disk fails."""
        self.path.parent.stat()  # filelock would make it
        try:
            # Another look or two: whoever had it may have removed its file since that was opened.
            self._flock.acquire(timeout=0.05, poll_interval=0.01)
        except Timeout:
            return False
        except OSError as error:
            if error.filename is not None:
                raise
            if error.errno in _NO_FLOCK:
                return self._borrow()
            raise VldistillError(
                f"cannot be locked: {error.strerror or error}",
                where=str(self.path),
                hint="its disk, or the way there, fails: choose another place, or mend this one",
            ) from None
        return True

    def _borrow(self) -> bool:
        if _name_in(self._lent):
            return False  # an earlier version's, which filelock would take for a broken one
        _end_lease(self._lease, self._lent)
        with writing(self._lent, every=True):
            try:
                self._lease.acquire(blocking=False)
            except Timeout:
                return False
        with suppress(OSError), open(self.path, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            self._sign(file.fileno())
        return True

    def _sign(self, descriptor: int) -> None:
        """Raises Timeout where the open file is the lock's no more: NFS keeps one that was removed, under another name."""
        if not self.path.exists() or not os.path.samestat(os.fstat(descriptor), self.path.stat()):
            raise Timeout(str(self.path))
        name = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        # A full disk takes the name away, not the lock.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(name).encode() + b"\n", 0)

    def _leave(self, lost: LeaseCompromise) -> None:
        """Ends a process that was stopped for so long that another has its lease, as by kill -9, which leaves nothing
        half-written: two would write the same."""
        taken = f"was taken by {self.holder()} while this process was stopped"
        what = taken if lost.reason == "owner-changed" else f"is lost ({lost.reason})"
        os.write(2, f"vldistill: {self._lent} {what}\n".encode())
        os._exit(BUSY)

    def release(self) -> None:
        if not self._kept and (self._flock.is_locked or self._lease.is_locked):
            self.path.unlink(missing_ok=True)
        self._flock.release()
        self._lease.release()

    def holder(self) -> str:
        """Who has it, as far as is known."""
        return _name_in(self._lent) or _name_in(self.path) or "a process that did not say its name"

    @property
    def way_out(self) -> str:
        """What a user does about a lock that is taken; for a hint."""
        if not self._lent.exists():
            return f"wait for it, or end it; the lock is {self.path}"
        freed = f"remove {self._lent}" if _name_in(self._lent) else f"{self._lent} is free by itself after {LEASE_SECONDS:.0f} s"
        return f"wait for it, or end it; if it has been killed, {freed}"


def _end_lease(lease: SoftFileLease, path: Path) -> None:
    """Removes one that was not renewed, by the clock of its file system, which other hosts share, or that a process of this host
    has left: filelock watches it for a whole term, and replaces it only where two files can exchange their names."""
    with suppress(OSError):
        seen, lives, aside = path.stat(), _lives(lease.owner), path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with tempfile.TemporaryFile(dir=path.parent) as clock:
            age = os.fstat(clock.fileno()).st_mtime - seen.st_mtime
        if lives or (lives is None and age < LEASE_SECONDS):
            return
        path.rename(aside)
        moved = aside.stat()
        with suppress(OSError):
            if (moved.st_ino, moved.st_mtime_ns) != (seen.st_ino, seen.st_mtime_ns):
                os.link(aside, path)  # renewed or taken since
        aside.unlink()


def _lives(owner: OwnerRecord | None) -> bool | None:
    """Whether it still runs; None where it is no process of this host, or one of a container on it."""
    if owner is None or owner.hostname != socket.gethostname():
        return None
    try:
        os.kill(owner.pid, 0)
        state, *rest = Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        return error.errno != errno.ESRCH
    # One that has ended and that nobody waited for is there as a zombie.
    return state not in "ZX" and (owner.start is None or int(rest[18]) == owner.start % 2**64)


def _name_in(path: Path) -> str:
    try:
        name = json.loads(path.read_bytes())
        return f"process {name['pid']:d} on host {name['host']} since {name['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _taken(lock: NamedLock, wait: float, silent: float, note: Callable[[], str]) -> bool:
    """Takes a lock, if need be after so many seconds; after the silent ones a note is shown."""
    began, noted = time.monotonic(), False
    while not lock.take():
        waited = time.monotonic() - began
        if waited > wait:
            return False
        if waited > silent and not noted:
            complain(note())
            noted = True
        time.sleep(0.1)
    return True


@contextmanager
def held(path: Path, *, wait: float) -> Iterator[None]:
    """Holds the lock on `path` for a short while, and waits so many seconds for it. Raises VldistillError when they are
    over."""
    lock = NamedLock(path, named=False)
    if not _taken(
        lock, wait, _SILENT_SECONDS, lambda: f"note: {path} is locked by {lock.holder()}; waiting up to {wait:.0f} s for it"
    ):
        raise VldistillError(
            f"is locked by {lock.holder()}, waited {wait:.0f} s", where=str(path), hint=f"which one: fuser {path}"
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Holds `target`, a file or folder that need not exist, against every other process that asks the same, by a lock beside it
    which is gone afterwards. Its parent exists.

    Raises InputError where another process has it; what a dead one left is no obstacle. Where WAIT_VARIABLE says so it is waited
    for, and then Busy is raised.
    """
    lock, wait = NamedLock(target.parent / f".{target.name}.lock", kept=False), _wait_seconds()
    if not _taken(
        lock, wait, 0, lambda: f"{target} is being written by {lock.holder()}; waiting up to {wait:g} s for it ({WAIT_VARIABLE})"
    ):
        message = f"is being written by {lock.holder()}"
        if wait == 0:
            raise InputError(message, where=str(target), hint=lock.way_out)
        raise Busy(f"{message}, waited {wait:g} s ({WAIT_VARIABLE})", where=str(target), hint=lock.way_out)
    try:
        yield
    finally:
        lock.release()


def _wait_seconds() -> float:
    """Raises InputError where the variable is no number."""
    text = os.environ.get(WAIT_VARIABLE) or "0"
    with suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise InputError(f"{text!r} is no number of seconds", where=WAIT_VARIABLE)
