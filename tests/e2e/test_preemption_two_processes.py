"""Two processes of one run, of which one is told to leave: both leave at the same step, and go on as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from forked import ends_of, pair

from vldistill.training.preemption import PREEMPTED, PreemptionGuard

STEPS = 40
ARGUMENTS = (
    "distill",
    "-r",
    "quickstart_dide",
    "--name",
    "a",
    f"train.steps={STEPS}",
    "train.batch.pairs=4",
    "train.log_every=1",
    "train.validate_every=25",
    "train.eval_pairs=32",
    "--resume",
    "auto",
)


def curve(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "pairs_per_s"} for row in rows]


def steps_logged(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count('"split": "train"') if path.exists() else 0


@pytest.fixture(scope="module")
def whole(toy_world, tmp_path_factory):
    """The run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert [code for code, _ in ends_of(pair(toy_world, folder / "log", *ARGUMENTS, "--runs", folder))] == [0, 0]
    return folder / "quickstart_dide/a/seed0"


def leaves_and_goes_on(world: Path, folder: Path, whole: Path, step: int, rank: int, number: signal.Signals) -> None:
    run = folder / "quickstart_dide/a/seed0"
    processes = pair(world, folder.with_name("log"), *ARGUMENTS, "--runs", folder)
    while steps_logged(run) < step and processes[0].poll() is None:
        time.sleep(0.005)
    processes[rank].send_signal(number)
    ends = ends_of(processes)
    seen = steps_logged(run)
    assert [code for code, _ in ends] == [PREEMPTED] * 2, ends[0][1][-2000:] + ends[1][1][-2000:]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "preempted" and "Traceback" not in ends[0][1] + ends[1][1]
    # One step may have been under way, and another have begun before the signal came.
    assert step <= seen <= step + 3, f"told after step {step}, left after {seen}"
    assert [code for code, _ in ends_of(pair(world, folder.with_name("log"), *ARGUMENTS, "--runs", folder))] == [0, 0]
    assert curve(run) == curve(whole)
    assert (run / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_one_told_process_is_enough(world, whole, tmp_path):
    leaves_and_goes_on(world, tmp_path, whole, 7, 1, signal.SIGUSR2)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_told_process_within_a_validation_is_enough(world, tmp_path, rank):
    """The other reads its share to the end, and both leave before they put it together."""
    given = (*ARGUMENTS, "train.eval_pairs=1")
    whole, run = (tmp_path / name / "quickstart_dide/a/seed0" for name in ("whole", "told"))
    assert [code for code, _ in ends_of(pair(world, tmp_path / "log", *given, "--runs", tmp_path / "whole"))] == [0, 0]
    watch = PreemptionGuard.watch

    def told(self: PreemptionGuard, batches: Iterable) -> Iterator:
        def read() -> Iterator:
            for number, batch in enumerate(batches):
                if number == 1 and os.environ["RANK"] == str(rank):
                    os.kill(os.getpid(), signal.SIGUSR2)
                yield batch

        return watch(self, read())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreemptionGuard, "watch", told)
        ends = ends_of(pair(world, tmp_path / "log", *given, "--runs", tmp_path / "told"))
    assert [code for code, _ in ends] == [PREEMPTED] * 2 and "left after step 25, before its validation" in ends[0][1], ends
    assert [code for code, _ in ends_of(pair(world, tmp_path / "log", *given, "--runs", tmp_path / "told"))] == [0, 0]
    assert curve(run) == curve(whole)
    assert (run / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_at_ten_random_moments(world, whole, tmp_path):
    draw = random.Random(0)
    for number in range(10):
        told = draw.choice([signal.SIGUSR2, signal.SIGTERM])
        leaves_and_goes_on(world, tmp_path / str(number), whole, draw.randint(1, STEPS - 5), draw.randint(0, 1), told)
