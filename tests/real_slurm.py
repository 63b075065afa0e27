"""A real SLURM on this machine for tests: a controller, two nodes and a `munge` of their own, all in one folder.

Needs `slurmctld`, `slurmd` and `munged` (Debian: slurm-wlm and munge) and root, as whom the daemons start jobs. Nothing outside
of the folder is changed: nodes are called by addresses of the loopback network, so that no name has to be made known.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

NODES = ("127.0.0.2", "127.0.0.3")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
_SBIN = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin"

# Without accounting and cgroups: a job's processes are found by their parents. A credential's life (seconds) is what a job that
# was put back waits; SLURM's own is two minutes.
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MinJobAge=86400
JobRequeue=1
MaxArraySize={array}
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""
MOST_TASKS = 4
"""Of an array: its numbers lie below."""


def missing() -> str:
    """Why no SLURM can be started here; empty where one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_SBIN) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


@dataclass(frozen=True)
class Ended:
    """A job's last word. state: SLURM's, as COMPLETED. code: exit code."""

    state: str
    code: int
    restarts: int


@dataclass
class Slurm:
    """A cluster that runs. environment: of whoever asks it for something."""

    folder: Path
    environment: dict[str, str]

    def call(self, *words: str | Path, cwd: Path | None = None, timeout: float = 120, **more: str) -> str:
        """Standard output of a command that must succeed."""
        done = self.start(*words, cwd=cwd, timeout=timeout, **more)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def start(
        self, *words: str | Path, cwd: Path | None = None, timeout: float = 120, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def tasks(self, job: str) -> list[Ended]:
        """Each task of a job (one, but for an array), as far as it has come."""
        told = self.call("scontrol", "--oneliner", "show", "job", job)
        facts = [dict(word.partition("=")[::2] for word in line.split() if "=" in word) for line in told.splitlines()]
        facts.sort(key=lambda one: one.get("ArrayTaskId", "0"))
        return [Ended(one["JobState"], int(one["ExitCode"].partition(":")[0]), int(one["Restarts"])) for one in facts]

    def wait(self, job: str, seconds: float = 240) -> list[Ended]:
        """How each task ended."""
        until(lambda: not self.call("squeue", "-h", "-j", job), seconds, f"job {job} to end")
        return self.tasks(job)

    def daemon(self, node: str) -> int:
        """Starts a node's daemon, and returns its process number."""
        self.call("slurmd", "-N", node)
        return _pid_of(self.folder / f"slurmd-{node}.pid")

    def kill_daemon(self, node: str) -> None:
        """As a node that is cut off: what it runs goes on, and nobody is told."""
        os.kill(int((self.folder / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)


def until(found: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.3)


def start(folder: Path, ends: ExitStack, **environment: str) -> Slurm:
    """A SLURM in a new `folder`, whose nodes are idle; `ends` ends it. environment: of its jobs, beside that of this process."""
    folder.mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host, ports = socket.gethostname().partition(".")[0], _free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr={node} Port={port} CPUs=8 RealMemory=8000"
        for node, port in zip(NODES, ports[1:], strict=True)
    )
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(folder=folder, host=host, controller=ports[0], nodes=nodes, names=",".join(NODES), array=MOST_TASKS)
    )
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_", "SBATCH_", "MASTER_"))}
    slurm = Slurm(folder, {**clean, "PATH": _SBIN, "SLURM_CONF": str(folder / "slurm.conf"), **environment})
    ends.callback(_stop, slurm)
    # In a folder that others may write to munge asks for --force.
    slurm.call(
        "munged",
        "--force",
        f"--key-file={key}",
        f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munged.pid",
        f"--log-file={folder}/munged.log",
        f"--seed-file={folder}/munged.seed",
        "--num-threads=2",
    )
    slurm.call("slurmctld")
    for node in NODES:
        slurm.daemon(node)
    until(lambda: slurm.start("sinfo", "-h", "-t", "idle", "-o", "%D").stdout.strip() == str(len(NODES)), 60, "idle nodes")
    return slurm


def _stop(slurm: Slurm) -> None:
    if slurm.start("squeue", "-h").stdout.strip():
        slurm.start("scancel", "--user=root")
        with suppress(AssertionError):
            until(lambda: not slurm.start("squeue", "-h").stdout.strip(), 30, "jobs to end")
    for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged"):
        with suppress(OSError, ValueError):
            os.kill(int((slurm.folder / f"{name}.pid").read_text()), signal.SIGTERM)


def _pid_of(file: Path) -> int:
    until(file.exists, 20, file.name)
    return int(file.read_text())


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
