"""Runs as `bin/quickstart` leaves them, with accuracies that are given."""

from __future__ import annotations

import json
from pathlib import Path

from vldistill.reproduce.quickstart import RECIPE, jobs


def write_run(folder: Path, accuracy: float) -> None:
    """What a run and its evaluation leave behind."""
    (folder / "eval/test").mkdir(parents=True)
    (folder / "eval/test/metrics.json").write_text(json.dumps({"accuracy": accuracy}))
    (folder / "manifest.json").write_text(json.dumps({"wall_s": 7, "best": {"accuracy": accuracy}}))
    (folder / "metrics.jsonl").write_text(json.dumps({"split": "val", "step": 5, "accuracy": accuracy}) + "\n")


def write_advl(folder: Path, baseline: float, other: float, more: float) -> None:
    """Two seeds of every run; of all but the baseline the second one has so much more."""
    for name, _ in jobs(2):
        accuracy = baseline if name.startswith("baseline") else other + more * int(name[-1])
        write_run(folder / "runs" / RECIPE / name, accuracy)


def write_dide(folder: Path) -> None:
    """The teacher is always right, the student with attention in 9 of 10, the others are at chance."""
    write_run(folder / "runs/quickstart_teacher/default/seed0", 1.0)
    for name, accuracy in (("hard", 0.5), ("soft", 0.5), ("soft_attention", 0.9)):
        write_run(folder / "runs/quickstart_dide" / name / "seed0", accuracy)
    row = {"variant": "dual, images cached", "speedup": 4.0, "limit": 5.0, "batch": 32}
    (folder / "bench.json").write_text(json.dumps({"rows": [row], "device": "a CPU"}))
