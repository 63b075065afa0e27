"""Two processes under a launcher train as one process does with the doubled batch, and one of them writes the run (for those that
`srun` starts, see test_slurm_jobs.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from launching import launch
from safetensors.torch import load_file

# With AdamW's usual 1e-8 a gradient that is nothing but rounding moves a weight by a whole step, either way.
STEPS = ("train.steps=3", "train.validate_every=3", "train.log_every=1", "train.eval_pairs=8", "optim.lr=1e-4", "optim.eps=1e-3")


@pytest.mark.parametrize("launcher, stage, recipe, field", [
    # Attention alone leaves the head without a gradient, which several processes must be told.
    ("torchrun", "distill", "quickstart_dide", "objective.soft_labels=false"),
    # Every pair is compared with those of the other process, too. Without words, since each process hides others.
    ("torchrun", "pretrain", "quickstart_dide_pretrain", "objective={kind: pretrain, tasks: [cmc]}"),
    ("accelerate", "distill", "quickstart_dide", "objective.attention=none"),
    # Each process holds half of the student (for every kind, see test_fsdp.py).
    ("torchrun", "distill", "quickstart_dide", "train.fsdp=true"),
])
def test_two_processes_equal_one_with_the_doubled_batch(world, well, tmp_path, launcher, stage, recipe, field):
    arguments = (stage, "-r", recipe, "--runs", str(tmp_path / "runs"), field, *STEPS)
    two = launch(world, "-m", "vldistill", *arguments, "--name", "two", "train.batch.pairs=4", launcher=launcher)
    assert two.returncode == 0, two.stderr[-3000:]
    result = json.loads(two.stdout.strip().splitlines()[-1])
    assert two.stdout.count('{"run"') == 1 and "8 pairs = 4 x 1 accumulated x 2 process(es)" in two.stdout
    one = well(*arguments, "--name", "one", "train.batch.pairs=8").last
    assert result["accuracy"] == one["accuracy"]
    # What is logged is the mean over the processes.
    files = [(Path(row["run"]) / "metrics.jsonl").read_text().splitlines() for row in (result, one)]
    for ours, theirs in zip(*[map(json.loads, lines) for lines in files], strict=True):
        assert {name: ours[name] for name in ours if name.startswith(("loss", "negatives"))} == pytest.approx(
            {name: theirs[name] for name in theirs if name.startswith(("loss", "negatives"))}, rel=1e-3)
    first, second = (load_file(Path(row["run"]) / "model/model.safetensors") for row in (result, one))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=5e-6, rtol=1e-4, msg=name)
