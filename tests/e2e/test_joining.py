"""Processes that find each other: what is said while one is missing, what ends the wait, and that a refusal of one ends all."""

from __future__ import annotations

import signal
import socket
import time

import forked
import pytest
from forked import Forked, ends_of, pair

from vldistill import joining
from vldistill.errors import InputError
from vldistill.joining import join, timeout
from vldistill.training.preemption import PREEMPTED

ARGUMENTS = ("distill", "-r", "quickstart_dide", "--name", "a", "train.steps=2", "train.batch.pairs=4", "train.eval_pairs=32")


@pytest.fixture
def alone(world, tmp_path, monkeypatch):
    """A function: task 0 of 2 as in the shell of `srun -n2 --pty`, whose second task never comes. It waits half a second before
    it says so, and not five."""
    monkeypatch.setattr(joining, "_QUIET_SECONDS", 0.5)
    started = []

    def start(**more: str) -> Forked:
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
        }
        started.append(forked.command(world, tmp_path / "alone", *ARGUMENTS, "--runs", tmp_path, **task, **more))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_a_second_task_that_never_comes(alone):
    process = alone(VLDISTILL_TIMEOUT="2")
    code, out, err = process.wait(60), process.out, process.err
    assert code == 1 and "waiting up to 2 s for 1 more of 2 processes, at 127.0.0.1:" in out, out + err
    assert err.count("\n") == 1 and "waited 2 s in vain for 1 more of 2 processes" in err and "srun vldistill" in err


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, PREEMPTED), (signal.SIGINT, 130)])
def test_a_signal_ends_the_wait(alone, number, code):
    process = alone()
    while "waiting up to 1800 s" not in process.out:
        assert process.poll() is None, process.err
    sent = time.monotonic()
    process.send_signal(number)
    assert process.wait(20) == code and time.monotonic() - sent < 10


def test_where_one_process_is_refused_the_other_leaves_with_its_code(world, tmp_path):
    """The run is there, which the first of them alone looks at."""
    assert [code for code, _ in ends_of(pair(world, tmp_path / "log", *ARGUMENTS, "--runs", tmp_path))] == [0, 0]
    started = time.monotonic()
    ends = ends_of(pair(world, tmp_path / "log", *ARGUMENTS, "--runs", tmp_path))
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
