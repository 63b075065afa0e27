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

import forked
import pytest
import torch
from forked import Forked
from torch.utils.data import DataLoader, Dataset

from vldistill.cli import main
from vldistill.data import loading
from vldistill.data.loading import Loader, check_room, need
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
        monkeypatch.setattr(loading, "shared_free", lambda free=free: int(free))
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
    monkeypatch.setattr(loading, "shared_free", lambda: None)
    own = len(list(loading.Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(loading, "raised_files", lambda: own + 220)
    check_room([one])
    with pytest.raises(VldistillError, match=r"4 worker\(s\) need about \d+"):
        check_room([one, one])


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
    assert done.wait() == 1 and "48 files may be open (ulimit -n); 4 worker(s) need about" in done.err, done.err
    assert "Traceback" not in done.err


def open_files(soft: int, hard: int) -> None:
    """At most so many, of which only those are open that every process has."""
    os.closerange(3, 4096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_soft_limit_is_raised_to_the_hard_one(world, tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = under(lambda: open_files(48, hard), world, tmp_path, "image.size=96")
    assert done.wait() == 0, done.err


def in_shared(megabytes: int, world: Path, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A training with worker processes under a /dev/shm of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounts a small /dev/shm, as root only")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody unshare")
    mount = f'mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec "$@"'
    words = [
        "unshare",
        "-m",
        "bash",
        "-c",
        mount,
        "small",
        sys.executable,
        "-m",
        "vldistill",
        *TRAINS,
        "--runs",
        str(runs),
        *more,
    ]
    return subprocess.run(words, cwd=world, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_small_dev_shm(world, tmp_path):
    done = in_shared(64, world, tmp_path)
    assert done.returncode == 1 and "/dev/shm: has 64 MiB free" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


SMALL = ("data.workers=1", "train.batch.pairs=8", "train.eval_pairs=8", "image.size=192")
"""Pairs of images of 36 x 36, which the rule of 192 pixels could make 312 x 192: 8 are 11.5 MB (11 MiB), of which the one worker
of each of two loaders has 4 on their way. In 64 MiB either would fit, in 96 both do."""


def test_training_and_validation_have_room_together_or_do_not_begin(world, command, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "shared_free", lambda: 64 << 20)
    done = command(*TRAINS, *SMALL, "--runs", tmp_path)
    assert done.code == 1
    assert "/dev/shm: has 64 MiB free; 2 worker(s) with batches of 8 on their way need up to 88" in done.err
    assert not (tmp_path / "quickstart_teacher/w/seed0/metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("megabytes, code", [(64, 1), (96, 0)])
def test_so_they_do_with_a_dev_shm_of_that_size(megabytes, code, world, tmp_path):
    done = in_shared(megabytes, world, tmp_path, *SMALL)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr


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


@pytest.fixture
def brief(monkeypatch):
    """A process that does not come to its end is waited for a short while only."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


def loader(rows: list[int], *, leaving: bool = False) -> Loader:
    batches = DataLoader(Rows(), batch_sampler=[[row] for row in rows], num_workers=1, timeout=0.2, collate_fn=list)
    return Loader(batches, lambda: leaving, lambda: NOTHING)


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
        list(loader([0, 3], leaving=True))
    assert time.monotonic() - started < 10


def test_a_process_that_ended_is_told_in_one_line():
    with pytest.raises(VldistillError, match=r"a process that reads images has ended: DataLoader worker .*ulimit -n is"):
        list(loader([0, 5, 6]))


def test_doctor_looks_at_the_limits(command):
    told = command("doctor").flat
    assert "/dev/shm" in told and "open files" in told and "(ulimit -u)" in told
    assert f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}" in told or "unlimited" in told
