"""The runs of `bin/quickstart --advl`: python bin/quickstart_advl.py cache|grid SEEDS

Two processes work through them, each importing the libraries once; a run with its evaluation is one call of the command line.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

RECIPE = "quickstart_advl"
RUNS = Path("runs")
COMPONENTS = ("vision", "text", "confidence", "words", "itm_fraction")
"""Table 1's columns, as switches of the objective."""
OFF = {"vision": "false", "text": "false", "confidence": "false", "words": "0", "itm_fraction": "0"}
ROWS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "vision": ("vision",),
    "text": ("text",),
    "both": ("vision", "text"),
    "confidence": ("vision", "text", "confidence"),
    "words": ("vision", "text", "confidence", "words"),
    "two_step": COMPONENTS,
}
"""Table 1's rows, by the components that are on."""
MAPS = {"learned": 0.15, "anchored": 0.5}
"""Kinds of map, and where E and F start with each: what serves it best on draws that are not used here."""
CONTROL = "control"
"""All components with the anchored map, beside teachers that were never trained."""
WORKERS = 2


def overrides(row: str) -> list[str]:
    """What a row switches off."""
    return [f"objective.{name}={OFF[name]}" for name in COMPONENTS if name not in ROWS[row]]


def jobs(seeds: int) -> Iterator[tuple[str, list[str]]]:
    """(name of the run, words of its command) of every row, map and seed."""
    for seed in range(seeds):
        own = ["--recipe", RECIPE, f"train.seed={seed}", f"data.train=train-lowshot100-seed{seed}"]
        yield f"baseline/seed{seed}", ["finetune", *own, "--name", "baseline"]
        for row in ROWS:
            for kind in MAPS if ROWS[row] else ():
                name = f"{row}_{kind}"
                chosen = [f"objective.map={kind}", *(f"objective.start.{weight}={MAPS[kind]}" for weight in ("vision", "text"))]
                yield f"{name}/seed{seed}", ["distill", *own, "--name", name, *overrides(row), *chosen]
        untrained = [f"teachers.{role}.weights=random" for role in ("vision", "text")]
        yield f"{CONTROL}/seed{seed}", ["distill", *own, "--name", CONTROL, *untrained]


def call(words: list[str]) -> None:
    """`vldistill WORDS` in this process."""
    from vldistill.cli import main

    try:
        main(words)
    except SystemExit as leaving:
        if leaving.code:
            raise RuntimeError(f"vldistill {' '.join(words)} left with {leaving.code}") from None


def run(name: str, words: list[str]) -> str:
    """One training and its evaluation, with what they print in a log. Returns a line about it."""
    import torch

    torch.set_num_threads(1)
    folder, log = RUNS / RECIPE / name, RUNS / RECIPE / f"{name.replace('/', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        call([*words, "--overwrite"])
        call(["evaluate", str(folder), "--split", "test", "--batch", "500"])
    found = json.loads((folder / "eval/test/metrics.json").read_text())
    seconds = json.loads((folder / "manifest.json").read_text())["wall_s"]
    return f"  {name}: {100 * found['accuracy']:.1f} % on test, {seconds:.0f} s"


def fill_caches(seeds: int) -> None:
    """All that any run will read, so that no two runs write one cache."""
    for seed in range(seeds):
        for weights in ("null", "random"):
            chosen = [f"teachers.{role}.weights={weights}" for role in ("vision", "text")]
            call(["cache", "--recipe", RECIPE, f"data.train=train-lowshot100-seed{seed}", *chosen])


def run_grid(seeds: int) -> None:
    started = time.monotonic()
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run, name, words) for name, words in jobs(seeds)]
        for number, done in enumerate(as_completed(waiting), start=1):
            try:
                print(f"{done.result()} ({number}/{len(waiting)}, {time.monotonic() - started:.0f} s)", flush=True)
            except Exception:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    {"cache": fill_caches, "grid": run_grid}[sys.argv[1]](int(sys.argv[2]))
