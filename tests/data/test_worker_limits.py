"""Processes that read images, where /dev/shm or the number of open files is too small: one line, and no waiting without end."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import torch
from forked import Forked
from torch.utils.data import DataLoader, Dataset

from vldistill.cli import main
from vldistill.data import loading, worker_limits
from vldistill.data.loading import Loader
from vldistill.data.worker_limits import check_room
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
    """2 workers x 2 batches x 24 pairs x 1 MB = 96 MB, on a node's two processes 192."""
    batch = SimpleNamespace(images=[torch.zeros(250_000)])
    batch = {"images": batch.images, "ids": ["a"]}
    for free, processes, fits in ((97e6, "1", True), (95e6, "1", False), (97e6, "2", False), (193e6, "2", True)):
        monkeypatch.setattr(worker_limits, "shared_free", lambda free=free: int(free))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        if fits:
            check_room(batch, 24, 2)
        else:
            with pytest.raises(VldistillError, match=r"/dev/shm: has \d+ MiB free; 2 worker\(s\) with batches of 24"):
                check_room(batch, 24, 2)


def under(limit: Callable[[], object], world: Path, runs: Path, *more: str) -> Forked:
    """A training with worker processes, under a limit that it sets itself, to its end."""

    def work() -> None:
        limit()
        os.chdir(world)
        main([*TRAINS, "--runs", str(runs), *more])

    process = forked.call(work, runs / "log")
    process.wait(120)
    return process


def test_too_few_open_files(world, tmp_path):
    done = under(lambda: open_files(48, 48), world, tmp_path)
    assert done.wait() == 1 and "48 files may be open (ulimit -n); 2 worker(s) need about" in done.err, done.err
    assert "Traceback" not in done.err


def open_files(soft: int, hard: int) -> None:
    """At most so many, of which only those are open that every process has."""
    os.closerange(3, 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_soft_limit_is_raised_to_the_hard_one(world, tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = under(lambda: open_files(48, hard), world, tmp_path, "image.size=96")
    assert done.wait() == 0, done.err


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounts a small /dev/shm, as root only")
def test_a_small_dev_shm(world, tmp_path):
    small = ["unshare", "-m", "bash", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "small"]
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody unshare")
    words = [*small, sys.executable, "-m", "vldistill", *TRAINS, "--runs", str(tmp_path)]
    done = subprocess.run(words, cwd=world, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "/dev/shm: has 64 MiB free" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.fixture
def brief(monkeypatch):
    """A process that does not come to its end is waited for a short while only."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


def loader(rows: list[int], *, told: bool = False) -> Loader:
    batches = DataLoader(Rows(), batch_sampler=[[row] for row in rows], num_workers=1, timeout=0.2, collate_fn=list)
    return Loader(batches, lambda: told, lambda: None)


def test_a_slow_batch_is_waited_for_and_none_is_lost():
    assert list(loader([0, 1, 2, 1, 4])) == [[0], [1], [2], [1], [4]]


def test_a_batch_that_does_not_come_ends_the_wait(brief, monkeypatch):
    monkeypatch.setenv("VLDISTILL_TIMEOUT", "1")
    with pytest.raises(VldistillError, match=r"no batch in \d s from 1 process\(es\) .*/dev/shm has .*VLDISTILL_TIMEOUT"):
        list(loader([0, 3]))


def test_who_was_told_to_leave_waits_a_short_while_only(brief, monkeypatch):
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
