"""Two processes under a launcher train as one process does with the doubled batch, and one of them writes the run (for those that
`srun` starts, see test_slurm_jobs.py)."""

from __future__ import annotations

import json
from pathlib import Path

import forked
import pytest
import torch
from launching import LAUNCHERS, launch
from safetensors.torch import load_file

# With AdamW's usual 1e-8 a gradient that is nothing but rounding moves a weight by a whole step, either way.
STEPS = ("train.steps=3", "train.validate_every=3", "train.log_every=1", "train.eval_pairs=8", "optim.lr=1e-4", "optim.eps=1e-3")


def printed_by_two(world: Path, log: Path, how: str, *words: str) -> str:
    """What both processes of `vldistill WORDS` print; how: by which launcher, or "none", the cheapest."""
    if how in LAUNCHERS:
        both = launch(world, "-m", "vldistill", *words, launcher=how)
        assert both.returncode == 0, both.stderr[-3000:]
        return both.stdout
    processes = forked.pair(world, log, *words)
    assert [code for code, _ in forked.ends_of(processes)] == [0, 0], processes[0].err[-3000:]
    return "".join(process.out for process in processes)


@pytest.mark.parametrize(
    "how, stage, recipe, field",
    [
        # Attention alone leaves the head without a gradient, which several processes must be told.
        ("torchrun", "distill", "quickstart_dide", "objective.soft_labels=false"),
        # Every pair is compared with those of the other process, too. Without words, since each process hides others.
        ("none", "pretrain", "quickstart_dide_pretrain", "objective={kind: pretrain, tasks: [cmc]}"),
        pytest.param("accelerate", "distill", "quickstart_dide", "objective.attention=none", marks=pytest.mark.slow),
        # Each process holds half of the student (for every kind, see test_fsdp.py).
        ("none", "distill", "quickstart_dide", "train.fsdp=true"),
    ],
)
def test_two_processes_equal_one_with_the_doubled_batch(world, well, tmp_path, how, stage, recipe, field):
    arguments = (stage, "-r", recipe, "--runs", str(tmp_path / "runs"), field, *STEPS)
    out = printed_by_two(world, tmp_path / "two", how, *arguments, "--name", "two", "train.batch.pairs=4")
    [result] = [json.loads(line) for line in out.splitlines() if line.startswith('{"run"')]
    assert "8 pairs = 4 x 1 accumulated x 2 process(es)" in out
    one = well(*arguments, "--name", "one", "train.batch.pairs=8").last
    assert result["accuracy"] == one["accuracy"]
    # What is logged is the mean over the processes.
    files = [(Path(row["run"]) / "metrics.jsonl").read_text().splitlines() for row in (result, one)]
    for ours, theirs in zip(*[map(json.loads, lines) for lines in files], strict=True):
        assert {name: ours[name] for name in ours if name.startswith(("loss", "negatives"))} == pytest.approx(
            {name: theirs[name] for name in theirs if name.startswith(("loss", "negatives"))}, rel=1e-3
        )
    first, second = (load_file(Path(row["run"]) / "model/model.safetensors") for row in (result, one))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=5e-6, rtol=1e-4, msg=name)
