"""DiDE's pre-training through the command line: from a live fusion teacher, from labels alone, and what comes after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vldistill.data import artifact

STANDARD = ("objective.attention=none", "objective.soft_labels=false", "objective.hard_label_weight=1")
DISTILLED = {"cmc", "cmc/attention", "mlm/soft_label", "mlm/attention", "itm/soft_label", "itm/attention"}


def terms(run) -> set[str]:
    return {name.removeprefix("loss/") for name in run.rows("train")[0] if name.startswith("loss/")}


def test_every_task_is_distilled_and_logged(train):
    run = train("pretrain", "quickstart_dide_pretrain")
    assert terms(run) == DISTILLED
    for row in run.rows("train"):
        assert row["loss"] == pytest.approx(sum(row[f"loss/{name}"] for name in DISTILLED), rel=1e-5)
        assert 0 < row["negatives"] <= 7 and row["temperature"] == pytest.approx(0.07, rel=0.02)
    [last] = run.rows("val")
    parts = [last[f"accuracy/{task}"] for task in ("cmc", "mlm", "itm")]
    assert last["accuracy"] == pytest.approx(sum(parts) / 3)
    config = json.loads((run.folder / "model" / "config.json").read_text())["vldistill"]
    assert config["kind"] == "dual_encoder" and config["pretraining"] == ["mlm", "itm"]
    assert set(run.manifest["parents"]) == {"data", "data.mix.0", "data.mix.1", "data.mix.2", "init", "teacher"}


def test_the_standard_rows_know_no_teacher(train):
    run = train("pretrain", "quickstart_dide_pretrain", *STANDARD)
    assert terms(run) == {"cmc", "mlm", "itm"} and "teacher: none" in (run.folder / "log.txt").read_text()


def test_it_gives_the_same_twice_and_with_workers(train):
    fields = ("data.limit=40",)
    runs = [
        train("pretrain", "quickstart_dide_pretrain", *fields, f"data.workers={workers}", runs=str(place))
        for place, workers in enumerate((0, 0, 2))
    ]
    assert runs[0].losses() == runs[1].losses() == runs[2].losses()


def test_a_large_split_is_read_from_disk_with_the_same_result(train, monkeypatch):
    held = train("pretrain", "quickstart_dide_pretrain", runs="held")
    monkeypatch.setattr(artifact, "LARGE", 10)
    assert train("pretrain", "quickstart_dide_pretrain", runs="streamed").losses() == held.losses()


def test_the_head_of_words_is_taken_over_and_that_of_matching_is_fresh(train, tmp_path):
    run = train("pretrain", "quickstart_dide_pretrain", "optim.lr=1e-9")
    teacher = load_file("runs/quickstart_fusion/default/seed0/model/model.safetensors")
    student = load_file(run.folder / "model" / "model.safetensors")
    for name, equal in (("mlm_score.decoder.weight", True), ("itm_score.fc.weight", False)):
        assert torch.allclose(student[name], teacher[name], atol=1e-6) == equal
    assert not any(name.startswith("classifier.") for name in student)


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_fine_tuning_starts_from_it_without_its_heads(train, stage):
    run = train("pretrain", "quickstart_dide_pretrain")
    fine = train(stage, "quickstart_dide", f"student.init={run.folder}", "optim.lr=1e-9")
    before, after = (load_file(one.folder / "model" / "model.safetensors") for one in (run, fine))
    assert not any(name.startswith(("mlm_score", "itm_score")) for name in after)
    for name in ("text_encoder.pooler.dense.weight", "image_encoder.layernorm.weight", "fusion.0.weight"):
        assert torch.allclose(before[name], after[name], atol=1e-6)


def test_a_pretrained_fusion_encoder_goes_on_with_its_heads(train):
    run = train("pretrain", "quickstart_fusion", "student.init=runs/quickstart_fusion", "optim.lr=1e-9")
    before = load_file("runs/quickstart_fusion/default/seed0/model/model.safetensors")
    after = load_file(run.folder / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in ("itm_score.fc.weight", "mlm_score.decoder.bias"))


def test_the_plan_says_what_is_mixed(world, well):
    plan = well(
        "pretrain",
        "-r",
        "quickstart_dide_pretrain",
        "--dry-run",
        "data.weight=2",
        "data.mix=[{path: artifacts/data/toy-gcc, weight: 0.5}]",
    ).flat
    assert "of toy-coco (x 2)" in plan and "of toy-gcc (x 0.5)" in plan
    assert "cross-modal contrast + masked language modelling (15 % of the words) + image-text matching, from attention" in plan


REFUSALS = {
    "no head for matching": (("teacher.model=runs/quickstart_pretrain",), "has no head for mlm, itm (mlm_score, itm_score)"),
    "labels in the mix": (("data.mix=[{path: artifacts/data/toy-nlvr2}]",), "has 2 images a record"),
    "nothing there": (("data.mix=[{path: artifacts/data/nothing}]",), "artifacts/data/nothing"),
    "no weight": (("data.mix=[{path: artifacts/data/toy-gcc, weight: 0}]",), "greater than 0"),
    "twice": (("objective.tasks=[cmc, cmc]",), "each may stand there once"),
}


@pytest.mark.parametrize("fields, expected", REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_is_refused_in_one_line(world, command, tmp_path, fields, expected):
    result = command("pretrain", "-r", "quickstart_dide_pretrain", *fields, "--runs", tmp_path / "runs")
    assert result.code == 2 and expected in result.err and len(result.err.splitlines()) == 1
    assert not Path(tmp_path / "runs").exists()
