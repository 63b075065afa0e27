"""METER through the command line: a small one from scratch on two images, its dual encoder distilled from it, evaluated; a
converted one; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from official_meter_layout import HEADS, OfficialMeter, write_vocabulary

SCRATCH = ("student={kind: meter, sizes: {layers: 2, width: 16, heads: 2, feedforward: 24, patch: 6}}", "image.size=12")


@pytest.fixture
def taught(train):
    """A function: `taught(objective's fields)` distils the dual encoder of a small METER, both of two steps."""
    teacher = train("finetune", "quickstart_teacher", *SCRATCH, "optim.cross_lr_multiplier=5", "--name", "meter")

    def distil(*arguments: str):
        return train(
            "distill",
            "quickstart_dide",
            f"student={{kind: meter_dual, init: {teacher.folder}}}",
            "image.size=12",
            f"teacher={{kind: meter, model: {teacher.folder}}}",
            *arguments,
        )

    return teacher, distil


def test_a_small_meter_teaches_its_dual_encoder(taught, well, command, tmp_path):
    teacher, distil = taught
    student = distil("--name", "dual")
    assert student.manifest["complete"]
    assert all({"loss/soft_label", "loss/attention"} <= row.keys() and row["loss/attention"] > 0 for row in student.losses())
    config = json.loads((student.folder / "model/config.json").read_text())
    assert config["vldistill"]["kind"] == "meter_dual" and config["num_hidden_layers"] == 2 and config["image_size"] == 12
    for run in (teacher, student):
        found = well("evaluate", run.folder).last
        assert found["accuracy"] == pytest.approx(run.rows("val")[-1]["accuracy"]) and "consistency" in found
    both = sorted(Path("artifacts/raw").rglob("*.png"))[:2] or sorted(Path("artifacts/raw").rglob("*.jpg"))[:2]
    said = well("predict", student.folder, "--image", both[0], "--image", both[1], "--text", "two red circles").last
    assert said["prediction"] in ("False", "True")
    # All layers' hidden states and attention, and a student that goes on.
    again = distil("objective.layers=all", "objective.hidden_states=true", f"student.init={student.folder}", "--name", "on")
    assert all(row["loss/hidden_state"] > 0 for row in again.losses())


def test_a_converted_meter_is_what_training_starts_from(world, well, train, tmp_path):
    words = write_vocabulary(tmp_path / "roberta")
    torch.save({"state_dict": OfficialMeter(words, 3, "nlvr2_classifier", 2).weights(), "epoch": 1}, tmp_path / "meter.ckpt")
    out = tmp_path / "meter-nlvr2"
    told = well("convert", "meter", tmp_path / "meter.ckpt", out, "--vocab", tmp_path / "roberta", "--heads", HEADS)
    sizes = {"model": str(out), "kind": "meter", "layers": 2, "width": 128, "task": "nlvr2", "classes": 2}
    assert told.last.items() >= sizes.items() and told.last["kept"] > told.last["left_out"]
    run = train(
        "distill",
        "quickstart_dide",
        f"student={{kind: meter_dual, init: {out}}}",
        "image.size=12",
        "text.max_length=12",
        f"teacher={{kind: meter, model: {out}}}",
    )
    assert run.manifest["complete"] and (run.folder / "model/tokenizer.json").exists()
    assert not (run.folder / "model/vocab.txt").exists()
    assert well("evaluate", run.folder).last["accuracy"] == pytest.approx(run.rows("val")[-1]["accuracy"])


@pytest.mark.parametrize(
    "overrides, part",
    [
        (("objective.attention=uni",), "objective.attention=uni has no meaning for METER"),
        (("objective.attention=whole",), "set objective.attention=cross or none"),
        (("student.kind=dual_encoder",), "a dual_encoder student does not see what a meter teacher sees: set teacher.kind=vilt"),
        (("teacher.kind=vilt",), "a meter_dual student does not see what a vilt teacher sees: set teacher.kind=meter"),
        (("teacher.model=runs/quickstart_teacher",), "is a vilt model, a meter teacher was expected"),
        (("image.size=13",), "image.size 13 is no multiple of METER's patch"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(overrides, part, world, command, tmp_path):
    chosen = (
        "student={kind: meter_dual, sizes: {layers: 2, width: 16, heads: 2, feedforward: 24, patch: 6}}",
        "image.size=12",
        "teacher={kind: meter, model: runs/none}",
    )
    refused = command("distill", "--recipe", "quickstart_dide", "--runs", tmp_path / "runs", *chosen, *overrides)
    assert refused.code == 2 and part in refused.err and refused.err.count("\n") == 1, refused.err
    assert not (tmp_path / "runs").exists()


def test_what_convert_meter_refuses(command, tmp_path):
    refused = command("convert", "meter", tmp_path / "meter.ckpt", tmp_path / "out")
    assert refused.code == 2 and "give the folder of its RoBERTa, with vocab.json and merges.txt" in refused.err
