"""The SLURM scripts against a SLURM in miniature (see slurm_stubs.py) and a `vldistill` that only notes its words."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import slurm_stubs

from vldistill.errors import InputError
from vldistill.reproduce.grid import write_grid

ROOT = Path(__file__).parents[2]
BIN = ROOT / "bin"
JOBS = ("prepare", "cache", "train", "evaluate")
SHELL = [
    path
    for path in sorted(BIN.iterdir())
    if path.suffix in (".sh", ".sbatch")
    or (path.is_file() and path.suffix == "" and path.read_text().startswith("#!/usr/bin/env bash"))
]

NOTING = f"""#!{sys.executable} -S
import json, os, pathlib, sys
if sys.argv[1] == "reproduce":
    python = pathlib.Path(sys.argv[0]).with_name("python")
    os.execv(python, [python, "-m", "vldistill", *sys.argv[1:]])
names = ("SLURM_PROCID", "SLURM_RESTART_COUNT", "OMP_NUM_THREADS", "SRUN_CPUS_PER_TASK", "TOKENIZERS_PARALLELISM",
         "HF_HUB_OFFLINE", "HDF5_USE_FILE_LOCKING", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID",
         "VLDISTILL_LOCK_WAIT")
with open("noted.jsonl", "a") as file:
    file.write(json.dumps([sys.argv[1:], {{name: os.environ[name] for name in names if name in os.environ}}]) + "\\n")
codes = pathlib.Path("codes")
if sys.argv[1] in ("pretrain", "finetune", "distill") and codes.exists():
    first, *rest = codes.read_text().split()
    if rest:
        codes.write_text(" ".join(rest))
    sys.exit(int(first))
