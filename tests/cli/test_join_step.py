"""Where a process's rank comes from: SLURM's names mean one only in a task of a step."""

from __future__ import annotations

import os
from unittest import mock

import pytest
import slurm_stubs

from vldistill.errors import InputError
from vldistill.runtime import join_step, refuse_unlaunched

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TASK = {
    "SLURM_JOB_ID": "123456",
    "SLURM_NTASKS": "6",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node1",
    "SLURM_STEP_TASKS_PER_NODE": "4,2",
}


@pytest.fixture
def joined(tmp_path):
    """A function: the ranks that `join_step` finds in an environment."""
    programs = slurm_stubs.install(tmp_path)

    def join(**given: str) -> dict[str, str]:
        environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "STUB_SLURM": str(tmp_path), **given}
        with mock.patch.dict(os.environ, environment, clear=True):
            join_step()
            refuse_unlaunched()
            return {name: os.environ[name] for name in NAMES if name in os.environ}

    return join


def test_a_task_of_a_step_takes_its_rank_from_slurm(joined):
    assert joined(**TASK) == {
        "RANK": "5",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": str(10_000 + 123456 % 20_000),
    }


@pytest.mark.parametrize(
    "listed, node, expected",
    [("4(x2),3", "0", "4"), ("4(x2),3", "1", "4"), ("4(x2),3", "2", "3"), ("6", "0", "6"), ("2(x3)", "2", "2")],
)
def test_tasks_of_this_node(joined, listed, node, expected):
    assert joined(**TASK | {"SLURM_STEP_TASKS_PER_NODE": listed, "SLURM_NODEID": node})["LOCAL_WORLD_SIZE"] == expected


def test_what_the_job_set_stays(joined):
    found = joined(**TASK, MASTER_ADDR="10.0.0.1", MASTER_PORT="777")
    assert found["MASTER_ADDR"] == "10.0.0.1" and found["MASTER_PORT"] == "777" and found["RANK"] == "5"


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_ID": None},
        {"SLURM_STEP_ID": "batch"},
        {"SLURM_STEP_ID": "extern"},
        {"SLURM_STEP_ID": "interactive"},
        {"SLURM_STEP_ID": "4294967291"},
        {"SLURM_STEP_ID": "4294967290"},  # a batch script and an interactive shell, as numbers
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": None},
    ],
    ids=str,
)
def test_what_is_no_task_of_several_is_left_alone(joined, change):
    assert joined(**{name: value for name, value in (TASK | change).items() if value is not None}) == {}


def test_a_launchers_ranks_win(joined):
    """One torchrun a node, started by srun."""
    assert joined(**TASK, RANK="0", WORLD_SIZE="2") == {"RANK": "0", "WORLD_SIZE": "2"}


def test_tasks_without_ranks_are_refused(joined):
    with pytest.raises(InputError, match="srun started 6 tasks without ranks"):
        joined(**{name: value for name, value in TASK.items() if name != "SLURM_PROCID"})


def test_nodes_without_a_name_are_told(joined):
    with pytest.raises(InputError, match="scontrol does not say which nodes"):
        joined(**TASK | {"PATH": "/nowhere"})


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, 1), ({"RANK": "0", "WORLD_SIZE": "4"}, 4), ({"SLURM_PROCID": "0"}, 6), ({"RANK": "1", "WORLD_SIZE": "4"}, None)],
)
def test_a_dry_run_counts_the_processes_of_its_launcher(given, count, world, command, tmp_path):
    """The effective batch, and what depends on it; the first process alone says so."""
    programs = slurm_stubs.install(tmp_path)
    task = {**TASK, "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "6"} if "SLURM_PROCID" in given else {}
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "STUB_SLURM": str(tmp_path), **task, **given}
    with mock.patch.dict(os.environ, environment):
        told = command("finetune", "-r", "quickstart_teacher", "train.batch.pairs=8", "--dry-run", "--name", "x")
    assert told.code == 0, told.err
    if count is None:
        assert told.out == ""
    else:
        assert f"{8 * count} pairs = 8 x 1 accumulated x {count} process(es)" in told.out
