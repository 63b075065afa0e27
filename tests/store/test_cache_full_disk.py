"""A disk that is full, before and while rows are written: one line, exit code 1, what is finished stays, and it goes on
later."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from store_worlds import FIELDS, fill, make_keys, readable, verify_cache

from vldistill import artifacts
from vldistill.errors import VldistillError
from vldistill.store import writer as writer_module
from vldistill.store.layout import store_folder

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


def test_no_room_for_the_first_shard(start, root, folder):
    error = outcome(start(root, "--rows", ROWS, "--file-limit", 100_000))
    assert re.match(rf"{re.escape(str(folder / 'shard-0000.h5'))}: cannot write [\d,]+ bytes: File too large", error)
    assert {path.name for path in folder.iterdir()} == {"manifest.json", ".manifest.lock", ".writer-0-of-1.lock"}
    fill(root, make_keys(ROWS))
    assert readable(folder, make_keys(ROWS)).all()


def test_the_disk_is_full_in_the_middle(root, folder, monkeypatch):
    """A shard more than there is room for: the manifest, which grows, is what does not fit."""
    keys, saved, full = make_keys(ROWS), artifacts.write_manifest, errno.ENOSPC

    def filled(folder, value):
        if len(value["shards"]) > 3:
            raise OSError(full, os.strerror(full))
        saved(folder, value)

    monkeypatch.setattr(writer_module, "SHARD_BYTES", 1)
    monkeypatch.setattr(artifacts, "write_manifest", filled)
    with pytest.raises(VldistillError, match=f"cannot be written: {os.strerror(full)}") as caught:
        fill(root, keys, batch=100)
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    assert readable(folder, keys).sum() == 300 and verify_cache(folder).damages == []
    kept = {path.name: path.read_bytes() for path in folder.glob("shard-000[0-2].*")}
    fill(root, keys)
    assert readable(folder, keys).all() and {name: (folder / name).read_bytes() for name in kept} == kept


def test_no_room_even_for_the_manifest(start, root, folder):
    assert "manifest.json: cannot write" in outcome(start(root, "--rows", ROWS, "--file-limit", 10))
    fill(root, make_keys(20))
    assert readable(folder, make_keys(20)).all()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_space_that_goes_while_a_shard_is_written(root, folder, monkeypatch, number):
    keys = make_keys(ROWS)
    fill(root, keys[:100])
    real = os.fsync

    def full(descriptor):
        if "shard" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VldistillError, match=rf"shard-0001\.h5: cannot write [\d,]+ bytes: {os.strerror(number)}"):
        fill(root, keys)
    assert len(list(folder.glob("*shard-0001*"))) == len(list(folder.glob(".shard*"))) == 0
    monkeypatch.undo()
    assert readable(folder, keys)[:100].all()
    fill(root, keys)
    assert readable(folder, keys).all()


def test_free_space_is_compared_before_anything_is_computed(root, monkeypatch):
    monkeypatch.setattr(writer_module, "free_bytes", lambda path: 12_345)
    writer_module.check_room(root, 12_345)
    with pytest.raises(VldistillError, match=r"needs 12,346 bytes, 12,345 are free") as caught:
        writer_module.check_room(root, 12_346)
    assert caught.value.exit_code == 1 and not root.exists()
