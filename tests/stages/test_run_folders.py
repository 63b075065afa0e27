"""Where runs go and what guards them: names, refusal to overwrite, limits, dry runs, interruption, failure."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vldistill.data.artifact import open_data
from vldistill.errors import VldistillError
from vldistill.recipe.load import load_recipe
from vldistill.training import phase
from vldistill.training.build import build_parts
from vldistill.training.loop import Learner


def test_a_variant_is_named_by_its_overrides(train, tmp_path):
    run = train("finetune", "quickstart_teacher", "optim.lr=2e-4", "train.seed=5")
    assert run.folder.parent.parent == tmp_path / "runs/quickstart_teacher" and run.folder.name == "seed5"
    assert re.fullmatch(r"steps-2-.*-[0-9a-f]{8}", run.folder.parent.name)
    other_seed = train("finetune", "quickstart_teacher", "optim.lr=2e-4", "train.seed=6")
    assert other_seed.folder.parent == run.folder.parent


def test_an_existing_run_is_refused_then_replaced(train, command, few, tmp_path, tree):
    run = train("finetune", "quickstart_teacher", "--name", "mine")
    before = tree(run.folder)
    again = ["finetune", "-r", "quickstart_teacher", "--runs", tmp_path / "runs", "--name", "mine", *few]
    refused = command(*again)
    assert refused.code == 2 and "already exists (pass --overwrite" in refused.err and tree(run.folder) == before
    (run.folder / "eval").mkdir()
    assert command(*again, "--overwrite").code == 0
    assert not (run.folder / "eval").exists() and run.manifest["complete"]


def test_a_bad_recipe_does_not_cost_the_old_run(train, command, few, tmp_path, tree):
    run = train("finetune", "quickstart_teacher", "--name", "mine")
    before = tree(run.folder)
    bad = command(
        "finetune",
        "-r",
        "quickstart_teacher",
        "--runs",
        tmp_path / "runs",
        "--name",
        "mine",
        "--overwrite",
        *few,
        "student.init=runs/nobody",
    )
    assert bad.code == 2 and tree(run.folder) == before


def test_a_stranger_is_not_overwritten(world, command, few, tmp_path):
    mine = tmp_path / "quickstart_teacher/mine/seed0"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("ten years")
    result = command("finetune", "-r", "quickstart_teacher", "--runs", tmp_path, "--name", "mine", "--overwrite", *few)
    assert result.code == 2 and "not an artifact" in result.err and (mine / "thesis.txt").exists()


def test_a_limit_marks_the_run_and_its_evaluation_partial(train, well):
    run = train("distill", "quickstart_dide", "--limit", "20")
    assert run.manifest["partial"] is True and run.manifest["counts"] == {"train": 20, "val": 20}
    assert "partial: only the first 20 records" in (run.folder / "log.txt").read_text()
    result = well("evaluate", run.folder, "--limit", "10")
    assert result.last["partial"] is True and result.last["count"] == 10
    assert json.loads((run.folder / "eval/val-limit10/metrics.json").read_text())["partial"] is True


@pytest.mark.parametrize("stage, recipe", [("distill", "quickstart_dide"), ("finetune", "quickstart_pretrain")])
def test_a_dry_run_says_all_and_writes_nothing(world, well, tree, stage, recipe):
    before = tree(world)
    shown = well(stage, "-r", recipe, "--dry-run", "train.batch.pairs=8", "train.batch.accumulate=3", "train.steps=50").flat
    assert tree(world) == before
    assert "optimiser steps 50 (" in shown and "effective batch 24 pairs = 8 x 3 accumulated x 1 process" in shown
    assert re.search(rf"run runs/{recipe}/\S+/seed0", shown) and re.search(r"[\d,]+ parameters trained", shown)
    assert re.search(r"data artifacts/data/toy-\w+: \d+ training, \d+ validation records", shown)
    if stage == "distill":
        assert re.search(r"teacher vilt runs/quickstart_teacher, [\d,]+ parameters frozen", shown)
        assert "student dual_encoder from runs/quickstart_pretrain" in shown and "attention (cross, last layer)" in shown
    else:
        assert "from scratch" in shown and "ground-truth labels" in shown


@pytest.mark.parametrize("stage", ["cache", "pretrain"])
def test_a_dry_run_of_what_is_not_needed_refuses_too(world, command, stage):
    assert command(stage, "-r", "quickstart_dide", "--dry-run").code == 2


def test_counts_of_a_dry_run_are_true(world, well, few):
    shown = well("distill", "-r", "quickstart_dide", "--dry-run", *few).flat
    parts = build_parts(load_recipe("quickstart_dide"))
    trained = sum(p.numel() for p in Learner(parts.student, parts.objective).parameters())
    frozen = sum(p.numel() for p in parts.teacher.model.parameters())
    assert f"{trained:,} parameters trained" in shown and f"{frozen:,} parameters frozen" in shown
    assert not any(p.requires_grad for p in parts.teacher.model.parameters()) and not parts.teacher.model.training


def stopped(monkeypatch, command, few, tmp_path, error: BaseException):
    """A run that has saved a model once and is then stopped by `error`."""

    def fit(*_, save, **__):
        save(1)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(phase, "fit", fit)
        result = command("finetune", "-r", "quickstart_teacher", "--runs", tmp_path / "runs", "--name", "cut", *few)
    folder = tmp_path / "runs/quickstart_teacher/cut/seed0"
    return result, folder, json.loads((folder / "manifest.json").read_text())


def test_an_interrupted_run_says_so(world, monkeypatch, command, few, tmp_path):
    result, folder, manifest = stopped(monkeypatch, command, few, tmp_path, KeyboardInterrupt())
    assert result.code == 130 and "Traceback" not in result.err
    assert manifest["status"] == "interrupted" and manifest["complete"] is False
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_an_interruption_is_told_in_words(world, monkeypatch, command, few, tmp_path):
    result, *_ = stopped(monkeypatch, command, few, tmp_path, KeyboardInterrupt())
    assert result.err.startswith("vldistill: interrupted") and "--resume auto goes on" in result.err


@pytest.mark.parametrize(
    "words",
    [
        "evaluate RUN",
        "evaluate ..",
        "predict RUN --image PICTURE --image PICTURE --text hi",
        "bench RUN",
        "distill -r quickstart_dide teacher.model=RUN",
        "finetune -r quickstart_teacher student.init=RUN",
    ],
    ids=lambda words: words.split()[0],
)
def test_later_commands_refuse_an_interrupted_run(world, monkeypatch, command, few, tmp_path, words):
    _, folder, _ = stopped(monkeypatch, command, few, tmp_path, KeyboardInterrupt())
    picture = next(Path("artifacts/raw/toy/vqa/val2014").iterdir())
    line = [
        word.replace("RUN", str(folder)).replace("PICTURE", str(picture)).replace("..", str(folder.parent.parent))
        for word in words.split()
    ]
    if line[0] in ("distill", "finetune"):
        line += ["--runs", str(tmp_path / "later"), *few]
    result = command(*line)
    assert result.code == 2 and "complete" in result.err, (result.code, result.err)
    assert not (tmp_path / "later").exists() and not (folder / "eval").exists()


def test_a_failed_run_says_so(world, monkeypatch, command, few, tmp_path):
    result, _, manifest = stopped(monkeypatch, command, few, tmp_path, VldistillError("the disk is full", hint="make room"))
    assert result.code == 1 and result.err == "vldistill: the disk is full (make room)\n"
    assert manifest["status"] == "failed" and manifest["complete"] is False


def test_a_loss_that_is_not_finite_stops_the_run(world, command, few, tmp_path):
    result = command(
        "finetune",
        "-r",
        "quickstart_teacher",
        "--runs",
        tmp_path,
        "--name",
        "nan",
        *few,
        "optim.lr=1e30",
        "optim.warmup=0",
        "train.steps=5",
    )
    assert result.code == 1 and "Traceback" not in result.err
    told = re.match(r"vldistill: loss, loss/task is not finite at step \d, in a batch of records (.*) \(lower", result.err)
    assert told, result.err
    known = {record.id for record in open_data(Path("artifacts/data/toy-nlvr2")).records("train")}
    assert len(told[1].split(", ")) == 8 and known >= set(told[1].split(", "))
    manifest = json.loads((tmp_path / "quickstart_teacher/nan/seed0/manifest.json").read_text())
    assert manifest["status"] == "failed" and manifest["complete"] is False


def test_the_best_validation_is_the_one_kept(train, well):
    run = train("finetune", "quickstart_pretrain", "train.steps=30", "train.validate_every=5", "image.augment=none")
    rows = run.rows("val")
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    best = max(rows, key=lambda row: (row["accuracy"], -row["step"]))
    assert run.manifest["best"]["step"] == best["step"] and run.manifest["best"]["accuracy"] == best["accuracy"]
    assert well("evaluate", run.folder, "--split", "val").last["accuracy"] == round(best["accuracy"], 4)


def test_accumulation_counts_optimiser_steps(train):
    run = train(
        "distill",
        "quickstart_dide",
        "train.batch.accumulate=3",
        "train.steps=null",
        "train.epochs=1",
        "train.batch.pairs=40",
        "train.validate_every=epoch",
        "optim.warmup=2",
        "optim.lr=1e-3",
    )
    rows = run.rows("train")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]  # 480 records, 12 batches of 40, 3 for a step
    assert run.rows("val")[-1]["step"] == 4 and {row["epoch"] for row in rows} == {0}
