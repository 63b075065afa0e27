"""Processes that find each other: what is said while one is missing, what ends the wait, and that a refusal of one ends all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from launching import ends_of, start_pair

from vldistill.errors import InputError
from vldistill.joining import join, timeout
from vldistill.training.guard import PREEMPTED

ARGUMENTS = ("distill", "-r", "quickstart_dide", "--name", "a", "train.steps=2", "train.batch.pairs=4", "train.eval_pairs=32")


@pytest.fixture
def alone(world, tmp_path):
    """A function: task 0 of 2 as in the shell of `srun -n2 --pty`, whose second task never comes."""
    started = []

    def start(**more: str) -> subprocess.Popen[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        task = {
            "SLURM_JOB_ID": "1",
            "SLURM_STEP_ID": "0",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        words = [sys.executable, "-m", "vldistill", *ARGUMENTS, "--runs", str(tmp_path)]
        started.append(
            subprocess.Popen(
                words, cwd=world, env={**os.environ, **task, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_second_task_that_never_comes(alone):
    process = alone(VLDISTILL_TIMEOUT="7")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "waiting up to 7 s for 1 more of 2 processes, at 127.0.0.1:" in out, out + err
    assert err.count("\n") == 1 and "waited 7 s in vain for 1 more of 2 processes" in err and "srun vldistill" in err


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, PREEMPTED), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)])
def test_a_signal_ends_the_wait(alone, number, code):
    process = alone()
    assert "waiting up to 1800 s" in process.stdout.readline()
    sent = time.monotonic()
    process.send_signal(number)
    assert process.wait(20) == code and time.monotonic() - sent < 10


@pytest.mark.slow
def test_where_one_process_is_refused_the_other_leaves_with_its_code(world, tmp_path):
    """The run is there, which the first of them alone looks at."""
    assert [code for code, _ in ends_of(start_pair(world, *ARGUMENTS, "--runs", tmp_path))] == [0, 0]
    started = time.monotonic()
    ends = ends_of(start_pair(world, *ARGUMENTS, "--runs", tmp_path))
    assert [code for code, _ in ends] == [2, 2] and time.monotonic() - started < 30
    assert "already exists" in ends[0][1] and "process 0 has left: " in ends[1][1] and "already exists" in ends[1][1]


def test_a_port_that_another_program_has(world, tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
            monkeypatch.setenv(name, value)
        with pytest.raises(Exception, match=f"127.0.0.1:{port}: cannot be opened: .*set MASTER_PORT"):
            join(print)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_limit_that_is_none(monkeypatch, text):
    monkeypatch.setenv("VLDISTILL_TIMEOUT", text)
    with pytest.raises(InputError, match="is no number of seconds above 0"):
        timeout()
