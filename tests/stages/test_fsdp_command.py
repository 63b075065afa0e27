"""FSDP through the command line where there is one process, and where it cannot be (for several, see e2e/test_fsdp.py)."""

from __future__ import annotations

import pytest

from vldistill.runtime import Precision


def test_one_process_holds_all_itself(train):
    shared, plain = (train("distill", "quickstart_dide", f"train.fsdp={asked}", "--name", asked) for asked in ("true", "false"))
    assert shared.losses() == plain.losses()
    assert "sharing: train.fsdp, but one process has nobody to share with" in (shared.folder / "log.txt").read_text()


def test_fp16_is_refused(world, command, tmp_path):
    refused = command("distill", "-r", "quickstart_dide", "--runs", tmp_path, "train.fsdp=true", "train.precision=fp16")
    assert refused.code == 2 and "fsdp needs precision bf16 or fp32" in refused.err and not list(tmp_path.iterdir())


def test_a_gpu_without_bf16_is_told_to_take_fp32(world, command, few, tmp_path, monkeypatch):
    monkeypatch.setattr("vldistill.training.run.choose_precision", lambda wanted: Precision("fp16", "a V100 has no bf16"))
    refused = command("distill", "-r", "quickstart_dide", "--runs", tmp_path / "runs", *few, "train.fsdp=true")
    assert refused.code == 2 and "not in fp16 (a V100 has no bf16)" in refused.err and "train.precision=fp32" in refused.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("plugin", ["FSDP", "DEEPSPEED"])
def test_a_launcher_that_asks_for_it_is_told_where_to(world, command, few, tmp_path, monkeypatch, plugin):
    monkeypatch.setenv(f"ACCELERATE_USE_{plugin}", "true")
    refused = command("distill", "-r", "quickstart_dide", "--runs", tmp_path, *few)
    assert refused.code == 2 and f"accelerate's {plugin} set-up is not read" in refused.err and "train.fsdp=true" in refused.err
    assert refused.err.count("\n") == 1
