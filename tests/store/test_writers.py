"""Writers side by side: parts never overlap, a second writer of one part is turned away, a dead one's lock is no obstacle."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import time

import h5py
import numpy as np
import pytest
from filelock import SoftFileLease
from leases import fields, is_held, left_behind, of_the_dead
from store_worlds import COLUMNS, FIELDS, WIDTH, fill, make_keys, put, readable, verify_cache

from vldistill.errors import InputError, VldistillError
from vldistill.locking import NamedLock, held
from vldistill.store.layout import load_manifest, store_folder
from vldistill.store.uses import FEATURES
from vldistill.teachers.cache import CacheWriter, FeatureCache


@pytest.fixture
def folder(root):
    return store_folder(root, "swin", FIELDS)


@pytest.fixture
def no_flock(monkeypatch):
    """A file system without `flock`."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


def writer(root, part=(0, 1)) -> CacheWriter:
    return CacheWriter(root, "swin", FIELDS, COLUMNS, part)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_four_processes_at_once_write_one_cache(start, root, folder):
    running = [start(root, "--rows", 1000, "--part", part, 4, "--pause", 0.005) for part in range(4)]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    keys = make_keys(1000)
    assert readable(folder, keys).all() and len(FeatureCache(folder)) == 1000
    assert FeatureCache(folder).complete and verify_cache(folder).damages == []
    for part in range(4):
        with h5py.File(folder / f"shard-{part:04d}.h5") as file:
            assert {int.from_bytes(key[:8].tobytes(), "big") % 4 for key in file["keys"][:]} == {part}
            assert file["pooled"].shape == (len(file["keys"]), WIDTH)


def test_parts_written_at_different_times_are_complete_with_the_last(root, folder):
    keys = make_keys(300)
    for part in (2, 0, 1):
        assert not folder.exists() or not FeatureCache(folder).complete
        fill(root, keys, shard=(part, 3))
        there = readable(folder, keys)
        assert load_manifest(folder, FEATURES).value["wanted"] == 300 and 0 < there.sum() == len(FeatureCache(folder))
    assert there.all() and FeatureCache(folder).complete


def test_a_part_without_keys_still_counts(root, folder):
    keys = make_keys(1)
    owner = int.from_bytes(keys[0, :8].tobytes(), "big") % 2
    fill(root, keys, shard=(1 - owner, 2))
    assert len(FeatureCache(folder)) == 0 and not FeatureCache(folder).complete
    fill(root, keys, shard=(owner, 2))
    assert len(FeatureCache(folder)) == 1 and FeatureCache(folder).complete


def test_a_writer_of_fewer_keys_does_not_speak_for_one_of_more(root, folder):
    keys = make_keys(200)
    with writer(root, (0, 2)) as short:
        short.pending(keys[:50])
        fill(root, keys, shard=(1, 2))
    assert not FeatureCache(folder).complete
    fill(root, keys[:50], shard=(0, 2))
    fill(root, keys[:50], shard=(1, 2))
    assert FeatureCache(folder).complete and readable(folder, keys)[:50].all() and not readable(folder, keys).all()
    fill(root, keys, shard=(0, 2))
    assert FeatureCache(folder).complete and readable(folder, keys).all()


def test_a_request_that_was_given_up_is_not_completed_by_a_smaller_one(root, folder):
    keys = make_keys(200)
    fill(root, keys[:50])
    with pytest.raises(KeyboardInterrupt), writer(root) as larger:
        larger.pending(keys)
        raise KeyboardInterrupt
    fill(root, keys[:50])
    assert not FeatureCache(folder).complete and load_manifest(folder, FEATURES).value["wanted"] == 200
    fill(root, keys)
    assert FeatureCache(folder).complete


def test_another_number_of_parts_finds_what_is_there(root, folder):
    keys = make_keys(300)
    with pytest.raises(KeyboardInterrupt), writer(root, (1, 3)) as first:
        pending = first.pending(keys)
        assert pending.others == 300 - len(pending)
        put(first, keys[pending.indices[:5]])
        raise KeyboardInterrupt
    fill(root, keys, shard=(0, 3))
    before = len(FeatureCache(folder))
    fill(root, keys)
    assert before > 0 and len(FeatureCache(folder)) == 300 and readable(folder, keys).all() and FeatureCache(folder).complete


