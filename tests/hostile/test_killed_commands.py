"""Commands that are killed at random moments of their work: what they leave is never taken for whole, and the next one ends with
what an undisturbed one gives, leaving nothing behind."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import forked
import numpy as np
import pytest
from forked import Forked
from hostile_worlds import raw_data, read_data
from mutations import contents_of, tree_of
from tiny_teachers import write_bert, write_vit

from vldistill.artifacts import MANIFEST, write_manifest
from vldistill.data.toy.layouts import write_toy
from vldistill.teachers.cache import FeatureCache
from vldistill.training.checkpoint import load_state, newest
from vldistill.training.preemption import PREEMPTED

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


def begin(world: Path, *words: object) -> Forked:
    """`vldistill WORDS` in a process of its own."""
    return forked.command(world, world.with_name("killed"), *words)


def run(world: Path, *words: object) -> float:
    """The same to its end, which must be a good one; the seconds it took."""
    started, process = time.monotonic(), begin(world, *words)
    assert process.wait() == 0, process.err
    return time.monotonic() - started


def kill(world: Path, seconds: float, *words: object) -> bool:
    """Starts it and kills it after so many seconds; whether it was still running."""
    process = begin(world, *words)
    time.sleep(seconds)
    process.kill()
    assert process.wait() in (0, -9), process.err
    return process.wait() == -9


@pytest.fixture(scope="module")
def world(tmp_path_factory, well) -> Path:
    """A folder with raw NLVR2, a data artifact, two teachers, a recipe and a whole cache."""
    folder = tmp_path_factory.mktemp("killed")
    write_toy(folder / "toy", seed=0, scale=0.01, datasets=("nlvr2",))
    (folder / "toy" / "nlvr2").rename(folder / "raw")
    raw_data(folder / "mine", 60, 30)
    write_vit(folder / "teachers" / "vit")
    write_bert(folder / "teachers" / "bert")
    (folder / "advl.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well("prepare", "jsonl", "--raw", "mine", "--out", "data", "--min-count", 1)
        well("cache", "--recipe", "advl.yaml", "cache.path=whole-cache")
    return folder


def moments(count: int, longest: float, seed: int) -> list[float]:
    chosen = random.Random(seed)
    return [chosen.uniform(0.02, 0.98) * longest for _ in range(count)]


# --- prepare -----------------------------------------------------------------------------------------------------------------


def killed_prepare(world: Path, count: int, seed: int) -> int:
    """In turn a new artifact, and one over another; returns how many were killed while they ran."""
    out, raw = world / "out", tree_of(world / "raw")
    shutil.rmtree(out, ignore_errors=True)
    longest = run(world, *PREPARE)
    whole, expected, killed = contents_of(out), read_data(out / "nlvr2"), 0
    for number, moment in enumerate(moments(count, longest, seed)):
        over = number % 2 == 1
        if not over:
            shutil.rmtree(out)
        words = (*PREPARE, "--overwrite") if over else PREPARE
        killed += kill(world, moment, *words)
        if (out / "nlvr2").exists():
            assert read_data(out / "nlvr2") == expected
        else:
            assert not over or list(out.glob(".nlvr2.*.old"))
        run(world, *PREPARE)
        run(world, *words)
        assert contents_of(out) == whole and tree_of(world / "raw") == raw
    return killed


def test_prepare(world):
    killed_prepare(world, 3, 1)


@pytest.mark.slow
def test_prepare_twenty_times(world):
    assert killed_prepare(world, 20, 2) > 10


# --- cache -------------------------------------------------------------------------------------------------------------------


def rows_of(folder: Path) -> dict[str, dict]:
    """Every row of every cache below a folder."""
    found = {}
    for place in sorted(folder.glob("*-*/manifest.json")):
        cache = FeatureCache(place.parent)
        keys = cache.keys
        rows = cache.find(keys)
        there = np.flatnonzero(rows >= 0)
        found[place.parent.name] = {
            keys[row].tobytes().hex(): [cache.read(rows[[row]], column.name).tobytes() for column in cache.columns]
            for row in there
        }
    return found


def killed_cache(world: Path, count: int, seed: int) -> int:
    cache, killed = world / "cache", 0
    shutil.rmtree(cache, ignore_errors=True)
    longest = run(world, *CACHE)
    whole, expected = contents_of(cache), rows_of(cache)
    assert sum(map(len, expected.values())) > 60
    for moment in moments(count, longest, seed):
        shutil.rmtree(cache)
        killed += kill(world, moment, *CACHE)
        for name, rows in rows_of(cache).items():
            assert rows.items() <= expected[name].items()
        run(world, *CACHE)
        assert contents_of(cache) == whole and rows_of(cache) == expected
    return killed


def test_cache(world):
    killed_cache(world, 3, 3)


@pytest.mark.parametrize("lost", ["no-other", "vit-*"], ids=["all are there", "another is not"])
def test_a_cache_whose_writer_died_before_it_could_say_that_all_is_there(world, lost):
    cache = world / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    run(world, *CACHE)
    whole = contents_of(cache)
    for place in cache.iterdir():
        write_manifest(place, {**json.loads((place / MANIFEST).read_text()), "complete": False})
        (place / f".{MANIFEST}.1.tmp").write_text("{")
    for place in cache.glob(lost):
        shutil.rmtree(place)
    run(world, *CACHE)
    assert contents_of(cache) == whole


@pytest.mark.slow
def test_cache_twenty_times(world):
    assert killed_cache(world, 20, 4) > 10


# --- distill -----------------------------------------------------------------------------------------------------------------


def killed_distill(world: Path, count: int, seed: int, times: int, enough: int = 0) -> tuple[int, int]:
    """Each run is killed so many times; returns how often one was killed, and how often it left a checkpoint to go on from.
    enough: of the latter, for which more than `count` runs are killed where a busy machine's come to nothing before."""
    place, killed, resumed, longest = world / RUN, 0, 0, 60.0
    for _ in range(min(times, 2)):  # the first may be slower than those that are killed
        shutil.rmtree(world / "runs", ignore_errors=True)
        longest = min(longest, run(world, *DISTILL))
    whole = contents_of(world / "runs")
    for tried, moment in enumerate(moments(4 * count, longest, seed)):
        if tried >= count and resumed >= enough:
            break
        shutil.rmtree(world / "runs")
        for again in range(1, times + 1):
            killed += kill(world, moment / again, *DISTILL)
            if (found := newest(place)) is not None:
                assert load_state(found).step == int(found.name.removeprefix("step-"))
                resumed += 1
        run(world, *DISTILL)
        assert contents_of(world / "runs") == whole
    return killed, resumed


