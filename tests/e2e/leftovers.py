"""What a test leaves behind: processes, known by a mark in their environment, and changes in the working tree."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHES = {"__pycache__", ".pytest_cache", ".ruff_cache", ".venv"}
MARK = "VLDISTILL_TESTS"
"""A variable by which a process is known that one of these tests started, or a process that did."""


def started(mark: str) -> dict[int, str]:
    """The processes that have this mark, and all that come from this process, but for itself, by number: their words. A forked
    child has no mark, but the one that its parent was started with."""
    parents, words = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, *_ = (place / "stat").read_text().rpartition(")")[2].split()
            told = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            # What has ended is no process any more, and Python keeps one of its own.
            if state != "Z" and "multiprocessing.resource_tracker" not in told:
                parents[int(place.name)], words[int(place.name)] = int(parent), told
    found = {number for number in parents if _has(number, mark)} - {os.getpid()}
    family = {os.getpid()}
    while more := {number for number, parent in parents.items() if parent in family} - family:
        family |= more
    return {number: words[number] for number in found | family - {os.getpid()}}


def _has(number: int, mark: str) -> bool:
    with suppress(OSError):
        return f"{MARK}={mark}".encode() in Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
    return False


def tree() -> set[str]:
    """Files of the working tree that git does not keep, those that it ignores too, but for caches; none where there is no git.
    What it keeps is left out, since somebody may be writing it."""
    told = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all", "--ignored"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    names = {line[3:] for line in told.splitlines() if line[:2] in ("??", "!!")}
    return {name for name in names if not CACHES & set(Path(name).parts)}
