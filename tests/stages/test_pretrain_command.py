"""From the second toy world to a distilled student through the command line: teachers of one modality are trained like students,
and named by their runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SMALL = (
    "student.sizes.layers=2",
    "student.sizes.width=16",
    "student.sizes.heads=2",
    "student.sizes.feedforward=24",
    "train.batch.pairs=16",
    "train.eval_pairs=50",
    "train.log_every=1",
    "train.validate_every=2",
)


@pytest.fixture(scope="module")
def diverse(tmp_path_factory, well):
    """A folder with the second toy world, and small runs of the three recipes that come before distillation."""
    folder = tmp_path_factory.mktemp("diverse")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = "diverse-captions,diverse-images,diverse-texts,diverse-vqa"
        well("prepare", "toy", "--scale", "0.004", "--datasets", names)
        well(
            "prepare",
            "jsonl",
            "--raw",
            "artifacts/raw/toy/diverse_vqa",
            "--out",
            "artifacts/data/toy-diverse_vqa",
            "--overwrite",
            "--min-count",
            "1",
            "--lowshot",
            "4",
        )
        for stage, name in (("pretrain", "text"), ("finetune", "vision"), ("pretrain", "student")):
            well(stage, "-r", f"quickstart_advl_{name}", *SMALL, "train.steps=4")
    return folder


@pytest.fixture
def here(diverse, monkeypatch):
    monkeypatch.chdir(diverse)


def rows(run: str, split: str) -> list[dict]:
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["split"] == split]


def only_run(name: str) -> Path:
    [run] = Path("runs", name).glob("*/seed0")
    return run


@pytest.mark.parametrize(
    "stage, name, objective",
    [
        ("pretrain", "_text", "masked language modelling (15 % of the words)"),
        ("finetune", "_vision", "ground-truth labels"),
        ("pretrain", "_student", "+ image-text matching"),
        ("distill", "", "anchored maps"),
    ],
)
def test_the_shipped_recipes_plan(here, well, stage, name, objective):
    few = ["data.train=train-lowshot4-seed0"] * (stage == "distill")
    plan = well(stage, "-r", f"quickstart_advl{name}", "--dry-run", *few).flat
    assert objective in plan and "optimiser steps" in plan


@pytest.mark.parametrize("name, tasks", [("text", ["mlm"]), ("student", ["mlm", "itm"])])
def test_pretraining_logs_and_validates_each_task(here, name, tasks):
    run = only_run(f"quickstart_advl_{name}")
    assert json.loads((run / "manifest.json").read_text())["stage"] == "pretrain"
    train, val = rows(run, "train"), rows(run, "val")
    assert len(train) == 4 and len(val) == 2
    for row in train:
        assert row["loss"] == pytest.approx(sum(row[f"loss/{task}"] for task in tasks), rel=1e-5)
    for row in val:
        assert row["accuracy"] == pytest.approx(sum(row[f"accuracy/{task}"] for task in tasks) / len(tasks))


def test_pretraining_gives_the_same_twice(here, well, tmp_path):
    found = [
        well("pretrain", "-r", "quickstart_advl_student", *SMALL, "train.steps=2", "--runs", tmp_path / place).last["run"]
        for place in "ab"
    ]
    assert [row["loss"] for row in rows(found[0], "train")] == [row["loss"] for row in rows(found[1], "train")]


def test_tags_are_scored_by_overlap_and_written(here, well, tmp_path):
    run = only_run("quickstart_advl_vision")
    result = well("evaluate", run, "--split", "val", "--out", tmp_path)
    written = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    truth = [json.loads(line) for line in Path("artifacts/raw/toy/diverse_images/val.jsonl").read_text().splitlines()]
    scores = [
        len(set(row["tags"]) & set(one["tags"])) / len(set(row["tags"]) | set(one["tags"]))
        for row, one in zip(written, truth, strict=True)
    ]
    assert [row["score"] for row in written] == pytest.approx(scores, abs=1e-4)
    assert json.loads((tmp_path / "metrics.json").read_text())["accuracy"] == pytest.approx(sum(scores) / len(scores))
    assert "accuracy" in result.out


def test_tags_are_predicted_from_an_image_alone(here, well, command):
    run = only_run("quickstart_advl_vision")
    picture = next(Path("artifacts/raw/toy/diverse_images/val").rglob("*.jpg"))
    shown = [float(line.split("%")[0]) for line in well("predict", run, "--image", picture, "--top", "34").out.splitlines()[:-1]]
    assert len(shown) == 34 and sum(shown) > 150  # each its own sigmoid, not shares of one


def test_a_student_learns_beside_teachers_named_by_their_runs(here, well, tmp_path):
    few = (
        "data.train=train-lowshot4-seed0",
        "train.steps=4",
        *SMALL[4:],
        "--runs",
        tmp_path / "runs",
        f"cache.path={tmp_path / 'cache'}",
        "objective.anchor.records=40",
    )
    cached = well("distill", "-r", "quickstart_advl", *few).last["run"]
    log = Path(cached, "log.txt").read_text()
    assert "maps anchored on 40 records" in log and "text quickstart_advl_text@" in log
    live = well("distill", "-r", "quickstart_advl", *few, "cache.mode=live", "--name", "live").last["run"]
    for one, other in zip(rows(cached, "train"), rows(live, "train"), strict=True):
        for name in one:
            if name.startswith(("loss", "distance")):
                assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-3), name
    [first, *_] = rows(cached, "train")
    assert {"loss/itm", "loss/vision", "loss/text", "loss/words"} <= set(first)


def test_a_teacher_whose_run_was_trained_again_is_another_teacher(here, well, tmp_path):
    few = (
        "data.train=train-lowshot4-seed0",
        "train.steps=2",
        *SMALL[4:],
        "--runs",
        tmp_path / "runs",
        f"cache.path={tmp_path / 'cache'}",
        "objective.itm_fraction=0",
        "objective.map=learned",
        "objective.words=0",
        "objective.vision=false",
    )
    well("pretrain", "-r", "quickstart_advl_text", *SMALL, "train.steps=2", "--runs", tmp_path / "teachers", "--name", "one")
    teacher = f"teachers.text.model={tmp_path / 'teachers/quickstart_advl_text'}"
    well("distill", "-r", "quickstart_advl", *few, teacher)
    well(
        "pretrain",
        "-r",
        "quickstart_advl_text",
        *SMALL,
        "train.steps=3",
        "--runs",
        tmp_path / "teachers",
        "--name",
        "one",
        "--overwrite",
    )
    well("distill", "-r", "quickstart_advl", *few, teacher, "--name", "again")
    assert len(list((tmp_path / "cache").iterdir())) == 2


REFUSALS = {
    "text encoder on labels": (
        'finetune -r quickstart_advl_vision student={"kind":"text_encoder"}',
        "a text_encoder student sees no",
    ),
    "vision encoder on words": (
        "pretrain -r quickstart_advl_student student.kind=vision_encoder",
        "a vision_encoder student reads",
    ),
    "matching without images": (
        "pretrain -r quickstart_advl_student data.path=artifacts/data/toy-diverse_texts",
        "image-text matching needs one",
    ),
    "another student": (
        'pretrain -r quickstart_advl_student student={"kind":"clip_vil","clip":{"model":"RN50"}} image.augment=none',
        "is for one of vilt, dual_encoder, meter",
    ),
    "contrast of one tower": ("pretrain -r quickstart_advl_student objective.tasks=[cmc]", "cmc is for a dual_encoder or"),
    "distilling from nobody": ("pretrain -r quickstart_advl_student objective.attention=cross", "need a `teacher`"),
    "nothing to learn": ("pretrain -r quickstart_advl_student objective.hard_label_weight=0", "nothing to learn"),
    "mixed labels": ("finetune -r quickstart_pretrain data.weight=2", "are for objective `pretrain`"),
    "words of images alone": (
        "pretrain -r quickstart_advl_student data.path=artifacts/data/toy-diverse_images",
        "cannot be pre-trained",
    ),
    "labels of captions": ("finetune -r quickstart_pretrain data.path=artifacts/data/toy-diverse_captions", "has no labels"),
    "evaluate without a head": ("evaluate runs/quickstart_advl_student --data artifacts/data/toy-diverse_vqa", "has no head"),
    "pre-trained as a task": ("finetune -r quickstart_advl_student", "vldistill pretrain --recipe quickstart_advl_student"),
    "a teacher that is no run": ("distill -r quickstart_advl teachers.text.model=artifacts", "artifacts"),
}


@pytest.mark.parametrize("words, expected", REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_is_refused_in_one_line(here, command, tmp_path, words, expected):
    extra = [] if words.startswith("evaluate") else ["--runs", str(tmp_path)]
    result = command(*words.split(), *extra)
    assert result.code == 2 and expected in result.err and len(result.err.splitlines()) == 1
    assert not any(tmp_path.iterdir())
