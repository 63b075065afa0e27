"""Two commands on one artifact: one wins, the other says who has it; a dead one is no obstacle; nothing is mixed."""

from __future__ import annotations

import fcntl
import multiprocessing
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from forked import ends_of, pair
from hostile_worlds import raw_data, read_data
from programs import programs

from vldistill.artifacts import building, new_manifest, write_manifest
from vldistill.data.prepare import prepare
from vldistill.data.sources.jsonl import Jsonl
from vldistill.errors import InputError
from vldistill.locking import BUSY, NamedLock, exclusive

HOLD = """
import sys
from pathlib import Path
from vldistill.locking import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
RECIPE = """
data: {path: data}
image: {size: 36}
text: {max_length: 16, vocabulary_size: 120}
student: {kind: vilt, sizes: {layers: 1, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}}
objective: {kind: dide, attention: none, soft_labels: false, hard_label_weight: 1.0}
train: {steps: 1, batch: {pairs: 2}, eval_pairs: 2}
"""


@pytest.fixture
def holding():
    """A function: another process has this target until the test ends."""
    with programs() as start:

        def begin(target: Path) -> subprocess.Popen:
            target.parent.mkdir(parents=True, exist_ok=True)
            process = start("-c", HOLD, target)
            assert process.stdout.readline() == "held\n"
            return process

        yield begin


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    raw_data(tmp_path / "raw")
    return tmp_path


PREPARE = ("prepare", "jsonl", "--raw", "raw", "--out", "data", "--min-count", "1")


def is_turned_away(result, process: subprocess.Popen, target: str) -> None:
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1, result
    assert f"{target}: is being written by process {process.pid} on host {socket.gethostname()} since " in result.err


def test_prepare(place, command, well, holding, tree):
    process = holding(place / "data")
    before = tree(place)
    is_turned_away(command(*PREPARE), process, "data")
    assert tree(place) == before
    process.kill()
    process.wait()
    assert (place / ".data.lock").exists()
    well(*PREPARE)
    process = holding(place / "data")
    before = tree(place)
    for more in (("--overwrite",), ("--shards", "2")):
        is_turned_away(command(*PREPARE, *more), process, "data")
    well(*PREPARE)  # up to date: nothing is to be written
    assert tree(place) == before


def test_regions(place, command, holding):
    (place / "npz").mkdir()
    np.savez(
        place / "npz" / "coco_train2014_000000000009.npz",
        features=np.zeros((2, 4), np.float16),
        norm_bb=np.tile(np.array([0, 0, 1, 1, 1, 1], np.float16), (2, 1)),
        conf=np.ones((2, 1), np.float16),
        soft_labels=np.ones((2, 3), np.float16),
    )
    process = holding(place / "store")
    is_turned_away(command("prepare", "regions", "import", "--raw", "npz", "--out", "store"), process, "store")
    assert {path.name for path in place.iterdir()} == {"npz", "raw", ".store.lock"}


def test_a_run_is_neither_started_nor_resumed_nor_replaced_while_it_trains(place, command, well, holding, tree):
    well(*PREPARE)
    (place / "r.yaml").write_text(RECIPE)
    words = ("finetune", "--recipe", "r.yaml", "--name", "a")
    process = holding(place / "runs/r/a/seed0")
    before = tree(place)
    for more in ((), ("--resume", "auto"), ("--overwrite",)):
        is_turned_away(command(*words, *more), process, "runs/r/a/seed0")
    assert tree(place) == before
    process.kill()
    process.wait()
    well(*words, "--resume", "auto")
    assert {path.name for path in (place / "runs/r/a").iterdir()} == {"seed0"}
    # A complete run is told as such, whoever looks at it.
    holding(place / "runs/r/a/seed0")
    assert "is complete" in well(*words, "--resume", "auto").out


def test_who_waits_for_a_lock_leaves_with_a_code_of_its_own_or_goes_on(place, command, well, holding, monkeypatch):
    well(*PREPARE)
    (place / "r.yaml").write_text(RECIPE)
    words = ("finetune", "--recipe", "r.yaml", "--name", "a", "--resume", "auto")
    process = holding(place / "runs/r/a/seed0")
    monkeypatch.setenv("VLDISTILL_LOCK_WAIT", "0.5")
    left = command(*words)
    assert left.code == BUSY and left.err.count(f"is being written by process {process.pid} on host") == 2, left
    assert "waited 0.5 s (VLDISTILL_LOCK_WAIT)" in left.err and "/.seed0.lock" in left.err
    # Both of two processes, of which only the first asks for the lock.
    both = ends_of(pair(place, place / "log", *words))
    assert [code for code, _ in both] == [BUSY] * 2 and "process 0 has left: runs/r/a/seed0: is being written by" in both[1][1]
    monkeypatch.setenv("VLDISTILL_LOCK_WAIT", "60")
    threading.Timer(0.5, process.kill).start()
    assert "waiting up to 60 s" in well(*words).err
    monkeypatch.setenv("VLDISTILL_LOCK_WAIT", "soon")
    assert command(*words[:-2], "--overwrite").code == 2


def test_what_every_command_builds_with(tmp_path, holding):
    """`index build`, `convert` and `unpack` too write by `building`."""
    process = holding(tmp_path / "out")
    with pytest.raises(InputError, match=f"is being written by process {process.pid} on host"), building(tmp_path / "out"):
        raise AssertionError("the body ran")
    process.kill()
    process.wait()
    with building(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_dead_ones_left_is_cleared_away_and_an_old_artifact_put_back(tmp_path):
    def leave() -> None:
        for name in (".out.1.building", ".out.2.old", ".out.3.new", ".other.4.building"):
            (tmp_path / name).mkdir()
            write_manifest(tmp_path / name, new_manifest("prepare", name=name))

    leave()
    with building(tmp_path / "out", overwrite=True, stage="prepare") as folder:
        (folder / "a").touch()
        assert "2.old" in (tmp_path / "out" / "manifest.json").read_text(), "stays until the new one is whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.4.building", "out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


_PLACE: list = []


def _remember(*given) -> None:
    _PLACE[:] = given


def _prepare_at_once(_: int) -> int:
    place, start = _PLACE
    start.wait()
    try:
        prepare("jsonl", place / "raw", place / "data", options=Jsonl(min_answer_count=1))
    except InputError as error:
        assert "is being written by" in str(error) or "already exists" in str(error)
        return 2
    return 0


def test_four_at_once(place):
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        start = context.Barrier(4)
        with context.Pool(4, initializer=_remember, initargs=(place, start)) as pool:
            codes = pool.map(_prepare_at_once, range(4), chunksize=1)
        assert 0 in codes and set(codes) <= {0, 2}
        assert len(read_data(place / "data")["train"]) == 6
        assert sorted(path.name for path in place.iterdir()) == ["data", "raw"]
        shutil.rmtree(place / "data")


def test_a_lock_that_was_removed_under_a_waiting_process_keeps_others_out(tmp_path, monkeypatch):
    """Between opening the lock's file and locking it, its holder may remove it: the lock is then taken on the new one."""
    first, real, seen = NamedLock(tmp_path / "lock", kept=False), fcntl.flock, []
    assert first.take()

    def late(descriptor, how):
        if not seen:
            seen.append(descriptor)
            first.release()
        return real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = NamedLock(tmp_path / "lock", kept=False)
    assert second.take() and (tmp_path / "lock").exists()
    monkeypatch.undo()
    assert not NamedLock(tmp_path / "lock").take()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_no_way_to_write_elsewhere(tmp_path):
    (tmp_path / "precious").write_text("text")
    (tmp_path / ".out.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), exclusive(tmp_path / "out"):
        pass
    assert (tmp_path / "precious").read_text() == "text"
    with pytest.raises(FileNotFoundError), exclusive(tmp_path / "gone" / "out"):
        pass
    assert not (tmp_path / "gone").exists()
