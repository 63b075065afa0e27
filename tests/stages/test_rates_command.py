"""Optimisers and schedules through the command line: what the plan says, and what the log shows was done."""

from __future__ import annotations

import pytest

SGD = (
    "optim.kind=sgd",
    "optim.momentum=0.9",
    "optim.lr=1e-4",
    "optim.lr_scale=per_sample",
    "optim.warmup=1",
    "optim.schedule=steps",
    "optim.milestones=[2, 3]",
    "train.steps=4",
    "train.batch.accumulate=2",
)


def test_a_rate_for_a_sample_grows_with_the_batch_and_falls_at_milestones(train):
    run = train("finetune", "quickstart_pretrain", *SGD)
    assert [row["lr"] for row in run.rows("train")] == pytest.approx([1.6e-3, 1.6e-3, 1.6e-4, 1.6e-5])
    told = "optimiser: SGD, momentum 0.9, lr 0.0016 = 0.0001 x 16 pairs a step; 1 steps of warm-up, then x 0.1 after 2, 3 steps"
    assert told in (run.folder / "log.txt").read_text()


def test_adamw_and_a_line_are_the_default(world, well):
    shown = well("distill", "-r", "quickstart_dide", "--dry-run", "train.steps=100").flat
    assert "optimiser AdamW, lr 0.0012; 5 steps of warm-up, then linear to 0" in shown
