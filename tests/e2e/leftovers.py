"""What a test leaves behind: processes, known by a mark in their environment, and changes in the working tree."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "VLDISTILL_TESTS"
"""A variable by which a process is known that one of these tests started, or a process that did."""


def started(mark: str) -> dict[int, str]:
    """The processes that have this mark, but for this one, by number: their words."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(place.name) != os.getpid() and f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def tree() -> str:
    """What git sees of changes in the working tree; nothing where this is none."""
    return subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
