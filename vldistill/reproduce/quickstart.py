"""The runs of `bin/quickstart --advl`: Table 1's rows in the toy world.

Two processes work through them, each importing the libraries once; a run with its evaluation is one call of the command line.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import entry_points
from pathlib import Path

from vldistill.reproduce.advl import AdvlRow, advl_tables
from vldistill.terminal import write

RECIPE = "quickstart_advl"
RUNS = Path("runs")
MAPS = {"learned": 0.15, "anchored": 0.5}
"""Kinds of map, and where E and F start with each: what serves it best on draws that are not used here."""
CONTROLS = {"untrained_words": "words", "untrained_two_step": "two_step"}
"""Rows once more, with the anchored map, beside teachers that were never trained."""
WORKERS = 2


def table_1() -> dict[str, AdvlRow]:
    """Its rows by the names of their runs here."""
    return {row.name.replace("-", "_"): row for row in advl_tables().rows_of("1")}


def switched_off(row: AdvlRow) -> list[str]:
    return [field for field in row.overrides if field.startswith("objective.")]


def jobs(seeds: int) -> Iterator[tuple[str, list[str]]]:
    """(name of the run, words of its command) of every row, map and seed."""
    for seed in range(seeds):
        own = ["--recipe", RECIPE, f"train.seed={seed}", f"data.train=train-lowshot100-seed{seed}"]
        yield f"baseline/seed{seed}", ["finetune", *own, "--name", "baseline"]
        for row_name, row in table_1().items():
            for kind in MAPS if row.teachers else ():
                name = f"{row_name}_{kind}"
                chosen = [f"objective.map={kind}", *(f"objective.start.{weight}={MAPS[kind]}" for weight in ("vision", "text"))]
                yield f"{name}/seed{seed}", ["distill", *own, "--name", name, *switched_off(row), *chosen]
        untrained = [f"teachers.{role}.weights=random" for role in ("vision", "text")]
        for name, like in CONTROLS.items():
            yield f"{name}/seed{seed}", ["distill", *own, "--name", name, *switched_off(table_1()[like]), *untrained]


def call(words: list[str]) -> None:
    """`vldistill WORDS` in this process."""
    [program] = entry_points(group="console_scripts", name="vldistill")
    try:
        program.load()(words)
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
    metrics = json.loads((folder / "eval/test/metrics.json").read_text())
    seconds = json.loads((folder / "manifest.json").read_text())["wall_s"]
    return f"  {name}: {100 * metrics['accuracy']:.1f} % on test, {seconds:.0f} s"


def fill_caches(seeds: int) -> None:
    """All that any run will read, so that no two runs write one cache."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for seed in range(seeds):
        for weights in ("null", "random"):
            chosen = [f"teachers.{role}.weights={weights}" for role in ("vision", "text")]
            call(["cache", "--recipe", RECIPE, f"data.train=train-lowshot100-seed{seed}", *chosen])


def run_grid(seeds: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    started = time.monotonic()
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run, name, words) for name, words in jobs(seeds)]
        for number, done in enumerate(as_completed(waiting), start=1):
            try:
                write(f"{done.result()} ({number}/{len(waiting)}, {time.monotonic() - started:.0f} s)")
            except Exception:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