def test_distill(world):
    killed_distill(world, 3, 5, times=1)


def test_a_run_that_died_at_its_very_beginning_or_while_it_was_replaced(world):
    place = world / RUN
    shutil.rmtree(world / "runs", ignore_errors=True)
    run(world, *DISTILL, "train.steps=1")
    whole, manifest = contents_of(world / "runs"), json.loads((place / MANIFEST).read_text())
    for there in (None, ".manifest.json.1.tmp", "manifest.json"):
        shutil.rmtree(place)
        place.mkdir()
        if there:
            write_manifest(place, {**manifest, "complete": False, "status": "running"})
            (place / MANIFEST).rename(place / there)
        run(world, *DISTILL, "train.steps=1")
        assert contents_of(world / "runs") == whole, there
    place.rename(place.with_name(".seed0.1.old"))
    run(world, *DISTILL, "train.steps=1")
    assert contents_of(world / "runs") == whole


@pytest.mark.slow
def test_distill_twenty_times(world):
    killed, resumed = killed_distill(world, 20, 6, times=2, enough=8)
    assert killed >= 20 and resumed >= 8, (killed, resumed)


def half_written(run: Path, first: int) -> Path | None:
    """A checkpoint that is being written, of this step or a later one."""
    found = (run / "checkpoints").glob(".step-*.tmp")
    return next((path for path in found if int(path.name[6:14]) >= first), None)


def kill_while_saving(world: Path, first: int, wait: float) -> Path | None:
    """Kills a run so many seconds after it began to write a checkpoint, of step `first` if that is seen in time; the half-written
    checkpoint, if it left one."""
    place, process = world / RUN, begin(world, *DISTILL)
    while half_written(place, first) is None and process.poll() is None:
        pass
    time.sleep(wait)
    process.kill()
    assert process.wait() in (0, -9), process.err
    return half_written(place, first)


@pytest.mark.slow
def test_twenty_kills_in_the_middle_of_a_checkpoint(world):
    place, chosen, had, tries = world / RUN, random.Random(7), [], 0
    shutil.rmtree(world / "runs", ignore_errors=True)
    run(world, *DISTILL)
    whole = contents_of(world / "runs")
    while len(had) < 20:
        tries += 1
        assert tries < 80, f"only {len(had)} were in the middle"
        shutil.rmtree(world / "runs")
        half = kill_while_saving(world, chosen.randint(1, 6), chosen.uniform(0, 0.012))
        steps = sorted(int(path.name.removeprefix("step-")) for path in place.glob("checkpoints/step-*"))
        if half is not None:
            step = int(half.name[6:14])
            assert steps == [number for number in (step - 2, step - 1) if number > 0]
            had.append(sorted(path.name for path in half.iterdir()))
        assert not steps or load_state(place / f"checkpoints/step-{steps[-1]:08d}").step == steps[-1]
        run(world, *DISTILL)
        assert contents_of(world / "runs") == whole and not list(world.glob("runs/**/.*.tmp"))
    print(f"{len(had)} of {tries} kills were in the middle of a write, which had come to: {sorted(had)}")
    assert sum(map(bool, had)) >= 5


@pytest.mark.slow
def test_told_to_leave_at_ten_random_moments(world):
    """And five times in the middle of a checkpoint, which the answer to the signal waits for."""
    place, chosen, steps = world / RUN, random.Random(8), []
    shutil.rmtree(world / "runs", ignore_errors=True)
    run(world, *DISTILL)
    whole, longest = contents_of(world / "runs"), json.loads((place / MANIFEST).read_text())["wall_s"]
    for tried in range(15):
        shutil.rmtree(world / "runs")
        process = begin(world, *DISTILL)
        while not (place / MANIFEST).exists() if tried < 10 else half_written(place, tried - 9) is None:
            time.sleep(1e-4)
        time.sleep(chosen.uniform(0, longest) if tried < 10 else 0)
        told = time.monotonic()
        process.send_signal(signal.SIGTERM if tried % 2 else signal.SIGUSR2)
        code = process.wait()
        assert time.monotonic() - told < 5 and code in (0, PREEMPTED)
        if code:
            assert json.loads((place / MANIFEST).read_text())["status"] == "preempted" and not list(place.rglob("*.tmp"))
            steps.append(load_state(newest(place)).step)
        run(world, *DISTILL)
        assert contents_of(world / "runs") == whole
    print(f"left after steps {steps}")
    assert len(steps) >= 10
