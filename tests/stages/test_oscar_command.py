"""OSCAR through the command line: a teacher over regions, its dual encoder, the index of regions, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_oscar import prepare_with_regions

RECIPE = """
data: {path: artifacts/data/toy-nlvr2}
regions: {path: artifacts/regions/toy, most: 3}
text: {max_length: 30, vocabulary_size: 300}
student: {kind: oscar, sizes: {layers: 2, width: 16, heads: 2, feedforward: 24}, dropout: 0.0}
optim: {lr: 1e-3}
train: {steps: 2, batch: {pairs: 4}, eval_pairs: 16, log_every: 1}
"""
DUAL = ("student.kind=oscar_dual", "objective={kind: dide}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, well):
    """A folder with toy NLVR2, VQA and COCO, random regions for their images, and a teacher and a student of two steps."""
    folder = tmp_path_factory.mktemp("oscar")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_with_regions(folder, well, "vqa,nlvr2,coco")
        Path("oscar.yaml").write_text(RECIPE)
        well("finetune", "-r", "oscar.yaml", "--name", "teacher")
        well(
            "distill",
            "-r",
            "oscar.yaml",
            *DUAL,
            f"student.init={TEACHER}",
            f"teacher={{kind: oscar, model: {TEACHER}}}",
            "--name",
            "student",
        )
    return folder


TEACHER, STUDENT = "runs/oscar/teacher/seed0", "runs/oscar/student/seed0"


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def losses(run: str) -> list[dict[str, float]]:
    rows = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["split"] == "train"]


def test_teacher_and_student_learn_and_are_evaluated(here, well):
    told = losses(STUDENT)
    assert len(told) == 2 and all(row["loss/attention"] > 0 and row["loss/soft_label"] >= 0 for row in told)
    assert told[0]["loss/attention"] != told[1]["loss/attention"]
    for run, kind in ((TEACHER, "oscar"), (STUDENT, "oscar_dual")):
        config = json.loads(Path(run, "model/config.json").read_text())
        assert config["vldistill"]["kind"] == kind and config["vldistill"]["images"] == 2 and config["region_size"] == 12
        scored = well("evaluate", run, "--split", "val").last
        best = json.loads(Path(run, "manifest.json").read_text())["best"]["accuracy"]
        assert scored["accuracy"] == pytest.approx(best, abs=1e-4)
    before, after = (load_file(f"{run}/model/model.safetensors") for run in (TEACHER, STUDENT))
    for tower in ("text_encoder", "image_encoder"):
        name = "encoder.layer.1.attention.self.query.weight"
        assert not torch.equal(after[f"{tower}.{name}"], before[f"bert.{name}"])


def test_stored_regions_answer_as_the_regions_themselves(here, well, tmp_path):
    built = well("index", "build", STUDENT, "artifacts/data/toy-nlvr2", "--out", tmp_path / "index").last
    assert built["images"] > 0
    plain = well("evaluate", STUDENT, "--split", "val", "--out", tmp_path / "plain").last
    stored = well("evaluate", STUDENT, "--split", "val", "--index", tmp_path / "index", "--out", tmp_path / "stored").last
    assert stored["accuracy"] == plain["accuracy"]
    answers = [
        [json.loads(line) for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("plain", "stored")
    ]
    for own, other in zip(*answers, strict=True):
        assert own["id"] == other["id"] and own["prediction"] == other["prediction"]
        assert own["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
    fields = json.loads((tmp_path / "index/manifest.json").read_text())["model"]
    assert fields["region_size"] == 12 and fields["most_regions"] == 3 and "regions" in fields and "image_size" not in fields


def test_an_official_folder_becomes_the_teacher(here, well, tmp_path):
    own, folder = load_file(f"{TEACHER}/model/model.safetensors"), tmp_path / "official"
    folder.mkdir()
    torch.save(own, folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"num_attention_heads": 2}')
    told = well("convert", "oscar", folder, tmp_path / "oscar", "--vocab", f"{TEACHER}/model/vocab.txt")
    assert told.last["task"] == "nlvr2" and told.last["classes"] == 2 and "task nlvr2" in told.out
    result = well(
        "distill",
        "-r",
        "oscar.yaml",
        *DUAL,
        f"student.init={tmp_path / 'oscar'}",
        "--runs",
        tmp_path / "runs",
        f"teacher={{kind: oscar, model: {tmp_path / 'oscar'}}}",
    )
    assert len(losses(result.last["run"])) == 2


def test_one_image_is_learned_in_the_same_way(here, well, tmp_path):
    run = well("finetune", "-r", "oscar.yaml", "data.path=artifacts/data/toy-vqa", "--runs", tmp_path / "runs").last["run"]
    assert 0 <= well("evaluate", run, "--split", "val").last["accuracy"] <= 1
    assert {name for name in load_file(f"{run}/model/model.safetensors") if name.startswith("classifier")} == {
        "classifier.0.weight",
        "classifier.0.bias",
    }


def test_captions_are_learned_before_any_task_and_the_index_is_asked(here, well, tmp_path):
    changed = ("data.path=artifacts/data/toy-coco", "--runs", tmp_path / "runs")
    teacher = well("pretrain", "-r", "oscar.yaml", *changed, "objective={kind: pretrain, tasks: [mlm, itm]}", "--name", "whole")
    model = teacher.last["run"]
    run = well(
        "pretrain",
        "-r",
        "oscar.yaml",
        *changed,
        "student.kind=oscar_dual",
        f"student.init={model}",
        f"teacher={{kind: oscar, model: {model}}}",
        "objective={kind: pretrain, tasks: [cmc, mlm, itm], attention: cross, soft_labels: true, hard_label_weight: 0}",
    ).last["run"]
    terms = {
        "loss/cmc",
        "loss/cmc/attention",
        "loss/mlm/soft_label",
        "loss/mlm/attention",
        "loss/itm/soft_label",
        "loss/itm/attention",
    }
    assert all(terms <= row.keys() and all(np.isfinite(row[name]) for name in terms) for row in losses(run))
    well("index", "build", run, "artifacts/data/toy-coco", "--out", tmp_path / "index")
    found = well("index", "query", tmp_path / "index", "two red circles", "--top", "3").last
    assert found["best"].startswith(("train2014/", "val2014/")) and -1 <= found["score"] <= 1


@pytest.mark.parametrize(
    "overrides, part",
    [
        (("regions=null",), "a oscar student needs `regions`"),
        ((*DUAL, "teacher={kind: vilt, model: x}"), "does not see what a vilt teacher sees: set teacher.kind=oscar"),
        ((*DUAL,), "needs a `teacher`"),
        ((f"student.init={STUDENT}",), "is a oscar_dual model, from which a oscar student cannot start"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(here, command, tmp_path, overrides, part):
    stage = "distill" if DUAL[1] in overrides else "finetune"
    refused = command(stage, "-r", "oscar.yaml", "--runs", tmp_path / "runs", *overrides)
    assert refused.code == 2 and part in refused.err and refused.err.count("\n") == 1, refused.err
    assert not (tmp_path / "runs").exists()


def test_bench_refuses_what_it_does_not_measure(here, command):
    refused = command("bench", STUDENT)
    assert refused.code == 2 and "is a oscar_dual model" in refused.err and refused.err.count("\n") == 1, refused.err
