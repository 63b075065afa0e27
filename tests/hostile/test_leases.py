"""Stand-ins for locks, on a file system without `flock`: one that a killed process left is free after a while, on any host."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease
from leases import is_held, left_behind

from vldistill import locking
from vldistill.errors import InputError, VldistillError
from vldistill.locking import BUSY, LEASE_SECONDS, NamedLock, exclusive, held

HOLDS = """
import errno, fcntl, sys, time
from pathlib import Path
from vldistill import locking
def refuse(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock, locking._RENEW_SECONDS = refuse, 0.05
with locking.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def no_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_one_of_another_host_is_free_by_its_age(tmp_path):
    path = left_behind(tmp_path / ".a.lock", age=LEASE_SECONDS + 5)
    assert not is_held(tmp_path / ".a.lock")
    with exclusive(tmp_path / "a"):
        assert f"pid={os.getpid()}\n" in path.read_text()
    assert {found.name for found in tmp_path.iterdir()} <= {".a.lock"}


@pytest.mark.parametrize("text", ["", "filelock/2\npid=1", "[]"])
def test_one_without_a_name_is_free_by_its_age(tmp_path, text):
    """Of a process that was killed before it had written it."""
    path = left_behind(tmp_path / ".a.lock", age=0)
    path.write_text(text)
    with pytest.raises(InputError, match=f"is free by itself after {LEASE_SECONDS:.0f} s"), exclusive(tmp_path / "a"):
        pass
    os.utime(path, (time.time() - LEASE_SECONDS - 5,) * 2)
    with exclusive(tmp_path / "a"):
        assert f"pid={os.getpid()}\n" in path.read_text()


def test_one_that_a_full_disk_does_not_take_is_not_left(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locking.os, "write", refuse)
    with pytest.raises(VldistillError, match=r"\.a\.lock\.held: cannot be written: No space left"), exclusive(tmp_path / "a"):
        pass
    monkeypatch.undo()
    assert not (tmp_path / ".a.lock.held").exists() and not is_held(tmp_path / ".a.lock")


def is_refused(target: Path, hint: str) -> None:
    """What stands in for the lock is left, and named."""
    path = target.parent / f".{target.name}.lock.held"
    before = path.read_bytes()
    with pytest.raises(InputError) as refused, exclusive(target):
        pass
    assert hint in str(refused.value) and str(path) in str(refused.value) and path.read_bytes() == before


def test_what_may_live_is_left_and_its_file_named(tmp_path):
    left_behind(tmp_path / ".a.lock", age=LEASE_SECONDS - 20)
    is_refused(tmp_path / "a", f".a.lock.held is free by itself after {LEASE_SECONDS:.0f} s")
    # That of an earlier version says nothing by its age.
    earlier = tmp_path / ".b.lock.held"
    earlier.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "then", "birth": 1, "lease": True}))
    os.utime(earlier, (1, 1))
    is_refused(tmp_path / "b", "process 1 on host elsewhere since then (wait for it, or end it; if it has been killed, remove ")
    # A process of this host is looked up, and this one lives.
    with exclusive(tmp_path / "c"):
        os.utime(tmp_path / ".c.lock.held", (1, 1))
        is_refused(tmp_path / "c", "is free by itself")


def test_the_holder_makes_its_own_younger_until_it_gives_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_RENEW_SECONDS", 0.02)
    lock = NamedLock(tmp_path / "lock")
    assert lock.take()
    path = tmp_path / "lock.held"
    for _ in range(2):
        os.utime(path, (1, 1))
        end = time.monotonic() + 5
        while path.stat().st_mtime < time.time() - 60:
            assert time.monotonic() < end
            time.sleep(0.01)
    lock.release()
    time.sleep(0.1)
    assert not path.exists()


def test_a_holder_whose_stand_in_was_taken_ends_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path / "a"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        told = left_behind(tmp_path / ".b.lock")
        for name in (".lock", ".lock.held"):
            (tmp_path / f".b{name}").replace(tmp_path / f".a{name}")
        assert process.wait(20) == BUSY
        assert "was taken by process 1 on host elsewhere" in process.communicate()[1]
        assert not told.exists() and "host=elsewhere" in (tmp_path / ".a.lock.held").read_text()
    finally:
        process.kill()


def test_one_of_a_killed_process_that_nobody_waits_for_is_free(tmp_path):
    """Its parent, as in a container without an init, leaves it a zombie."""
    words = [sys.executable, "-c", HOLDS, tmp_path / "a"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n" and is_held(tmp_path / ".a.lock")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its pipes are closed a moment before it has ended
        with exclusive(tmp_path / "a"):
            assert f"pid={os.getpid()}\n" in (tmp_path / ".a.lock.held").read_text()
    finally:
        process.communicate()


def test_a_long_wait_is_spoken_of_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locking, "_SILENT_SECONDS", 0.05)
    left_behind(tmp_path / "lock")
    with pytest.raises(VldistillError, match="is locked by process 1 on host elsewhere"), held(tmp_path / "lock", wait=0.4):
        pass
    told = capsys.readouterr().err
    assert told == f"note: {tmp_path}/lock is locked by process 1 on host elsewhere since then; waiting up to 0 s for it\n"


def _works(place: Path, number: int) -> None:
    """Ten times alone at its work, if it is not killed at it."""
    rng = random.Random(number)
    for _ in range(10):
        with exclusive(place / "a"):
            # A name that is there is of one that was killed.
            before = (place / "in").read_text() if (place / "in").exists() else ""
            if before and is_running(int(before)):
                (place / "overlap").touch()
            (place / "in").write_text(str(os.getpid()))
            time.sleep(rng.random() * 0.02)
            if rng.random() < 0.08:
                os.kill(os.getpid(), signal.SIGKILL)
            (place / "in").unlink()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
def test_one_at_a_time_however_the_others_end(tmp_path, monkeypatch, exchange):
    monkeypatch.setenv("VLDISTILL_LOCK_WAIT", "60")
    if not exchange:
        monkeypatch.setattr(SoftFileLease, "_try_break_stale_lock", lambda _: None)
    context = multiprocessing.get_context("fork")
    for turn in range(3):
        processes = [context.Process(target=_works, args=(tmp_path, 10 * turn + number)) for number in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(100)
        codes = {process.exitcode for process in processes}
        assert codes == {0, -signal.SIGKILL} and not (tmp_path / "overlap").exists()
