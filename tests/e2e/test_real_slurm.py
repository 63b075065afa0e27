"""The scripts of `bin/` on a real SLURM (see real_slurm.py), from raw files to a grid's report: pytest -m slow."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import real_slurm
from advl_worlds import advl_recipe, write_teachers
from real_slurm import Ended, until
from safetensors.torch import load_file

from vldistill.locking import exclusive

ROOT = Path(__file__).parents[2]
BIN = ROOT / "bin"
WELL = Ended("COMPLETED", 0, 0)
RECIPE = advl_recipe("""
objective: {kind: advl, answer_loss: softmax}
train: {steps: 300, batch: {pairs: 4}, eval_pairs: 64, log_every: 20, validate_every: 100}
""")
GRID = """
prepare toy --scale 0.02 --datasets vqa
finetune --recipe "my recipe.yaml" --name labels train.steps=20
distill --recipe "my recipe.yaml" --name advl train.steps=20
"""
BROKEN = 'finetune --recipe "my recipe.yaml" --name broken train.steps=20 data.path=artifacts/none\n'

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(real_slurm.missing()), reason=real_slurm.missing() or "-")]


@dataclass
class Site:
    """A SLURM, and the folder in which a user works there."""

    slurm: real_slurm.Slurm
    work: Path

    def submit(self, *words: str | Path, **more: str) -> str:
        """The job's number."""
        return self.slurm.call("sbatch", "--parsable", "--cpus-per-task=1", *words, cwd=self.work, **more)

    def train(self, name: str, *words: str | Path, options: tuple[str, ...] = (), **more: str) -> tuple[str, Path, Path]:
        """A training that was submitted: its job, its log and its run."""
        job = self.submit(*options, BIN / "train.sbatch", "distill", "--recipe", "my recipe.yaml", "--name", name, *words, **more)
        return job, self.work / f"train-{job}.log", self.work / f"runs/my recipe/{name}/seed0"

    def logs(self, pattern: str = "*.log") -> str:
        return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(self.work.rglob(pattern)))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """With data and teachers' features, made by jobs."""
    base = tmp_path_factory.mktemp("site")
    with ExitStack() as ends:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        given = {"PATH": f"{path}{os.pathsep}/usr/sbin", "VLDISTILL_ROOT": str(ROOT), "VLDISTILL_VENV": sys.prefix}
        found = Site(real_slurm.start(base / "slurm", ends, **given), base / "my work")
        write_teachers(found.work / "teachers")
        (found.work / "my recipe.yaml").write_text(RECIPE)
        prepared = found.submit(BIN / "prepare.sbatch", "toy", "--scale", "0.02", "--datasets", "vqa")
        cached = found.submit(
            "--array=0-1", f"--dependency=afterok:{prepared}", BIN / "cache.sbatch", "--recipe", "my recipe.yaml"
        )
        assert found.slurm.wait(prepared) == [WELL], found.logs()
        assert found.slurm.wait(cached) == [WELL, WELL], found.logs()
        yield found


@pytest.fixture(scope="module")
def straight(site):
    """The weights of a run of one process that nobody disturbed."""
    job, log, run = site.train("straight")
    assert site.slurm.wait(job) == [WELL], log.read_text()
    return (run / "model/model.safetensors").read_bytes()


def steps(run: Path) -> list[int]:
    """Of the run's curve, but for validations."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if "lr" in row]


def test_a_run_that_is_told_to_leave_goes_back_and_ends_as_one_that_was_not(site, straight):
    job, log, run = site.train("told", "train.checkpoint_every=50")
    until(lambda: list(run.glob("checkpoints/step-*")), 120, "a checkpoint")
    site.slurm.call("scancel", "--signal=USR2", job)
    assert site.slurm.wait(job) == [Ended("COMPLETED", 0, 1)], log.read_text()
    told = log.read_text()
    assert "SIGUSR2" in told and "restart 1 of at most 20" in told and "going on after step" in told, told
    assert (run / "model/model.safetensors").read_bytes() == straight
    assert steps(run) == list(range(20, 301, 20))


def test_the_notice_before_the_time_is_up(site, straight):
    """Minutes are SLURM's smallest limit; the notice may come up to a minute early."""
    job, log, run = site.train("timed", "train.steps=20000", options=("--time=1", "--signal=USR2@30"))
    until(lambda: "goes back into the queue" in (log.read_text() if log.exists() else ""), 120, "the notice")
    until(lambda: "going on after step" in log.read_text(), 120, "the restart")
    site.slurm.call("scancel", job)
    site.slurm.wait(job)
    assert "SIGUSR2" in log.read_text()
    assert len(json.loads((run / "manifest.json").read_text())["resumed"]) == 1


