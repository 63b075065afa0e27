"""A disk that is full, before and while rows are written: one line, exit code 1, what is finished stays, and it goes on
later."""

from __future__ import annotations

import errno
import os
import re

import pytest
from cache_worlds import COLUMNS, FIELDS, fill, lengths_of, limit, make_keys, readable

from vldistill.errors import VldistillError
from vldistill.store import disk
from vldistill.store import writer as writer_module
from vldistill.store.manifest import store_folder
from vldistill.store.shard import shard_bytes
from vldistill.teachers.cache.store import CacheWriter, verify_cache

ROWS = 1000


def outcome(process) -> str:
    """The one line of a process that ended with exit code 1."""
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("\n") == 1, err
    return err


@pytest.fixture
def folder(root):
    return store_folder(root, "swin", FIELDS)


def test_no_room_for_the_file(start, root, folder):
    error = outcome(start(root, "--rows", ROWS, "--file-limit", 100_000))
    assert re.match(rf"{re.escape(str(folder))}: needs [\d,]+ bytes in one file, 100,000 are allowed", error)
    assert {path.name for path in folder.iterdir()} == {"manifest.json", ".manifest.lock", ".writer-0-of-1.lock"}
    fill(root, make_keys(ROWS))
    assert readable(folder, make_keys(ROWS)).all()


def test_the_disk_is_full_in_the_middle(start, root, folder):
    keys = make_keys(ROWS)
    # The last column ends the file, and half of its rows are within the limit.
    elements = {name: int(count.sum()) for name, count in lengths_of(keys).items()}
    size = shard_bytes(COLUMNS, ROWS, elements) - elements["words"] * 2
    error = outcome(start(root, "--rows", ROWS, "--batch", 40, "--commit-bytes", 1, "--later-limit", size))
    assert re.match(rf"{re.escape(str(folder / 'shard-0000.h5'))}: cannot write [\d,]+ bytes: File too large", error)
    there = readable(folder, keys)
    assert 0.4 * ROWS < there.sum() < 0.6 * ROWS and there[: there.sum()].all()
    assert verify_cache(folder).damages == []
    fill(root, keys)
    assert readable(folder, keys).all() and len(list(folder.glob("*.h5"))) == 1


def test_no_room_even_for_the_manifest(start, root, folder):
    assert "manifest.json: cannot write" in outcome(start(root, "--rows", ROWS, "--file-limit", 10))
    fill(root, make_keys(20))
    assert readable(folder, make_keys(20)).all()


def test_free_space_is_compared_before_anything_is_made(root, folder, monkeypatch, tree):
    keys = make_keys(ROWS)
    monkeypatch.setattr(disk, "free_bytes", lambda path: 12_345)
    with pytest.raises(VldistillError, match=r"needs [\d,]+ bytes, 12,345 are free") as caught:  # noqa: SIM117
        with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
            before = tree(folder)
            writer.reserve(writer.pending(keys, lengths_of(keys)))
    assert caught.value.exit_code == 1 and not list(folder.glob("*shard*")) and tree(folder) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_space_that_goes_while_it_is_taken(root, folder, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    keys = make_keys(ROWS)
    fill(root, keys[:100])
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(VldistillError, match=rf"shard-0001\.h5: cannot write [\d,]+ bytes: {os.strerror(number)}"):
        fill(root, keys)
    assert len(list(folder.glob("*shard-0001*"))) == len(list(folder.glob(".shard*"))) == 0
    monkeypatch.undo()
    assert readable(folder, keys)[:100].all()
    fill(root, keys)
    assert readable(folder, keys).all()


def test_the_kernel_says_so_where_the_comparison_did_not(root, folder, monkeypatch):
    monkeypatch.setattr(writer_module, "check_room", lambda *_: None)
    keys = make_keys(ROWS)
    try:
        with pytest.raises(VldistillError, match="File too large"), CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
            limit(100_000)
            writer.reserve(writer.pending(keys, lengths_of(keys)))
    finally:
        limit(-1)
    assert not list(folder.glob("*shard*")) and not list(folder.glob(".shard*"))
