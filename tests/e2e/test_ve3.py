"""The toy world's three-way entailment task, trained end to end: attention distillation beats labels and soft labels.

About 15 minutes on one core: pytest -m slow tests/e2e/test_ve3.py
"""

from __future__ import annotations

import json

import pytest

from vldistill.cli import main

pytestmark = pytest.mark.slow

DATA = "data.path=artifacts/data/toy-snli_ve"


def run(*arguments: str) -> None:
    """One command, as from the shell."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        assert not stop.code, arguments


def accuracy(folder) -> float:
    """Test accuracy that `evaluate` wrote."""
    run("evaluate", folder, "--split", "test", "--batch", "200")
    return json.loads((folder / "eval/test/metrics.json").read_text())["accuracy"]


def test_attention_distillation_beats_labels_and_soft_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("prepare", "toy")
    run("finetune", "-r", "quickstart_pretrain", "--name", "default")
    run("finetune", "-r", "quickstart_teacher", "--name", "ve3", DATA, "train.steps=1000")
    few = (DATA, "train.steps=700", "train.validate_every=350")
    run("finetune", "-r", "quickstart_dide", "--name", "hard", *few)
    run("distill", "-r", "quickstart_dide", "--name", "soft", "objective.attention=none", *few)
    run("distill", "-r", "quickstart_dide", "--name", "attention", *few)
    teacher = accuracy(tmp_path / "runs/quickstart_teacher/ve3/seed0")
    students = {name: accuracy(tmp_path / f"runs/quickstart_dide/{name}/seed0") for name in ("hard", "soft", "attention")}
    print(json.dumps({"teacher": teacher, **students}))
    assert teacher > 0.9
    assert students["attention"] > max(students["hard"], students["soft"]) + 0.05
