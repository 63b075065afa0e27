"""`convert vilt`: a fine-tuned checkpoint in the official layout becomes a teacher, and what its student starts from."""

from __future__ import annotations

import json

import torch
from official_vilt_layout import official_weights
from safetensors.torch import load_file

TEACHER = "runs/quickstart_teacher/default/seed0/model"


def test_a_converted_teacher_teaches(world, well, command, train, tmp_path):
    own = load_file(f"{TEACHER}/model.safetensors")
    torch.save({"state_dict": official_weights(own, "nlvr2_classifier"), "epoch": 1}, tmp_path / "nlvr2.ckpt")
    out = tmp_path / "vilt-nlvr2"
    told = well("convert", "vilt", tmp_path / "nlvr2.ckpt", out, "--vocab", f"{TEACHER}/vocab.txt", "--heads", "4")
    assert told.last["task"] == "nlvr2" and told.last["classes"] == 2 and "task nlvr2" in told.out
    converted = load_file(out / "model.safetensors")
    assert converted.keys() == own.keys() and all(torch.equal(value, own[name]) for name, value in converted.items())
    run = train("distill", "quickstart_dide", f"student.init={out}", f"teacher.model={out}")
    assert run.manifest["complete"] and all(row["loss/attention"] > 0 for row in run.losses())
    assert json.loads((run.folder / "model/config.json").read_text())["id2label"] == {"0": "False", "1": "True"}


def test_what_convert_refuses(command, tmp_path):
    refused = command("convert", "vilt", tmp_path / "none.ckpt", tmp_path / "out")
    assert refused.code == 2 and "--vocab is missing" in refused.err
    refused = command("convert", "uniter", tmp_path / "x", tmp_path / "out", "--vocab", "v", "--answers", "a")
    assert refused.code == 2 and "--answers means nothing for uniter" in refused.err
