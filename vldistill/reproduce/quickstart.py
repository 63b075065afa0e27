"""The runs of `bin/quickstart --advl`, which are Table 1's rows in the toy world, and the tables and pictures of
`bin/quickstart`.

Two processes work through the runs, each importing the libraries once; a run with its evaluation is one call of the command
line.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from vldistill.artifacts import write_bytes
from vldistill.data.records import read_json
from vldistill.places import check_file
from vldistill.reproduce.advl import AdvlRow, advl_tables
from vldistill.terminal import Table, say, show, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


# --- tables and pictures -----------------------------------------------------------------------------------------------------

LABELS = {
    "baseline": "no distillation",
    "vision": "vision",
    "text": "text",
    "both": "vision + text",
    "confidence": "+ confidence",
    "words": "+ selected words",
    "two_step": "+ two-step",
    "untrained_words": "+ words, untrained teachers",
    "untrained_two_step": "+ two-step, untrained teachers",
}
COLOURS = {"learned": "#dd8452", "anchored": "#4c72b0", "paper": "#9a9a9a"}
METHODS = {
    "hard": ("hard labels", "#c44e52", 5.0),
    "soft": ("soft labels", "#dd8452", 2.0),
    "soft_attention": ("soft labels + cross-modal attention", "#4c72b0", 2.0),
}
"""What the table and the legend call each run, its colour, and its line's width (the two at chance lie on each other)."""


def paper_gains() -> dict[str, tuple[float, float]]:
    """Of each row of ADVL's Table 1 VL-BERT's accuracy on VCR Q->A with 100 questions of each type, in percent, and the points
    above the baseline."""
    figures = {name: row.figures["100"] for name, row in table_1().items()}
    return {name: (figure, figure - figures["baseline"]) for name, figure in figures.items()}


def accuracies(folder: Path, name: str) -> list[float]:
    """Test accuracy in percent of each seed, in order."""
    runs = sorted((folder / "runs" / RECIPE / name).glob("seed*"), key=lambda run: int(run.name.removeprefix("seed")))
    return [100 * read_json(run / "eval/test/metrics.json")["accuracy"] for run in runs]


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def gains(values: list[float], baseline: list[float]) -> list[float]:
    """Points above the baseline of the same seed."""
    return [value - other for value, other in zip(values, baseline, strict=True)]


def shown(values: list[float], sign: str = "") -> str:
    mean, deviation = spread(values)
    return f"{mean:{sign}.1f}" + (f" ± {deviation:.1f}" if len(values) > 1 else "")


def write_picture(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    say(f"picture: {path.resolve()}")


def advl_quickstart(folder: Path, picture: Path) -> None:
    check_file(picture)
    baseline = accuracies(folder, "baseline")
    table = Table(
        "",
        title=f"Toy world, 100 questions of each of 5 types: test accuracy %, {len(baseline)} seed(s)",
        caption="gain: points above no distillation, by seed. paper: VL-BERT on VCR, 100 of each of 7 types.",
    )
    table.figures("map learned", "gain", "map anchored", "gain", "paper", "gain")
    measured: dict[str, dict[str, list[float]]] = {kind: {} for kind in MAPS}
    for row, (figure, gain) in paper_gains().items():
        cells = [shown(baseline), ""] * len(MAPS)
        if row != "baseline":
            values = [accuracies(folder, f"{row}_{kind}") for kind in MAPS]
            cells = [cell for one in values for cell in (shown(one), shown(gains(one, baseline), "+"))]
            for kind, one in zip(MAPS, values, strict=True):
                measured[kind][row] = gains(one, baseline)
        table.add_row(LABELS[row], *cells, f"{figure:.2f}", "" if row == "baseline" else f"{gain:+.2f}")
    table.add_section()
    for name in CONTROLS:
        control = accuracies(folder, name)
        measured["anchored"][name] = gains(control, baseline)
        table.add_row(LABELS[name], "", "", shown(control), shown(measured["anchored"][name], "+"), "-", "")
    show(table)
    draw(measured, len(baseline), picture)


def draw(measured: dict[str, dict[str, list[float]]], seeds: int, picture: Path) -> None:
    """Bars of the gains, a group for each row; of the untrained teachers one, hatched."""
    from matplotlib.figure import Figure

    gains_there = {row: gain for row, (_, gain) in paper_gains().items() if row != "baseline"}
    rows = list(gains_there)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    width, bars = 0.27, {"capsize": 2, "error_kw": {"linewidth": 1}}
    for offset, kind in enumerate(MAPS):
        means, deviations = zip(*(spread(measured[kind][row]) for row in rows), strict=True)
        places = [place + (offset - 1) * width for place in range(len(rows))]
        bars["yerr"] = deviations if seeds > 1 else None
        axes.bar(places, means, width, color=COLOURS[kind], label=f"toy world, map {kind}", **bars)
    places = [place + width for place in range(len(rows))]
    axes.bar(places, list(gains_there.values()), width, color=COLOURS["paper"], label="paper, VCR")
    means, deviations = zip(*(spread(measured["anchored"][name]) for name in CONTROLS), strict=True)
    places, bars["yerr"] = [len(rows) + place for place in range(len(CONTROLS))], deviations if seeds > 1 else None
    axes.bar(places, means, width, color=COLOURS["anchored"], hatch="///", edgecolor="white", **bars)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows) + len(CONTROLS)), [LABELS[row] for row in (*rows, *CONTROLS)], rotation=18, ha="right")
    axes.set(ylabel="points above no distillation", title=f"ADVL's Table 1 in miniature, 100 of each type, {seeds} seed(s)")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, loc="upper right")
    write_picture(figure, picture)


