"""A writer as a process of its own."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from programs import programs

PROGRAM = Path(__file__).with_name("store_worlds.py")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No waiting for the disk in this process: what a sync is for, no test can see; that each has its place, one looks at."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


@pytest.fixture
def start():
    """A function: starts `store_worlds.py` with these arguments; what still runs at the end of the test is killed."""
    with programs() as begin:
        yield partial(begin, PROGRAM)


@pytest.fixture
def root(tmp_path) -> Path:
    """A cache folder's parent that does not exist yet."""
    return tmp_path / "artifacts" / "cache"
