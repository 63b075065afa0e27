"""A SLURM in miniature for tests: `sbatch`, `srun` and `scontrol` as programs on PATH, which note their words and really run what
they are given, at once and one after the other.

    python slurm_stubs.py sbatch|srun|scontrol WORD ...

The folder that STUB_SLURM names holds the notes (`calls.jsonl`), a file for each job with how it ended, and what the tests set.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MINE = ("SLURM_", "SRUN_", "MASTER_")


def install(folder: Path) -> Path:
    """Writes the three programs into `folder`/bin, to be put on PATH."""
    place = folder / "bin"
    place.mkdir(parents=True)
    for name in ("sbatch", "srun", "scontrol"):
        # Without the site's packages it starts in no time.
        (place / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{Path(__file__).resolve()}" {name} "$@"\n')
        (place / name).chmod(0o755)
    return place


def calls(folder: Path, name: str) -> list[list[str]]:
    """The words of every call of a program so far."""
    noted = map(json.loads, (folder / "calls.jsonl").read_text().splitlines()) if (folder / "calls.jsonl").exists() else ()
    return [words for called, words in noted if called == name]


def _note(home: Path, name: str, words: list[str]) -> None:
    with (home / "calls.jsonl").open("a") as file:
        file.write(json.dumps([name, words]) + "\n")


def _directives(script: Path) -> list[str]:
    lines = [line.split(None, 1)[1].strip() for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    return lines


def _options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options before the first plain word, and the rest."""
    found = {}
    while words and words[0].startswith("--"):
        name, _, value = words.pop(0)[2:].partition("=")
        found[name] = value
    return found, words


def sbatch(home: Path, words: list[str]) -> int:
    _note(home, "sbatch", words)
    given, (script, *arguments) = _options(list(words))
    options = {**_options(_directives(Path(script)))[0], **given}
    number = json.loads((home / "next").read_text()) if (home / "next").exists() else os.getpid() * 64
    first, _, last = options.get("array", "0-0").partition("%")[0].partition("-")
    tasks = list(range(int(first), int(last or first) + 1))
    (home / "next").write_text(json.dumps(number + len(tasks)))
    code = 0
    ended = {
        kind: [json.loads((home / f"job-{before}").read_text()) for before in numbers]
        for kind, *numbers in (part.split(":") for part in options.get("dependency", "").split(",") if part)
    }
    if ended.keys() - {"afterok", "afterany"} or any(code != 0 for code in ended.get("afterok", ())):
        code = None  # never satisfied
    else:
        # What runs is a copy in a folder of its own.
        spool = home / f"spool {number}"
        spool.mkdir()
        copy = shutil.copy(script, spool / "slurm_script")
        # The last task has the number of the array.
        numbers = [*range(number + 1, number + len(tasks)), number]
        for task, own in zip(tasks, numbers, strict=True):
            array = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": len(tasks)}
            code = max(code, _run(home, options, copy, arguments, own, array if "array" in options else {}))
    (home / f"job-{number}").write_text(json.dumps(code))
    print(number if "parsable" in options else f"Submitted batch job {number}")
    return 0


def _run(home: Path, options: dict[str, str], script: str, arguments: list[str], number: int, array: dict[str, int]) -> int:
    """A job until it is not put back any more; its last code."""
    per_node, nodes = int(options.get("ntasks-per-node", 1)), int(options.get("nodes", 1))
    name = f"{array['SLURM_ARRAY_JOB_ID']}_{array['SLURM_ARRAY_TASK_ID']}" if array else str(number)
    log = options["output"].replace("%x", options["job-name"]).replace("%j", str(number))
    log = log.replace("%A_%a", name)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(MINE)}
    facts = {
        "SLURM_JOB_ID": number,
        "SLURM_NTASKS": per_node * nodes,
        "SLURM_NTASKS_PER_NODE": per_node,
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_SUBMIT_DIR": str(Path.cwd()),
        "SLURM_CPUS_PER_TASK": os.environ.get("STUB_CPUS", "1"),
        **array,
    }
    for restarts in range(100):
        again = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
        environment = clean | {key: str(value) for key, value in (facts | again).items()}
        with Path(log).open("a" if options.get("open-mode") == "append" else "w") as out:
            code = subprocess.run([script, *arguments], env=environment, stdout=out, stderr=out, check=False).returncode
        if not (home / f"requeued-{name}").exists():
            return code
        (home / f"requeued-{name}").unlink()
    raise RuntimeError("put back for ever")


def scontrol(home: Path, words: list[str]) -> int:
    _note(home, "scontrol", words)
    if words[:2] == ["show", "hostnames"]:
        print(words[2])
        return 0
    if words == ["show", "config"]:
        print(f"MaxArraySize            = {os.environ.get('STUB_MOST_TASKS', '1001')}")
        return 0
    if words[0] == "requeue":
        # How often a controller does not answer before it does.
        refused, times = home / "refused", int(os.environ.get("STUB_REFUSED", "0"))
        before = len(refused.read_text()) if refused.exists() else 0
        if before < times:
            refused.write_text("x" * (before + 1))
            return 1
        (home / f"requeued-{words[1]}").touch()
        return 0
    return 1


def srun(home: Path, words: list[str]) -> int:
    """STUB_TELL: a pattern of a file; once there is one, the tasks get USR2, but not those of a restart."""
    _note(home, "srun", words)
    options, command = _options(list(words))
    # As the site's own default says, a step gets the environment of its job or nothing of it.
    inherited = (
        dict(os.environ)
        if options.get("export", os.environ.get("SLURM_EXPORT_ENV", "ALL")) == "ALL"
        else {name: os.environ[name] for name in ("PATH", "STUB_SLURM")}
    )
    count = int(os.environ["SLURM_NTASKS"])
    facts = {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_TASKS_PER_NODE": str(count),
    }
    started = [
        subprocess.Popen(command, env={**inherited, **facts, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
        for rank in range(count)
    ]
    if (tell := os.environ.get("STUB_TELL")) and "SLURM_RESTART_COUNT" not in os.environ:
        while not any(Path(tell).parent.glob(Path(tell).name)) and all(task.poll() is None for task in started):
            time.sleep(0.005)
        for task in started:
            task.send_signal(signal.SIGUSR2)
    return max(task.wait() for task in started)


if __name__ == "__main__":
    sys.exit({"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[sys.argv[1]](Path(os.environ["STUB_SLURM"]), sys.argv[2:]))
