"""Leases as a process that holds one leaves them, and a look at a lock."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vldistill.locking import LEASE_SECONDS, NamedLock

_FIRST = "filelock/2"
_HOLD = """
import sys
from filelock import SoftFileLease
lock = SoftFileLease(sys.argv[1], lease_duration=float(sys.argv[2]))
lock.acquire()
print(open(sys.argv[1]).read(), end="", flush=True)
sys.stdin.read()
"""


def is_held(path: Path) -> bool:
    lock = NamedLock(path, named=False)
    free = lock.take()
    lock.release()
    return not free


@functools.cache
def of_the_dead() -> dict[str, str]:
    """What the lease of a process of this host says that has ended, by its fields."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", _HOLD, f"{folder}/held", str(LEASE_SECONDS)]
        return fields(subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout)


def fields(said: str) -> dict[str, str]:
    first, *lines = said.splitlines()
    assert first == _FIRST
    return dict(line.split("=") for line in lines)


def left_behind(lock: Path, *, age: float = 0.0, **differing: int | str) -> Path:
    """The lease of a process of another host, or of another one that these fields say, which was renewed so many seconds ago."""
    path, said = lock.with_name(f"{lock.name}.held"), of_the_dead() | {"pid": 1, "host": "elsewhere"} | differing
    path.write_text("".join([f"{_FIRST}\n", *(f"{key}={value}\n" for key, value in said.items())]))
    lock.write_text(json.dumps({"pid": int(said["pid"]), "host": said["host"], "since": "then"}))
    os.utime(path, (time.time() - age,) * 2)
    return path
