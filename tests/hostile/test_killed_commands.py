"""Commands that are killed at random moments of their work: what they leave is never taken for whole, and the next one ends with
what an undisturbed one gives, leaving nothing behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hostile_worlds import raw_data, read_data
from mutations import contents_of, tree_of
from tiny_teachers import write_bert, write_vit
from zygote import Zygote

from vldistill.artifacts import MANIFEST, write_manifest
from vldistill.data.toy.layouts import write_toy
from vldistill.teachers.cache.store import FeatureCache
from vldistill.training.checkpoint import load_state, newest
from vldistill.training.guard import PREEMPTED

RECIPE = """
data: {path: data}
image: {size: 36, augment: jitter, shift: 1}
text: {max_length: 16, vocabulary_size: 120}
student: {kind: vilt, sizes: {layers: 1, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}}
teachers:
  vision: {kind: timm, model: teachers/vit}
  text: {kind: transformers, model: teachers/bert}
objective: {kind: advl, answer_loss: softmax, words: 0}
optim: {lr: 1e-3}
train: {steps: 6, batch: {pairs: 16}, eval_pairs: 2, log_every: 1, validate_every: 2, checkpoint_every: 1}
"""
PREPARE = ("prepare", "nlvr2", "--raw", "raw", "--out", "out/nlvr2", "--shards", 8)
CACHE = ("cache", "--recipe", "advl.yaml", "cache.path=cache")
DISTILL = ("distill", "--recipe", "advl.yaml", "--name", "a", "cache.path=whole-cache", "--resume", "auto")
RUN = Path("runs/advl/a/seed0")


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    with Zygote(tmp_path_factory.mktemp("log") / "log.txt") as process:
        yield process


@pytest.fixture(scope="module")
def world(tmp_path_factory, command, zygote) -> Path:
    """A folder with raw NLVR2, a data artifact, two teachers, a recipe and a whole cache."""
    folder = tmp_path_factory.mktemp("killed")
    write_toy(folder / "toy", seed=0, scale=0.01, datasets=("nlvr2",))
    (folder / "toy" / "nlvr2").rename(folder / "raw")
    raw_data(folder / "mine", 60, 30)
    write_vit(folder / "teachers" / "vit")
    write_bert(folder / "teachers" / "bert")
    (folder / "advl.yaml").write_text(RECIPE)
    zygote.run(folder, "prepare", "jsonl", "--raw", "mine", "--out", "data", "--min-count", 1)
    zygote.warm(folder, "cache", "--recipe", "advl.yaml", "cache.path=whole-cache")
    return folder


def moments(count: int, longest: float, seed: int) -> list[float]:
    chosen = random.Random(seed)
    return [chosen.uniform(0.02, 0.98) * longest for _ in range(count)]


# --- prepare -----------------------------------------------------------------------------------------------------------------


def killed_prepare(zygote: Zygote, world: Path, count: int, seed: int) -> int:
    """In turn a new artifact, and one over another; returns how many were killed while they ran."""
    out, raw = world / "out", tree_of(world / "raw")
    shutil.rmtree(out, ignore_errors=True)
    longest = zygote.run(world, *PREPARE)
    whole, expected, killed = contents_of(out), read_data(out / "nlvr2"), 0
    for number, moment in enumerate(moments(count, longest, seed)):
        over = number % 2 == 1
        if not over:
            shutil.rmtree(out)
        words = (*PREPARE, "--overwrite") if over else PREPARE
        killed += zygote.kill(world, moment, *words)
        if (out / "nlvr2").exists():
            assert read_data(out / "nlvr2") == expected
        else:
            assert not over or list(out.glob(".nlvr2.*.old"))
        zygote.run(world, *PREPARE)
        zygote.run(world, *words)
        assert contents_of(out) == whole and tree_of(world / "raw") == raw
    return killed


def test_prepare(zygote, world):
    killed_prepare(zygote, world, 3, 1)


@pytest.mark.slow
def test_prepare_twenty_times(zygote, world):
    assert killed_prepare(zygote, world, 20, 2) > 10


# --- cache -------------------------------------------------------------------------------------------------------------------


def rows_of(folder: Path) -> dict[str, dict]:
    """Every row of every cache below a folder."""
    found = {}
    for place in sorted(folder.glob("*-*/manifest.json")):
        cache = FeatureCache(place.parent)
        keys = cache._opened.snapshot.keys
        rows = cache.find(keys)
        there = np.flatnonzero(rows >= 0)
        found[place.parent.name] = {keys[row].tobytes().hex(): [cache.read(rows[[row]], column.name).tobytes()
                                                               for column in cache.columns] for row in there}
    return found


def killed_cache(zygote: Zygote, world: Path, count: int, seed: int) -> int:
    cache, killed = world / "cache", 0
    shutil.rmtree(cache, ignore_errors=True)
    longest = zygote.run(world, *CACHE)
    whole, expected = contents_of(cache), rows_of(cache)
    assert sum(map(len, expected.values())) > 60
    for moment in moments(count, longest, seed):
        shutil.rmtree(cache)
        killed += zygote.kill(world, moment, *CACHE)
        for name, rows in rows_of(cache).items():
            assert rows.items() <= expected[name].items()
        zygote.run(world, *CACHE)
        assert contents_of(cache) == whole and rows_of(cache) == expected
    return killed


def test_cache(zygote, world):
    killed_cache(zygote, world, 3, 3)


@pytest.mark.parametrize("unwritten", [None, "vit"])
def test_a_cache_whose_writer_died_before_it_could_say_that_all_is_there(zygote, world, unwritten):
    """By itself, or beside one that lacks rows."""
    cache = world / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    zygote.run(world, *CACHE)
    whole = contents_of(cache)
    for place in cache.iterdir():
        write_manifest(place, {**json.loads((place / MANIFEST).read_text()), "complete": False})
        (place / f".{MANIFEST}.1.tmp").write_text("{")
        if unwritten and place.name.startswith(unwritten):
            shutil.rmtree(place)
    zygote.run(world, *CACHE)
    assert contents_of(cache) == whole


@pytest.mark.slow
def test_cache_twenty_times(zygote, world):
    assert killed_cache(zygote, world, 20, 4) > 10


# --- distill -----------------------------------------------------------------------------------------------------------------


def killed_distill(zygote: Zygote, world: Path, count: int, seed: int, times: int) -> tuple[int, int]:
    """Each run is killed so many times; returns how often one was killed, and how often it left a checkpoint to go on from."""
    run, killed, resumed = world / RUN, 0, 0
    shutil.rmtree(world / "runs", ignore_errors=True)
    longest = zygote.run(world, *DISTILL)
    whole = contents_of(world / "runs")
    for moment in moments(count, longest, seed):
        shutil.rmtree(world / "runs")
        for again in range(1, times + 1):
            killed += zygote.kill(world, moment / again, *DISTILL)
            if (found := newest(run)) is not None:
                assert load_state(found).step == int(found.name.removeprefix("step-"))
                resumed += 1
        zygote.run(world, *DISTILL)
        assert contents_of(world / "runs") == whole
    return killed, resumed


def test_distill(zygote, world):
    killed_distill(zygote, world, 3, 5, times=1)


def test_a_run_that_died_at_its_very_beginning_or_while_it_was_replaced(zygote, world):
    run = world / RUN
    shutil.rmtree(world / "runs", ignore_errors=True)
    zygote.run(world, *DISTILL, "train.steps=1")
    whole, manifest = contents_of(world / "runs"), json.loads((run / MANIFEST).read_text())
    for there in (None, ".manifest.json.1.tmp", "manifest.json"):
        shutil.rmtree(run)
        run.mkdir()
        if there:
            write_manifest(run, {**manifest, "complete": False, "status": "running"})
            (run / MANIFEST).rename(run / there)
        zygote.run(world, *DISTILL, "train.steps=1")
        assert contents_of(world / "runs") == whole, there
    run.rename(run.with_name(".seed0.1.old"))
    zygote.run(world, *DISTILL, "train.steps=1")
    assert contents_of(world / "runs") == whole


@pytest.mark.slow
def test_distill_twenty_times(zygote, world):
    killed, resumed = killed_distill(zygote, world, 20, 6, times=2)
    assert killed >= 15 and resumed >= 8, (killed, resumed)


def half_written(run: Path, first: int) -> Path | None:
    """A checkpoint that is being written, of this step or a later one."""
    found = (run / "checkpoints").glob(".step-*.tmp")
    return next((path for path in found if int(path.name[6:14]) >= first), None)


def kill_while_saving(zygote: Zygote, world: Path, first: int, wait: float) -> Path | None:
    """Kills a run so many seconds after it began to write a checkpoint, of step `first` if that is seen in time; the half-written
    checkpoint, if it left one."""
    run, number = world / RUN, zygote.begin(world, *DISTILL)
    with suppress(ProcessLookupError):
        while half_written(run, first) is None:
            os.kill(number, 0)
        time.sleep(wait)
        os.kill(number, 9)
    assert zygote.end() in (0, -9)
    return half_written(run, first)


@pytest.mark.slow
def test_twenty_kills_in_the_middle_of_a_checkpoint(zygote, world):
    run, chosen, had, tries = world / RUN, random.Random(7), [], 0
    shutil.rmtree(world / "runs", ignore_errors=True)
    zygote.run(world, *DISTILL)
    whole = contents_of(world / "runs")
    while len(had) < 20:
        tries += 1
        assert tries < 80, f"only {len(had)} were in the middle"
        shutil.rmtree(world / "runs")
        half = kill_while_saving(zygote, world, chosen.randint(1, 6), chosen.uniform(0, 0.012))
        steps = sorted(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*"))
        if half is not None:
            step = int(half.name[6:14])
            assert steps == [number for number in (step - 2, step - 1) if number > 0]
            had.append(sorted(path.name for path in half.iterdir()))
        assert not steps or load_state(run / f"checkpoints/step-{steps[-1]:08d}").step == steps[-1]
        zygote.run(world, *DISTILL)
        assert contents_of(world / "runs") == whole and not list(world.glob("runs/**/.*.tmp"))
    print(f"{len(had)} of {tries} kills were in the middle of a write, which had come to: {sorted(had)}")
    assert sum(map(bool, had)) >= 5


@pytest.mark.slow
def test_told_to_leave_at_ten_random_moments(zygote, world):
    """And five times in the middle of a checkpoint, which the answer to the signal waits for."""
    run, chosen, steps = world / RUN, random.Random(8), []
    shutil.rmtree(world / "runs", ignore_errors=True)
    zygote.run(world, *DISTILL)
    whole, longest = contents_of(world / "runs"), json.loads((run / MANIFEST).read_text())["wall_s"]
    for tried in range(15):
        shutil.rmtree(world / "runs")
        number = zygote.begin(world, *DISTILL)
        while not (run / MANIFEST).exists() if tried < 10 else half_written(run, tried - 9) is None:
            time.sleep(1e-4)
        time.sleep(chosen.uniform(0, longest) if tried < 10 else 0)
        told = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM if tried % 2 else signal.SIGUSR2)
        code = zygote.end()
        assert time.monotonic() - told < 5 and code in (0, PREEMPTED)
        if code:
            assert json.loads((run / MANIFEST).read_text())["status"] == "preempted" and not list(run.rglob("*.tmp"))
            steps.append(load_state(newest(run)).step)
        zygote.run(world, *DISTILL)
        assert contents_of(world / "runs") == whole
    print(f"left after steps {steps}")
    assert len(steps) >= 10