def curve(run: Path) -> tuple[list[int], list[float]]:
    """Validation accuracy by optimiser step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "val"]
    return [row["step"] for row in rows], [row["accuracy"] for row in rows]


def dide_quickstart(folder: Path, picture: Path) -> None:
    from matplotlib.figure import Figure

    check_file(picture)
    teacher = folder / "runs/quickstart_teacher/default/seed0"
    teacher_test = read_json(teacher / "eval/test/metrics.json")["accuracy"]
    teacher_val = read_json(teacher / "manifest.json")["best"]["accuracy"]
    runs = {name: sorted((folder / "runs/quickstart_dide" / name).glob("seed*")) for name in METHODS}

    table = Table("trained with", title="Toy world, comparing two images: test accuracy (chance 50 %)")
    table.figures("accuracy %", "of teacher's", "seeds", "s/run")
    seconds = read_json(teacher / "manifest.json")["wall_s"]
    table.add_row("teacher, hard labels", f"{100 * teacher_test:.1f}", "100.0 %", "1", f"{seconds:.0f}")
    table.add_section()
    for name, (label, *_) in METHODS.items():
        scores = [100 * read_json(run / "eval/test/metrics.json")["accuracy"] for run in runs[name]]
        seconds = statistics.mean(read_json(run / "manifest.json")["wall_s"] for run in runs[name])
        share = f"{statistics.mean(scores) / teacher_test:.1f} %"
        table.add_row(f"student, {label}", shown(scores), share, str(len(scores)), f"{seconds:.0f}")
    show(table)
    bench = read_json(folder / "bench.json")
    cached = next(row for row in bench["rows"] if row["variant"] == "dual, images cached")
    say(
        f"cached images: {cached['speedup']:.1f}x the speed of stock ViLT at this size (FLOP limit {cached['limit']:.1f}x), "
        f"batch {cached['batch']}, {bench['device']}"
    )

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (label, colour, width) in METHODS.items():
        style = {"color": colour, "marker": "o", "markersize": 4, "linewidth": width, "alpha": 0.8}
        for index, run in enumerate(runs[name]):
            axes.plot(*curve(run), **style, label=label if index == 0 else None)
    axes.axhline(teacher_val, color="black", linestyle="--", linewidth=1.2, label="fusion teacher")
    axes.axhline(0.5, color="grey", linestyle=":", linewidth=1.2, label="chance")
    axes.set(xlabel="optimiser steps", ylabel="validation accuracy", ylim=(0.4, 1.02), title="Dual encoders of equal budget")
    axes.grid(alpha=0.25)
    # To the right, between the lines at chance and the one that climbs, there is nothing.
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.34), fontsize=9, frameon=False)
    write_picture(figure, picture)