"""


@dataclass
class Cluster:
    """home: the stubs' notes. work: where the user works; its name has a space."""

    home: Path
    work: Path
    environment: dict[str, str]

    def start(self, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            cwd=self.work,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def noted(self) -> list[tuple[list[str], dict[str, str]]]:
        """Words and environment of every `vldistill` so far."""
        path = self.work / "noted.jsonl"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def calls(self, name: str) -> list[list[str]]:
        return slurm_stubs.calls(self.home, name)

    def log(self, pattern: str = "*.log") -> str:
        return "".join(path.read_text() for path in sorted(self.work.rglob(pattern)))

    def ended(self) -> list[int | None]:
        """The code of each job, in order; None for one that was never started."""
        return [json.loads(path.read_text()) for path in sorted(self.home.glob("job-*"), key=lambda path: int(path.name[4:]))]


@pytest.fixture
def cluster(tmp_path):
    programs = slurm_stubs.install(tmp_path / "slurm")
    venv = tmp_path / "my venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/vldistill").write_text(NOTING)
    (venv / "bin/vldistill").chmod(0o755)
    (venv / "bin/python").symlink_to(sys.executable)
    work = tmp_path / "my work"
    work.mkdir()
    packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
    return Cluster(
        tmp_path / "slurm",
        work,
        {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "STUB_SLURM": str(tmp_path / "slurm"),
            "VLDISTILL_VENV": str(venv),
            "PYTHONPATH": packages,
            "VLDISTILL_ROOT": str(ROOT),
            "HOME": str(tmp_path),
            "STUB_CPUS": "3",
        },
    )


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_the_shell_can_read_it(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    # 1091: files that are sourced by a path from a variable.
    done = subprocess.run(["shellcheck", "--exclude=SC1091", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [*(f"{job}.sbatch" for job in JOBS), "grid.sh"])
def test_a_call_without_arguments_is_told_how(cluster, name):
    script = BIN / name
    assert script.stat().st_mode & stat.S_IXUSR
    done = cluster.start(script)
    assert done.returncode == 2 and f"bin/{name} " in done.stderr and "#" not in done.stderr.splitlines()[0]
    # The whole header and nothing else.
    header = [line for line in script.read_text().splitlines()[1:] if line.startswith("# ")]
    assert len(done.stderr.splitlines()) == next(
        number for number, line in enumerate(script.read_text().splitlines()[1:]) if not line.startswith("# ")
    )
    assert done.stderr.splitlines()[-1] == header[len(done.stderr.splitlines()) - 1].removeprefix("# ")
    assert not cluster.noted()


def test_what_a_job_finds_in_its_environment(cluster):
    assert cluster.start("sbatch", BIN / "train.sbatch", "distill", "--recipe", "a recipe.yaml", "text=two words").returncode == 0
    [(words, found)] = cluster.noted()
    assert words == ["distill", "--resume", "auto", "--recipe", "a recipe.yaml", "text=two words"]
    job = int(found["SLURM_JOB_ID"])
    assert found == {
        "SLURM_PROCID": "0",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": str(job),
        "OMP_NUM_THREADS": "3",
        "SRUN_CPUS_PER_TASK": "3",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(10_000 + job % 20_000),
        "VLDISTILL_LOCK_WAIT": "300",
    }


def test_without_a_word_about_the_repository_the_folder_of_submission_is_it(cluster):
    """A job runs a copy of its script, beside which there is nothing else."""
    del cluster.environment["VLDISTILL_ROOT"]
    assert cluster.start("sbatch", BIN / "prepare.sbatch", "toy").returncode == 0
    assert cluster.ended() == [1] and not cluster.noted()
    (cluster.work / "bin").symlink_to(BIN)
    assert cluster.start("sbatch", "bin/prepare.sbatch", "toy").returncode == 0
    assert cluster.ended() == [1, 0] and cluster.noted()[0][0] == ["prepare", "toy"]


def test_several_nodes_start_a_process_a_gpu(cluster):
    done = cluster.start("sbatch", "--nodes=2", "--ntasks-per-node=2", BIN / "train.sbatch", "pretrain", "--recipe", "r")
    assert done.returncode == 0
    assert sorted(found["SLURM_PROCID"] for _, found in cluster.noted()) == ["0", "1", "2", "3"]
    assert len(cluster.calls("srun")) == 1


@pytest.mark.parametrize("array", [(), ("--array=2-2",)])
def test_a_run_that_leaves_with_85_is_put_back_until_the_cap(cluster, array):
    (cluster.work / "codes").write_text("85 85 0")
    words = ("distill", "--recipe", "r")
    (cluster.work / "runs.txt").write_text("\n\n" + " ".join(words) + "\n")
    given = ("--from", "runs.txt") if array else words
    assert cluster.start("sbatch", *array, BIN / "train.sbatch", *given).returncode == 0
    assert [found.get("SLURM_RESTART_COUNT") for _, found in cluster.noted()] == [None, "1", "2"]
    assert len({json.dumps(called) for called, _ in cluster.noted()}) == 1, "the first start and the others take the same line"
    # In an array by the task's own name: the last one's number is that of the whole array.
    asked = [call[1] for call in cluster.calls("scontrol") if call[0] == "requeue"]
    number = cluster.noted()[0][1]["SLURM_JOB_ID"]
    assert asked == [f"{number}_2" if array else number] * 2 and cluster.ended() == [0]
    assert "restart 2 of at most 20" in cluster.log(), "the log of a restart follows the one before"

    (cluster.work / "codes").write_text("85")
    (cluster.work / "noted.jsonl").unlink()
    cluster.start("sbatch", *array, BIN / "train.sbatch", *given, VLDISTILL_MOST_RESTARTS="1")
    assert len(cluster.noted()) == 2 and cluster.ended() == [0, 85]
    assert "left after 1 restart(s), the most it may have" in cluster.log()


@pytest.mark.parametrize("code", [1, 2, 130, 137])
def test_other_codes_are_the_jobs_own(cluster, code):
    (cluster.work / "codes").write_text(str(code))
    cluster.start("sbatch", BIN / "train.sbatch", "distill", "--recipe", "r")
    assert cluster.ended() == [code] and len(cluster.noted()) == 1
    assert not [call for call in cluster.calls("scontrol") if call[0] == "requeue"]


@pytest.mark.parametrize("times, ended", [(11, 0), (12, 85)])
def test_a_controller_that_does_not_answer_is_asked_for_a_minute(cluster, times, ended):
    (cluster.work / "codes").write_text("85 0")
    cluster.start(
        "sbatch", BIN / "train.sbatch", "distill", "--recipe", "r", STUB_REFUSED=str(times), VLDISTILL_REQUEUE_EVERY="0"
    )
    assert cluster.ended() == [ended] and ("scontrol refused" in cluster.log()) == (ended == 85)
    assert len([call for call in cluster.calls("scontrol") if call[0] == "requeue"]) == 12


def test_a_run_whose_folder_another_process_holds_is_put_back_with_a_code_of_its_own(cluster):
    (cluster.work / "codes").write_text("75 85 0")
    cluster.start("sbatch", BIN / "train.sbatch", "distill", "--recipe", "r")
    assert cluster.ended() == [0] and len(cluster.noted()) == 3
    assert {found["VLDISTILL_LOCK_WAIT"] for _, found in cluster.noted()} == {"300"}
    (cluster.work / "codes").write_text("75")
    cluster.start("sbatch", BIN / "train.sbatch", "distill", "--recipe", "r", VLDISTILL_MOST_RESTARTS="1")
    assert cluster.ended() == [0, 75]


def test_steps_get_their_jobs_environment_where_jobs_get_nothing_of_the_users(cluster):
    cluster.start("sbatch", BIN / "train.sbatch", "distill", "--recipe", "r", SLURM_EXPORT_ENV="NONE")
    assert cluster.ended() == [0] and cluster.noted()[0][1]["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("env", ["", "exit 125"], ids=["env", "older env"])
def test_a_notice_before_python_listens_ends_nothing(cluster, env):
    """The noting program takes no signal at all: what comes is held, or with an older `env` ignored."""
    if env:
        real = shutil.which("env")
        (cluster.home / "bin/env").write_text(f'#!/bin/sh\ncase $1 in --block*) exit 125 ;; esac\nexec {real} "$@"\n')
        (cluster.home / "bin/env").chmod(0o755)
    program = cluster.home.parent / "my venv/bin/vldistill"
    program.write_text(
        NOTING.replace("import json", "import os, signal; os.kill(os.getpid(), signal.SIGUSR2)\nimport json")
        + '\npathlib.Path("pending").write_text(str(signal.SIGUSR2 in signal.sigpending()))\n'
    )
    cluster.start("sbatch", BIN / "train.sbatch", "distill", "--recipe", "r")
    assert cluster.ended() == [0] and (cluster.work / "pending").read_text() == str(not env)


def test_a_job_that_is_cancelled_stays_away(cluster):
    """The cluster then sends TERM to all that the job has, the script's own shell among it."""
    srun = cluster.home / "bin/srun"
    srun.write_text("#!/bin/sh\nkill -TERM $PPID\nsleep 0.1\nexit 85\n")
    cluster.start("sbatch", BIN / "train.sbatch", "distill", "--recipe", "r")
    assert cluster.ended() == [85] and "is being ended from outside. Where SLURM puts it back" in cluster.log()
    assert not [call for call in cluster.calls("scontrol") if call[0] == "requeue"]


def test_shards_of_an_array_and_two_of_them_again(cluster):
    assert cluster.start("sbatch", "--array=0-2", BIN / "cache.sbatch", "--recipe", "r").returncode == 0
    assert [words for words, _ in cluster.noted()] == [["cache", "--recipe", "r", "--shard", f"{task}/3"] for task in range(3)]
    (cluster.work / "noted.jsonl").unlink()
    cluster.start("sbatch", "--array=1-2", BIN / "cache.sbatch", "--recipe", "r", VLDISTILL_SHARDS="8")
    assert [words[-1] for words, _ in cluster.noted()] == ["1/8", "2/8"]


GRID = """
# teachers' features are the same for both
prepare vqa --raw "/data/my vqa"
finetune --recipe quickstart_advl --name baseline   # labels alone
distill --recipe quickstart_advl --name advl objective.words=0
distill -r quickstart_dide --name one train.seed=7
"""


def test_a_grid_is_a_chain_of_jobs(cluster):
    (cluster.work / "my grid.txt").write_text(GRID)
    (cluster.home / "job-77").write_text("0")
    done = cluster.start(
        BIN / "grid.sh",
        "my grid.txt",
        "--seeds",
        "0,1",
        "--gpus",
        "a100:2",
        "--shards",
        "2",
        "--most",
        "3",
        "--after",
        "77",
        "--split",
        "test",
        VLDISTILL_SLURM_ARGS="--account=mine --partition=long",
    )
    assert done.returncode == 0, done.stderr
    submitted = cluster.calls("sbatch")
    names = [next(word.partition("=")[2] for word in call if word.startswith("--job-name=")) for call in submitted]
    assert names == list(JOBS)
    numbers = sorted(int(path.name[4:]) for path in cluster.home.glob("job-*"))
    for call, before in zip(submitted, numbers, strict=False):
        assert call[:4] == ["--parsable", "--export=ALL", "--account=mine", "--partition=long"]
        assert f"--dependency=afterok:{before}" in call and "--kill-on-invalid-dep=yes" in call
    assert done.stdout == f"{numbers[-1]}\n", "for --after of another grid"
    sizes = [[word for word in call if word.startswith(("--gpus", "--ntasks", "--nodes", "--array"))] for call in submitted]
    one = "--gpus-per-node=a100:1"
    assert sizes == [
        [],
        [one, "--array=0-1"],
        ["--gpus-per-node=a100:2", "--ntasks-per-node=2", "--nodes=1", "--array=0-4%3"],
        [one],
    ]


def test_what_a_grids_jobs_do(cluster):
    (cluster.work / "my grid.txt").write_text(GRID)
    done = cluster.start(BIN / "grid.sh", "my grid.txt", "--seeds", "0,1", "--shards", "2")
    assert done.returncode == 0, done.stderr
    assert cluster.ended() == [0] * 4
    called = [words for words, _ in cluster.noted()]
    advl, dide = "runs/quickstart_advl", "runs/quickstart_dide"
    runs = [f"{advl}/baseline/seed0", f"{advl}/baseline/seed1", f"{advl}/advl/seed0", f"{advl}/advl/seed1", f"{dide}/one/seed7"]
    resume = ["--resume", "auto"]
    assert called == [
        ["prepare", "vqa", "--raw", "/data/my vqa"],
        *(["cache", "--recipe", "quickstart_advl", "objective.words=0", "--shard", f"{task}/2"] for task in (0, 1)),
        *(["finetune", *resume, "--recipe", "quickstart_advl", "--name", "baseline", f"train.seed={seed}"] for seed in (0, 1)),
        *(
            ["distill", *resume, "--recipe", "quickstart_advl", "--name", "advl", "objective.words=0", f"train.seed={seed}"]
            for seed in (0, 1)
        ),
        ["distill", *resume, "-r", "quickstart_dide", "--name", "one", "train.seed=7"],
        ["evaluate", *runs, "--split", "val"],
        ["report", *runs, "--out", "grids/my grid/report", "--overwrite"],
    ]


def test_more_runs_than_an_array_may_have_are_several_arrays(cluster):
    (cluster.work / "grid.txt").write_text(GRID)
    (cluster.work / "codes").write_text("0 1 0 0 0")
    done = cluster.start(BIN / "grid.sh", "grid.txt", "--seeds", "0,1", "--shards", "2", STUB_MOST_TASKS="2")
    assert done.returncode == 0, done.stderr
    arrays = [
        next(word for word in call if word.startswith("--array"))
        for call in cluster.calls("sbatch")
        if "--job-name=train" in call
    ]
    assert arrays == ["--array=0-1%8", "--array=0-1%8", "--array=0-0%8"]
    # Each waits for the end of the one before, and evaluation for the success of all.
    assert cluster.ended() == [0, 0, 1, 0, 0, None]
    trained = [words for words, _ in cluster.noted() if words[0] in ("finetune", "distill")]
    assert len(trained) == 5 and len({json.dumps(words) for words in trained}) == 5

    refused = cluster.start(BIN / "grid.sh", "grid.txt", "--shards", "3", STUB_MOST_TASKS="2")
    assert refused.returncode == 2 and "--shards 3: an array has at most 2 tasks here" in refused.stderr


def test_a_grid_that_is_edited_and_submitted_again_leaves_the_lines_of_waiting_jobs(cluster):
    (cluster.work / "grid.txt").write_text(GRID)
    assert cluster.start(BIN / "grid.sh", "grid.txt").returncode == 0
    [first] = (cluster.work / "grids/grid/lines").iterdir()
    before = {path.name: path.read_text() for path in first.iterdir()}
    (cluster.work / "grid.txt").write_text(GRID.replace("seed=7", "seed=8"))
    assert cluster.start(BIN / "grid.sh", "grid.txt").returncode == 0
    assert {path.name: path.read_text() for path in first.iterdir()} == before
    [other] = set((cluster.work / "grids/grid/lines").iterdir()) - {first}
    assert "seed=8" in (other / "train-0.txt").read_text()
    # Every file that a job of the second reads is of the second.
    named = [word for call in cluster.calls("sbatch")[-4:] for word in call if word.endswith(".txt")]
    assert len(named) == 4 and all(str(other.relative_to(cluster.work)) in word for word in named)


def test_a_failure_stops_what_waits_for_it(cluster):
    (cluster.work / "grid.txt").write_text(GRID)
    (cluster.work / "codes").write_text("0 1 0")
    assert cluster.start(BIN / "grid.sh", "grid.txt").returncode == 0
    assert cluster.ended() == [0, 0, 1, None], "the other trainings of the array run all the same"
    assert [words[0] for words, _ in cluster.noted()][-3:] == ["finetune", "distill", "distill"]


def test_a_dry_run_submits_and_writes_nothing(cluster):
    (cluster.work / "grid.txt").write_text(GRID)
    done = cluster.start(BIN / "grid.sh", "grid.txt", "--seeds", "0,1", "--dry-run")
    assert done.returncode == 0 and not done.stdout and not cluster.calls("sbatch")
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["prepare", "cache", *["train"] * 5]
    assert [path.name for path in cluster.work.iterdir()] == ["grid.txt"]


def test_a_queue_that_takes_no_job_ends_the_grid(cluster):
    (cluster.work / "grid.txt").write_text(GRID)
    (cluster.home / "bin/sbatch").write_text("#!/bin/sh\necho invalid account >&2\necho 'sbatch $*' >> refused\nexit 1\n")
    done = cluster.start(BIN / "grid.sh", "grid.txt")
    assert done.returncode == 1 and "invalid account" in done.stderr and not done.stdout
    assert len((cluster.work / "refused").read_text().splitlines()) == 1


DIDE = "distill --recipe quickstart_dide"


@pytest.mark.parametrize(
    "text, told",
    [
        ("distil --recipe quickstart_dide --name a", "grid.txt:1: begins with 'distil' (one of prepare, pretrain, "),
        ("\ndistill --recipe quickstart_dibe --name a", "grid.txt:2: "),
        (f"{DIDE} --name a optim.lrr=1", "lrr"),
        (DIDE, "grid.txt:1: has no --name"),
        (f"{DIDE} --name a --overwrite", "unrecognized arguments: --overwrite"),
        (f"{DIDE}_pretrain --name a", "has objective `pretrain`, which `distill` does not train"),
        (
            f"{DIDE} --name a\n{DIDE} --name a optim.lr=1e-4",
            "grid.txt:2: would write runs/quickstart_dide/a/seed0, as line 1 does",
        ),
        (f"{DIDE} --name '", "grid.txt:1: no closing quotation"),
        ("prepare toy", "has no training"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_nothing_written(tmp_path, text, told):
    (tmp_path / "grid.txt").write_text(text + "\n")
    with pytest.raises(InputError) as refused:
        write_grid(tmp_path / "grid.txt", tmp_path / "out", seeds=[], most_tasks=1001, dry_run=False)
    assert told in str(refused.value) and [path.name for path in tmp_path.iterdir()] == ["grid.txt"]


@pytest.mark.parametrize(
    "text, options, told",
    [
        (DIDE, (), "vldistill: grid.txt:1: has no --name"),
        (f"{DIDE} --name a", ("--seeds", "a"), "--seeds a: numbers"),
        (f"{DIDE} --name a", ("--gpus", "many"), "--gpus many is no number above 0"),
        (f"{DIDE} --name a", ("--shards", "0"), "--shards 0 is no number above 0"),
        (f"{DIDE} --name a", ("--seed", "0"), "unknown option --seed"),
    ],
)
def test_nonsense_is_refused_before_anything_is_submitted(cluster, text, options, told):
    (cluster.work / "grid.txt").write_text(text + "\n")
    done = cluster.start(BIN / "grid.sh", "grid.txt", *options)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert not cluster.calls("sbatch") and [path.name for path in cluster.work.iterdir()] == ["grid.txt"]
