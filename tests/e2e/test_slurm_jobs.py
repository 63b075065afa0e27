"""SLURM jobs that really train, in a SLURM in miniature (see slurm_stubs.py): minutes of them, pytest -m slow. What the scripts
do with programs that end at once is in cli/test_slurm_scripts.py, a real SLURM in test_real_slurm.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_stubs
import torch
from advl_worlds import advl_recipe, write_teachers
from launching import run_whole
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BIN = ROOT / "bin"
# With AdamW's usual 1e-8 a gradient that is nothing but rounding moves a weight by a whole step, either way.
STEPS = (
    "train.steps=12",
    "train.validate_every=12",
    "train.log_every=1",
    "train.eval_pairs=8",
    "train.checkpoint_every=1",
    "optim.lr=1e-4",
    "optim.eps=1e-3",
)
RECIPE = advl_recipe("""
objective: {kind: advl, answer_loss: softmax}
train: {steps: 2, batch: {pairs: 8}, eval_pairs: 32, log_every: 1, validate_every: 2}
""")
GRID = """
prepare toy --scale 0.01 --datasets vqa
finetune --recipe "my recipe.yaml" --name labels
distill --recipe "my recipe.yaml" --name advl
"""


@pytest.fixture
def submit(tmp_path):
    """A function: a program in a folder, with the miniature on PATH."""
    programs = slurm_stubs.install(tmp_path / "slurm")
    # A console script lies beside the interpreter, in the environment or outside of one.
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {
        **os.environ,
        "PATH": path,
        "STUB_SLURM": str(tmp_path / "slurm"),
        "VLDISTILL_ROOT": str(ROOT),
        "VLDISTILL_VENV": sys.prefix,
        "PYTHONPATH": str(ROOT),
    }

    def start(folder: Path, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return run_whole([str(word) for word in words], folder, {**given, **more}, 300)

    return start


def test_two_tasks_that_were_put_back_equal_one_process_with_the_doubled_batch(world, well, submit, tmp_path):
    runs, log = tmp_path / "my runs", tmp_path / "train.log"
    arguments = ("distill", "--recipe", "quickstart_dide", "--runs", runs, *STEPS)
    done = submit(
        world,
        "sbatch",
        "--ntasks-per-node=2",
        f"--output={log}",
        BIN / "train.sbatch",
        *arguments,
        "--name",
        "two",
        "train.batch.pairs=4",
        STUB_TELL=f"{runs}/quickstart_dide/two/seed0/checkpoints/step-*",
    )
    assert done.returncode == 0, done.stderr
    told = log.read_text()
    assert "SIGUSR2" in told and "goes back into the queue, restart 1 of at most 20" in told, told
    assert told.count('{"run"') == 1 and "8 pairs = 4 x 1 accumulated x 2 process(es)" in told and "going on after step" in told
    run = runs / "quickstart_dide/two/seed0"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["complete"] and len(manifest["resumed"]) == 1
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [*range(1, 13), 12]

    one = Path(well(*arguments, "--name", "one", "train.batch.pairs=8").last["run"])
    first, second = (load_file(folder / "model/model.safetensors") for folder in (run, one))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=2e-5, rtol=1e-3, msg=name)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with small teachers and a recipe for them, as the working folder."""
    folder = tmp_path / "my work"
    write_teachers(folder / "teachers")
    (folder / "my recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(folder)
    return folder


def check_cache(command) -> None:
    """That it is whole."""
    verified = command("cache", "--recipe", "my recipe.yaml", "--verify")
    assert verified.code == 0 and verified.flat.count(" 0 fault(s)") == 3, verified.err
    assert '"missing":0' in command("cache", "--recipe", "my recipe.yaml").out


def test_shards_of_an_array_are_one_whole_cache(command, well, submit, work, monkeypatch):
    well("prepare", "toy", "--scale", "0.01", "--datasets", "vqa")
    done = submit(work, "sbatch", "--array=0-1", "--output=%a.log", BIN / "cache.sbatch", "--recipe", "my recipe.yaml")
    assert done.returncode == 0, done.stderr
    check_cache(command)

    # Read from a node's own disk they teach the same.
    distil = ("distill", "--recipe", "my recipe.yaml", "cache.mode=require")
    here = Path(well(*distil, "--name", "here").last["run"])
    (work / "disk").mkdir()
    monkeypatch.setenv("VLDISTILL_STAGE", str(work / "disk"))
    result = well(*distil, "--name", "staged")
    there = Path(result.last["run"])
    assert result.out.count("were copied in") == 3
    assert (here / "model/model.safetensors").read_bytes() == (there / "model/model.safetensors").read_bytes()
    parents = [json.loads((run / "manifest.json").read_text())["parents"] for run in (here, there)]
    assert parents[0] == parents[1]


def test_a_grid_from_raw_files_to_a_report(command, submit, work, tmp_path):
    (work / "grid.txt").write_text(GRID)
    done = submit(work, BIN / "grid.sh", "grid.txt", "--shards", "2")
    assert done.returncode == 0, done.stderr
    logs = {path.name.partition("-")[0]: path.read_text() for path in sorted((work / "grids/grid/logs").iterdir())}
    codes = [json.loads(path.read_text()) for path in (tmp_path / "slurm").glob("job-*")]
    assert codes == [0] * 4, logs
    runs = [work / f"runs/my recipe/{name}/seed0" for name in ("labels", "advl")]
    assert all(json.loads((run / "manifest.json").read_text())["complete"] for run in runs)
    assert "rows to compute" not in logs["train"] and "to compute" in logs["cache"]
    assert all("accuracy" in json.loads((run / "eval/val/metrics.json").read_text()) for run in runs)
    assert "advl" in (work / "grids/grid/report/tables.md").read_text()
    check_cache(command)
