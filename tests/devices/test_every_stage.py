"""The product's commands compute on the virtual device without mixing devices or types, and give there what they give on a CPU.

The commands are those of the workshop's own tables, so that the next one is tried on the day it is added. They run in a process
of their own, since the virtual device changes torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import ENVIRONMENT

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "hostile"))
from test_failing_calls import LEFT_OUT, READERS  # noqa: E402
from workshop import WRITERS, command_of, new_workshop, run_of  # noqa: E402

PROGRAM = Path(__file__).with_name("every_stage.py")
VERIFIED = "cache --verify, computed again"
MORE = {
    "cache in bf16": "cache --recipe advl.yaml cache.path={out}/cache teachers.precision=bf16",
    VERIFIED: "cache --recipe advl.yaml cache.path={out}/cache --verify --rows 3 teachers.precision=bf16",
    "distill in bf16": "distill --recipe advl.yaml --name cached --runs {out}/runs cache.path={out}/cache2 train.precision=bf16",
    "distill, live": "distill --recipe advl.yaml --name live --runs {out}/runs cache.mode=live train.precision=bf16",
    "distill with attention in bf16": "distill -r dual.yaml --name a --runs {out}/runs objective.attention=cross "
    "train.precision=bf16",
    "retrieval in bf16": "finetune --recipe captions.yaml --name a --runs {out}/runs train.precision=bf16",
    "pretrain in bf16": "pretrain --recipe words.yaml --name b --runs {out}/runs train.precision=bf16",
    "evaluate in bf16": f"evaluate {run_of('dual')} --precision bf16 --out {{out}}/eval",
    "evaluate in fp16": f"evaluate {run_of('dual')} --precision fp16 --out {{out}}/eval16",
    "bench in bf16": f"bench {run_of('dual')} --batch 2 --rounds 1 --rows speed,capture,step --precision fp32,bf16 "
    "--out {out}/bench.json",
}
"""Of commands that compute in several precisions: the others."""
IDLE = {"prepare", "convert", "compare", "report", "recipe", "reproduce"}
"""First words of commands that compute nothing."""
STORED = {"cache --ls", "analyze --words"}
"""Those that read what a cache holds."""


def place_of(name: str) -> Path:
    """Where a command writes, below the workshop."""
    # What was computed in bf16 is verified there.
    return Path("out", re.sub(r"\W+", "-", "cache in bf16" if name == VERIFIED else name))


def words_of(name: str, out: Path) -> list[str]:
    table = MORE | READERS
    return table[name].format(out=out).split() if name in table else command_of(name, out)


NAMES = [name for name in (*WRITERS, *READERS, *MORE) if name not in LEFT_OUT]
COMPUTING = {name for name in NAMES if name.split()[0] not in IDLE and name not in STORED} | {"prepare regions compute"}


@pytest.fixture(scope="module")
def place(tmp_path_factory, well) -> Path:
    """A workshop of its own."""
    return new_workshop(tmp_path_factory.mktemp("stages"), well)


@pytest.fixture(scope="module")
def ended(place) -> dict[str, dict]:
    """How each command ended on the device, by its name; see `place_of` for what it wrote."""
    paths = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(ROOT), str(PROGRAM.parent)])
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in NAMES:
            out = place / place_of(name)
            out.mkdir(parents=True, exist_ok=True)
            asked.append(json.dumps([name, words_of(name, out)]))
    done = subprocess.run(
        [sys.executable, PROGRAM, place],
        input="\n".join(asked),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
def test_every_command_ends_well_and_computes_there(ended):
    assert set(ended) == set(NAMES)
    assert {name: row["err"][-1500:] for name, row in ended.items() if row["code"]} == {}
    assert {name for name, row in ended.items() if row["launches"]} == COMPUTING


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_answers_and_vectors_are_a_cpus(ended, place, well, tmp_path, monkeypatch):
    from vldistill.evaluation.image_index import ImageIndex

    monkeypatch.chdir(place)
    here = tmp_path
    for name in ("predict", "evaluate", "index build"):
        well(*command_of(name, here))
    for name, file in (("predict", "answers.jsonl"), ("evaluate", "eval/predictions.jsonl")):
        there, own = rows(place / place_of(name) / file), rows(here / file)
        assert [row["prediction"] for row in there] == [row["prediction"] for row in own] and there
        assert [row["confidence"] for row in there] == pytest.approx([row["confidence"] for row in own], abs=1e-5)
    there, own = (
        ImageIndex(folder).of(slice(None)).numpy() for folder in (place / place_of("index build") / "index", here / "index")
    )
    np.testing.assert_allclose(there, own, atol=1e-5)


@pytest.mark.slow
def test_live_and_cached_teachers_teach_the_same_under_autocast(ended, place):
    """In fp32, as `teachers.precision` says, whatever the student is trained in."""
    cached, live = (
        [row for row in rows(place / place_of(name) / f"runs/advl/{run}/seed0/metrics.jsonl") if "lr" in row]
        for name, run in (("distill in bf16", "cached"), ("distill, live", "live"))
    )
    assert len(cached) == len(live) == 4
    assert [row["loss"] for row in live] == pytest.approx([row["loss"] for row in cached], rel=1e-3)
