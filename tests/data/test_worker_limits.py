"""Processes that read images, where /dev/shm or the number of open files is too small: one line, and no waiting without end."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from vldistill.data import loading, worker_limits
from vldistill.data.loading import Loader
from vldistill.data.worker_limits import check_room, need
from vldistill.errors import VldistillError

TRAINS = (
    "finetune",
    "-r",
    "quickstart_teacher",
    "--name",
    "w",
    "train.steps=2",
    "train.validate_every=2",
    "data.workers=2",
    "train.batch.pairs=24",
    "image.size=384",
    "--overwrite",
)


def test_room_in_shared_memory_is_for_all_batches_on_their_way(monkeypatch):
    """2 workers x 2 batches and 2 in hand, of 24 pairs of 1 MB (245 pages of 4 KiB): 144.5 MB; on a node's two processes 289, and
    with a second loader of half such batches half as much again."""
    one = need({"images": [torch.zeros(250_000)], "ids": ["a"]}, 1, 24, 2)
    half = need({"images": [torch.zeros(250_000)], "ids": ["a"]}, 2, 24, 2)
    assert (one.bytes, half.bytes, one.tensors, one.batches) == (24_002_560, 12_001_280, 1, 6)
    for free, processes, needs, fits in (
        (145e6, "1", [one], True),
        (144e6, "1", [one], False),
        (145e6, "2", [one], False),
        (289e6, "2", [one], True),
        (217e6, "1", [one, half], True),
        (216e6, "1", [one, half], False),
        (0, "1", [], True),
    ):
        monkeypatch.setattr(worker_limits, "shared_free", lambda free=free: int(free))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        if fits:
            check_room(needs)
        else:
            workers = 2 * len(needs)
            with pytest.raises(VldistillError, match=rf"/dev/shm: has \d+ MiB free; {workers} worker\(s\) with batches of 24"):
                check_room(needs)


def test_open_files_are_for_all_loaders_together(monkeypatch):
    """Of 30 tensors a batch: 6 batches and 16 files for each of 2 workers make 212, two loaders' 424."""
    one = need([torch.zeros(1)] * 30, 1, 1, 2)
    monkeypatch.setattr(worker_limits, "shared_free", lambda: None)
    own = len(list(worker_limits.Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(worker_limits, "raised_files", lambda: own + 220)
    check_room([one])
    with pytest.raises(VldistillError, match=r"4 worker\(s\) need about \d+"):
        check_room([one, one])


def under(limit: str, world, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'{limit}; exec "$@"', "limit", sys.executable, "-m", "vldistill", *words],
        cwd=world,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_too_few_open_files(world, tmp_path):
    done = under("ulimit -n 48", world, *TRAINS, "--runs", str(tmp_path))
    assert done.returncode == 1 and "48 files may be open (ulimit -n); 4 worker(s) need about" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_soft_limit_is_raised_to_the_hard_one(world, tmp_path):
    done = under("ulimit -S -n 48", world, *TRAINS, "image.size=96", "--runs", str(tmp_path))
    assert done.returncode == 0, done.stderr


def in_shared(megabytes: int, world, *words: str) -> subprocess.CompletedProcess[str]:
    """A command under a /dev/shm of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounts a small /dev/shm, as root only")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody unshare")
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec "$@"'
    return under(f"exec unshare -m bash -c '{mount}' small \"$@\"", world, *words)


def test_a_small_dev_shm(world, tmp_path):
    done = in_shared(64, world, *TRAINS, "--runs", str(tmp_path))
    assert done.returncode == 1 and "/dev/shm: has 64 MiB free" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_training_and_validation_have_room_together_or_do_not_begin(world, tmp_path):
    """Pairs of images of 36 x 36, which the rule of 192 pixels could make 312 x 192: 8 are 11.5 MB (11 MiB), of which the one
    worker of each loader has 4 on their way. In 64 MiB either would fit, in 96 both do."""
    small = [*TRAINS, "data.workers=1", "train.batch.pairs=8", "train.eval_pairs=8", "image.size=192", "--runs", str(tmp_path)]
    done = in_shared(64, world, *small)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "/dev/shm: has 64 MiB free; 2 worker(s) with batches of 8 on their way need up to 88" in done.stderr, done.stderr
    assert not (tmp_path / "quickstart_teacher/w/seed0/metrics.jsonl").read_text()
    done = in_shared(96, world, *small)
    assert done.returncode == 0, done.stderr


class Rows(Dataset):
    """Number 3 is never read; number 5 ends its process."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> int:
        if row == 3:
            threading.Event().wait()
        if row == 5:
            os._exit(3)
        if row == 1:
            time.sleep(0.7)  # slow, and longer than a slice
        return row


NOTHING = need([], 1, 1, 1)


def loader(rows: list[int], *, told: bool = False) -> Loader:
    batches = DataLoader(Rows(), batch_sampler=[[row] for row in rows], num_workers=1, timeout=0.2, collate_fn=list)
    return Loader(batches, lambda: told, lambda: NOTHING)


def test_a_slow_batch_is_waited_for_and_none_is_lost():
    assert list(loader([0, 1, 2, 1, 4])) == [[0], [1], [2], [1], [4]]


def test_a_batch_that_does_not_come_ends_the_wait(monkeypatch):
    monkeypatch.setenv("VLDISTILL_TIMEOUT", "1")
    with pytest.raises(VldistillError, match=r"no batch in \d s from 1 process\(es\) .*/dev/shm has .*VLDISTILL_TIMEOUT"):
        list(loader([0, 3]))


def test_who_was_told_to_leave_waits_a_short_while_only(monkeypatch):
    monkeypatch.setattr(loading, "_HURRIED_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(VldistillError, match="no batch in"):
        list(loader([0, 3], told=True))
    assert time.monotonic() - started < 10


def test_a_process_that_ended_is_told_in_one_line():
    with pytest.raises(VldistillError, match=r"a process that reads images has ended: DataLoader worker .*ulimit -n is"):
        list(loader([0, 5, 6]))


def test_doctor_looks_at_the_limits(command):
    told = command("doctor").flat
    assert "/dev/shm" in told and "open files" in told and "(ulimit -u)" in told
    assert f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}" in told or "unlimited" in told
