"""Caches read from a copy on the node's own disk, and from where they are when there can be none."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from store_worlds import COLUMNS, FIELDS, fill, make_keys, put, readable, values_of

from vldistill.errors import InputError
from vldistill.store.staging import staged_store
from vldistill.store.uses import FEATURES
from vldistill.teachers.cache import CacheWriter, FeatureCache

KEYS = make_keys(80)


def staged(folder: Path, say) -> Path:
    return staged_store(folder, FEATURES, say)


@pytest.fixture
def cache(tmp_path):
    for part in (0, 1):
        folder = fill(tmp_path / "shared", KEYS, shard=(part, 2))
    return folder


@pytest.fixture
def disk(tmp_path, monkeypatch):
    place = tmp_path / "disk of the node"
    place.mkdir()
    for name in ("SLURM_TMPDIR", "TMPDIR", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLDISTILL_STAGE", str(place))
    return place


@pytest.fixture
def told():
    return []


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_the_copy_is_the_cache_and_is_made_once(cache, disk, told):
    before = state(cache)
    copy = staged(cache, told.append)
    assert copy == disk / f"vldistill-{os.getuid()}" / cache.name and readable(copy, KEYS).all()
    assert FeatureCache(copy).fields == FeatureCache(cache).fields and FeatureCache(copy).complete
    made = state(copy)
    assert staged(cache, told.append) == copy and state(copy) == made and state(cache) == before
    assert "were copied in" in told[0] and told[1] == f"{cache} is read from {copy}"
    assert copy.parent.stat().st_mode & 0o777 == 0o700


def test_without_a_word_nothing_is_copied(cache, disk, told, monkeypatch):
    monkeypatch.delenv("VLDISTILL_STAGE")
    assert staged(cache, told.append) == cache and not told and not list(disk.iterdir())


@pytest.mark.parametrize("names", [("SLURM_TMPDIR",), ("TMPDIR",), ("SLURM_TMPDIR", "TMPDIR")])
def test_auto_takes_the_folder_of_the_job(cache, disk, told, monkeypatch, tmp_path, names):
    monkeypatch.setenv("VLDISTILL_STAGE", "auto")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv(names[0], str(disk))
    assert staged(cache, told.append).is_relative_to(disk)


def test_auto_without_such_a_folder_reads_where_it_is(cache, disk, told, monkeypatch):
    monkeypatch.setenv("VLDISTILL_STAGE", "auto")
    assert staged(cache, told.append) == cache
    assert told == [f"{cache} is read where it is: neither SLURM_TMPDIR nor TMPDIR names a folder of this node"]


def test_a_name_that_is_no_folder_is_refused(cache, told, monkeypatch, tmp_path):
    monkeypatch.setenv("VLDISTILL_STAGE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="is no folder"):
        staged(cache, told.append)


def test_no_room_is_told_in_one_line(cache, disk, told, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert staged(cache, told.append) == cache
    [line] = told
    assert line.startswith(f"{cache} is read where it is: needs ") and "1,000 are free" in line
    assert not list(disk.rglob("*.h5"))


def test_a_disk_that_is_full_on_the_way_leaves_nothing(cache, disk, told, monkeypatch):
    copy = shutil.copyfile

    def full(source, target):
        if Path(source).suffix == ".h5":
            raise OSError(28, "No space left on device", str(target))
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    assert staged(cache, told.append) == cache and "No space left on device" in told[0]
    assert [path.name for path in (disk / f"vldistill-{os.getuid()}").iterdir()] == [f"{cache.name}.lock"]


def test_a_cache_that_is_not_complete_is_read_where_it_is(disk, told, tmp_path):
    folder = fill(tmp_path / "shared", KEYS, shard=(0, 2))
    assert staged(folder, told.append) == folder and told == [f"{folder} is read where it is: it is not complete"]


def test_a_cache_that_has_grown_is_copied_again_and_a_crash_swept_away(cache, disk, told):
    copy = staged(cache, told.append)
    half = copy.with_name(f".{cache.name}.1.tmp")
    half.mkdir()
    more = make_keys(100)
    with CacheWriter(cache.parent, "swin", FIELDS, COLUMNS) as writer:
        put(writer, more[writer.pending(more).indices])
    old = FeatureCache(copy)
    assert (old.find(more) >= 0).sum() == 80
    assert staged(cache, told.append) == copy and readable(copy, more).all() and not half.exists()
    # A process that had opened the old copy goes on with it.
    np.testing.assert_array_equal(old.read(old.find(KEYS), "pooled"), values_of(KEYS)["pooled"])


def test_a_copy_that_was_cut_is_made_again(cache, disk, told):
    copy = staged(cache, told.append)
    shard = next(copy.glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:100])
    assert staged(cache, told.append) == copy and readable(copy, KEYS).all()


def test_a_flipped_bit_of_the_copy_is_found_as_it_is_read(cache, disk, told):
    copy = staged(cache, told.append)
    for shard in copy.glob("*.h5"):
        content = bytearray(shard.read_bytes())
        content[-20:] = bytes(byte ^ 1 for byte in content[-20:])
        shard.write_bytes(bytes(content))
    with pytest.raises(InputError, match="damaged"):
        readable(copy, KEYS)


def test_a_folder_that_others_may_write_is_not_trusted(cache, disk, told):
    own = disk / f"vldistill-{os.getuid()}"
    own.mkdir()
    own.chmod(0o777)
    assert staged(cache, told.append) == cache and "others may write there" in told[0]


def test_only_one_process_a_node_speaks(cache, disk, told, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert staged(cache, told.append) != cache and not told


def _stage(folder: Path) -> list[str]:
    lines: list[str] = []
    staged(folder, lines.append)
    return lines


def test_of_processes_side_by_side_one_copies(cache, disk):
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        lines = [line for lines in pool.map(_stage, [cache] * 3) for line in lines]
    assert sum("were copied in" in line for line in lines) == 1 and len(lines) == 3