def test_two_tasks_on_one_node_and_on_two(site):
    models = []
    # The second as where a job gets nothing of its user's environment but what it asks for, and hands nothing down by itself.
    for name, options in (("near", ("--ntasks-per-node=2",)), ("far", ("--nodes=2", "--export=VLDISTILL_ROOT,VLDISTILL_VENV"))):
        job, log, run = site.train(name, "train.steps=200", options=options)
        if name == "near":
            until(lambda log=log: log.exists() and re.search(r"^step", log.read_text(), re.M), 120, "the first steps")
            site.slurm.call("scancel", "--signal=USR2", job)
        assert site.slurm.wait(job) == [Ended("COMPLETED", 0, int(name == "near"))], log.read_text()
        told = log.read_text()
        assert "2 process(es)" in told and "CPU, 1 thread(s)" in told and told.count('{"run"') == 1
        models.append(load_file(run / "model/model.safetensors"))
    assert all(value.equal(models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_run_whose_folder_is_held_waits_and_is_put_back(site, tasks):
    """As by a process of a node that was lost and lives on."""
    run = site.work / f"runs/my recipe/held{tasks}/seed0"
    run.parent.mkdir(parents=True)
    with exclusive(run):
        job, log, _ = site.train(
            f"held{tasks}", "train.steps=20", options=(f"--ntasks-per-node={tasks}",), VLDISTILL_LOCK_WAIT="2"
        )
        until(lambda: log.exists() and "goes back into the queue" in log.read_text(), 60, "the job to give up")
    assert site.slurm.wait(job) == [Ended("COMPLETED", 0, 1)], log.read_text()
    assert "waited 2 s (VLDISTILL_LOCK_WAIT)" in log.read_text()


def test_a_notice_at_the_very_start_is_heard(site):
    job, log, _ = site.train("early", "train.steps=20")
    until(lambda: ".0 " in site.slurm.call("squeue", "-h", "-s", "-j", job) + " ", 60, "the step to begin")
    site.slurm.call("scancel", "--signal=USR2", job)
    assert site.slurm.wait(job) == [Ended("COMPLETED", 0, 1)], log.read_text()
    assert "left before the first step: SIGUSR2" in log.read_text()


def test_evaluation_and_report(site, straight):
    run = "runs/my recipe/straight/seed0"
    job = site.submit(BIN / "evaluate.sbatch", run, "--split", "val")
    assert site.slurm.wait(job) == [WELL], site.logs("evaluate*")
    assert "accuracy" in json.loads((site.work / run / "eval/val/metrics.json").read_text())


def test_a_grid_with_a_line_that_fails_and_the_same_grid_again(site):
    grid = site.work / "grid.txt"
    grid.write_text(GRID + BROKEN)

    def submitted() -> list[list[Ended]]:
        """How the jobs of each stage ended."""
        done = site.slurm.start(
            BIN / "grid.sh", grid, "--shards", "2", "--seeds", "0", cwd=site.work, VLDISTILL_SLURM_ARGS="--cpus-per-task=1"
        )
        assert done.returncode == 0, done.stderr
        jobs = re.findall(r"^\w+: job (\d+)", done.stderr, re.M)
        assert done.stdout.strip() == jobs[-1]
        return [site.slurm.wait(job) for job in jobs]

    first = submitted()
    # The line that fails does not stop the others; what waits for all of them is dropped.
    assert first[:2] == [[WELL], [WELL, WELL]] and first[2] == [WELL, WELL, Ended("FAILED", 2, 0)], site.logs()
    assert [one.state for one in first[3]] == ["CANCELLED"]
    models = {name: site.work / f"runs/my recipe/{name}/seed0/model/model.safetensors" for name in ("labels", "advl")}
    made = {name: path.stat().st_mtime_ns for name, path in models.items()}

    grid.write_text(GRID)
    assert submitted() == [[WELL], [WELL, WELL], [WELL, WELL], [WELL]], site.logs()
    assert {name: path.stat().st_mtime_ns for name, path in models.items()} == made, "what is complete is left as it is"
    assert "advl" in next(site.work.glob("grids/grid/**/tables.md")).read_text()
