"""Trains for an hour with a checkpoint every minute and shows what the process holds in memory meanwhile.

    python tests/measure/soak.py [--minutes 60] [--recipe quickstart_dide] [--folder DIR]

Prints a row a minute: resident memory (Linux), checkpoints so far, steps logged. Then tells the run to leave by SIGUSR2 and ends
with code 0 if it left with 85 and grew by less than 2 % between the fifth minute and the last.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PREEMPTED = 85
MOST_GROWTH = 0.02
SETTLED = 5
"""Minutes after which memory should no longer grow."""
FEW = ("train.steps=2", "train.batch.pairs=8", "train.validate_every=2", "train.eval_pairs=64")


def vldistill(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, "-m", "vldistill", *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def prepared(folder: Path, recipe: str) -> None:
    """Toy data, and the models that the recipe starts from and is taught by, barely trained."""
    commands = [("prepare", "toy", "--scale", "0.05")]
    if recipe == "quickstart_dide":
        commands += [("finetune", "-r", f"quickstart_{name}", "--name", "default", *FEW) for name in ("pretrain", "teacher")]
    for words in commands:
        if vldistill(folder, *words).wait() != 0:
            sys.exit(f"failed: vldistill {' '.join(words)}")


def resident(process: int) -> float:
    """Megabytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watched(folder: Path, recipe: str, minutes: int) -> tuple[list[float], int]:
    """Megabytes at the end of each minute, and the exit code."""
    run, held = folder / f"runs/{recipe}/soak/seed0", []
    process = vldistill(
        folder,
        "distill",
        "-r",
        recipe,
        "--name",
        "soak",
        "--overwrite",
        "train.steps=10000000",
        "train.checkpoint_minutes=1",
        "train.validate_every=200",
        "train.log_every=10",
    )
    print("minute  resident MB  checkpoints  steps", flush=True)
    for minute in range(1, minutes + 1):
        time.sleep(60)
        if process.poll() is not None:
            return held, process.returncode
        held.append(resident(process.pid))
        log, curve = ((run / name).read_text() for name in ("log.txt", "metrics.jsonl"))
        steps = 10 * curve.count('"split": "train"')
        print(f"{minute:6}  {held[-1]:11,.1f}  {log.count('checkpoint saved'):11}  {steps:5}", flush=True)
    process.send_signal(signal.SIGUSR2)
    return held, process.wait(300)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--recipe", default="quickstart_dide")
    parser.add_argument("--folder", type=Path, help="a new folder by default, removed at the end")
    given = parser.parse_args()
    if given.minutes <= SETTLED:
        parser.error(f"--minutes must be over {SETTLED}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepared(folder, given.recipe)
        held, code = watched(folder, given.recipe, given.minutes)
    if len(held) <= SETTLED:
        sys.exit(f"ended after {len(held)} minutes with code {code}")
    growth = held[-1] / held[SETTLED - 1] - 1
    print(f"exit code {code}; {growth:+.2%} from minute {SETTLED} to {len(held)}")
    return 0 if code == PREEMPTED and growth < MOST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