# --- locks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part, environment",
    [
        ((0, 1), {}),
        ((0, 1), {"HDF5_USE_FILE_LOCKING": "FALSE"}),
        ((1, 4), {"HDF5_USE_FILE_LOCKING": "FALSE"}),
    ],
    ids=["same part", "same part, HDF5's locks off", "another n, HDF5's locks off"],
)
def test_a_second_writer_is_turned_away(start, root, folder, tree, environment, part):
    first = start(root, "--rows", 200, "--pause", 0.02, "--shard-bytes", 1, **environment)
    assert first.stdout.readline() == "ready\n" and first.stdout.readline()
    first.send_signal(signal.SIGSTOP)
    common = str(folder / ".manifest.lock")  # each takes it for a moment, by which its time may change
    before = {path: state for path, state in tree(root).items() if path != common}
    second = start(root, "--part", *part, **environment)
    _, err = second.communicate(timeout=30)
    assert second.returncode == 2 and err.count("\n") == 1
    assert f"process {first.pid} on host {socket.gethostname()} since" in err and str(folder) in err
    began = time.monotonic()
    with pytest.raises(InputError, match=f"process {first.pid} on host"), writer(root, part):
        pass
    assert time.monotonic() - began < 1
    assert {path: state for path, state in tree(root).items() if path != common} == before
    first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0 and readable(folder, make_keys(200)).all()


def test_other_parts_of_the_same_number_are_let_in(root):
    with (
        writer(root, (0, 3)),
        writer(root, (2, 3)),
        pytest.raises(InputError, match=f"process {os.getpid()} on host"),
        writer(root, (2, 3)),
    ):
        pass
    with writer(root, (2, 3)):
        pass


def test_what_a_killed_writer_holds_is_free(start, root, folder):
    process = start(root, "--pause", 0.05)
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert (folder / ".writer-0-of-1.lock").stat().st_size > 0
    fill(root, make_keys(400))
    assert readable(folder, make_keys(400)).all()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    lock = NamedLock(tmp_path / "lock")
    assert lock.take()
    reading, telling = os.pipe()
    (waiting, ready), child = os.pipe(), os.fork()
    if not child:
        os.write(ready, b"x")
        os.read(reading, 1)
        os._exit(0)
    try:
        assert os.read(waiting, 1) == b"x" and is_held(lock.path)
        lock.release()
        assert not is_held(lock.path) and NamedLock(lock.path).take()
    finally:
        os.write(telling, b"x")
        os.waitpid(child, 0)


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_file_stands_in(root, folder):
    with writer(root):
        for part in ((0, 1), (1, 2)):
            with pytest.raises(InputError, match=f"process {os.getpid()} on host"), writer(root, part):
                pass
    fill(root, make_keys(50))
    assert readable(folder, make_keys(50)).all() and not list(folder.glob(".*.held"))


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
def test_a_stand_in_of_a_dead_process_is_no_obstacle_and_one_of_another_host_is(root, folder, exchange, monkeypatch):
    """exchange: whether the file system can exchange the names of two files, as filelock has it."""
    if not exchange:
        monkeypatch.setattr(SoftFileLease, "_try_break_stale_lock", lambda _: None)
    fill(root, make_keys(50))
    lock, stand_in = folder / ".writer-0-of-1.lock", folder / ".writer-0-of-1.lock.held"
    with writer(root):
        own = fields(stand_in.read_text())
    again = own | {"start": int(own["start"]) + 1}
    for differing, free in [(of_the_dead(), True), (again, True), (own, False), ({}, False)]:
        for part in ((0, 1), (0, 2)):
            left_behind(lock, **differing)
            if free:
                fill(root, make_keys(60), shard=part)
            else:
                pid, host = differing.get("pid", 1), differing.get("host", "elsewhere")
                with pytest.raises(InputError, match=f"process {pid} on host {re.escape(host)} since then"):
                    fill(root, make_keys(60), shard=part)
                stand_in.unlink()
    assert not stand_in.exists() and not list(folder.glob("*.tmp"))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": "x"}', "\0\0"])
def test_a_lock_that_does_not_say_whose_it_is(root, text):
    with writer(root) as first:
        (first.folder / ".writer-0-of-1.lock").write_text(text)
        with pytest.raises(InputError, match="a process that did not say its name is writing the same"), writer(root):
            pass


def test_a_short_lock_is_waited_for_and_then_given_up(tmp_path):
    with held(tmp_path / "lock", wait=1):
        began = time.monotonic()
        with pytest.raises(VldistillError, match=r"waited 0 s"), held(tmp_path / "lock", wait=0.1):
            pass
        assert time.monotonic() - began >= 0.1
    with held(tmp_path / "lock", wait=0):
        pass


def test_a_reader_beside_a_writer_sees_committed_rows_only(start, root, folder):
    keys, counts = make_keys(400), []
    process = start(root, "--shard-bytes", 1, "--pause", 0.01)
    assert process.stdout.readline() == "ready\n" and process.stdout.readline()
    while process.poll() is None:
        there = readable(folder, keys)
        counts.append(int(there.sum()))
        assert there[: counts[-1]].all()
    assert counts == sorted(counts) and len(set(counts)) > 2
    assert np.all(readable(folder, keys))
